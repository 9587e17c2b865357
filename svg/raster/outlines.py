"""Outlines as line segments: control points of all shapes, and their curves flattened; vectorized, differentiable.

Flattening and stroking happen in a shape's own user units, where its stroke is round; the shape's matrix follows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from svg.model import POINTS, Geometry
from svg.numbers import Keys
from svg.raster.constants import Constants
from svg.raster.coverage import spread
from svg.raster.segments import Segments

TOLERANCE = 0.03  # px by which a flattened curve or a round join may miss
MOST_PARTS = 256  # segments of one curve
AT_ONCE = 2**16  # segments or edges that are worked on at once: it bounds the memory
Curve = tuple[int, int, int, int, int]  # indices of four control points, and the degree
KAPPA = 4 / 3 * (math.sqrt(2) - 1)  # handles of a quarter circle


QUARTERS = Constants(  # of the unit circle
    unit=torch.tensor(
        [
            *[(1, 0), (1, KAPPA), (KAPPA, 1), (0, 1), (-KAPPA, 1), (-1, KAPPA)],
            *[(-1, 0), (-1, -KAPPA), (-KAPPA, -1), (0, -1), (KAPPA, -1), (1, -KAPPA)],
        ],
        dtype=torch.float64,
    )
)


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
    return numbers[:, None, :2] + numbers[:, None, 2:] * QUARTERS.like(numbers)["unit"]


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
        kinds = (("path", "line"), ("rect",), ("ellipse",), ("circle",))
        by_kind = [[i for i, g in enumerate(self.geometries) if g.kind in k] for k in kinds]
        self.keys = [Keys([self.geometries[i].key for i in own]) for own in by_kind]
        counts = {i: self._points(self.geometries[i]) for i in range(len(self.geometries))}
        base, at = {}, 0
        for i in chain(*by_kind):
            base[i], at = at, at + counts[i]
        curves: list[tuple[int, int, int, int, int, int, int]] = []  # p0 p1 p2 p3 degree contour geometry
        closed: list[bool] = []
        self.contours: list[int] = []  # how many each geometry has
        for i, geometry in enumerate(self.geometries):
            own = contours(geometry)
            self.contours.append(len(own))
            for contour, shut in own:
                b = base[i]
                curves += [(b + p0, b + p1, b + p2, b + p3, n, len(closed), i) for p0, p1, p2, p3, n in contour]
                closed.append(shut)
        table = torch.tensor(curves, dtype=torch.long).reshape(-1, 7)
        self.control, self.degree, self.contour, self.geometry = table[:, :4], table[:, 4], table[:, 5], table[:, 6]
        self.closed = torch.tensor(closed, dtype=torch.bool)
        self.constants = Constants(
            control=self.control,
            line=self.degree == 1,
            handle=torch.where(self.degree == 2, 2 / 3, 1.0).double()[:, None],  # a quadratic's cubic handles
            contour=self.contour,
            geometry=self.geometry,
            closed=self.closed,
        )

    @staticmethod
    def _points(geometry: Geometry) -> int:
        sizes = {"rect": 16, "ellipse": 12, "circle": 12, "line": 2}
        return sizes.get(geometry.kind) or sum(POINTS[c] for c in geometry.commands)

    def points(self, values: Mapping[str, Tensor]) -> Float[Tensor, "p 2"]:
        """All control points in user units."""
        lines, rects, ellipses, circles = (keys.of(values) if len(keys) else None for keys in self.keys)
        parts = [] if lines is None else [lines.view(-1, 2)]
        parts += [] if rects is None else [rect_points(rects.view(-1, 6)).flatten(0, 1)]
        parts += [] if ellipses is None else [ellipse_points(ellipses.view(-1, 4)).flatten(0, 1)]
        if circles is not None:
            x, y, r = circles.view(-1, 3).unbind(1)
            parts.append(ellipse_points(torch.stack([x, y, r, r], 1)).flatten(0, 1))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def flatten(self, values: Mapping[str, Tensor], scales: Float[Tensor, " g"]) -> Segments:
        """Curves as line segments; `scales` are px per user unit of each geometry (the largest, where they differ)."""
        points = self.points(values).to(scales)
        own = self.constants.like(points)
        p0, q1, q2, p3 = points[own["control"]].unbind(1)
        w, geometry = own["handle"], own["geometry"]
        p1, p2 = p0 + w * (q1 - p0), p3 + w * (q2 - p3)
        with torch.no_grad():  # Wang's bound on the error of a flattened cubic
            bend = torch.maximum((p0 - 2 * p1 + p2).norm(dim=1), (p1 - 2 * p2 + p3).norm(dim=1))
            parts = (bend * scales[geometry] * 0.75 / TOLERANCE).sqrt().ceil()
            parts = parts.clamp(1, MOST_PARTS).long().masked_fill(own["line"], 1)
        counts = torch.zeros_like(scales, dtype=torch.long).index_add_(0, geometry, parts).tolist()
        curve, k = spread(parts, sum(counts))
        start, end = _Flattened.apply(torch.stack([p0, p1, p2, p3]), curve, k, parts)  # pyright: ignore
        return Segments(start, end, own["contour"][curve], geometry[curve], own["closed"], k > 0, counts)


class _Flattened(torch.autograd.Function):
    """Starts and ends of the segments `k` of `parts` of cubics; neighbors share their points to the last bit."""

    @staticmethod
    def forward(ctx: Any, control: Tensor, curve: Tensor, k: Tensor, parts: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(curve.int(), k.int(), parts)  # fewer than 2^31 by far
        ctx.count = control.shape[1]
        return _points(control, curve, k, parts, 0), _points(control, curve, k, parts, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        curve, k, parts = ctx.saved_tensors
        found = grads[0].new_zeros(4, ctx.count, 2)
        for later, whole in enumerate(grads):
            for grad, of, at in zip(*(x.split(AT_ONCE) for x in (whole, curve, k)), strict=True):
                weights = _bernstein(((at + later) / parts.index_select(0, of)).to(grad))
                of = of.long()  # which is much quicker here
                for own, w in zip(found, weights, strict=True):
                    own.index_add_(0, of, w[:, None] * grad)
        return found, None, None, None


def _points(control: Tensor, curve: Tensor, k: Tensor, parts: Tensor, later: int) -> Float[Tensor, "n 2"]:
    """The points `k + later` of their curves' parts."""
    found = control.new_empty(len(curve), 2)
    for out, of, at in zip(*(x.split(AT_ONCE) for x in (found, curve, k)), strict=True):
        w = _bernstein(((at + later) / parts.index_select(0, of)).to(control))
        torch.mul(w[0][:, None], control[0].index_select(0, of), out=out)
        for p, own in zip(control[1:], w[1:], strict=True):
            out += own[:, None] * p.index_select(0, of)
    return found


def _bernstein(t: Float[Tensor, " n"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights of a cubic's control points at t, exact at both ends."""
    s = 1 - t
    return s * s * s, 3 * s * s * t, 3 * s * t * t, t * t * t
