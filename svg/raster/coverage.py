"""Exact area coverage of filled outlines, differentiable in their points; cost follows the pixels that edges cross.

An outline is a soup of directed edges in which every vertex is left as often as it is reached. Each piece of an edge
within a pixel adds its signed area to the pixel and its height to all pixels to the right; a running sum along the row
gives the area-weighted winding number (the accumulation buffer of font rasterizers), which the fill rule turns into
coverage; where parts of one outline meet within a pixel, overlaps.py tells what is covered. By Stokes' theorem a
pixel's coverage changes only with the pieces of edge inside it: the backward pass reads the gradient at those pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from svg.raster.overlaps import LINES, Crossings, chosen, crossings, overlapping, spread

CHUNK = {"cpu": 2**15, "cuda": 2**20}  # edges or pieces of them that are worked on at once: it bounds the memory
Box = tuple[int, int, int, int]  # x, y, width, height on the canvas
Edges = Float[Tensor, "e 2 2"]  # (edge, start or end, x or y), px
Kept = tuple[Tensor, Tensor, Tensor, Tensor]  # edge, cell, a and b of pieces that lie in pixels, as in _Pieces


@dataclass(frozen=True)
class Boxes:
    """Each shape's rectangle of pixels within the canvas; its coverage is stored row by row in one flat buffer."""

    table: Int[Tensor, "s 4"]  # left, top, width, height

    @property
    def left(self) -> Int[Tensor, " s"]:
        return self.table[:, 0]

    @property
    def top(self) -> Int[Tensor, " s"]:
        return self.table[:, 1]

    @property
    def width(self) -> Int[Tensor, " s"]:
        return self.table[:, 2]

    @property
    def height(self) -> Int[Tensor, " s"]:
        return self.table[:, 3]

    @property
    def cells(self) -> Int[Tensor, " s"]:
        """How many each shape has: in a row its pixels and one for what lies to the right of them."""
        return (self.width + 1) * self.height

    @property
    def start(self) -> Int[Tensor, " s"]:
        """Where a shape's cells begin."""
        return self.cells.cumsum(0) - self.cells

    @cached_property
    def places(self) -> list[Box]:
        """The table on the host, which waits for it once."""
        return [(x, y, w, h) for x, y, w, h in self.table.tolist()]

    @cached_property
    def rows(self) -> list[tuple[int, int]]:
        """Of each shape, on the host, where its cells begin and how many make a row."""
        starts = accumulate(((w + 1) * h for *_, w, h in self.places), initial=0)
        return [(start, w + 1) for start, (*_, w, _h) in zip(starts, self.places, strict=False)]

    @cached_property
    def total(self) -> int:
        """Cells of all."""
        return sum((w + 1) * h for *_, w, h in self.places)


def boxes_of(edges: Edges, owner: Int[Tensor, " e"], shapes: int, width: int, height: int) -> Boxes:
    """The pixels that each shape may touch, clipped to the canvas."""
    low, high = (edges.new_full((shapes, 2), x) for x in (torch.inf, -torch.inf))
    for own, part in _chunks(owner, edges.detach()):
        of, points = own.repeat_interleave(2)[:, None].expand(-1, 2), part.flatten(0, 1)
        low.scatter_reduce_(0, of, points, "amin")
        high.scatter_reduce_(0, of, points, "amax")
    sides = (width, height)
    first, last = (
        torch.stack([x.clamp(0, side) for x, side in zip(corner.unbind(1), sides, strict=True)], 1).long()
        for corner in (low.floor(), high.floor() + 1)
    )
    size = (last - first).clamp(min=0)
    size = size * (size > 0).all(1, keepdim=True)
    return Boxes(torch.cat([first, size], 1))


@dataclass(frozen=True)
class _Pieces:
    """Parts of edges, each within one cell: between the edge's parameters `a` and `b` in [0, 1]."""

    edge: Tensor
    cell: Tensor  # in the flat buffer
    a: Tensor
    b: Tensor
    inside: Tensor  # 1 in the pixels of the box, 0 to its left and right
    fraction: Tensor  # of the piece's height that its own cell receives; the rest goes to the next one


def _pieces(edges: Edges, owner: Tensor, boxes: Boxes) -> _Pieces:
    """Cut every edge at the borders of rows and columns."""
    start, along = edges[:, 0], edges[:, 1] - edges[:, 0]
    top, bottom = boxes.top[owner], (boxes.top + boxes.height)[owner]
    y0, y1 = edges[:, 0, 1], edges[:, 1, 1]
    first = torch.maximum(torch.minimum(y0, y1).floor().clamp(-(2**40), 2**40).long(), top)
    last = torch.minimum(torch.maximum(y0, y1).ceil().clamp(-(2**40), 2**40).long(), bottom)
    level = along[:, 1] == 0  # covers nothing, but feels its pixels when it moves
    last = torch.where(level, torch.minimum(first + 1, bottom), last)
    edge, k = spread((last - first).clamp(min=0) * (boxes.width[owner] > 0))
    row = first[edge] + k
    slope = 1 / torch.where(level, 1, along[:, 1])[edge]
    t0 = ((row - y0[edge]) * slope).clamp(0, 1)
    t1 = ((row + 1 - y0[edge]) * slope).clamp(0, 1)
    a, b = torch.minimum(t0, t1), torch.where(level[edge], 1, torch.maximum(t0, t1))
    a = torch.where(level[edge], 0, a)

    # columns, counted from the box's left: -1 stands for all to its left, its width for all to its right
    x, dx = start[:, 0][edge] - boxes.left[owner[edge]], along[:, 0][edge]
    width = boxes.width[owner[edge]]
    xa, xb = x + a * dx, x + b * dx
    left = torch.minimum(xa, xb).clamp(min=-1).floor().long()
    right = torch.maximum(xa, xb).clamp(max=2**40).ceil().long()
    low, high = torch.minimum(left, width), torch.minimum(right.clamp(min=0), width + 1)
    count = (high - low).clamp(min=1)
    of, k = spread(count)
    column, first, last = low[of] + k, k == 0, k == count[of] - 1
    edge, row, width, a, b, x, dx = edge[of], row[of], width[of], a[of], b[of], x[of], dx[of]
    # where the edge crosses the column's borders; whatever rounding says, the outermost columns take the edge's ends
    steep = torch.where(dx == 0, 1, dx)
    at_left, at_right = (column - x) / steep, (column + 1 - x) / steep
    rising = dx > 0
    enters = torch.where(torch.where(rising, first, last), -torch.inf, torch.where(rising, at_left, at_right))
    leaves = torch.where(torch.where(rising, last, first), torch.inf, torch.where(rising, at_right, at_left))
    a, b = (torch.where(dx == 0, t, torch.minimum(torch.maximum(t, enters), leaves)) for t in (a, b))

    inside = (column >= 0) & (column < width)
    middle = (x + (a + b) / 2 * dx - column).clamp(0, 1)
    fraction = torch.where(inside, 1 - middle, 1.0)
    shape = owner[edge]
    cell = boxes.start[shape] + (row - boxes.top[shape]) * (width + 1) + column.clamp(min=0)
    return _Pieces(edge, cell, a, b, inside, fraction)


class _Coverage(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, edges: Tensor, owner: Tensor, boxes: Boxes, evenodd: Tensor | None) -> Tensor:
        area, begin = edges.new_zeros(boxes.total + 1), 0
        pieces: list[Kept] = []
        for own, part in _chunks(owner, edges):
            pieces.append(_collect(area, part, own, boxes, begin, len(edges)))
            begin += len(part)
        winding = area[:-1].cumsum_(0)  # rows need no reset: each row of a closed outline sums to zero
        folded = winding.abs()
        coverage = folded.clamp(max=1)
        even = None
        if evenodd is not None:
            even = evenodd.repeat_interleave(boxes.cells, output_size=boxes.total)
            over = folded - 2 * (folded / 2).floor()
            coverage = torch.where(even, torch.minimum(over, 2 - over), coverage)

        orientation, vectors = _orientation(edges, owner, len(boxes.table)), edges[:, 1] - edges[:, 0]
        overlaps = _overlapping(pieces, vectors, owner, winding, orientation)
        crossed = _resolve(coverage, edges, owner, boxes, evenodd, overlaps)
        slopes = []
        for edge, cell, *_ in pieces:
            at, shape = winding.index_select(0, cell), owner.index_select(0, edge)
            # an edge that lies on the border of an empty pixel still knows which way is in
            sign = torch.where(at.abs() < 1e-9, orientation[shape], at.sign())
            slope = torch.where(at.abs() <= 1 + 1e-9, sign, 0.0)
            if even is not None:
                odd = torch.where(at.abs() % 2 > 1, -sign, sign)
                slope = torch.where(even.index_select(0, cell), odd, slope)
            slopes.append(slope)
        if crossed is not None:
            _put_resolved(slopes, pieces, *crossed)
        kept = [x for own, slope in zip(pieces, slopes, strict=True) for x in (*own, slope)]
        ctx.save_for_backward(vectors, *kept)
        return coverage

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        vectors, *kept = ctx.saved_tensors
        result = vectors.new_zeros(len(vectors), 2, 2)
        for i in range(0, len(kept), 5):
            edge, cell, a, b, slope = kept[i : i + 5]
            along = vectors.index_select(0, edge)
            normal = torch.stack([-along[:, 1], along[:, 0]], 1)
            strength = grads[0].index_select(0, cell) * slope
            end = (b * b - a * a) / 2
            result[:, 0].index_add_(0, edge, (strength * (b - a - end))[:, None] * normal)
            result[:, 1].index_add_(0, edge, (strength * end)[:, None] * normal)
        return result, None, None, None


def _chunks(*tables: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Rows of tables of one length, so many at once as the device likes; none once."""
    most = CHUNK.get(tables[0].device.type, CHUNK["cpu"])
    return zip(*(x.split(most) for x in tables), strict=True)


def _collect(area: Tensor, edges: Tensor, owner: Tensor, boxes: Boxes, begin: int, total: int) -> Kept:
    """Add what these edges, from `begin` on of `total`, cover to `area`; the pieces that lie inside of the boxes."""
    pieces = _pieces(edges, owner, boxes)
    height = (pieces.b - pieces.a) * (edges[:, 1, 1] - edges[:, 0, 1])[pieces.edge]
    area.index_add_(0, pieces.cell, height * pieces.fraction)
    rest = pieces.inside.nonzero()[:, 0]
    area.index_add_(0, pieces.cell[rest] + 1, (height * (1 - pieces.fraction))[rest])
    index = torch.int32 if max(total, len(area)) < 2**31 else torch.int64
    return (pieces.edge[rest] + begin).to(index), pieces.cell[rest].to(index), pieces.a[rest], pieces.b[rest]


def _overlapping(
    pieces: Sequence[Kept], vectors: Tensor, owner: Tensor, winding: Tensor, orientation: Tensor
) -> Tensor:
    """The shapes whose parts may overlap or abut within a pixel; `vectors` lead from each edge's start to its end."""
    length = vectors.norm(dim=1)

    def measured() -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        for edge, cell, a, b in pieces:
            own = (b - a) * length.index_select(0, edge)
            yield winding.index_select(0, cell), owner.index_select(0, edge), cell, own

    return overlapping(measured, orientation, len(winding))


def _resolve(
    coverage: Tensor, edges: Tensor, owner: Tensor, boxes: Boxes, evenodd: Tensor | None, shapes: Tensor
) -> tuple[Crossings, Tensor] | None:
    """Correct the coverage of `shapes` in place where scanlines find another one; their crossings, and where it counts.

    Scanlines miss up to half of their distance of an edge that runs along them: less than that is no disagreement.
    """
    if not len(shapes):
        return None
    place = torch.full_like(boxes.left, -1)
    place[shapes] = torch.arange(len(shapes), device=shapes.device)
    index = (place[owner] >= 0).nonzero()[:, 0]
    box, start = boxes.table[shapes], boxes.start[shapes]
    even = torch.zeros_like(shapes, dtype=torch.bool) if evenodd is None else evenodd[shapes]
    found = crossings(edges[index], index, place[owner[index]], box, start, even)
    change = torch.zeros(len(coverage) + 1, dtype=coverage.dtype, device=coverage.device)
    change.index_add_(0, found.cell, found.jump * (1 - found.part))
    change.index_add_(0, found.cell + 1, found.jump * found.part)
    which, k = spread(boxes.cells[shapes])
    cells = boxes.start[shapes][which] + k
    lines = change[cells].cumsum(0)
    differs = (lines - coverage[cells]).abs() > 0.5 / LINES
    coverage[cells] = torch.where(differs, lines.clamp(0, 1), coverage[cells])
    resolved = torch.zeros(len(coverage), dtype=torch.bool, device=coverage.device)
    resolved[cells] = differs
    return found, resolved


def _put_resolved(slopes: Sequence[Tensor], pieces: Sequence[Kept], found: Crossings, resolved: Tensor) -> None:
    """Put into the pieces' slopes, in resolved cells, the mean of what their scanlines crossed, 0 without any."""
    *inside, lines = chosen(*(resolved.index_select(0, cell) for _, cell, *_ in pieces), resolved[found.cell])
    names, which = torch.unique(found.edge[lines] * len(resolved) + found.cell[lines], return_inverse=True)
    total = found.slope.new_zeros(len(names) + 1).index_add_(0, which, found.slope[lines])
    count = found.slope.new_ones(len(names) + 1).index_add_(0, which, torch.ones_like(found.slope[lines])) - 1
    for slope, (edge, cell, *_), rows in zip(slopes, pieces, inside, strict=True):
        wanted = edge[rows].long() * len(resolved) + cell[rows]
        at = torch.searchsorted(names, wanted)
        known = torch.cat([names, names.new_full((1,), -1)])[at] == wanted
        slope[rows] = torch.where(known, total[at] / count[at].clamp(min=1), 0.0)


def _orientation(edges: Tensor, owner: Tensor, shapes: int) -> Tensor:
    """Sign of the winding number within each shape: clockwise on the page is negative."""
    area = edges.new_zeros(shapes)
    for own, x in _chunks(owner, edges):
        area.index_add_(0, own, -(x[:, 0, 0] * x[:, 1, 1] - x[:, 1, 0] * x[:, 0, 1]))
    return area.sign()


def coverage(
    edges: Edges, owner: Int[Tensor, " e"], boxes: Boxes, evenodd: Bool[Tensor, " s"] | None = None
) -> Float[Tensor, " cells"]:
    """Share of each cell in [0, 1] that its shape covers, in the flat layout of `boxes`; differentiable in `edges`.

    `evenodd`: whose rule that is; None: of no shape. Where parts of one shape overlap or abut within a pixel, it is
    known to 1/16; where they do so in few of its pixels and wind the same way round, their areas are added.
    """
    return _Coverage.apply(edges, owner, boxes, evenodd)  # pyright: ignore[reportReturnType]
