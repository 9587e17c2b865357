"""Strokes as outlines: the sides of segments, joins between them and caps at open ends (SVG 2, section 13.5)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from svg.model import Stroke
from svg.raster.coverage import Edges
from svg.raster.outlines import MOST_PARTS, TOLERANCE
from svg.raster.overlaps import chosen, spread
from svg.raster.segments import Segments

Owned = tuple[Edges, Int[Tensor, " e"]]  # edges, and the segment or arc that each belongs to


@dataclass(frozen=True)
class _Sides:
    """Segments ab with their length, direction d = (b - a) / |b - a| and normal n = h (-d_y, d_x), h half the width."""

    a: Float[Tensor, "s 2"]
    b: Float[Tensor, "s 2"]
    length: Float[Tensor, " s"]
    d: Float[Tensor, "s 2"]
    n: Float[Tensor, "s 2"]
    h: Float[Tensor, " s"]
    radius_px: Float[Tensor, " s"]


def stroke_edges(segments: Segments, half: Float[Tensor, " s"], px: Float[Tensor, " s"], style: Stroke) -> Owned:
    """Outlines of stroked segments with the segment that each edge belongs to; `half` widths are in user units.

    `px` are pixels per user unit. Segments have a length; `style` is that of all.
    """
    a, b = segments.start, segments.end
    along = b - a
    length = along.norm(dim=1)
    d = along / length[:, None]
    n = torch.stack([-d[:, 1], d[:, 0]], 1) * half[:, None]
    s = _Sides(a, b, length, d, n, half, half * px)

    index = torch.arange(len(a), device=a.device)
    first, last = segments.ends()
    closed = segments.closed[segments.contour[first]]
    follows = index + 1
    follows[last] = torch.where(closed, first, -1)
    i, opens = chosen(follows >= 0, ~closed)  # segments with a neighbour j, and contours with caps
    parts = [
        _edges(a + n, b + n, index),
        _edges(b - n, a - n, index),
        *_joins(s, i, follows[i], segments.inner[follows[i]], style),
    ]
    i, j = last[opens], first[opens]
    parts += _caps(s, b[i], n[i], d[i], i, style.cap)
    parts += _caps(s, a[j], -n[j], -d[j], j, style.cap)
    return torch.cat([e for e, _ in parts]), torch.cat([o for _, o in parts])


def _edges(start: Float[Tensor, "n 2"], end: Float[Tensor, "n 2"], owner: Int[Tensor, " n"]) -> Owned:
    return torch.stack([start, end], 1), owner


def _joins(s: _Sides, i: Tensor, j: Tensor, inner: Tensor, style: Stroke) -> list[Owned]:
    """Joins of segments i and j: `style`'s on the outer side, the straight or the shortest way on the inner one.

    theta is the angle between d_i and d_j. `inner`: whether j goes on along the curve of i, where no join is seen.
    """
    p = s.b[i]
    sin, cos = s.d[i, 0] * s.d[j, 1] - s.d[i, 1] * s.d[j, 0], (s.d[i] * s.d[j]).sum(1)
    left = sin < 0  # the side of +n is the outer one
    # along the outline, the left side runs with the stroke and the right side against it
    l_from, l_to, r_from, r_to = p + s.n[i], p + s.n[j], p - s.n[j], p - s.n[i]
    outer_from, outer_to = torch.where(left[:, None], l_from, r_from), torch.where(left[:, None], l_to, r_to)
    inner_from, inner_to = torch.where(left[:, None], r_from, l_from), torch.where(left[:, None], r_to, l_to)

    overlap = s.h[i] * (sin.abs() / (1 + cos).clamp(min=1e-9))  # of the inner sides: h tan(theta / 2)
    straight = overlap <= torch.minimum(s.length[i], s.length[j])
    smooth = inner & (cos > 0)
    sharp = inner & ~smooth
    # the miter's length is 1 / cos(theta / 2) of the width, and cos^2(theta / 2) = (1 + cos theta) / 2
    pointed = smooth | ((style.join == "miter") & ~sharp & ((1 + cos) / 2 * style.miter_limit**2 >= 1))
    pointed &= cos > -0.9999999
    curved = ~pointed & (sharp | (style.join == "round"))
    # too sharp a corner for a straight edge on the inner side: by way of the vertex
    straight, pivot, flat, k, curved = chosen(straight, ~straight, ~pointed & ~curved, pointed, curved)
    found = [
        _edges(inner_from[straight], inner_to[straight], i[straight]),
        _edges(inner_from[pivot], p[pivot], i[pivot]),
        _edges(p[pivot], inner_to[pivot], i[pivot]),
        _edges(outer_from[flat], outer_to[flat], i[flat]),
    ]
    tip = p[k] + (outer_from[k] + outer_to[k] - 2 * p[k]) / (1 + cos[k])[:, None]  # p + (n_i + n_j) / (1 + cos theta)
    found += [_edges(outer_from[k], tip, i[k]), _edges(tip, outer_to[k], i[k])]
    k = curved
    theta = torch.atan2(sin[k], cos[k])
    edges, arc = arcs(p[k], outer_from[k], outer_to[k], torch.where(left[k], theta, -theta), s.radius_px[i[k]])
    return [*found, (edges, i[k][arc])]


def _caps(s: _Sides, p: Tensor, n: Tensor, d: Tensor, owner: Tensor, cap: str) -> list[Owned]:
    """Caps at the ends p of open contours, where the stroke goes in direction d and has its left side at p + n."""
    begin, end = p + n, p - n
    if cap == "round":
        edges, arc = arcs(p, begin, end, begin.new_full((len(owner),), -math.pi), s.radius_px[owner])
        return [(edges, owner[arc])]
    if cap == "square":
        out = d * s.h[owner][:, None]
        return [
            _edges(begin, begin + out, owner),
            _edges(begin + out, end + out, owner),
            _edges(end + out, end, owner),
        ]
    return [_edges(begin, end, owner)]


def arcs(
    center: Float[Tensor, "n 2"],
    start: Float[Tensor, "n 2"],
    end: Float[Tensor, "n 2"],
    theta: Float[Tensor, " n"],
    radius_px: Float[Tensor, " n"],
) -> Owned:
    """Arcs over angles theta about centers as edges, with the arc that each belongs to. The ends are taken as given."""
    with torch.no_grad():  # a chord over the angle phi misses its arc by r (1 - cos(phi / 2))
        phi = 2 * torch.arccos((1 - TOLERANCE / radius_px.clamp(min=1e-12)).clamp(-0.5, 1)).clamp(min=0.01)
        parts = (theta.abs() / phi).ceil().clamp(1, MOST_PARTS).long()
    arc, k = spread(parts)

    def point(j: Tensor) -> Tensor:
        angle = theta[arc] * j / parts[arc]
        (x, y), cos, sin = (start - center)[arc].unbind(1), angle.cos(), angle.sin()
        on = center[arc] + torch.stack([x * cos - y * sin, x * sin + y * cos], 1)
        on = torch.where((j == 0)[:, None], start[arc], on)
        return torch.where((j == parts[arc])[:, None], end[arc], on)

    return torch.stack([point(k), point(k + 1)], 1), arc
