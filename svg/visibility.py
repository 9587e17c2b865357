"""Which shapes of a drawing under edit are seen: those that fade out, and those that are added."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cpds.types import Images
from svg.additions import Region, addition_steps, wanted_regions
from svg.config import GroupName, SvgConfig
from svg.fading import CURVES, addable, closed_curve, fade_key
from svg.flat import FlatParameters
from svg.model import Draw, Solid
from svg.parse.writer import INVISIBLE

PUSH = 0.008  # of each step, by which a shape becomes wholly visible or wholly invisible
REMOVALS = (0.1, 0.3, 0.5, 0.7)  # of the run, at which shapes are tried out
USELESS = 0.995  # of that difference, below which a shape is removed if it is so without it
WORTH = 0.97  # of the squared difference from a proposal, below which a path that is added must bring it


class Visibility:
    """The fades among a document's numbers."""

    def __init__(self, numbers: FlatParameters, config: SvgConfig) -> None:
        self.numbers, self.config, self.document = numbers, config, numbers.document
        self.addable = addable(self.document)

    def taken(self, before: Float[Tensor, " n"], after: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """What is taken of a step: on to 0 or 1; what is invisible stays so."""
        if not self.config.may_remove:
            return before
        pushed = after + PUSH * torch.where(after > 0.5, 1.0, -1.0)
        return torch.where((before <= INVISIBLE) | (pushed <= INVISIBLE), 0.0, pushed)

    def changes(self) -> str:
        """What has been removed and added, of what may be, in words."""
        shown = (self.numbers.tensors["fades"] > INVISIBLE).tolist()
        owners = self.document.addable
        new = [p.owner in owners for p in self.numbers.members["fades"]]
        gone = sum(not seen and not own for seen, own in zip(shown, new, strict=True))
        more = sum(seen and own for seen, own in zip(shown, new, strict=True))
        removed = [f"{gone} of {new.count(False)} small shapes removed"] if self.config.may_remove else []
        added = [f"{more} of {new.count(True)} paths added"] if self.config.may_add else []
        return ", ".join(removed + added)

    def next_addition(self, step: int, steps: int) -> Draw | None:
        """The path that may be added after `step` of `steps`, if one may."""
        if step not in addition_steps(self.config.may_add, steps):
            return None
        values = self.numbers.values()
        return next((draw for draw in self.addable if float(values[fade_key(draw)].detach()) <= INVISIBLE), None)

    def removes(self, step: int, steps: int) -> bool:
        """Whether shapes are to be removed after `step` of `steps`."""
        return self.config.may_remove and step in [round(share * steps) for share in REMOVALS]

    def remove(self, render: Callable[[], Images], proposed: Images) -> None:
        """Make shapes invisible, one after the other, where that brings what is rendered nearer to what is proposed."""
        fades = self.numbers.tensors["fades"]
        with torch.enable_grad():
            loss = (render() - proposed).square().mean()
            (slope,) = torch.autograd.grad(loss, fades)
        with torch.no_grad():
            left = float(loss)
            for i in torch.argsort(slope, descending=True).tolist():
                if float(slope[i]) <= 0 or float(fades[i]) <= INVISIBLE:
                    continue
                before = fades[i].clone()
                fades[i] = 0.0
                without = float((render() - proposed).square().mean())
                if without < USELESS * left:
                    left = without
                else:
                    fades[i] = before

    @torch.no_grad()
    def add(self, draw: Draw, render: Callable[[], Images], proposed: Images) -> None:
        """Make an invisible path visible where that brings what is rendered nearest to what is proposed."""
        now = render()
        regions = wanted_regions(now[0].cpu(), proposed[0].float().clamp(0, 1).cpu(), CURVES)
        before = best = self._numbers()
        least = WORTH * float((now - proposed).square().mean())
        for region in regions:
            self._show(draw, region)
            left = float((render() - proposed).square().mean())
            if left < least:
                least, best = left, self._numbers()
            self.numbers.put(before)
        self.numbers.put(best)

    def _show(self, draw: Draw, region: Region) -> None:
        """Make a path visible as a region."""
        numbers, document = self.numbers, self.document
        place = region.anchors * (document.width, document.height)
        numbers.set(draw.geometry.key, closed_curve(np.stack(document.matrix.inverse().apply(*place.T), 1)))
        if isinstance(draw.fill, Solid):
            numbers.set(draw.fill.key, region.color)
        numbers.set(fade_key(draw), np.array(1.0))
        numbers.project()

    def _numbers(self) -> dict[GroupName, Tensor]:
        return {g: x.clone() for g, x in self.numbers.tensors.items()}
