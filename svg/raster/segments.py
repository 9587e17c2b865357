"""Flattened outlines: line segments, contour after contour, and their dashes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from svg.raster.coverage import Edges
from svg.raster.overlaps import chosen

MOST_DASHES = 100_000  # after which an outline is stroked without any


@dataclass(frozen=True)
class Segments:
    """Line segments, contour after contour, in order along each."""

    start: Float[Tensor, "s 2"]
    end: Float[Tensor, "s 2"]
    contour: Int[Tensor, " s"]
    geometry: Int[Tensor, " s"]
    closed: Bool[Tensor, " c"]  # of each contour
    inner: Bool[Tensor, " s"]  # whether the segment goes on along the curve of the one before
    counts: Sequence[int] = ()  # of each geometry, on the host; of a whole page's

    def where(self, keep: Tensor) -> Segments:
        """These segments alone."""
        start, end = (x.index_select(0, keep) for x in (self.start, self.end))
        return Segments(start, end, self.contour[keep], self.geometry[keep], self.closed, self.inner[keep])

    def fill_edges(self) -> tuple[Edges, Int[Tensor, " e"]]:
        """Edges of all contours with open ones closed, and each one's geometry."""
        counts = torch.zeros_like(self.closed, dtype=torch.long)
        counts.index_add_(0, self.contour, torch.ones_like(self.contour))  # none is empty
        last = counts.cumsum(0) - 1
        first = last - counts + 1
        loop = torch.stack([self.end[last], self.start[first]], 1)
        edges = torch.cat([torch.stack([self.start, self.end], 1), loop])
        return edges, torch.cat([self.geometry, self.geometry[last]])

    def ends(self) -> tuple[Int[Tensor, " c"], Int[Tensor, " c"]]:
        """First and last segment of each contour that has any."""
        border = torch.ones(len(self.contour) + 1, dtype=torch.bool, device=self.contour.device)
        border[1:-1] = self.contour[1:] != self.contour[:-1]
        first, last = chosen(border[:-1], border[1:])
        return first, last

    def dashed(self, dashes: Sequence[float], offset: float) -> Segments:
        """One geometry's contours cut into dashes; where a dash begins and ends does not feel the points move."""
        pieces: list[tuple[int, float, float, int, bool]] = []  # segment, from, to, dash, goes on
        lengths = (self.end - self.start).detach().norm(dim=1)
        table = torch.stack([lengths, self.contour.to(lengths)], 1).tolist()
        period, dash = sum(dashes), -1
        previous = None
        for i, (length, contour) in enumerate(table):
            if contour != previous:
                previous, part, rest = contour, 0, offset % period
                while rest > 0 and rest >= dashes[part]:
                    rest -= dashes[part]
                    part = (part + 1) % len(dashes)
                left, dash, fresh = dashes[part] - rest, dash + 1, True
            at = 0.0
            while at < length:
                step = min(left, length - at)
                if part % 2 == 0:
                    pieces.append((i, at / length, (at + step) / length, dash, not fresh))
                    fresh = False
                at, left = at + step, left - step
                if left <= 0:
                    part = (part + 1) % len(dashes)
                    left, dash, fresh = dashes[part], dash + 1, True
                if len(pieces) > MOST_DASHES:
                    return self
        table = self.start.new_tensor(pieces).reshape(-1, 5)
        i, a, b = table[:, 0].long(), table[:, 1:2], table[:, 2:3]
        start, along = self.start[i], self.end[i] - self.start[i]
        closed = torch.zeros(dash + 1, dtype=torch.bool, device=self.start.device)
        inner = (table[:, 4] > 0) & (a[:, 0] == 0) & self.inner[i]
        return Segments(start + a * along, start + b * along, table[:, 3].long(), self.geometry[i], closed, inner)
