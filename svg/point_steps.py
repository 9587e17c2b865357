"""What is taken of an optimizer's step of a drawing's points."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from svg.config import SvgConfig
from svg.constraints import OutlineConstraints
from svg.details import Details
from svg.flat import FlatParameters
from svg.parts import Parts
from svg.simple_outlines import Polylines, SimpleOutlines


class PointSteps:
    """Even along outlines, damped by shape size, closed and simple, as the settings ask."""

    def __init__(self, numbers: FlatParameters, config: SvgConfig) -> None:
        self.numbers, self.config = numbers, config
        self.start = numbers.start["points"]
        found, device = numbers.outlines(), numbers.device
        paths = [(o.geometry, o.start, o.numbers.view(-1, 2)) for o in found if o.geometry.kind == "path"]
        self.outlines = OutlineConstraints(paths, device)
        parts = Parts(found, numbers.unit, device)
        polylines = Polylines(parts)
        self.details = Details(parts, polylines, self.start, config.detail_size or 1e-9)
        self.simple = SimpleOutlines(parts, polylines, self.start)

    @torch.no_grad()
    def taken(self, before: Float[Tensor, " n"], after: Float[Tensor, " n"], step: int) -> Float[Tensor, " n"]:
        """The points after a step; `step` counts from 0."""
        config = self.config
        if config.smoothness:
            after = self.outlines.smooth(before, after, config.smoothness)
        if config.detail_size or step < config.coarse_steps:
            after = self.details.damped(before, after, step >= config.coarse_steps)
        after = after.clone()
        if config.simple:
            self.outlines.keep_joints(before, after)
        self.outlines.close(after, self.start)
        after = self.numbers.held("points", after)
        return self.simple.shortened(before, after) if config.simple else after
