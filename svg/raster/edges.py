"""The edges of everything that a page draws: fills and strokes of all shapes at once, in canvas px."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from svg.model import Draw, Paint, Solid, Stroke
from svg.raster.coverage import spread
from svg.raster.outlines import Outlines
from svg.raster.segments import Segments
from svg.raster.strokes import stroke_edges


@dataclass(frozen=True)
class Shape:
    """One outline to cover: a draw's fill or its stroke."""

    draw: Draw
    geometry: int
    stroke: Stroke | None

    @property
    def paint(self) -> Paint | None:
        return self.stroke.paint if self.stroke else self.draw.fill

    @property
    def opacity(self) -> str | None:
        return self.stroke.opacity if self.stroke else self.draw.fill_opacity


@dataclass(frozen=True)
class PageEdges:
    edges: Tensor
    owner: Tensor
    low: Tensor  # bounds of each geometry in its own units
    high: Tensor


def page_edges(
    shapes: Sequence[Shape], outlines: Outlines, values: Mapping[str, Tensor], matrices: Float[Tensor, "s 3 3"]
) -> PageEdges:
    """All shapes' edges in canvas px; `matrices` lead there from each shape's user units."""
    if not shapes:
        none = matrices.new_zeros(0, 2)
        return PageEdges(matrices.new_zeros(0, 2, 2), none.long()[:, 0], none, none)
    which = torch.tensor([s.geometry for s in shapes], dtype=torch.long, device=matrices.device)
    norms = torch.linalg.matrix_norm(matrices[:, :2, :2])  # Frobenius, at least the largest stretch
    half = [float(values[s.stroke.width].detach()) / 2 if s.stroke else 0.0 for s in shapes]
    norms = norms * (1 + norms * norms.new_tensor(half))  # a stroke's sides and caps turn about its middle line
    count = len(outlines.geometries)
    scales = norms.new_zeros(count).scatter_reduce(0, which, norms, "amax")
    segments = outlines.flatten(values, scales)
    both = torch.cat([segments.start, segments.end]).detach()
    of = segments.geometry.repeat(2)[:, None].expand(-1, 2)
    low = both.new_full((count, 2), torch.inf).scatter_reduce(0, of, both, "amin")
    high = both.new_full((count, 2), -torch.inf).scatter_reduce(0, of, both, "amax")

    fills = [i for i, s in enumerate(shapes) if s.stroke is None]
    parts: list[tuple[Tensor, Tensor]] = []
    if fills:
        loops, geometry = segments.fill_edges()
        shape = torch.tensor(fills, device=which.device)
        chosen, place = _members(geometry, count, which[shape])
        parts.append((loops[chosen], shape[place]))
    styles: dict[Stroke, list[int]] = {}
    for i, s in enumerate(shapes):
        if s.stroke:
            own = ("", i) if s.stroke.dashes else ("", "")  # dashes are cut shape by shape
            style = replace(s.stroke, paint=Solid(str(own)), opacity="", width="")
            styles.setdefault(style, []).append(i)
    for style, members in styles.items():
        shape = torch.tensor(members, device=which.device)
        chosen, place = _members(segments.geometry, count, which[shape])
        own = _copies(segments, chosen, place, len(members))
        if style.dashes:
            own = own.dashed(style.dashes, style.dash_offset)
            place = torch.zeros_like(own.contour)
        own, kept = _with_length(own, style.cap != "butt")
        place = place[kept]
        if len(place):
            half = torch.stack([values[shapes[i].stroke.width].reshape(()) for i in members]).to(both) / 2  # pyright: ignore[reportOptionalMemberAccess]
            px = matrices[shape][:, :2, :2].det().abs().sqrt()
            edges, segment = stroke_edges(own, half[place], px[place], style)
            parts.append((edges, shape[place[segment]]))
    if not parts:
        return PageEdges(both.new_zeros(0, 2, 2), which[:0], low, high)
    edges, owner = torch.cat([e for e, _ in parts]), torch.cat([o for _, o in parts])
    m = matrices[owner]
    return PageEdges(torch.einsum("eij,epj->epi", m[:, :2, :2], edges) + m[:, None, :2, 2], owner, low, high)


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
