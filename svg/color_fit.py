"""A drawing's colors fitted to an image, and whether the image asks for other shapes as well.

With shapes and opacities fixed, a rendered image is affine in the colors c, A c + b: the weights in A are not negative
and those of a pixel sum to 1 at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import max_pool2d

from cpds.types import Images
from svg.additions import connected_regions

Flat = Float[Tensor, " _n"]
ROUNDS = 20
ROBUST = 0.1  # difference of colors from which on a pixel counts by its difference, not by its square
HOLD = 0.0003  # of the image's area: what the color of the document counts for, beside what an image shows
ASKED = 0.15  # mean absolute difference of colors from which on a pixel asks for a shape
RADIUS = 0.02  # of the image's shorter side: what is narrower than twice this asks for none
LEAST = 0.0006  # of the image's area: the sum of differences that a region must have
REGIONS = 0.1  # of the sum of an image's changes: what colors may leave in such regions …
LEFT = 0.5  # … and in all, where they are enough


def fit_colors(
    numbers: Sequence[tuple[Flat, Bool[Tensor, " _n"]]], render: Callable[[], Images], wanted: Images
) -> None:
    """Bring colors near to an image, in place, by a Huber loss. numbers: leaf tensors, and which of them are colors.

    Each round minimizes what lies above the loss and touches it: a quadratic whose matrix is diagonal, the pixels'
    weights summed for each color (A^T A's row sums, or more). So the loss never rises, and the solution may be clamped
    to 0 ... 1. Colors that show nowhere stay as they are.
    """
    if not numbers:
        return
    tensors, free = zip(*numbers, strict=True)
    start, hold = [x.detach().clone() for x in tensors], HOLD * wanted[0, 0].numel()
    for _ in range(ROUNDS):
        with torch.enable_grad():
            image = render()
            difference = (image - wanted).detach()
            weight = ROBUST / difference.abs().clamp(min=ROBUST)
            seen = torch.autograd.grad((weight * image).sum(), tensors, retain_graph=True, allow_unused=True)
            slope = torch.autograd.grad((weight * difference * image).sum(), tensors, allow_unused=True)
        with torch.no_grad():
            for x, where, began, d, g in zip(tensors, free, start, seen, slope, strict=True):
                if d is not None and g is not None:
                    step = (g + hold * (x - began)) / (d.clamp(min=0) + hold)
                    x.copy_(torch.where(where, (x - step).clamp(0, 1), x))


def colors_are_enough(source: Images, fitted: Images, wanted: Images) -> bool:
    """Whether fitted colors give the change from a source to an image, but for what asks for no other shapes.

    They leave LEFT of its sum at most, and REGIONS in regions of pixels that differ by ASKED, twice RADIUS wide or
    more, whose differences sum to LEAST.
    """
    difference = (wanted - fitted).abs().mean(1, keepdim=True).cpu()
    labels = connected_regions(opened(difference > ASKED)[0, 0])
    sums = torch.zeros(labels.numel() + 1).index_add(0, labels.flatten(), difference.flatten())[1:]
    asked = float(sums[sums >= LEAST * difference.numel()].sum())
    change = float((wanted - source).abs().mean(1).sum())
    return asked <= REGIONS * change and float(difference.sum()) <= LEFT * change


def opened(mask: Bool[Tensor, "1 1 H W"]) -> Bool[Tensor, "1 1 H W"]:
    """Without what is narrower than twice RADIUS and a pixel."""
    radius = int(RADIUS * min(mask.shape[-2:]))
    side = 2 * radius + 1
    return max_pool2d(-max_pool2d(-mask.float(), side, 1, radius), side, 1, radius) > 0.5
