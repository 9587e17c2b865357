"""Outlines as directed edges: curves flattened, strokes outlined. Vectorised over all shapes, differentiable.

Flattening and stroking happen in a shape's own user units, where its stroke is round; the shape's matrix follows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from svg.model import POINTS, Geometry, Stroke
from svg.raster.coverage import Edges, spread

TOLERANCE = 0.03  # px by which a flattened curve or a round join may miss
MOST_PARTS = 256  # segments of one curve
Curve = tuple[int, int, int, int, int]  # indices of four control points, and the degree
KAPPA = 4 / 3 * (math.sqrt(2) - 1)  # handles of a quarter circle


def rect_points(numbers: Float[Tensor, "n 6"]) -> Float[Tensor, "n 16 2"]:
    """Four sides and four corners of rectangles (x y width height rx ry), clockwise from the top side's start."""
    x, y, width, height, rx, ry = numbers.unbind(1)
    rx, ry = torch.minimum(rx.clamp(min=0), width / 2), torch.minimum(ry.clamp(min=0), height / 2)
    zero = torch.zeros_like(rx)
    rx, ry = torch.where(ry > 0, rx, zero), torch.where(rx > 0, ry, zero)
    kx, ky = rx * (1 - KAPPA), ry * (1 - KAPPA)
    right, bottom = x + width, y + height
    corners = [
        *[(x + rx, y), (right - rx, y), (right - kx, y), (right, y + ky)],
        *[(right, y + ry), (right, bottom - ry), (right, bottom - ky), (right - kx, bottom)],
        *[(right - rx, bottom), (x + rx, bottom), (x + kx, bottom), (x, bottom - ky)],
        *[(x, bottom - ry), (x, y + ry), (x, y + ky), (x + kx, y)],
    ]
    return torch.stack([torch.stack(point, 1) for point in corners], 1)


def ellipse_points(numbers: Float[Tensor, "n 4"]) -> Float[Tensor, "n 12 2"]:
    """Four quarters of ellipses (cx cy rx ry), clockwise from the right."""
    k = KAPPA
    unit = [(1, 0), (1, k), (k, 1), (0, 1), (-k, 1), (-1, k), (-1, 0), (-1, -k), (-k, -1), (0, -1), (k, -1), (1, -k)]
    return numbers[:, None, :2] + numbers[:, None, 2:] * numbers.new_tensor(unit)


def contours(geometry: Geometry) -> list[tuple[list[Curve], bool]]:
    """[(curves, closed)] of a geometry, closing lines included; points are counted from 0."""
    if geometry.kind == "rect":
        sides = [(k, k, k + 1, k + 1, 1) for k in range(0, 16, 4)]
        corners = [(k + 1, k + 2, k + 3, (k + 4) % 16, 3) for k in range(0, 16, 4)]
        round_trip = [curve for pair in zip(sides, corners, strict=True) for curve in pair]
        return [(round_trip, True)]
    if geometry.kind in ("ellipse", "circle"):
        quarters = [(k, k + 1, k + 2, (k + 3) % 12, 3) for k in range(0, 12, 3)]
        return [(quarters, True)]
    commands = "ML" if geometry.kind == "line" else geometry.commands
    found: list[tuple[list[Curve], bool]] = []
    curves: list[Curve] = []
    at = first = 0
    pen = -1  # index of the latest point
    for c in commands:
        last = pen
        pen += POINTS[c]
        if c == "M":
            if curves:
                found.append((curves, False))
            curves, first = [], pen
        elif c == "Z":
            if at != first:
                curves.append((at, at, first, first, 1))
            found.append((curves or [(first, first, first, first, 1)], True))
            curves = []
        else:
            one = {"L": (at, at, pen, pen), "Q": (at, last + 1, last + 1, pen), "C": (at, last + 1, last + 2, pen)}
            curves.append((*one[c], POINTS[c]))
        at = first if c == "Z" else pen
    if curves:
        found.append((curves, False))
    return found


class Outlines:
    """The curves of many geometries; everything that does not depend on numbers is worked out once."""

    def __init__(self, geometries: Sequence[Geometry]) -> None:
        self.geometries = list(geometries)
        by_kind = {k: [i for i, g in enumerate(self.geometries) if g.kind == k] for k in ("rect", "ellipse", "circle")}
        self.rects, self.ellipses, self.circles = by_kind.values()
        self.lines = [i for i, g in enumerate(self.geometries) if g.kind in ("path", "line")]
        counts = {i: self._points(self.geometries[i]) for i in range(len(self.geometries))}
        base, at = {}, 0
        for i in [*self.lines, *self.rects, *self.ellipses, *self.circles]:
            base[i], at = at, at + counts[i]
        curves: list[tuple[int, int, int, int, int, int, int]] = []  # p0 p1 p2 p3 degree contour geometry
        closed: list[bool] = []
        for i, geometry in enumerate(self.geometries):
            for contour, shut in contours(geometry):
                b = base[i]
                curves += [(b + p0, b + p1, b + p2, b + p3, n, len(closed), i) for p0, p1, p2, p3, n in contour]
                closed.append(shut)
        table = torch.tensor(curves, dtype=torch.long).reshape(-1, 7)
        self.control, self.degree, self.contour, self.geometry = table[:, :4], table[:, 4], table[:, 5], table[:, 6]
        self.closed = torch.tensor(closed, dtype=torch.bool)

    @staticmethod
    def _points(geometry: Geometry) -> int:
        sizes = {"rect": 16, "ellipse": 12, "circle": 12, "line": 2}
        return sizes.get(geometry.kind) or sum(POINTS[c] for c in geometry.commands)

    def points(self, values: Mapping[str, Tensor]) -> Float[Tensor, "p 2"]:
        """All control points in user units."""
        parts = [values[self.geometries[i].key].reshape(-1, 2) for i in self.lines]
        for which, build in ((self.rects, rect_points), (self.ellipses, ellipse_points)):
            if which:
                parts.append(build(torch.stack([values[self.geometries[i].key] for i in which])).flatten(0, 1))
        if self.circles:
            numbers = torch.stack([values[self.geometries[i].key] for i in self.circles])
            parts.append(ellipse_points(numbers[:, [0, 1, 2, 2]]).flatten(0, 1))
        return torch.cat(parts)

    def flatten(self, values: Mapping[str, Tensor], scales: Float[Tensor, " g"]) -> Segments:
        """Curves as line segments; `scales` are px per user unit of each geometry (the largest, where they differ)."""
        points = self.points(values)
        device = points.device
        control, degree, contour = (x.to(device) for x in (self.control, self.degree, self.contour))
        p0, q1, q2, p3 = points[control].unbind(1)
        w = torch.where(degree == 2, 2 / 3, 1.0).to(points)[:, None]  # a quadratic's cubic handles
        p1, p2 = p0 + w * (q1 - p0), p3 + w * (q2 - p3)
        with torch.no_grad():  # Wang's bound on the error of a flattened cubic
            bend = torch.maximum((p0 - 2 * p1 + p2).norm(dim=1), (p1 - 2 * p2 + p3).norm(dim=1))
            parts = (bend * scales.to(points)[self.geometry.to(device)] * 0.75 / TOLERANCE).sqrt().ceil()
            parts = parts.clamp(1, MOST_PARTS).long().masked_fill(degree == 1, 1)
        curve, k = spread(parts)
        start, end = (self._at(p0, p1, p2, p3, curve, (k + j) / parts[curve]) for j in (0, 1))
        return Segments(start, end, contour[curve], self.geometry.to(device)[curve], self.closed.to(device), k > 0)

    @staticmethod
    def _at(p0: Tensor, p1: Tensor, p2: Tensor, p3: Tensor, curve: Tensor, t: Tensor) -> Tensor:
        """Bernstein form, exact at both ends: neighbours share their points to the last bit."""
        t = t.to(p0)[:, None]
        s = 1 - t
        terms = (s * s * s, 3 * s * s * t, 3 * s * t * t, t * t * t)
        return torch.stack([w * p[curve] for w, p in zip(terms, (p0, p1, p2, p3), strict=True)]).sum(0)


@dataclass(frozen=True)
class Segments:
    """Line segments, contour after contour, in order along each."""

    start: Float[Tensor, "s 2"]
    end: Float[Tensor, "s 2"]
    contour: Int[Tensor, " s"]
    geometry: Int[Tensor, " s"]
    closed: Bool[Tensor, " c"]  # of each contour
    inner: Bool[Tensor, " s"]  # whether the segment goes on along the curve of the one before

    def where(self, keep: Tensor) -> Segments:
        return Segments(
            self.start[keep], self.end[keep], self.contour[keep], self.geometry[keep], self.closed, self.inner[keep]
        )

    def fill_edges(self) -> tuple[Edges, Int[Tensor, " e"]]:
        """Edges with open contours closed, and each one's geometry."""
        first, last = self.ends()
        loop = torch.stack([self.end[last], self.start[first]], 1)
        edges = torch.cat([torch.stack([self.start, self.end], 1), loop])
        return edges, torch.cat([self.geometry, self.geometry[last]])

    def ends(self) -> tuple[Int[Tensor, " c"], Int[Tensor, " c"]]:
        """First and last segment of each contour that has any."""
        border = torch.ones(len(self.contour) + 1, dtype=torch.bool, device=self.contour.device)
        border[1:-1] = self.contour[1:] != self.contour[:-1]
        return border[:-1].nonzero()[:, 0], border[1:].nonzero()[:, 0]

    def dashed(self, dashes: Sequence[float], offset: float) -> Segments:
        """One geometry's contours cut into dashes; where a dash begins and ends does not feel the points move."""
        pieces: list[tuple[int, float, float, int, bool]] = []  # segment, from, to, dash, goes on
        lengths = (self.end - self.start).detach().norm(dim=1).tolist()
        period, dash = sum(dashes), -1
        previous = None
        for i, (length, contour) in enumerate(zip(lengths, self.contour.tolist(), strict=True)):
            if contour != previous:
                previous, part, rest = contour, 0, offset % period
                while rest > 0 and rest >= dashes[part]:
                    rest -= dashes[part]
                    part = (part + 1) % len(dashes)
                left, dash, fresh = dashes[part] - rest, dash + 1, True
            at = 0.0
            while at < length:
                step = min(left, length - at)
                if part % 2 == 0:
                    pieces.append((i, at / length, (at + step) / length, dash, not fresh))
                    fresh = False
                at, left = at + step, left - step
                if left <= 0:
                    part = (part + 1) % len(dashes)
                    left, dash, fresh = dashes[part], dash + 1, True
                if len(pieces) > 100_000:
                    return self
        table = self.start.new_tensor(pieces).reshape(-1, 5)
        i, a, b = table[:, 0].long(), table[:, 1:2], table[:, 2:3]
        start, along = self.start[i], self.end[i] - self.start[i]
        shut = torch.zeros(dash + 1, dtype=torch.bool, device=self.start.device)
        inner = (table[:, 4] > 0) & (a[:, 0] == 0) & self.inner[i]
        return Segments(start + a * along, start + b * along, table[:, 3].long(), self.geometry[i], shut, inner)


def arcs(
    center: Float[Tensor, "n 2"],
    start: Float[Tensor, "n 2"],
    end: Float[Tensor, "n 2"],
    angle: Float[Tensor, " n"],
    radius_px: Float[Tensor, " n"],
) -> tuple[Edges, Int[Tensor, " e"]]:
    """Arcs about centers as edges, with the arc that each belongs to. The ends are taken as given."""
    with torch.no_grad():
        step = 2 * torch.arccos((1 - TOLERANCE / radius_px.clamp(min=1e-12)).clamp(-0.5, 1)).clamp(min=0.01)
        parts = (angle.abs() / step).ceil().clamp(1, MOST_PARTS).long()
    arc, k = spread(parts)

    def point(j: Tensor) -> Tensor:
        turn = angle[arc] * j / parts[arc]
        (x, y), cos, sin = (start - center)[arc].unbind(1), turn.cos(), turn.sin()
        on = center[arc] + torch.stack([x * cos - y * sin, x * sin + y * cos], 1)
        on = torch.where((j == 0)[:, None], start[arc], on)
        return torch.where((j == parts[arc])[:, None], end[arc], on)

    return torch.stack([point(k), point(k + 1)], 1), arc


def stroke_edges(
    segments: Segments, half: Float[Tensor, " s"], px: Float[Tensor, " s"], style: Stroke
) -> tuple[Edges, Int[Tensor, " e"]]:
    """Outlines of stroked segments with the segment that each edge belongs to; `half` widths are in user units.

    Each segment gives its two sides; between neighbours comes the join on the outer side and a straight edge, or one
    by way of the vertex where the turn is too sharp for that, on the inner side; caps close what is open.
    `px` are pixels per user unit. Segments have a length; `style` is that of all.
    """
    a, b = segments.start, segments.end
    along = b - a
    length = along.norm(dim=1)
    d = along / length[:, None]
    n = torch.stack([-d[:, 1], d[:, 0]], 1) * half[:, None]
    index = torch.arange(len(a), device=a.device)
    found: list[tuple[Tensor, Tensor]] = []

    def add(start: Tensor, end: Tensor, which: Tensor) -> None:
        found.append((torch.stack([start, end], 1), which))

    add(a + n, b + n, index)
    add(b - n, a - n, index)

    first, last = segments.ends()
    shut = segments.closed[segments.contour[first]]
    follows = index + 1
    follows[last] = torch.where(shut, first, -1)
    i = (follows >= 0).nonzero()[:, 0]  # a segment, and its neighbour j
    j = follows[i]
    p = b[i]
    cross, dot = d[i, 0] * d[j, 1] - d[i, 1] * d[j, 0], (d[i] * d[j]).sum(1)
    left = cross < 0  # the side of +n is the outer one
    # along the outline, the left side runs with the stroke and the right side against it
    l_from, l_to, r_from, r_to = p + n[i], p + n[j], p - n[j], p - n[i]
    outer_from, outer_to = torch.where(left[:, None], l_from, r_from), torch.where(left[:, None], l_to, r_to)
    inner_from, inner_to = torch.where(left[:, None], r_from, l_from), torch.where(left[:, None], r_to, l_to)

    reach = half[i] * (cross.abs() / (1 + dot).clamp(min=1e-9))  # how far the inner sides overlap
    simple = reach <= torch.minimum(length[i], length[j])
    add(inner_from[simple], inner_to[simple], i[simple])
    pivot = ~simple
    add(inner_from[pivot], p[pivot], i[pivot])
    add(p[pivot], inner_to[pivot], i[pivot])

    smooth = segments.inner[j] & (dot > 0)
    sharp = segments.inner[j] & ~smooth
    pointed = smooth | ((style.join == "miter") & ~sharp & ((1 + dot) / 2 * style.miter_limit**2 >= 1))
    pointed &= dot > -0.9999999
    curved = ~pointed & (sharp | (style.join == "round"))
    flat = ~pointed & ~curved
    add(outer_from[flat], outer_to[flat], i[flat])
    k = pointed.nonzero()[:, 0]
    tip = p[k] + (outer_from[k] + outer_to[k] - 2 * p[k]) / (1 + dot[k])[:, None]
    add(outer_from[k], tip, i[k])
    add(tip, outer_to[k], i[k])
    k = curved.nonzero()[:, 0]
    turn = torch.atan2(cross[k], dot[k])
    turn = torch.where(left[k], turn, -turn)
    edges, arc = arcs(p[k], outer_from[k], outer_to[k], turn, (half * px)[i[k]])
    found.append((edges, i[k][arc]))

    i = last[~shut]
    j = first[~shut]
    for at, s, side, ahead in ((b[i], i, n[i], d[i]), (a[j], j, -n[j], -d[j])):
        begin, end = at + side, at - side
        if style.cap == "round":
            edges, arc = arcs(at, begin, end, begin.new_full((len(s),), -math.pi), (half * px)[s])
            found.append((edges, s[arc]))
        elif style.cap == "square":
            out = ahead * half[s][:, None]
            add(begin, begin + out, s)
            add(begin + out, end + out, s)
            add(end + out, end, s)
        else:
            add(begin, end, s)
    return torch.cat([e for e, _ in found]), torch.cat([s for _, s in found])
