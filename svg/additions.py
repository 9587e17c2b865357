"""A new path where the target asks for one: the region in which a drawing and a proposed image of it differ most."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

Image = Float[Tensor, "3 H W"]
DIFFERENT = 0.2  # mean absolute difference of colors from which on a pixel asks for something
LEAST = 0.003  # of the page's area that a region must have
FIRST, LAST = 0.3, 0.7  # of the run, between which paths are added: later ones would not be fitted


class Region(NamedTuple):
    """A smooth outline's anchors (n, 2), x and y as fractions of the page, and its color."""

    anchors: np.ndarray
    color: np.ndarray


def addition_steps(count: int, steps: int) -> list[int]:
    """After which steps of a run paths are added."""
    return [round(steps * (FIRST + (LAST - FIRST) * k / max(1, count - 1))) for k in range(count)]


def wanted_region(now: Image, proposed: Image, anchors: int) -> Region | None:
    """Where two images differ most, if anywhere: the connected region with the largest sum of differences."""
    difference = (proposed - now).abs().mean(0)
    mask = avg_pool2d(difference[None], 3, 1, 1, count_include_pad=False)[0] > DIFFERENT
    labels = connected_regions(mask)
    totals = torch.zeros(mask.numel() + 1, dtype=difference.dtype).index_add(0, labels.flatten(), difference.flatten())
    totals[0] = 0
    region = labels == int(totals.argmax())
    if not bool(mask.any()) or float(region.float().mean()) < LEAST:
        return None
    color = proposed[:, region].median(1).values
    return Region(outline_of(region, anchors), color.double().numpy())


def connected_regions(mask: Bool[Tensor, "H W"]) -> Tensor:
    """(H, W): 0 outside of the mask, elsewhere a number that 8-neighbours share."""
    inside = mask.float()
    labels = torch.arange(1, mask.numel() + 1, dtype=torch.float32).view_as(inside) * inside
    while True:
        spread = max_pool2d(labels[None], 3, 1, 1)[0] * inside
        if torch.equal(spread, labels):
            return labels.long()
        labels = spread


def outline_of(region: Bool[Tensor, "H W"], anchors: int) -> np.ndarray:
    """Anchors around a region, fractions of the image: seen from its center, with its axes made alike, each sector's
    area is kept."""
    pixels = region.nonzero().double().numpy()[:, ::-1] + 0.5
    center = pixels.mean(0)
    axes = np.linalg.cholesky(np.cov(pixels.T, bias=True) + np.eye(2) / 12)
    even = np.linalg.solve(axes, (pixels - center).T).T
    sector = np.round(np.arctan2(even[:, 1], even[:, 0]) * anchors / (2 * math.pi)).astype(int) % anchors
    area = np.bincount(sector, minlength=anchors) / np.linalg.det(axes)  # a pixel's in the even space
    radius = np.sqrt(2 * area / (2 * math.pi / anchors))
    radius = np.maximum(radius, 0.3 * radius.mean())
    angle = 2 * math.pi * np.arange(anchors) / anchors
    found = center + (axes @ (radius * np.stack([np.cos(angle), np.sin(angle)]))).T
    return found / region.shape[::-1]
