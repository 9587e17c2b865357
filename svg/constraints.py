"""What stays true of outlines while their points move: closed ones stay closed, smooth joints smooth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from svg.model import Geometry
from svg.raster import outlines

COINCIDE = 0.1  # canvas px between ends that are one point
SMOOTH = 0.99  # cosine of the angle between two handles up to which a joint is smooth


class OutlineConstraints:
    """Index tables into a flat tensor of x, y, x, y, … that holds several paths' control points."""

    def __init__(self, paths: Sequence[tuple[Geometry, int, Tensor]], device: torch.device) -> None:
        """`paths`: geometry of kind path, where its numbers begin in the flat tensor, and its points (n, 2) now."""
        point, before, after = [], [], []
        ties: list[tuple[int, int]] = []
        joints: list[tuple[int, int, int]] = []
        turns: list[tuple[bool, bool]] = []
        for path, start, now in paths:
            for handle, anchor, other, *handles in smooth_joints(path.commands, now):
                joints.append((start + 2 * handle, start + 2 * anchor, start + 2 * other))
                turns.append((handles[0], handles[1]))
            for ids, closed in contours(path.commands):
                coincide = len(ids) > 2 and bool((now[ids[0]] - now[ids[-1]]).norm() < COINCIDE)
                closed = closed or coincide
                if coincide:
                    ties.append((start + 2 * ids[0], start + 2 * ids[-1]))
                loop = ids[:-1] if coincide else ids  # the repeated point has the first one's neighbours
                row = {i: len(point) + k for k, i in enumerate(loop)}
                for k, i in enumerate(ids):
                    at = k % len(loop)
                    last = at == len(loop) - 1
                    own = row.get(i, row[loop[0]])
                    point.append(start + 2 * i)
                    before.append(row[loop[at - 1]] if at or closed else own)
                    after.append(row[loop[0]] if last and closed else own if last else row[loop[at + 1]])
        self.point, self.before, self.after = (torch.tensor(x, device=device).long() for x in (point, before, after))
        self.ties = torch.tensor(ties, device=device).long().reshape(-1, 2)
        self.joints = torch.tensor(joints, device=device).long().reshape(-1, 3)
        self.turns = torch.tensor(turns, dtype=torch.bool, device=device).reshape(-1, 2)

    def close(self, flat: Float[Tensor, " n"], start: Float[Tensor, " n"]) -> None:
        """Move ends that were one point at `start` alike, in place."""
        for axis in (0, 1):
            ends = self.ties + axis
            flat[ends] = start[ends] + (flat[ends] - start[ends]).mean(1, keepdim=True)

    def smooth(
        self, before: Float[Tensor, " n"], after: Float[Tensor, " n"], length: float, passes: int = 30
    ) -> Float[Tensor, " n"]:
        """`after` with the points' displacements since `before` evened out along their outlines, over about `length`.

        Damped Jacobi passes over (1 + sum_j w_ij) u_i = d_i + sum_j w_ij u_j, where d are the displacements, j the
        neighbours of i and w_ij = (length / |x_i - x_j|)^2: diffusion along the outline, so that a detail smaller than
        `length` moves as a whole and a large outline bends freely.
        """
        x, y = self.point, self.point + 1
        d = torch.stack([after[x] - before[x], after[y] - before[y]], 1)
        position = torch.stack([before[x], before[y]], 1)
        w = []
        for near in (self.before, self.after):
            squared = (position - position[near]).square().sum(1, keepdim=True)
            weight = (length**2 / squared.clamp(min=1e-6)).clamp(max=100)
            w.append(torch.where((near == torch.arange(len(near), device=near.device))[:, None], 0, weight))
        u = d
        for _ in range(passes):
            neighbours = w[0] * u[self.before] + w[1] * u[self.after]
            u = (u + (d + neighbours) / (1 + w[0] + w[1])) / 2
        smoothed = after.clone()
        for axis in (0, 1):
            smoothed[self.point + axis] += u[:, axis] - d[:, axis]
        return smoothed

    def keep_joints(self, before: Float[Tensor, " n"], flat: Float[Tensor, " n"]) -> None:
        """Turn the handles of smooth joints that have moved since `before` back into one line; their lengths stay."""
        p = torch.stack([flat[self.joints], flat[self.joints + 1]], -1)  # (j, 3, 2): handle, anchor, handle
        into, out = p[:, 1] - p[:, 0], p[:, 2] - p[:, 1]
        sides = torch.where(self.turns.all(1, keepdim=True), True, ~self.turns)  # a line's direction is not changed
        along = sides[:, :1] * into + sides[:, 1:] * out
        along = along / along.norm(dim=1, keepdim=True).clamp(min=1e-9)
        moved = ((flat != before)[self.joints] | (flat != before)[self.joints + 1]).any(1)
        for k, side, sign in ((0, into, -1), (2, out, 1)):
            new = p[:, 1] + sign * side.norm(dim=1, keepdim=True) * along
            turned = self.turns[:, k // 2] & moved
            for axis in (0, 1):
                place = self.joints[:, k] + axis
                flat[place] = torch.where(turned, new[:, axis], flat[place])  # others stay as they are by now


def contours(commands: str) -> list[tuple[list[int], bool]]:
    """[(indices of its points in order, closed)] of a path."""
    return [
        (list(dict.fromkeys(i for curve in curves for i in curve[:4])), closed)
        for curves, closed in outlines.contours(Geometry("path", "", commands))
    ]


def smooth_joints(commands: str, points: Float[Tensor, "n 2"]) -> Iterator[tuple[int, int, int, bool, bool]]:
    """Handle or line's end, anchor, the same behind it, and which of both are handles, where an outline is smooth.

    Of quadratic curves there are none: a handle of theirs belongs to two joints.
    """
    for curves, closed in outlines.contours(Geometry("path", "", commands)):
        real = [c for c in curves if c[4] == 3 or (points[c[0]] - points[c[3]]).norm() > COINCIDE]
        for a, b in [*pairwise(real), *([(real[-1], real[0])] if closed and len(real) > 1 else [])]:
            before, after = (a[2] if a[4] == 3 else a[0]), (b[1] if b[4] == 3 else b[3])
            anchor = b[0]
            into, out = points[anchor] - points[before], points[after] - points[anchor]
            lengths = into.norm() * out.norm()
            handles = a[4] == 3, b[4] == 3
            if 2 not in (a[4], b[4]) and any(handles) and lengths > 0 and into @ out > SMOOTH * lengths:
                yield before, anchor, after, *handles
