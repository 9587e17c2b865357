"""How good an edit is, in figures."""

import torch
from jaxtyping import Float
from torch import Tensor

from cpds.types import Images


def psnr(a: Images, b: Images, weight: Float[Tensor, "b 1 H W"] | None = None) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio in dB of pictures in [0, 1], where `weight` (0 to 1) counts the pixels in.

    Infinite for equal pictures; ValueError where a picture's weights are all zero.
    """
    weight = torch.ones_like(a[:, :1]) if weight is None else weight
    counted = weight.sum((1, 2, 3)) * a.shape[1]
    if bool((counted == 0).any()):
        raise ValueError("psnr needs at least one pixel with a weight above 0")
    error = (weight * (a - b).square()).sum((1, 2, 3)) / counted
    return -10 * error.log10()
