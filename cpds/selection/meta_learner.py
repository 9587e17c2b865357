"""The Meta-Learner: a network trained once, over many edits with ground truth, that tells which cells should stay.

It sees no channel of a prior and no place in the image: how strongly the prior wants to change a cell and what lies
around it, and how the cell's features relate to those of others.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cosine_similarity, max_pool2d, normalize

from cpds.selection.base import Cells, Indices, OneByOne, PerCell, WithoutLearning, by_score, entropy
from cpds.selection.learned import scorer
from cpds.selection.rules import CALM

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

Rows = Float[Tensor, "*b n k"]
PerCells = Float[Tensor, "b n"]


def features(cells: Cells) -> Rows:
    """FEATURES of every cell. Likeness is cosine similarity; entropy is relative to that of a uniform distribution."""
    return features_of_all([cells])[0]


def features_of_all(cells: Sequence[Cells]) -> Float[Tensor, "b n k"]:
    """`features` of the cells of each image, all of one layer and patch size."""
    source, grid, count = torch.stack([one.source for one in cells]).float(), cells[0].grid, len(cells[0])
    relevance = torch.stack([one.change for one in cells]).float().to(source.device)
    stays = (relevance < CALM).float()
    alike = source @ source.mT
    seen, sharper, softer = ((alike / temperature).softmax(-1) for temperature in (0.07, 0.03, 0.2))
    around, map_of = relevance.view(-1, 1, *grid), source.mT.reshape(len(cells), -1, *grid)
    groups = normalize(torch.stack([stays, 1 - stays], 1) @ source, dim=-1)  # zero where there is none
    likeness = [cosine_similarity(map_of, _mean(map_of, 3), dim=1).flatten(1), *(source @ groups.mT).unbind(-1)]
    spread = entropy(seen) / math.log(max(count, 2))
    near, attended = _mean(around, 3).flatten(1), _over(seen, relevance)
    columns = [
        *(relevance, relevance.sqrt(), (relevance[:, None] < relevance[:, :, None]).float().mean(-1)),
        *(near, _most(around, 3).flatten(1), -_most(-around, 3).flatten(1)),
        *(_mean(around, 5).flatten(1), _most(around, 5).flatten(1)),
        *(attended, _over(sharper, relevance), _over(softer, relevance)),
        *(*likeness, spread),
    ]
    rising = relevance.sort().values
    whole = [  # one number for all cells: what kind of map this is
        *(relevance.mean(-1), relevance.median(-1).values, relevance.std(-1, correction=0), 1 - stays.mean(-1)),
        *(likeness[0].mean(-1), likeness[1].mean(-1), spread.mean(-1)),
        *(rising[:, round(q * (count - 1))] for q in (0.1, 0.25, 0.75, 0.9)),
        (relevance - near).abs().mean(-1),
        *(_correlation(relevance, x) for x in (near, likeness[2], attended)),
    ]
    return torch.cat([torch.stack(columns, -1), torch.stack(whole, -1)[:, None].expand(-1, count, -1)], -1)


def _over(seen: Float[Tensor, "b n n"], relevance: PerCells) -> PerCells:
    """Its mean under each cell's attention."""
    return (seen @ relevance[..., None])[..., 0]


def _correlation(a: PerCells, b: PerCells) -> Float[Tensor, " b"]:
    """Pearson's of each image; 0 where one is constant."""
    a, b = (x - x.mean(-1, keepdim=True) for x in (a, b))
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1)).clamp(min=1e-6)


def _mean(x: Float[Tensor, "b d h w"], size: int) -> Float[Tensor, "b d h w"]:
    """Over the size x size cells around each that lie within the map."""
    return avg_pool2d(x, size, 1, size // 2, count_include_pad=False)


def _most(x: Float[Tensor, "b 1 h w"], size: int) -> Float[Tensor, "b 1 h w"]:
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

    def forward(self, x: Rows) -> Float[Tensor, "*b n"]:
        return self.layers((x - self.mean) / self.std)[..., 0]

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


class MetaLearner(WithoutLearning, OneByOne):
    """Patches that should stay: drawn by their logit among those with P(stays) > 0.5, or the two likeliest."""

    needs_relevance = True

    def __init__(self, net: StayNet) -> None:
        self.net = net

    @classmethod
    def load(cls, device: torch.device) -> "MetaLearner":
        """The shipped one."""
        return cls(StayNet.load().to(device))

    def select(self, cells: Cells, n: int, generator: torch.Generator) -> Indices:
        return self.select_all([self], [cells], n, [generator])[0]

    @staticmethod
    @torch.no_grad()
    def select_all(
        selectors: Sequence["MetaLearner"], cells: Sequence[Cells], n: int, generators: Sequence[torch.Generator]
    ) -> list[Indices]:
        """Of every image, on the CPU: a GPU is waited for once."""
        if any(one.net is not selectors[0].net for one in selectors):
            return OneByOne.select_all(selectors, cells, n, generators)
        logits = selectors[0].net(features_of_all(cells)).cpu()
        return [staying(own, n, draws) for own, draws in zip(logits, generators, strict=True)]


def staying(logits: PerCell, n: int, generator: torch.Generator) -> Indices:
    """At most `n` of those with P(stays) > 0.5, or the two likeliest."""
    likely = (logits > 0).nonzero()[:, 0]
    if len(likely) < 2:
        return logits.topk(min(2, len(logits))).indices
    return likely[by_score(logits[likely], n, generator)]
