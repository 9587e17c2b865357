"""Exact area coverage of filled outlines, differentiable in their points; cost follows the pixels that edges cross.

An outline is a soup of directed edges in which every vertex is left as often as it is reached. Each piece of an edge
within a pixel adds its signed area to the pixel and its height to all pixels to the right; a running sum along the row
gives the area-weighted winding number (the accumulation buffer of font rasterizers), which the fill rule turns into
coverage; where parts of one outline meet within a pixel, overlaps.py tells what is covered. By Stokes' theorem a
pixel's coverage changes only with the pieces of edge inside it: the backward pass reads the gradient at those pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from svg.raster.overlaps import LINES, Crossings, crossings, overlapping, spread

Edges = Float[Tensor, "e 2 2"]  # (edge, start or end, x or y), px


@dataclass(frozen=True)
class Boxes:
    """Each shape's rectangle of pixels within the canvas; its coverage is stored row by row in one flat buffer."""

    left: Int[Tensor, " s"]
    top: Int[Tensor, " s"]
    width: Int[Tensor, " s"]
    height: Int[Tensor, " s"]

    @property
    def stride(self) -> Int[Tensor, " s"]:
        """Cells of a row: its pixels and one for what lies to the right of them."""
        return self.width + 1

    @property
    def start(self) -> Int[Tensor, " s"]:
        """Where a shape's cells begin."""
        cells = self.stride * self.height
        return cells.cumsum(0) - cells


def boxes_of(edges: Edges, owner: Int[Tensor, " e"], shapes: int, width: int, height: int) -> Boxes:
    """The pixels that each shape may touch, clipped to the canvas."""
    points, of = edges.detach().flatten(0, 1), owner.repeat_interleave(2)[:, None].expand(-1, 2)
    low = points.new_full((shapes, 2), torch.inf).scatter_reduce(0, of, points, "amin")
    high = points.new_full((shapes, 2), -torch.inf).scatter_reduce(0, of, points, "amax")
    limit = points.new_tensor([width, height])
    first = torch.minimum(low.floor().clamp(min=0), limit).long()
    last = torch.minimum(high.floor().clamp(min=-1) + 1, limit).long()
    size = (last - first).clamp(min=0)
    size = size * (size > 0).all(1, keepdim=True)
    return Boxes(first[:, 0], first[:, 1], size[:, 0], size[:, 1])


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
    def forward(ctx: Any, edges: Tensor, owner: Tensor, boxes: Boxes, evenodd: Tensor) -> Tensor:
        pieces = _pieces(edges, owner, boxes)
        height = (pieces.b - pieces.a) * (edges[:, 1, 1] - edges[:, 0, 1])[pieces.edge]
        cells = boxes.stride * boxes.height
        area = edges.new_zeros(int(cells.sum()) + 1)
        area.index_add_(0, pieces.cell, height * pieces.fraction)
        rest = pieces.inside.nonzero()[:, 0]
        area.index_add_(0, pieces.cell[rest] + 1, (height * (1 - pieces.fraction))[rest])
        winding = area[:-1].cumsum_(0)  # rows need no reset: each row of a closed outline sums to zero
        even = evenodd.repeat_interleave(cells)
        folded = winding.abs()
        coverage = folded.clamp(max=1)
        if bool(evenodd.any()):
            over = folded - 2 * (folded / 2).floor()
            coverage = torch.where(even, torch.minimum(over, 2 - over), coverage)

        orientation, at = _orientation(edges, owner, len(cells)), winding[pieces.cell[rest]]
        shape = owner[pieces.edge[rest]]
        length = ((pieces.b - pieces.a) * (edges[:, 1] - edges[:, 0]).norm(dim=1)[pieces.edge])[rest]
        overlaps = overlapping(at, shape, pieces.cell[rest], length, orientation)
        crossed = _resolve(coverage, edges, owner, boxes, evenodd, overlaps)
        # an edge that lies on the border of an empty pixel still knows which way is in
        sign = torch.where(at.abs() < 1e-9, orientation[shape], at.sign())
        slope = torch.where(
            even[pieces.cell[rest]],
            torch.where(at.abs() % 2 > 1, -sign, sign),
            torch.where(at.abs() <= 1 + 1e-9, sign, 0.0),
        )
        if crossed is not None:
            slope = _resolved(slope, pieces.edge[rest], pieces.cell[rest], *crossed)
        ctx.save_for_backward(edges, pieces.edge[rest], pieces.cell[rest], pieces.a[rest], pieces.b[rest], slope)
        return coverage

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        edges, edge, cell, a, b, slope = ctx.saved_tensors
        along = edges[:, 1] - edges[:, 0]
        normal = torch.stack([-along[:, 1], along[:, 0]], 1)[edge]
        strength = grads[0][cell] * slope
        end = (b * b - a * a) / 2
        result = torch.zeros_like(edges)
        result[:, 0].index_add_(0, edge, (strength * (b - a - end))[:, None] * normal)
        result[:, 1].index_add_(0, edge, (strength * end)[:, None] * normal)
        return result, None, None, None


def _resolve(
    coverage: Tensor, edges: Tensor, owner: Tensor, boxes: Boxes, evenodd: Tensor, shapes: Tensor
) -> tuple[Crossings, Tensor] | None:
    """Correct the coverage of `shapes` in place where scanlines find another one; their crossings, and where it counts.

    Scanlines miss up to half of their distance of an edge that runs along them: less than that is no disagreement.
    """
    if not len(shapes):
        return None
    place = torch.full_like(boxes.left, -1)
    place[shapes] = torch.arange(len(shapes), device=shapes.device)
    index = (place[owner] >= 0).nonzero()[:, 0]
    box = torch.stack([boxes.left, boxes.top, boxes.width, boxes.height], 1)[shapes]
    found = crossings(edges[index], index, place[owner[index]], box, boxes.start[shapes], evenodd[shapes])
    change = torch.zeros(len(coverage) + 1, dtype=coverage.dtype, device=coverage.device)
    change.index_add_(0, found.cell, found.jump * (1 - found.part))
    change.index_add_(0, found.cell + 1, found.jump * found.part)
    which, k = spread((boxes.stride * boxes.height)[shapes])
    cells = boxes.start[shapes][which] + k
    lines = change[cells].cumsum(0)
    differs = (lines - coverage[cells]).abs() > 0.5 / LINES
    coverage[cells[differs]] = lines[differs].clamp(0, 1)
    resolved = torch.zeros(len(coverage), dtype=torch.bool, device=coverage.device)
    resolved[cells[differs]] = True
    return found, resolved


def _resolved(slope: Tensor, edge: Tensor, cell: Tensor, found: Crossings, resolved: Tensor) -> Tensor:
    """The slopes of pieces (edge, cell), in resolved cells the mean of what their scanlines crossed, 0 without any."""
    pieces, lines = resolved[cell].nonzero()[:, 0], resolved[found.cell]
    names, which = torch.unique(found.edge[lines] * len(resolved) + found.cell[lines], return_inverse=True)
    total = slope.new_zeros(len(names) + 1).index_add_(0, which, found.slope[lines])
    count = slope.new_ones(len(names) + 1).index_add_(0, which, torch.ones_like(found.slope[lines])) - 1
    wanted = edge[pieces] * len(resolved) + cell[pieces]
    at = torch.searchsorted(names, wanted)
    known = torch.cat([names, names.new_full((1,), -1)])[at] == wanted
    slope = slope.clone()
    slope[pieces] = torch.where(known, total[at] / count[at].clamp(min=1), 0.0)
    return slope


def _orientation(edges: Tensor, owner: Tensor, shapes: int) -> Tensor:
    """Sign of the winding number within each shape: clockwise on the page is negative."""
    cross = edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 1, 0] * edges[:, 0, 1]
    return edges.new_zeros(shapes).index_add_(0, owner, -cross).sign()


def coverage(
    edges: Edges, owner: Int[Tensor, " e"], boxes: Boxes, evenodd: Bool[Tensor, " s"]
) -> Float[Tensor, " cells"]:
    """Share of each cell in [0, 1] that its shape covers, in the flat layout of `boxes`; differentiable in `edges`.

    Where parts of one shape overlap or abut within a pixel, it is known to 1/16; where they do so in few of its pixels
    and wind the same way round, their areas are added.
    """
    return _Coverage.apply(edges, owner, boxes, evenodd)  # pyright: ignore[reportReturnType]
