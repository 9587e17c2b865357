"""The numbers of a document that may change as flat tensors, one a group, in units of their own.

So that one learning rate serves documents of any scale: points and stroke widths in px of a canvas whose longer side is
512, everything else as a fraction (colors and opacities of 1, gradient geometry of the canvas or of the box that it is
measured in). A tensor that has not moved gives the document's numbers back to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from svg.bindings import bindings
from svg.config import GroupName
from svg.document import Document
from svg.model import IDENTITY, Parameter
from svg.parse.clips import outline_box
from svg.parts import CANVAS, Outline

Flat = Float[Tensor, " _n"]


class FlatParameters:
    """Leaf tensors for the parameters `members`, and all numbers of the document with the tensors' in their places."""

    def __init__(
        self, document: Document, members: Mapping[GroupName, Sequence[Parameter]], device: torch.device
    ) -> None:
        self.document, self.members, self.device = document, members, device
        self.unit = CANVAS / max(document.width, document.height)  # canvas px per page px
        exact = torch.float32 if device.type == "mps" else torch.float64
        self.base = {k: torch.from_numpy(p.value).to(device, exact) for k, p in document.parameters.items()}
        self._bindings, self._addable = bindings(document.root), document.addable
        self.tensors = self._gathered(self._in_units)
        self.start = {g: x.clone() for g, x in self.tensors.items()}
        self._low, self._high = self._gathered(self._lowest), self._gathered(self._highest)
        self._free: dict[GroupName, Flat] | None = None
        for x in self.tensors.values():
            x.requires_grad_()

    def values(self) -> dict[str, Tensor]:
        """Every number that is drawn, by key, in the document's units; differentiable in the tensors."""
        found = dict(self.base)
        for g, members in self.members.items():
            moved = (self.tensors[g] - self.start[g]).split([p.value.size for p in members])
            for p, delta in zip(members, moved, strict=True):
                base = self.base[p.key]
                found[p.key] = base + delta.to(base).view(base.shape) / self._scale(p)
        return found

    @torch.no_grad()
    def set(self, key: str, value: np.ndarray) -> None:
        """Put a number that may change to a value in the document's units."""
        for g, members in self.members.items():
            for p, part in zip(members, self.tensors[g].split([p.value.size for p in members]), strict=True):
                if p.key == key:
                    part.copy_(torch.from_numpy(value).flatten() * self._scale(p))

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
        found, at = [], 0
        for p in self.members["points"]:
            if draw := self._bindings[p.key].draw:
                found.append(Outline(draw, at, self._in_units(p).flatten().cpu()))
            at += p.value.size
        return found

    def sizes(self, group: GroupName) -> Flat:
        """For each number the longer side of the shape that it is drawn with first, as a fraction of the canvas."""

        def size(p: Parameter) -> Tensor:
            draw = self._bindings[p.key].draw
            box = outline_box(draw, IDENTITY, self.document.parameters) if draw else (0.0, 0.0, *[math.inf] * 2)
            side = max(box[2] - box[0], box[3] - box[1]) * self.unit / CANVAS
            return torch.full((p.value.size,), side, device=self.device)

        return torch.cat([size(p) for p in self.members[group]]) if self.members[group] else self.start[group]

    def held(self, group: GroupName, x: Tensor) -> Tensor:
        """`x` with what a mask holds where it began."""
        return x if self._free is None else torch.where(self._free[group] > 0, x, self.start[group])

    def _gathered(self, numbers: Callable[[Parameter], Tensor]) -> dict[GroupName, Flat]:
        found: dict[GroupName, Flat] = {}
        for g, members in self.members.items():
            parts = [numbers(p).flatten().float() for p in members]
            found[g] = torch.cat(parts) if parts else torch.zeros(0, device=self.device)
        return found

    def _scale(self, p: Parameter) -> float:
        """Units of the flat tensor per unit of the document."""
        binding = self._bindings[p.key]
        if binding.role in ("outline", "width"):
            return (binding.scale or 1.0) * self.unit
        if binding.gradient is not None and binding.role in ("linear", "radial"):
            on_page = (binding.scale or 1.0) * self.unit / CANVAS
            return (on_page if binding.gradient.units == "userSpaceOnUse" else 1.0) * binding.gradient.matrix.scale
        return 1.0

    def _in_units(self, p: Parameter) -> Tensor:
        return self.base[p.key] * self._scale(p)

    def _lowest(self, p: Parameter) -> Tensor:
        """Never above where the document itself begins."""
        low = torch.tensor(self._bindings[p.key].lowest, device=self.device)
        return torch.minimum(low.expand(p.value.size) if len(low) == 1 else low, self._in_units(p).flatten().float())

    def _highest(self, p: Parameter) -> Tensor:
        high = torch.full((p.value.size,), self._bindings[p.key].highest, device=self.device)
        return torch.maximum(high, self._in_units(p).flatten().float())

    def _within(self, p: Parameter, pixels: np.ndarray) -> Tensor:
        """1 for numbers that may change: points that lie on `pixels`; other numbers if most of their outline does."""
        binding = self._bindings[p.key]
        if binding.draw is None or binding.geometry is None or p.owner in self._addable:
            return torch.ones(p.value.size, device=self.device)
        numbers, kind = self.document.parameters[binding.geometry.key].value, binding.geometry.kind
        points = numbers.reshape(-1, 2) if kind in ("path", "line") else numbers[None, :2]
        if kind == "rect":
            points = points + numbers[None, 2:4] / 2
        page = np.stack(binding.draw.matrix.apply(*points.T), 1) / (self.document.width, self.document.height)
        size = np.array(pixels.shape[::-1])  # what lies beside the page is held as its border is
        column, row = np.clip(np.floor(page * size), 0, size - 1).astype(int).T
        within = pixels[row, column].astype(np.float32)
        if binding.role == "outline" and kind in ("path", "line"):
            return torch.from_numpy(within).to(self.device).repeat_interleave(2)
        return torch.full((p.value.size,), float(within.mean() > 0.5), device=self.device)
