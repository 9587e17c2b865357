"""A patch selector that knows the ground truth: what it gains is the most that any selector can give."""

import math

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from cpds.selectors import RandomPatches
from cpds.types import Images, Patches

STAYS = 0.03  # largest difference of a cell that the ground truth leaves as it is; colors are in [0, 1]


class Oracle(RandomPatches):
    """Chooses at random among the cells that should stay; where they are fewer than two, the two that change least.

    A cell's change is the largest |ground truth - source|, a mean over channels, of its pixels.
    """

    def __init__(self, source: Images, ground_truth: Images) -> None:
        self.change = (ground_truth - source).abs().mean(1, keepdim=True)

    def select(self, source: Patches, n: int, generator: torch.Generator) -> Tensor:
        change = adaptive_max_pool2d(self.change, grid_of(len(source), *self.change.shape[-2:])).flatten()
        stays = (change < STAYS).nonzero().flatten()
        if len(stays) < 2:
            stays = change.argsort()[:2]
        return stays[torch.randperm(len(stays), generator=generator)[:n]].to(source.device)


def grid_of(cells: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the map of this many cells whose shape is nearest to the image's."""
    shapes = [(rows, cells // rows) for rows in range(1, cells + 1) if cells % rows == 0]
    return min(shapes, key=lambda shape: abs(math.log(shape[0] * width / (shape[1] * height))))
