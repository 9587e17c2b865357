"""Regions of a scene: which points lie in a sphere or a box, and the gaussians that an edit of it may change."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cpds.errors import InputError


def inside(points: Float[Tensor, "n 3"], region: Sequence[float]) -> Bool[Tensor, " n"]:
    """Which of them lie in a sphere (centre, radius) or a box (two opposite corners)."""
    first, second = points.new_tensor(region[:3]), points.new_tensor(region[3:])
    if len(second) == 1:
        return (points - first).norm(dim=1) <= second
    return ((points >= torch.minimum(first, second)) & (points <= torch.maximum(first, second))).all(1)


def numbers_inside(means: Float[Tensor, "n 3"], region: Sequence[float]) -> Int[Tensor, " m"]:
    """Numbers of the gaussians whose centres lie in the region. Raises InputError if there are none."""
    numbers = inside(means, region).nonzero()[:, 0]
    if not len(numbers):
        ends = np.percentile(means.cpu().numpy(), (5, 95), axis=0)
        span = ", ".join(f"{low:.3g} ... {high:.3g}" for low, high in ends.T)
        raise InputError(f"no gaussian lies in the region {region}: most of the scene is in x, y, z = {span}")
    return numbers
