"""The edges of everything that a page draws: fills and strokes of all shapes at once, in canvas px."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from svg.raster.coverage import Edges, spread
from svg.raster.outlines import AT_ONCE
from svg.raster.segments import Segments
from svg.raster.shapes import Shapes
from svg.raster.strokes import Owned, stroke_edges


@dataclass(frozen=True)
class PageEdges:
    """Edges in canvas px with the shape of each, and the bounds of each geometry in its own units."""

    edges: Edges
    owner: Int[Tensor, " e"]
    low: Float[Tensor, "g 2"]
    high: Float[Tensor, "g 2"]


def page_edges(page: Shapes, values: Mapping[str, Tensor], matrices: Float[Tensor, "s 3 3"]) -> PageEdges:
    """All shapes' edges in canvas px; `matrices` lead there from each shape's user units."""
    if not len(page):
        none = matrices.new_zeros(0, 2)
        return PageEdges(matrices.new_zeros(0, 2, 2), none.long()[:, 0], none, none)
    segments = page.outlines.flatten(values, _scales(page, values, matrices))
    low, high = _bounds(segments, len(page.outlines.geometries))
    which = page.constants.like(matrices)["geometry"]
    parts = [*_fills(page, segments, which), *_strokes(page, segments, which, values, matrices)]
    del segments  # what they hold is needed no more
    parts = parts or [(matrices.new_zeros(0, 2, 2), which[:0])]
    edges, owner = parts[0] if len(parts) == 1 else (torch.cat(x) for x in zip(*parts, strict=True))
    return PageEdges(_OnCanvas.apply(edges, owner, matrices), owner, low, high)  # pyright: ignore


def _scales(page: Shapes, values: Mapping[str, Tensor], matrices: Tensor) -> Float[Tensor, " g"]:
    """At most how many px a user unit of each geometry becomes, in all shapes that it is drawn as."""
    own = page.constants.like(matrices)
    norms = torch.linalg.matrix_norm(matrices[:, :2, :2])  # Frobenius, at least the largest stretch
    if len(page.widths):  # a stroke's sides and caps turn about its middle line
        half = page.widths.of(values).detach().to(norms) / 2
        norms = norms * (1 + norms * torch.zeros_like(norms).index_copy(0, own["stroked"], half))
    return norms.new_zeros(len(page.outlines.geometries)).scatter_reduce(0, own["geometry"], norms, "amax")


class _OnCanvas(torch.autograd.Function):
    """Edges in user units under the matrices of their shapes, which are constants, in place."""

    @staticmethod
    def forward(ctx: Any, edges: Tensor, owner: Tensor, matrices: Tensor) -> Tensor:
        ctx.save_for_backward(owner, matrices)
        ctx.mark_dirty(edges)
        for own, x in zip(owner.split(AT_ONCE), edges.split(AT_ONCE), strict=True):
            A, t = (m.index_select(0, own) for m in (matrices[:, :2, :2], matrices[:, None, :2, 2]))
            torch.add(torch.einsum("eij,epj->epi", A, x), t, out=x)
        return edges

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        owner, matrices = ctx.saved_tensors
        found = torch.empty_like(grads[0])
        for own, grad, y in zip(*(x.split(AT_ONCE) for x in (owner, grads[0], found)), strict=True):
            y.copy_(torch.einsum("eij,epi->epj", matrices[:, :2, :2].index_select(0, own), grad))
        return found, None, None


def _bounds(segments: Segments, count: int) -> tuple[Float[Tensor, "g 2"], Float[Tensor, "g 2"]]:
    """Least and greatest coordinates of each of `count` geometries."""
    ends, of = (segments.start.detach(), segments.end.detach()), segments.geometry[:, None].expand(-1, 2)
    low, high = (ends[0].new_full((count, 2), x) for x in (torch.inf, -torch.inf))
    for points in ends:
        low.scatter_reduce_(0, of, points, "amin")
        high.scatter_reduce_(0, of, points, "amax")
    return low, high


def _fills(page: Shapes, segments: Segments, which: Tensor) -> Iterator[Owned]:
    """Edges of all fills, with their shapes; `which`: each shape's geometry."""
    shape = page.constants.like(segments.start)["fills"]
    if len(shape):
        loops, geometry = segments.fill_edges()
        total = sum(segments.counts[g] + page.outlines.contours[g] for g in page.filled)
        chosen, place = _members(geometry, len(page.outlines.geometries), which[shape], total)
        yield loops.index_select(0, chosen), shape[place]


def _strokes(
    page: Shapes, segments: Segments, which: Tensor, values: Mapping[str, Tensor], matrices: Tensor
) -> Iterator[Owned]:
    """Edges of all strokes, with their shapes, in user units; those of one style at once."""
    for group in page.strokes:
        style, shape = group.style, group.constants.like(matrices)["shape"]
        total = sum(segments.counts[g] for g in group.geometries)
        chosen, place = _members(segments.geometry, len(page.outlines.geometries), which[shape], total)
        own = _copies(segments, chosen, place, len(shape))
        if style.dashes:
            own = own.dashed(style.dashes, style.dash_offset)
            place = torch.zeros_like(own.contour)
        own, kept = _with_length(own, style.cap != "butt")
        place = place[kept]
        if len(place):
            half = group.widths.of(values).to(own.start) / 2
            px = matrices[shape][:, :2, :2].det().abs().sqrt()
            edges, segment = stroke_edges(own, half[place], px[place], style)
            yield edges, shape[place[segment]]


def _members(group: Tensor, groups: int, wanted: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Indices of all `total` elements of each wanted group, one group after the other, and which of these it is."""
    order = torch.argsort(group, stable=True)
    counts = group.new_zeros(groups).index_add_(0, group, torch.ones_like(group))
    first = counts.cumsum(0) - counts
    place, k = spread(counts[wanted], total)
    return order[first[wanted][place] + k], place


def _copies(segments: Segments, chosen: Tensor, place: Tensor, copies: int) -> Segments:
    """Chosen segments, each copy's contours numbered on their own."""
    part = segments.where(chosen)
    return replace(part, contour=part.contour + place * len(segments.closed), closed=segments.closed.repeat(copies))


def _with_length(segments: Segments, dots: bool) -> tuple[Segments, Tensor]:
    """Segments that have a length; with `dots`, contours without any become a speck that caps can enclose."""
    real = (segments.end - segments.start).detach().norm(dim=1) > 1e-9
    short = len(real) - int(real.sum())
    if not short:
        return segments, torch.arange(len(real), device=real.device)
    if dots:
        has = torch.zeros_like(segments.closed, dtype=torch.long).index_add_(0, segments.contour, real.long()) > 0
        first, _ = segments.ends()
        speck = first[~has[segments.contour[first]]]
        closed = segments.closed.clone()
        closed[segments.contour[speck]] = False
        end = segments.end.clone()
        end[speck, 0] += 1e-6
        real[speck] = True
        segments = replace(segments, end=end, closed=closed)
    kept = real.nonzero()[:, 0]
    return segments.where(kept), kept
