"""The Meta-Learner: a network trained once, over many edits with ground truth, that tells which cells should stay.

It sees no channel of a prior and no place in the image: how strongly the prior wants to change a cell and what lies
around it, and how the cell's features relate to those of others.
"""

import json
import math
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cosine_similarity, max_pool2d, normalize

from cpds.selection.base import Cells, Indices, WithoutLearning, attention, by_score, entropy
from cpds.selection.learned import scorer
from cpds.selection.relevance import CALM

SHIPPED = Path(__file__).parents[1] / "assets" / "meta_learner.safetensors"
FEATURES = (
    "relevance",
    "relevance, mean of 3x3",
    "relevance, maximum of 3x3",
    "relevance, minimum of 3x3",
    "relevance, mean of 5x5",
    "relevance, mean over attention",
    "relevance, mean of the map",
    "share of the map that changes",
    "likeness to 3x3",
    "likeness to what stays",
    "likeness to what changes",
    "entropy of attention",
)

Rows = Float[Tensor, "n k"]


def mean_of(x: Float[Tensor, "1 d h w"], size: int) -> Float[Tensor, "1 d h w"]:
    """Over size x size cells around each, of those that lie within the map."""
    return avg_pool2d(x, size, 1, size // 2, count_include_pad=False)


def features(cells: Cells) -> Rows:
    """FEATURES of every cell. Likeness is cosine similarity; entropy is over that of a uniform distribution."""
    source, relevance = cells.source.float(), cells.change.float()
    seen = attention(source)
    around = relevance.view(1, 1, *cells.grid)
    grid = source.T.reshape(1, -1, *cells.grid)
    stays = (relevance < CALM).float()
    groups = normalize(torch.stack([stays, 1 - stays]) @ source, dim=-1)  # zero where there is none
    columns = [
        relevance,
        mean_of(around, 3).flatten(),
        max_pool2d(around, 3, 1, 1).flatten(),
        -max_pool2d(-around, 3, 1, 1).flatten(),
        mean_of(around, 5).flatten(),
        seen @ relevance,
        relevance.mean().expand_as(relevance),
        (1 - stays).mean().expand_as(relevance),
        cosine_similarity(grid, mean_of(grid, 3), dim=1).flatten(),
        *(source @ groups.T).T,
        entropy(seen) / math.log(max(len(cells), 2)),
    ]
    return torch.stack(columns, 1)


class StayNet(nn.Module):
    """features -> 64 -> 32 -> 1: the logit of P(cell stays). Features are standardized by the training set's."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int = len(FEATURES)) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.layers = scorer(width)

    def forward(self, x: Rows) -> Float[Tensor, " n"]:
        return self.layers((x - self.mean) / self.std)[:, 0]

    def save(self, path: Path, made: dict[str, str]) -> None:
        """Weights, the names of the features, and how it was made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {k: v.contiguous() for k, v in self.state_dict().items()}
        save_file(tensors, path, {"features": json.dumps(FEATURES), **made})

    @classmethod
    def load(cls, path: Path = SHIPPED) -> "StayNet":
        """ValueError for weights of other features."""
        net = cls()
        with safe_open(path, "pt") as file:
            if json.loads((file.metadata() or {}).get("features", "[]")) != list(FEATURES):
                raise ValueError(f"{path} was trained on other features: train it again")
            net.load_state_dict({k: file.get_tensor(k) for k in file.keys()})  # noqa: SIM118
        return net.eval().requires_grad_(False)


class MetaLearner(WithoutLearning):
    """Patches that should stay: drawn by their logit among those with P(stays) > 0.5, or the two likeliest."""

    needs_relevance = True

    def __init__(self, net: StayNet) -> None:
        self.net = net

    @classmethod
    def load(cls, device: torch.device) -> "MetaLearner":
        """The shipped one."""
        return cls(StayNet.load().to(device))

    @torch.no_grad()
    def select(self, cells: Cells, n: int, generator: torch.Generator) -> Indices:
        logits = self.net(features(cells))
        staying = (logits > 0).nonzero()[:, 0]
        if len(staying) < 2:
            return logits.topk(min(2, len(cells))).indices
        return staying[by_score(logits[staying], n, generator)]
