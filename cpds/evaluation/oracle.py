"""A patch selector that knows the ground truth: what it gains is the most that any selector can give."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from cpds.selection.base import Cells, Indices, WithoutLearning, by_chance
from cpds.types import Images

STAYS = 0.03  # largest difference of a cell that the ground truth leaves as it is; colors are in [0, 1]


def cell_changes(source: Images, ground_truth: Images, grid: tuple[int, int]) -> Float[Tensor, "b n"]:
    """By how much each cell changes: the largest |ground truth - source|, a mean over channels, of its pixels."""
    change = (ground_truth - source).abs().mean(1, keepdim=True)
    return adaptive_max_pool2d(change, grid).flatten(1)


class Oracle(WithoutLearning):
    """Chooses at random among the cells that should stay; where they are fewer than two, the two that change least."""

    def __init__(self, source: Images, ground_truth: Images) -> None:
        self.source, self.ground_truth = source, ground_truth

    def select(self, cells: Cells, n: int, generator: torch.Generator) -> Indices:
        change = cell_changes(self.source, self.ground_truth, cells.grid)[0]
        stays = (change < STAYS).nonzero().flatten()
        if len(stays) < 2:
            stays = change.argsort()[:2]
        return stays[by_chance(len(stays), n, generator)]
