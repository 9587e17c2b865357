"""What stays true of outlines while their points move: closed ones stay closed; smooth and untangled if asked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from svg.model import Geometry
from svg.raster import outlines

COINCIDE = 0.1  # canvas px between ends that are one point


class OutlineConstraints:
    """Index tables into a flat tensor of x, y, x, y, … that holds several paths' control points."""

    def __init__(self, paths: Sequence[tuple[Geometry, int, Tensor]], device: torch.device) -> None:
        """`paths`: geometry of kind path, where its numbers begin in the flat tensor, and its points (n, 2) now."""
        point, before, after = [], [], []
        ties: list[tuple[int, int]] = []
        cubics: list[tuple[int, int, int, int]] = []
        for path, start, now in paths:
            for ids, closed, curves in contours(path.commands):
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
                cubics += [(start + 2 * a, start + 2 * b, start + 2 * c, start + 2 * d) for a, b, c, d in curves]
        self.point, self.before, self.after = (torch.tensor(x, device=device).long() for x in (point, before, after))
        self.ties = torch.tensor(ties, device=device).long().reshape(-1, 2)
        self.cubics = torch.tensor(cubics, device=device).long().reshape(-1, 4)

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

    def uncross(self, flat: Float[Tensor, " n"], step: float) -> None:
        """Shorten the two handles of every cubic whose handles cross, by `step` at most, in place."""
        if not len(self.cubics):
            return
        p = torch.stack([flat[self.cubics], flat[self.cubics + 1]], -1)  # (k, 4, 2)
        tangled = crossing(p[:, 0], p[:, 1], p[:, 3], p[:, 2]).nonzero()[:, 0]
        for handle, anchor in ((1, 0), (2, 3)):
            back = p[tangled, anchor] - p[tangled, handle]
            length = back.norm(dim=1, keepdim=True)
            moved = p[tangled, handle] + back * (step / length.clamp(min=1e-9)).clamp(max=1)
            for axis in (0, 1):
                flat[self.cubics[tangled, handle] + axis] = moved[:, axis]


def contours(commands: str) -> list[tuple[list[int], bool, list[tuple[int, int, int, int]]]]:
    """[(indices of its points in order, closed, its cubics)] of a path."""
    found = []
    for curves, closed in outlines.contours(Geometry("path", "", commands)):
        ids = list(dict.fromkeys(i for curve in curves for i in curve[:4]))
        found.append((ids, closed, [(a, b, c, d) for a, b, c, d, degree in curves if degree == 3]))
    return found


def crossing(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Whether segments ab and cd (n, 2) cross, ends apart."""

    def side(p: Tensor, q: Tensor, r: Tensor) -> Tensor:
        return ((q - p)[:, 0] * (r - p)[:, 1] - (q - p)[:, 1] * (r - p)[:, 0]).sign()

    return (side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)
