"""A box or a sphere in the scene, outside of which an edit changes nothing: what it holds, and which rays meet it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cpds.config import require
from representations.splats.config import SHAPES, is_region
from representations.splats.region import inside

Points = Float[Tensor, "*n 3"]


@dataclass(frozen=True)
class Region:
    """Where the scene may change: a sphere (x y z radius), or a box by two opposite corners (x y z x y z).

    Raises InputError for numbers that are neither.
    """

    numbers: tuple[float, ...]

    def __post_init__(self) -> None:
        require(is_region(self.numbers), f"region must be {SHAPES}, got {self.numbers}")

    def __str__(self) -> str:
        return f"{'sphere' if len(self.numbers) == 4 else 'box'} {' '.join(f'{x:g}' for x in self.numbers)}"

    def contains(self, points: Points) -> Bool[Tensor, "*n"]:
        """Whether the region holds points."""
        return inside(points.reshape(-1, 3), self.numbers).view(points.shape[:-1])

    def entered(self, origins: Points, directions: Points) -> Float[Tensor, "*n"]:
        """How far rays of unit `directions` go until they enter: 0 from inside, infinite where they miss."""
        first, second = origins.new_tensor(self.numbers[:3]), origins.new_tensor(self.numbers[3:])
        if len(second) == 1:
            near, far = sphere_crossings(origins - first, directions, second)
        else:
            near, far = box_crossings(origins, directions, torch.minimum(first, second), torch.maximum(first, second))
        return torch.where((near <= far) & (far >= 0), near.clamp(min=0), math.inf)


def sphere_crossings(
    offsets: Points, directions: Points, radius: Float[Tensor, " 1"]
) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    """Where rays enter and leave a sphere, |o + t d|^2 = r^2 with o from its center; near > far where they miss."""
    along = (offsets * directions).sum(-1)
    discriminant = along.square() - offsets.square().sum(-1) + radius**2
    half = discriminant.clamp(min=0).sqrt()
    hit = discriminant >= 0
    return torch.where(hit, -along - half, math.inf), torch.where(hit, -along + half, -math.inf)


def box_crossings(
    origins: Points, directions: Points, low: Float[Tensor, " 3"], high: Float[Tensor, " 3"]
) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    """Where rays enter and leave a box along the axes, by slabs (Kay and Kajiya 1986); near > far where they miss."""
    a, b = (low - origins) / directions, (high - origins) / directions
    parallel = directions == 0  # 0/0 on a side's plane: such a ray is between the slab's sides, or never
    between = (origins >= low) & (origins <= high)
    near = torch.where(parallel, torch.where(between, -math.inf, math.inf), torch.minimum(a, b)).amax(-1)
    far = torch.where(parallel, torch.where(between, math.inf, -math.inf), torch.maximum(a, b)).amin(-1)
    return near, far


def extent(points: Float[Tensor, "n 3"], share: float = 0.9) -> str:
    """The middle `share` of points on each axis, in words."""
    points, rest = points[:: len(points) // 100_000 + 1], (1 - share) / 2  # as many as torch can sort
    low, high = torch.quantile(points, points.new_tensor([rest, 1 - rest]), dim=0).tolist()
    return ", ".join(f"{axis} {a:.3g} to {b:.3g}" for axis, a, b in zip("xyz", low, high, strict=True))
