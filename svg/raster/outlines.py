"""Outlines as line segments: control points of all shapes, and their curves flattened; vectorized, differentiable.

Flattening and stroking happen in a shape's own user units, where its stroke is round; the shape's matrix follows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from svg.model import POINTS, Geometry
from svg.raster.coverage import spread
from svg.raster.segments import Segments

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
        start, end = (_bernstein((p0, p1, p2, p3), curve, (k + j) / parts[curve]) for j in (0, 1))
        return Segments(start, end, contour[curve], self.geometry.to(device)[curve], self.closed.to(device), k > 0)


def _bernstein(control: tuple[Tensor, Tensor, Tensor, Tensor], curve: Tensor, t: Tensor) -> Float[Tensor, "n 2"]:
    """Points at t of cubics; exact at both ends: neighbours share their points to the last bit."""
    t = t.to(control[0])[:, None]
    s = 1 - t
    terms = (s * s * s, 3 * s * s * t, 3 * s * t * t, t * t * t)
    return torch.stack([w * p[curve] for w, p in zip(terms, control, strict=True)]).sum(0)
