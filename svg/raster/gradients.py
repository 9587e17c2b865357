"""Gradients as images: straight-alpha colors at pixel centers, differentiable in geometry, offsets and stops.

All shapes whose gradients are of one kind are painted at once: a row for each gradient, shape and pixel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from svg.model import Gradient
from svg.numbers import Keys
from svg.raster.constants import Constants
from svg.raster.overlaps import spread

INNER = 0.9999  # of the radius: as far from the center as a focus may lie
FLAT = 1e-20  # determinant below which a box has no area to spread a gradient over


def along_lines(
    numbers: Float[Tensor, "u 4"], row: Int[Tensor, " n"], p: Float[Tensor, "n 2"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """t = (p - p1) . v / |v|^2, where v = p2 - p1, and that all is painted; row: which gradient each point is of."""
    p1, v = numbers[:, :2], numbers[:, 2:] - numbers[:, :2]
    vv = (v * v).sum(1, keepdim=True)
    table = torch.cat([p1, v, torch.where(vv > 0, vv, 1.0)], 1)
    point = (vv[:, 0] <= 0).index_select(0, row)
    p1, v, vv = table.index_select(0, row).split([2, 2, 1], 1)
    t = torch.where(point, 1.0, ((p - p1) * v).sum(1) / vv[:, 0])
    return t, torch.ones_like(t)


def between_circles(
    numbers: Float[Tensor, "u 6"], row: Int[Tensor, " n"], p: Float[Tensor, "n 2"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """The larger t whose circle, radius r0 + t (r - r0) >= 0 about f + t (c - f), goes through p; and 1 where one does.

    With q = p - f, s = c - f, dr = r - r0 that is A t^2 - 2 B t + C = 0, where A = s.s - dr^2, B = q.s + r0 dr and
    C = q.q - r0^2.
    """
    c, r, f, r0 = numbers.split([2, 1, 2, 1], 1)
    nothing = r <= 0
    r, e = torch.where(nothing, 1.0, r), f - c
    eccentricity = (e.norm(dim=1, keepdim=True) / r).detach()
    outside = (eccentricity > INNER) & (r0 == 0)  # a focus there lies on the rim
    f = torch.where(outside, c + e * torch.where(outside, INNER / eccentricity, 1.0), f)
    s, dr = c - f, r - r0
    A = (s * s).sum(1, keepdim=True) - dr * dr
    flags = torch.cat([nothing, A.abs() < 1e-9], 1).index_select(0, row)
    nothing, parallel = flags.unbind(1)
    f, s, rest = torch.cat([f, s, r0, dr, A], 1).index_select(0, row).split([2, 2, 3], 1)
    (r0, dr, A), q = rest.unbind(1), p - f
    B = (q * s).sum(1) + r0 * dr
    C = (q * q).sum(1) - r0 * r0
    D = B * B - A * C
    inside = D >= 0  # beyond a cone that opens to one side nothing is painted
    root, steep = D.clamp(min=1e-12).sqrt(), torch.where(parallel, 1.0, A)
    t0, t1 = (B + root) / steep, (B - root) / steep
    high, low = torch.maximum(t0, t1), torch.minimum(t0, t1)
    t = torch.where(r0 + high * dr >= 0, high, low)
    t = torch.where(parallel, C / torch.where(parallel, torch.where(B == 0, 1e-12, 2 * B), 1.0), t)
    painted = nothing | (inside & (r0 + t * dr >= 0))
    return torch.where(nothing, 1.0, t), painted.to(t)


def spread_over(t: Tensor, spread: str) -> Tensor:
    """Offsets by spreadMethod: folded into [0, 1], or left as they are where the first and last stop go on."""
    if spread == "repeat":
        return t - t.detach().floor()
    if spread == "reflect":
        t = t - 2 * (t.detach() / 2).floor()
        return torch.where(t > 1, 2 - t, t)
    return t


def interpolated(
    t: Float[Tensor, " n"], row: Int[Tensor, " n"], offsets: Float[Tensor, "u s"], colors: Float[Tensor, "u s 4"]
) -> Float[Tensor, "n 4"]:
    """The colors of offsets t between the stops of their rows, two or more."""
    offsets = offsets.clamp(0, 1).cummax(1).values  # none lies before the one ahead of it
    count = offsets.shape[1]
    passed = (offsets.detach().index_select(0, row) <= t.detach()[:, None]).sum(1)
    i = row * count + passed.clamp(1, count - 1)
    table = torch.cat([offsets[..., None], colors], 2).flatten(0, 1)
    t0, before = table.index_select(0, i - 1).split([1, 4], 1)
    t1, after = table.index_select(0, i).split([1, 4], 1)
    u = ((t[:, None] - t0) / (t1 - t0).clamp(min=1e-9)).clamp(0, 1)
    u = torch.where(t[:, None] >= t1, 1.0, u)  # at the last stop, though another may lie at the same offset
    return before * (1 - u) + after * u


class GradientGroup:
    """Shapes that are painted with gradients of one kind and one spreadMethod."""

    def __init__(self, painted: Sequence[tuple[int, int, Gradient]]) -> None:
        """painted: shapes, the geometry of each and its gradient."""
        shapes, geometries, of = zip(*painted, strict=True)
        self.shapes: tuple[int, ...] = shapes
        row = {g: i for i, g in enumerate(dict.fromkeys(of))}
        self.gradients = list(row)
        first = self.gradients[0]
        self.offsets_at = along_lines if first.kind == "linear" else between_circles
        self.spread = first.spread
        most = max(2, *(len(g.stops) for g in of))
        self.keys = Keys([g.key for g in self.gradients])
        stops = [s for g in self.gradients for s in (*g.stops, *[g.stops[-1]] * (most - len(g.stops)))]
        self.stop_keys = [Keys([getattr(s, name) for s in stops]) for name in ("offset", "color", "opacity")]
        self.constants = Constants(
            shape=torch.tensor(shapes),
            geometry=torch.tensor(geometries),
            row=torch.tensor([row[g] for g in of]),
            matrix=torch.tensor([g.matrix.rows for g in of], dtype=torch.float64),
            on_box=torch.tensor([g.units == "objectBoundingBox" for g in of]),
            single=torch.tensor([len(g.stops) == 1 for g in of]),
        )

    def paint(
        self,
        values: Mapping[str, Tensor],
        to_user: Float[Tensor, "s 3 3"],
        bounds: tuple[Float[Tensor, "g 2"], Float[Tensor, "g 2"]],
        boxes: Int[Tensor, "s 4"],
        count: int,
    ) -> Float[Tensor, "n 4"]:
        """The colors of all pixels in the shapes' boxes, row by row, box after box; `count` says how many these are.

        `to_user` lead from canvas px to each shape's user units; `bounds` are each geometry's corners there, as
        objectBoundingBox wants them; `boxes` are x, y, w, h of each shape.
        """
        own = self.constants.like(to_user)
        M, flat = self._frames(to_user[own["shape"]], *(b[own["geometry"]] for b in bounds))
        x, y, w, h = boxes[own["shape"]].unbind(1)
        of, k = spread(w * h, count)
        column, line = x[of] + k % w[of] + 0.5, y[of] + torch.div(k, w[of], rounding_mode="floor") + 0.5
        m = M[:, :2].flatten(1).index_select(0, of)
        points = torch.stack(
            [m[:, 0] * column + m[:, 1] * line + m[:, 2], m[:, 3] * column + m[:, 4] * line + m[:, 5]], 1
        )

        row = own["row"][of]
        t, painted = self.offsets_at(self.keys.of(values).view(len(self.gradients), -1).to(M), row, points)
        offsets, colors = self._stops(values)
        color = interpolated(spread_over(t, self.spread), row, offsets.to(M), colors.to(M))
        color = torch.cat([color[:, :3], color[:, 3:] * painted[:, None]], 1)
        return torch.where(flat[of][:, None], colors[:, -1].to(M).index_select(0, row), color)

    def _frames(
        self, to_user: Float[Tensor, "g 3 3"], low: Float[Tensor, "g 2"], high: Float[Tensor, "g 2"]
    ) -> tuple[Float[Tensor, "g 3 3"], Bool[Tensor, " g"]]:
        """From canvas px to the gradient's own units for each shape, and where there is no area to spread it over."""
        own = self.constants.like(to_user)
        onto_box = torch.zeros_like(to_user)
        onto_box[:, 0, 0], onto_box[:, 1, 1] = (high - low).unbind(1)
        onto_box[:, :2, 2], onto_box[:, 2, 2] = low, 1
        frame = torch.where(own["on_box"][:, None, None], onto_box @ own["matrix"], own["matrix"])
        flat = own["single"] | ~(torch.linalg.det(frame[:, :2, :2]).abs() >= FLAT)
        frame = torch.where(flat[:, None, None], torch.eye(3, dtype=frame.dtype, device=frame.device), frame)
        return torch.linalg.inv_ex(frame)[0] @ to_user, flat

    def _stops(self, values: Mapping[str, Tensor]) -> tuple[Float[Tensor, "u s"], Float[Tensor, "u s 4"]]:
        """Offsets and colors; short rows repeat their last stop."""
        offsets, colors, alphas = (keys.of(values) for keys in self.stop_keys)
        rows = len(self.gradients)
        return offsets.view(rows, -1), torch.cat([colors.view(-1, 3), alphas[:, None]], 1).view(rows, -1, 4)


def gradient_groups(painted: Sequence[tuple[int, int, Gradient]]) -> list[GradientGroup]:
    """painted: shapes, the geometry of each and its gradient."""
    groups: dict[tuple[str, str], list[tuple[int, int, Gradient]]] = {}
    for one in painted:
        groups.setdefault((one[2].kind, one[2].spread), []).append(one)
    return [GradientGroup(members) for members in groups.values()]
