"""Coverage of outlines whose parts overlap or abut within a pixel, where adding signed areas is not enough.

An area-weighted winding number cannot tell a pixel half of which winds +1 and half -1 (covered) from one that winds 0
(empty). Scanlines can: along a line of no height the winding number is known at every point, and so is what the fill
rule makes of it. `LINES` of them a row, exact in x, stand in for the areas where the two disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

LINES = 16  # scanlines of a row
NOTICED = 0.1  # winding number against the shape's way round that is no rounding
TOGETHER = 1e-6  # px between edges that lie on each other
CROWD, CROWDED = 5.0, 0.15  # px of edges in a pixel that are a crowd, and the fraction of a shape's edges in crowds


def spread(counts: Tensor, total: int | None = None) -> tuple[Tensor, Tensor]:
    """For counts [2, 0, 3]: which [0, 0, 2, 2, 2], and the position within each [0, 1, 0, 1, 2].

    `total` is their sum, where it is known: without it the host waits for it.
    """
    which = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts, output_size=total)
    return which, torch.arange(len(which), device=counts.device) - (counts.cumsum(0) - counts)[which]


def chosen(*masks: Tensor) -> tuple[Tensor, ...]:
    """The indices at which each of these masks is set; the host waits once for all of them."""
    if masks[0].device.type == "cpu":
        return tuple(mask.nonzero()[:, 0] for mask in masks)
    flat = torch.cat(masks)
    counts = torch.stack([mask.sum() for mask in masks]).tolist()
    index = torch.cat([torch.arange(len(mask), device=flat.device) for mask in masks])
    place = torch.where(flat, flat.cumsum(0) - 1, sum(counts))
    return index.new_empty(sum(counts) + 1).scatter_(0, place, index)[:-1].split(counts)


def overlapping(
    pieces: Callable[[], Iterable[tuple[Tensor, Tensor, Tensor, Tensor]]], orientation: Tensor, cells: int
) -> Tensor:
    """The shapes that wind both ways round, or whose edges crowd in their pixels.

    pieces: of pieces of edges, chunk after chunk, the mean winding number of the cell that each lies in, its shape,
    that cell of `cells`, and its length in px; orientation: the sign of each shape's area.
    """
    in_cell, way = orientation.new_zeros(cells), torch.where(orientation == 0, 1.0, orientation)
    for _, _, cell, length in pieces():
        in_cell.index_add_(0, cell, length)
    total, crowd, turned = (torch.zeros_like(orientation) for _ in range(3))
    for winding, owner, cell, length in pieces():
        total.index_add_(0, owner, length)
        crowd.index_add_(0, owner, torch.where(in_cell.index_select(0, cell) > CROWD, length, 0.0))
        turned.index_add_(0, owner, (winding * way[owner] < -NOTICED).to(length))
    return ((crowd > CROWDED * total) | (turned > 0)).nonzero()[:, 0]


@dataclass(frozen=True)
class Crossings:
    """Where scanlines cross edges."""

    edge: Tensor
    cell: Tensor  # that the crossing lies in, or the outermost of its row
    slope: Tensor  # by what the fill rule's 0 or 1 to the right changes with the winding number: -1 ... 1
    jump: Tensor  # by what the covered part of the row's cells to the right changes
    part: Tensor  # of the jump that the cell itself does not receive


def crossings(edges: Tensor, index: Tensor, owner: Tensor, box: Tensor, start: Tensor, even: Tensor) -> Crossings:
    """All crossings of these edges (e, 2, 2).

    index: the edges' names; owner: of each, its place among the shapes; box: left, top, width and height of each shape
    (s, 4); start: where its cells begin; even: whether its rule is evenodd.
    """
    left, top, width, height = box[owner].unbind(1)
    (x0, y0), (x1, y1) = edges[:, 0].unbind(1), edges[:, 1].unbind(1)
    # line j lies at (j + 1/2) / LINES; an edge crosses those from its upper end on to before its lower one
    limit = 2.0**40
    low = (torch.minimum(y0, y1) * LINES - 0.5).ceil().clamp(-limit, limit).long().maximum(top * LINES)
    high = (torch.maximum(y0, y1) * LINES - 0.5).ceil().clamp(-limit, limit).long().minimum((top + height) * LINES)
    which, k = spread((high - low).clamp(min=0) * (width > 0))
    line = low[which] + k
    fraction = ((line + 0.5) / LINES - y0[which]) / (y1 - y0)[which]
    x = (x0[which] + fraction * (x1 - x0)[which] - left[which]).clamp(min=0).minimum(width[which].to(x0))
    shape = owner[which]
    sizes = box[:, 3] * LINES
    number = (sizes.cumsum(0) - sizes)[shape] + line - top[which] * LINES  # lines shape after shape
    order = x.argsort()
    order = order[number[order].argsort(stable=True)]
    which, line, x, shape, number = which[order], line[order], x[order], shape[order], number[order]
    sign = (y1 - y0).sign()[which]
    after = sign.cumsum(0).round()  # every line of a closed outline sums to zero
    before, rule = after - sign, even[shape]
    jump = _covered(after, rule) - _covered(before, rule)
    # edges that lie on each other move as one: each has its part in what becomes of them together
    first = torch.ones_like(rule)
    first[1:] = (x.diff() > TOGETHER) | (number.diff() > 0)
    group = first.cumsum(0) - 1
    first, last = chosen(first, first.roll(-1))
    delta = after[last] - before[first]
    change = _covered(after[last], rule[last]) - _covered(before[first], rule[first])
    slope = torch.where(delta == 0, 0.0, change / delta)[group]
    column = x.floor()
    row = torch.div(line, LINES, rounding_mode="floor") - top[which]
    cell = start[shape] + row * (width[which] + 1) + column.long()
    return Crossings(index[which], cell, slope, jump / LINES, x - column)


def _covered(winding: Tensor, even: Tensor) -> Tensor:
    """The fill rule: 1 where a winding number is inside, else 0."""
    return torch.where(even, winding % 2, (winding != 0).to(winding))
