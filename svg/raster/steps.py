"""What is painted in which order: a page's steps, those fills together that do not meet.

A fill must come after those below it that it overlaps, and after no other. So fills have levels, one more than the
highest of those that their box meets, and small ones of one level are painted at once, pixel by pixel: a drawing of
thousands takes as many operations as lie on top of each other somewhere. No pixel's arithmetic changes by that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from svg.raster.coverage import Box
from svg.raster.overlaps import spread

SMALL = 2048  # pixels up to which a fill is painted together with others: more are as quick by themselves
BLOCK = {"cpu": 2**16, "cuda": 2**20}  # pixels, of whole levels, that are worked out at once: it bounds the memory


@dataclass(frozen=True, slots=True)
class Fill:
    """Paint shape `shape`'s coverage with its color, or with a map whose rows begin at `map`."""

    shape: int
    box: Box
    map: int | None = None
    clip: Tensor | None = None  # (H, W): what shows
    opacity: int | None = None  # of a group that has this shape alone

    @property
    def area(self) -> int:
        return self.box[2] * self.box[3]

    @property
    def cut(self) -> tuple[slice, slice]:
        """Rows and columns."""
        x, y, w, h = self.box
        return slice(y, y + h), slice(x, x + w)


@dataclass(frozen=True)
class Together:
    """Fills that do not meet: these rows of a block's Pixels."""

    block: int
    begin: int
    end: int


@dataclass(frozen=True)
class Paste:
    """Paint a premultiplied image (H, W, 4)."""

    image: Tensor
    clip: Tensor | None = None


@dataclass(frozen=True)
class Begin:
    """Start a layer."""


@dataclass(frozen=True)
class End:
    """Put the layer on what lies below."""

    opacity: int | None
    clip: Tensor | None


Step = Fill | Together | Paste | Begin | End


@dataclass(frozen=True)
class Pixels:
    """A block of pixels of fills that are painted together, fill after fill, and where each finds what it is of."""

    place: Int[Tensor, " n"]  # on the canvas, row by row
    cell: Int[Tensor, " n"]  # in the coverage
    shape: Int[Tensor, " n"]
    map: Int[Tensor, " n"] | None  # row of the maps, -1 for those without; None: all are
    opacity: Int[Tensor, " n"] | None  # of a group, -1 for those without; None: all are
    shown: Float[Tensor, "n 1"] | None  # by a clip; None: all is

    @classmethod
    def of(cls, fills: Sequence[Fill], rows: Sequence[tuple[int, int]], width: int, device: torch.device) -> Pixels:
        """`rows` are each shape's (start, stride) in the coverage, `width` the canvas's."""
        table = [
            (*f.box, *rows[f.shape], f.shape, *(-1 if x is None else x for x in (f.map, f.opacity))) for f in fills
        ]
        count = sum(f.area for f in fills)
        x, y, w, h, start, stride, shape, first, opacity = torch.tensor(table, device=device).reshape(-1, 9).T
        fill, k = spread(w * h, count)
        row, column = torch.div(k, w[fill], rounding_mode="floor"), k % w[fill]
        mapped = first[fill] + k if any(f.map is not None for f in fills) else None
        return cls(
            (y[fill] + row) * width + x[fill] + column,
            start[fill] + row * stride[fill] + column,
            shape.int()[fill],
            None if mapped is None else torch.where(first[fill] < 0, -1, mapped).int(),
            opacity.int()[fill] if any(f.opacity is not None for f in fills) else None,
            torch.cat([_shown(f, device) for f in fills])[:, None] if any(f.clip is not None for f in fills) else None,
        )


def _shown(fill: Fill, device: torch.device) -> Float[Tensor, " p"]:
    return torch.ones(fill.area, device=device) if fill.clip is None else fill.clip[fill.cut].flatten()


def in_levels(tape: Sequence[Step], size: tuple[int, int], most: int) -> tuple[list[Step], list[list[Fill]]]:
    """The steps with fills in the order of their levels, and the fills that are painted together, in order, in blocks.

    A block has `most` pixels, or those of one level.
    """
    steps: list[Step] = []
    blocks: list[list[Fill]] = []
    pixels = most
    for are_fills, run in groupby(tape, lambda step: isinstance(step, Fill)):
        if not are_fills:
            steps += run
            continue
        for level in _levels([f for f in run if isinstance(f, Fill)], size):
            small = [f for f in level if f.area <= SMALL]
            if len(small) < 2:
                steps += level
                continue
            steps += [f for f in level if f.area > SMALL]
            area = sum(f.area for f in small)
            if pixels + area > most:
                blocks.append([])
                pixels = 0
            blocks[-1] += small
            steps.append(Together(len(blocks) - 1, pixels, pixels + area))
            pixels += area
    return steps, blocks


def _levels(fills: Sequence[Fill], size: tuple[int, int]) -> Iterator[list[Fill]]:
    if len(fills) < 2:
        yield from ([f] for f in fills)
        return
    height = np.zeros(size, np.int32)  # the level above the highest fill at each pixel
    found: list[list[Fill]] = []
    for fill in fills:
        part = height[fill.cut]
        level = int(part.max())
        part.fill(level + 1)
        if level == len(found):
            found.append([])
        found[level].append(fill)
    yield from found
