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

from cpds.selection.base import Cells, Indices, PerCell, WithoutLearning, attention, by_score, entropy
from cpds.selection.learned import scorer
from cpds.selection.rules import CALM
from cpds.types import Scalar

SHIPPED = Path(__file__).parents[1] / "assets" / "meta_learner.safetensors"
FEATURES = (
    *("relevance", "its square root", "its rank"),
    *("mean of 3x3", "maximum of 3x3", "minimum of 3x3", "mean of 5x5", "maximum of 5x5"),
    *("mean over attention", "over sharper attention", "over softer attention"),
    *("likeness to 3x3", "likeness to what stays", "likeness to what changes", "entropy of attention"),
    *("the map's mean", "median", "deviation", "share that changes"),
    *("mean likeness to 3x3", "mean likeness to what stays", "mean entropy"),
    *("10 % quantile", "25 % quantile", "75 % quantile", "90 % quantile", "roughness"),
    *("correlation with 3x3", "correlation with likeness to what changes", "correlation over attention"),
)

Rows = Float[Tensor, "n k"]


def features(cells: Cells) -> Rows:
    """FEATURES of every cell. Likeness is cosine similarity; entropy is relative to that of a uniform distribution."""
    source, relevance = cells.source.float(), cells.change.float().to(cells.source.device)
    stays = (relevance < CALM).float()
    seen = attention(source)
    around, grid = relevance.view(1, 1, *cells.grid), source.T.reshape(1, -1, *cells.grid)
    groups = normalize(torch.stack([stays, 1 - stays]) @ source, dim=-1)  # zero where there is none
    likeness = [cosine_similarity(grid, _mean(grid, 3), dim=1).flatten(), *(source @ groups.T).T]
    spread = entropy(seen) / math.log(max(len(cells), 2))
    near, attended = _mean(around, 3).flatten(), seen @ relevance
    columns = [
        *(relevance, relevance.sqrt(), (relevance < relevance[:, None]).float().mean(1)),
        *(near, _most(around, 3).flatten(), -_most(-around, 3).flatten()),
        *(_mean(around, 5).flatten(), _most(around, 5).flatten()),
        *(attended, attention(source, 0.03) @ relevance, attention(source, 0.2) @ relevance),
        *(*likeness, spread),
    ]
    whole = [  # one number for all cells: what kind of map this is
        *(relevance.mean(), relevance.median(), relevance.std(correction=0), 1 - stays.mean()),
        *(likeness[0].mean(), likeness[1].mean(), spread.mean()),
        *(relevance.sort().values[round(q * (len(cells) - 1))] for q in (0.1, 0.25, 0.75, 0.9)),
        (relevance - near).abs().mean(),
        *(_correlation(relevance, x) for x in (near, likeness[2], attended)),
    ]
    return torch.cat([torch.stack(columns, 1), torch.stack(whole).expand(len(cells), -1)], 1)


def _correlation(a: PerCell, b: PerCell) -> Scalar:
    """Pearson's; 0 where one is constant."""
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-6)


def _mean(x: Float[Tensor, "1 d h w"], size: int) -> Float[Tensor, "1 d h w"]:
    """Over the size x size cells around each that lie within the map."""
    return avg_pool2d(x, size, 1, size // 2, count_include_pad=False)


def _most(x: Float[Tensor, "1 1 h w"], size: int) -> Float[Tensor, "1 1 h w"]:
    return max_pool2d(x, size, 1, size // 2)


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
