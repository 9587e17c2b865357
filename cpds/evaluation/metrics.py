"""Metrics of an edit. Images are in [0, 1]; each metric brings them to the range that it is defined for.

`weight` (0 to 1) counts pixels in: 1 - mask measures what should have stayed. Means are taken over those pixels.
PIE-Bench's published tables blacken the others and average over the whole image: their MSE is this one times the
share of pixels that count, their PSNR is higher by -10 log10 of that share, and their LPIPS uses SqueezeNet.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from cpds.errors import MissingExtra
from cpds.types import Features, Images

Weights = Float[Tensor, "b 1 H W"]
Scores = Float[Tensor, " b"]


def mse(a: Images, b: Images, weight: Weights | None = None) -> Scores:
    """Mean squared error over the pixels that count; ValueError where an image's weights are all zero."""
    weight = torch.ones_like(a[:, :1]) if weight is None else weight
    counted = weight.sum((1, 2, 3)) * a.shape[1]
    if bool((counted == 0).any()):
        raise ValueError("a weighted mean needs at least one pixel with a weight above 0")
    return (weight * (a - b).square()).sum((1, 2, 3)) / counted


def psnr(a: Images, b: Images, weight: Weights | None = None) -> Scores:
    """Peak signal-to-noise ratio in dB; infinite for equal images."""
    return -10 * mse(a, b, weight).log10()


def ssim(a: Images, b: Images, weight: Weights | None = None) -> Scores:
    """Structural similarity (Wang 2004: 11x11 Gaussian window of sigma 1.5), its map averaged by `weight`.

    Images must be at least 11 px wide and high.
    """
    metric = torchmetrics_functional("structural_similarity_index_measure")
    _, likeness = metric(a, b, data_range=1.0, reduction="none", return_full_image=True)
    weight = torch.ones_like(a[:, :1]) if weight is None else weight
    return (likeness.mean(1, keepdim=True) * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3))


def torchmetrics_functional(name: str) -> Any:
    """A function of torchmetrics; MissingExtra without it."""
    try:
        import torchmetrics.functional.image as functional
    except ImportError as err:
        raise MissingExtra("evaluations need torchmetrics: pip install -e '.[metrics]'") from err
    return getattr(functional, name)


def self_similarity(features: Features) -> Float[Tensor, "b n n"]:
    """Cosine similarity of every two positions' features (Splice, Tumanyan 2022, Eq. 3)."""
    x = normalize(features.flatten(2).transpose(1, 2), dim=-1)
    return x @ x.transpose(1, 2)


def structure_distance(a: Features, b: Features) -> Scores:
    """Mean squared difference of two images' self-similarities (Splice, Tumanyan 2022, Eq. 4, as a mean)."""
    return (self_similarity(a) - self_similarity(b)).square().mean((1, 2))
