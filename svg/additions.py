"""A new path where the target asks for one: the region in which a drawing and a proposed image of it differ most."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

Image = Float[Tensor, "3 H W"]
DIFFERENT = 0.2  # mean absolute difference of colors from which on a pixel asks for something
LEAST = 0.003  # of the page's area that a region must have
COLORS = 8  # that an image is divided into
CANDIDATES = 4  # regions that are tried
ALIKE = 0.15  # distance in RGB of colors that count as one
FIRST, LAST = 0.15, 0.7  # of the run, between which paths are added: later ones would not be fitted


class Region(NamedTuple):
    """A smooth outline's anchors (n, 2), x and y as fractions of the page, and its color."""

    anchors: np.ndarray
    color: np.ndarray


def addition_steps(count: int, steps: int) -> list[int]:
    """After which steps of a run paths are added."""
    return [round(steps * (FIRST + (LAST - FIRST) * k / max(1, count - 1))) for k in range(count)]


def wanted_regions(now: Image, proposed: Image, anchors: int) -> list[Region]:
    """Where two images differ most, if anywhere: the CANDIDATES connected regions of one color that differ most."""
    difference = (proposed - now).abs().mean(0)
    mask = avg_pool2d(difference[None], 3, 1, 1, count_include_pad=False)[0] > DIFFERENT
    if not bool(mask.any()):
        return []
    found: list[tuple[float, Tensor]] = []
    hues = nearest_color(proposed, palette(proposed[:, mask].T))
    for hue in hues[mask].unique():
        labels = connected_regions(mask & (hues == hue))
        for k in labels.unique().tolist():
            region = labels == k
            large = k and float(region.float().mean()) >= LEAST
            if large and float(difference[region].mean()) > DIFFERENT / 2:  # not the rim of another
                found.append((float(difference[region].sum()), region))
    found.sort(key=lambda one: -one[0])
    return [
        Region(outline_of(region, anchors), proposed[:, region].median(1).values.double().numpy())
        for _, region in found[:CANDIDATES]
    ]


def palette(colors: Float[Tensor, "n 3"]) -> Float[Tensor, "k 3"]:
    """At most COLORS of them that lie ALIKE apart, the first the mean's nearest, each next the farthest of all."""
    found = colors[(colors - colors.mean(0)).norm(dim=1).argmin()][None]
    while len(found) < COLORS:
        distance = torch.cdist(colors, found).amin(1)
        if float(distance.max()) < ALIKE:
            break
        found = torch.cat([found, colors[distance.argmax()][None]])
    return found


def nearest_color(image: Image, colors: Float[Tensor, "k 3"]) -> Int[Tensor, "H W"]:
    """For each pixel which of the colors is nearest."""
    return (image[None] - colors[:, :, None, None]).square().sum(1).argmin(0)


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
    """Anchors around a region, fractions of the image: its longest border, without what is finer than they are."""
    border = borders(region.numpy())
    closed = np.concatenate([border, border[:1]])
    along = np.concatenate([[0.0], np.abs(np.diff(closed, axis=0)).sum(1).cumsum()])
    even = np.linspace(0, along[-1], 16 * anchors, endpoint=False)
    waves = np.fft.fft(np.interp(even, along, closed[:, 0]) + 1j * np.interp(even, along, closed[:, 1]))
    waves[np.abs(np.fft.fftfreq(len(waves), 1 / len(waves))) > anchors / 3] = 0
    smooth = np.fft.ifft(waves)[::16]
    return np.stack([smooth.real, smooth.imag], 1) / region.shape[::-1]


def borders(region: np.ndarray) -> np.ndarray:
    """(n, 2): corners of pixels, x and y, along the border that encloses most of a region (H, W)."""
    inside = np.pad(region, 1)
    after: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for y, x in zip(*region.nonzero(), strict=True):
        corners = [(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1), (x, y)]
        beside = [(y, x + 1), (y + 1, x + 2), (y + 2, x + 1), (y + 1, x)]  # above, right, below, left; padded
        for (a, b), place in zip(pairwise(corners), beside, strict=True):
            if not inside[place]:
                after.setdefault(a, []).append(b)
    longest, most = np.zeros((0, 2)), -1.0
    while after:
        first = at = next(iter(after))
        loop = []
        while True:
            loop.append(at)
            ways = after[at]
            following = ways.pop()
            if not ways:
                del after[at]
            at = following
            if at == first:
                break
        points = np.array(loop, dtype=float)
        x, y = points.T
        area = abs(float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())) / 2
        if area > most:
            longest, most = points, area
    return longest
