"""The numbers of a document that may change as flat tensors, one a group, in units of their own.

So that one learning rate serves documents of any scale: points and stroke widths in px of a canvas whose longer side is
512, or whose shorter side is 128 where it would be less, everything else as a fraction (colors and opacities of 1,
gradient geometry of 512 px of the canvas or of the box that it is measured in). A tensor that has not moved gives the
document's numbers back to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from svg.bindings import bindings
from svg.config import GroupName
from svg.document import Document
from svg.model import IDENTITY, Parameter
from svg.numbers import Layout, Numbers
from svg.parse.clips import outline_box
from svg.parts import CANVAS, Outline

LONG = 4.0  # longer by shorter side from which on the shorter one scales steps: else they leave the page

Flat = Float[Tensor, " _n"]
Row = float | Sequence[float] | np.ndarray


class FlatParameters:
    """Leaf tensors for the parameters `members`, and all numbers of the document with the tensors' in their places."""

    def __init__(
        self, document: Document, members: Mapping[GroupName, Sequence[Parameter]], device: torch.device
    ) -> None:
        self.document, self.members, self.device = document, members, device
        short, long = sorted((document.width, document.height))
        self.unit = CANVAS / min(long, LONG * short)  # canvas px per page px
        exact = torch.float32 if device.type == "mps" else torch.float64
        parameters = document.parameters
        moving = [p.key for own in members.values() for p in own]
        layout = Layout({k: p.value.shape for k, p in parameters.items()}, moving)
        flat = np.concatenate([p.value.ravel() for p in parameters.values()])
        self.base = Numbers(torch.from_numpy(flat).to(device, exact), layout)
        self._place = layout.index(moving).to(device)
        self._bindings, self._addable = bindings(document.root), document.addable
        units = self._gathered(self._scale, exact)
        self._units = torch.cat(list(units.values()))
        self._lengths = [len(x) for x in units.values()]
        self.tensors: dict[GroupName, Flat] = {g: x.to(torch.float32, copy=True) for g, x in self._exactly().items()}
        self.start: dict[GroupName, Flat] = {g: x.clone() for g, x in self.tensors.items()}
        low = self._gathered(lambda p: self._bindings[p.key].lowest)  # never above where the document itself begins
        high = self._gathered(lambda p: self._bindings[p.key].highest)
        self._low = {g: torch.minimum(x, self.start[g]) for g, x in low.items()}
        self._high = {g: torch.maximum(x, self.start[g]) for g, x in high.items()}
        self._free: dict[GroupName, Flat] | None = None
        for x in self.tensors.values():
            x.requires_grad_()

    def values(self) -> Numbers:
        """Every number that is drawn, by key, in the document's units; differentiable in the tensors."""
        base = self.base.flat
        moved = torch.cat([x - self.start[g] for g, x in self.tensors.items()]).to(base) / self._units
        return Numbers(base.index_copy(0, self._place, base[self._place] + moved), self.base.layout)

    @torch.no_grad()
    def set(self, key: str, value: np.ndarray) -> None:
        """Put a number that may change to a value in the document's units."""
        for g, members in self.members.items():
            for p, part in zip(members, self.tensors[g].split([p.value.size for p in members]), strict=True):
                if p.key == key:
                    part.copy_(torch.from_numpy(value).flatten() * self._scale(p))

    @torch.no_grad()
    def put(self, tensors: Mapping[GroupName, Flat]) -> None:
        """Take other numbers for the tensors'."""
        for g, x in self.tensors.items():
            x.copy_(tensors[g])

    def hold_outside(self, mask: Float[Tensor, "1 1 H W"]) -> None:
        """From now on only what lies within a mask over the page may change: points; other numbers with their shape."""
        pixels = mask[0, 0].cpu().numpy() > 0.5
        self._free = self._gathered(lambda p: self._within(p, pixels))

    @torch.no_grad()
    def project(self) -> None:
        """Put the tensors back into their ranges, and what is held to where it began."""
        for g, x in self.tensors.items():
            x.copy_(self.held(g, x.clamp(self._low[g], self._high[g])))

    def outlines(self) -> list[Outline]:
        """Each outline among the points."""
        found, at, numbers = [], 0, self._exactly()["points"].cpu()
        for p in self.members["points"]:
            if draw := self._bindings[p.key].draw:
                found.append(Outline(draw, at, numbers[at : at + p.value.size]))
            at += p.value.size
        return found

    def _exactly(self) -> dict[GroupName, Flat]:
        """The document's numbers in the tensors' units, before they are rounded."""
        numbers = (self.base.flat[self._place] * self._units).split(self._lengths)
        return dict(zip(self.members, numbers, strict=True))

    def sizes(self, group: GroupName) -> Flat:
        """For each number the longer side of the shape that it is drawn with first, as a fraction of the canvas."""

        def size(p: Parameter) -> float:
            draw = self._bindings[p.key].draw
            box = outline_box(draw, IDENTITY, self.document.parameters) if draw else (0.0, 0.0, *[math.inf] * 2)
            return max(box[2] - box[0], box[3] - box[1]) * self.unit / CANVAS

        return self._row(group, size)

    def free_colors(self, group: GroupName) -> Bool[Tensor, " _n"]:
        """Which numbers are those of a color that no mask holds."""
        colors = self._row(group, lambda p: self._bindings[p.key].role == "color")
        return (colors if self._free is None else colors * self._free[group]) > 0

    def held(self, group: GroupName, x: Tensor) -> Tensor:
        """`x` with what a mask holds where it began."""
        return x if self._free is None else torch.where(self._free[group] > 0, x, self.start[group])

    def _gathered(
        self, numbers: Callable[[Parameter], Row], dtype: torch.dtype = torch.float32
    ) -> dict[GroupName, Flat]:
        return {g: self._row(g, numbers, dtype) for g in self.members}

    def _row(self, group: GroupName, numbers: Callable[[Parameter], Row], dtype: torch.dtype = torch.float32) -> Flat:
        """Of each of a group's parameters as many numbers as it has, or one for all of them."""
        parts = [np.full(p.value.size, numbers(p), float) for p in self.members[group]]
        return torch.from_numpy(np.concatenate([np.zeros(0), *parts])).to(dtype).to(self.device)

    def _scale(self, p: Parameter) -> float:
        """Units of the flat tensor per unit of the document."""
        binding = self._bindings[p.key]
        if binding.role in ("outline", "width"):
            return (binding.scale or 1.0) * self.unit
        if binding.gradient is not None and binding.role in ("linear", "radial"):
            on_page = (binding.scale or 1.0) * self.unit / CANVAS
            return (on_page if binding.gradient.units == "userSpaceOnUse" else 1.0) * binding.gradient.matrix.scale
        return 1.0

    def _within(self, p: Parameter, pixels: np.ndarray) -> Row:
        """1 for numbers that may change: points that lie on `pixels`; other numbers if most of their outline does."""
        binding = self._bindings[p.key]
        if binding.draw is None or binding.geometry is None or p.owner in self._addable:
            return 1.0
        numbers, kind = self.document.parameters[binding.geometry.key].value, binding.geometry.kind
        points = numbers.reshape(-1, 2) if kind in ("path", "line") else numbers[None, :2]
        if kind == "rect":
            points = points + numbers[None, 2:4] / 2
        page = np.stack(binding.draw.matrix.apply(*points.T), 1) / (self.document.width, self.document.height)
        size = np.array(pixels.shape[::-1])  # what lies beside the page is held as its border is
        column, row = np.clip(np.floor(page * size), 0, size - 1).astype(int).T
        within = pixels[row, column].astype(np.float32)
        if binding.role == "outline" and kind in ("path", "line"):
            return within.repeat(2)
        return float(within.mean() > 0.5)
