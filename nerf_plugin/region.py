"""A box or a sphere in the scene, outside of which an edit changes nothing: what it holds, and which rays meet it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from nerfstudio.field_components.field_heads import FieldHeadNames
from torch import Tensor

from cpds.config import require

Points = Float[Tensor, "*n 3"]


@dataclass(frozen=True)
class Region:
    """Where the scene may change. In the scene's own coordinates, as nerfstudio's viewer and exports have them, which a
    run prints when it begins: its dataparser has moved, turned and scaled those of transforms.json."""

    box: tuple[float, float, float, float, float, float] | None = None
    """x0 y0 z0 x1 y1 z1: the lowest and the highest corner of a box along the axes."""
    sphere: tuple[float, float, float, float] | None = None
    """x y z r: centre and radius."""

    def __bool__(self) -> bool:
        return self.box is not None or self.sphere is not None

    def __str__(self) -> str:
        kind = "box" if self.box is not None else "sphere"
        return f"{kind} {' '.join(f'{x:g}' for x in self.box or self.sphere or ())}"

    def check(self) -> None:
        """Raise InputError for a region that holds nothing."""
        require(self.box is None or self.sphere is None, "a region is a box or a sphere, got both: leave one out")
        numbers = self.box or self.sphere or ()
        require(all(map(math.isfinite, numbers)), f"the region's numbers must be finite, got {numbers}")
        if self.box is not None:
            ordered = all(low < high for low, high in zip(self.box[:3], self.box[3:], strict=True))
            require(ordered, f"the box must be x0 y0 z0 x1 y1 z1 with x0 < x1, y0 < y1, z0 < z1, got {self.box}")
        require(self.sphere is None or self.sphere[3] > 0, f"the sphere must be x y z r with r > 0, got {self.sphere}")

    def contains(self, points: Points) -> Bool[Tensor, "*n"]:
        """Whether the region holds points."""
        if self.box is not None:
            low, high = points.new_tensor(self.box).split(3)
            return ((points >= low) & (points <= high)).all(-1)
        assert self.sphere is not None
        sphere = points.new_tensor(self.sphere)
        return (points - sphere[:3]).norm(dim=-1) <= sphere[3]

    def entered(self, origins: Points, directions: Points) -> Float[Tensor, "*n"]:
        """How far rays of unit `directions` go until they are in the region: 0 from inside, infinite where they miss.

        A box by its slabs (Kay and Kajiya 1986), a sphere by its quadratic.
        """
        if self.box is not None:
            low, high = ((origins.new_tensor(c) - origins) / directions for c in (self.box[:3], self.box[3:]))
            parallel = directions == 0  # 0/0 on a side's plane: such a ray is between the slab's sides, or never
            between = (origins >= origins.new_tensor(self.box[:3])) & (origins <= origins.new_tensor(self.box[3:]))
            first = torch.where(parallel, torch.where(between, -math.inf, math.inf), torch.minimum(low, high)).amax(-1)
            last = torch.where(parallel, torch.where(between, math.inf, -math.inf), torch.maximum(low, high)).amin(-1)
        else:
            assert self.sphere is not None
            sphere = origins.new_tensor(self.sphere)
            away = origins - sphere[:3]
            along = (away * directions).sum(-1)
            root = along.square() - away.square().sum(-1) + sphere[3] ** 2
            half = root.clamp(min=0).sqrt()
            first = torch.where(root >= 0, -along - half, math.inf)
            last = torch.where(root >= 0, -along + half, -math.inf)
        return torch.where((first <= last) & (last >= 0), first.clamp(min=0), math.inf)


ANYWHERE = Region()


def confine_field(field: Any, region: Region) -> None:
    """Stop the gradient of nerfacto's `field` outside of the region, on rays whose metadata calls them "free".

    What those rays show behind and before the region is then no part of the edit. Rays that are not free keep their
    gradient, which pulls them back to the source.
    """
    plain = field.forward

    def forward(ray_samples: Any, **kwargs: Any) -> dict[FieldHeadNames, Tensor]:
        found, free = plain(ray_samples, **kwargs), (ray_samples.metadata or {}).get("free")
        if free is None:
            return found
        kept = region.contains(ray_samples.frustums.get_positions())[..., None] | ~free
        names = (FieldHeadNames.DENSITY, FieldHeadNames.RGB)
        return found | {k: torch.where(kept, found[k], found[k].detach()) for k in names}

    field.forward = forward


def confine_gaussians(parameters: Sequence[Tensor], inside: Bool[Tensor, " n"]) -> None:
    """Leave gaussians that are not `inside` as they are, to the last bit: no gradient, and so no step of Adam's."""
    for x in parameters:
        x.register_hook(lambda gradient: gradient * inside.view(-1, *[1] * (gradient.ndim - 1)))


def span(points: Float[Tensor, "n 3"], share: float = 0.9) -> str:
    """The middle `share` of points on each axis, in words."""
    points, rest = points[:: len(points) // 100_000 + 1], (1 - share) / 2  # as many as torch can sort
    low, high = torch.quantile(points, points.new_tensor([rest, 1 - rest]), dim=0).tolist()
    return ", ".join(f"{axis} {a:.3g} to {b:.3g}" for axis, a, b in zip("xyz", low, high, strict=True))
