"""What selectors share that learn within a run, as CPDS's paper has it: where do patches drift most?

They see every patch pair, label the 20 % that drifted most (||f_src - f_tgt||) with 1, and every few steps fit a
classifier from source features to those labels. The patches with the highest scores are then chosen, without noise, as
published; until the first fit by chance.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from cpds.selection.base import Cells, OneByOne, by_chance

DRIFTED = 0.2  # share of patches that count as drifted
KEPT = 48  # patches kept of each observation: learning must stay a small part of a step


def drift_labels(source: Float[Tensor, "*b n d"], target: Float[Tensor, "*b n d"]) -> Float[Tensor, "*b n"]:
    """1 for the fifth of an image's patches that moved furthest, else 0."""
    drift = (source - target).norm(dim=-1)
    furthest = drift.topk(max(1, round(DRIFTED * drift.shape[-1]))).indices
    return torch.zeros_like(drift).scatter(-1, furthest, 1)


def rows_of(x: Float[Tensor, "b n *d"], chosen: Int[Tensor, "b m"]) -> Float[Tensor, "b m *d"]:
    """For each of a batch, rows of its own."""
    return x[torch.arange(len(x), device=x.device)[:, None], chosen]


def check_patches(x: Tensor, y: Tensor, width: int) -> None:
    """Raise ValueError unless these are features, `width` for each patch, and the patches' labels."""
    if x.shape != (*y.shape[:1], width) or y.ndim != 1 or not bool(((y == 0) | (y == 1)).all()):
        raise ValueError(f"patches of shape {tuple(x.shape)}, {tuple(y.shape)} are not of this selector")


class Learning(OneByOne):
    """The observations since the last update: features, `width` for each patch, and labels."""

    needs_relevance = False

    def __init__(self, width: int, seed: int) -> None:
        self.width = width
        self.generator = torch.Generator().manual_seed(seed)
        self.x: list[Tensor] = []
        self.y: list[Tensor] = []

    @property
    def observed(self) -> int:
        """How many patches."""
        return sum(map(len, self.x))

    def observe(self, cells: Cells) -> None:
        self.observe_all([self], [cells])

    @staticmethod
    def observe_all(selectors: Sequence["Learning"], cells: Sequence[Cells]) -> None:
        source, target = torch.stack([c.source for c in cells]), torch.stack([c.target for c in cells])
        drawn = [by_chance(len(seen), KEPT, one.generator) for one, seen in zip(selectors, cells, strict=True)]
        kept = torch.stack(drawn).to(source.device)
        patches, labels = rows_of(source, kept), rows_of(drift_labels(source, target), kept)
        for one, x, y in zip(selectors, patches, labels, strict=True):
            one.x.append(one.padded(x))
            one.y.append(y)

    def padded(self, x: Float[Tensor, "*b n d"]) -> Float[Tensor, "*b n width"]:
        """Features of a narrower layer, with zeros behind them."""
        return pad(x, (0, self.width - x.shape[-1]))

    def state(self) -> dict[str, Tensor]:
        empty = torch.zeros(0, self.width)
        return {
            "x": torch.cat(self.x) if self.x else empty,
            "y": torch.cat(self.y) if self.y else empty[:, 0],
            "generator": self.generator.get_state(),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        check_patches(state["x"], state["y"], self.width)
        self.x, self.y = [state["x"]], [state["y"]]
        self.generator.set_state(state["generator"].cpu())
