"""The edges of everything that a page draws: fills and strokes of all shapes at once, in canvas px."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from svg.model import Solid, Stroke
from svg.raster.coverage import Edges, spread
from svg.raster.segments import Segments
from svg.raster.shapes import Shapes
from svg.raster.strokes import Owned, stroke_edges

ANY = Solid("")  # paints do not change outlines


@dataclass(frozen=True)
class PageEdges:
    """Edges in canvas px with the shape of each, and the bounds of each geometry in its own units."""

    edges: Edges
    owner: Int[Tensor, " e"]
    low: Float[Tensor, "g 2"]
    high: Float[Tensor, "g 2"]


def page_edges(page: Shapes, values: Mapping[str, Tensor], matrices: Float[Tensor, "s 3 3"]) -> PageEdges:
    """All shapes' edges in canvas px; `matrices` lead there from each shape's user units."""
    shapes, outlines = page.table, page.outlines
    if not shapes:
        none = matrices.new_zeros(0, 2)
        return PageEdges(matrices.new_zeros(0, 2, 2), none.long()[:, 0], none, none)
    which = torch.tensor([s.geometry for s in shapes], dtype=torch.long, device=matrices.device)
    norms = torch.linalg.matrix_norm(matrices[:, :2, :2])  # Frobenius, at least the largest stretch
    none = norms.new_zeros(())
    half = torch.stack([values[s.stroke.width].detach().reshape(()) if s.stroke else none for s in shapes]) / 2
    norms = norms * (1 + norms * half)  # a stroke's sides and caps turn about its middle line
    count = len(outlines.geometries)
    scales = norms.new_zeros(count).scatter_reduce(0, which, norms, "amax")
    segments = outlines.flatten(values, scales)
    both = torch.cat([segments.start, segments.end]).detach()
    of = segments.geometry.repeat(2)[:, None].expand(-1, 2)
    low = both.new_full((count, 2), torch.inf).scatter_reduce(0, of, both, "amin")
    high = both.new_full((count, 2), -torch.inf).scatter_reduce(0, of, both, "amax")

    parts = [*_fills(page, segments, which), *_strokes(page, segments, which, values, matrices)]
    if not parts:
        return PageEdges(both.new_zeros(0, 2, 2), which[:0], low, high)
    edges, owner = torch.cat([e for e, _ in parts]), torch.cat([o for _, o in parts])
    A, t = matrices[owner][:, :2, :2], matrices[owner][:, None, :2, 2]
    return PageEdges(torch.einsum("eij,epj->epi", A, edges) + t, owner, low, high)


def _fills(page: Shapes, segments: Segments, which: Tensor) -> Iterator[Owned]:
    """Edges of all fills, with their shapes; `which`: each shape's geometry."""
    fills = [i for i, s in enumerate(page.table) if s.stroke is None]
    if fills:
        loops, geometry = segments.fill_edges()
        shape = torch.tensor(fills, device=which.device)
        chosen, place = _members(geometry, len(page.outlines.geometries), which[shape])
        yield loops[chosen], shape[place]


def _strokes(
    page: Shapes, segments: Segments, which: Tensor, values: Mapping[str, Tensor], matrices: Tensor
) -> Iterator[Owned]:
    """Edges of all strokes, with their shapes, in user units; those of one style at once."""
    styles: dict[tuple[Stroke, int | None], list[int]] = {}
    for i, s in enumerate(page.table):
        if s.stroke:
            style = replace(s.stroke, paint=ANY, opacity="", width="")
            styles.setdefault((style, i if style.dashes else None), []).append(i)  # dashes are cut shape by shape
    for (style, _), members in styles.items():
        shape = torch.tensor(members, device=which.device)
        chosen, place = _members(segments.geometry, len(page.outlines.geometries), which[shape])
        own = _copies(segments, chosen, place, len(members))
        if style.dashes:
            own = own.dashed(style.dashes, style.dash_offset)
            place = torch.zeros_like(own.contour)
        own, kept = _with_length(own, style.cap != "butt")
        place = place[kept]
        if len(place):
            widths = [s.stroke.width for s in (page.table[i] for i in members) if s.stroke]
            half = torch.stack([values[width].reshape(()) for width in widths]).to(own.start) / 2
            px = matrices[shape][:, :2, :2].det().abs().sqrt()
            edges, segment = stroke_edges(own, half[place], px[place], style)
            yield edges, shape[place[segment]]


def _members(group: Tensor, groups: int, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of all elements of each wanted group, one group after the other, and which of the wanted it is."""
    order = torch.argsort(group, stable=True)
    counts = torch.bincount(group, minlength=groups)
    first = counts.cumsum(0) - counts
    place, k = spread(counts[wanted])
    return order[first[wanted][place] + k], place


def _copies(segments: Segments, chosen: Tensor, place: Tensor, copies: int) -> Segments:
    """Chosen segments, each copy's contours numbered on their own."""
    part = segments.where(chosen)
    return replace(part, contour=part.contour + place * len(segments.closed), closed=segments.closed.repeat(copies))


def _with_length(segments: Segments, dots: bool) -> tuple[Segments, Tensor]:
    """Segments that have a length; with `dots`, contours without any become a speck that caps can enclose."""
    length = (segments.end - segments.start).detach().norm(dim=1)
    real = length > 1e-9
    if dots and not bool(real.all()):
        has = torch.zeros(len(segments.closed), dtype=torch.bool, device=real.device)
        has[segments.contour[real]] = True
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
