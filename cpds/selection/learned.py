"""Selectors that learn within a run, as CPDS's paper has it: where do patches drift most?

They see every patch pair, label the 20 % that drifted most (||f_src - f_tgt||) with 1, and every few steps fit a
classifier from source features to those labels. The patches with the highest scores are then chosen, without noise, as
published; until the first fit by chance.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, pad

from cpds.moments import load_moments, moments
from cpds.optimizers import OPTIMIZERS
from cpds.selection.base import Cells, Indices, by_chance
from cpds.types import Patches

DRIFTED = 0.2  # share of patches that count as drifted
KEPT = 48  # patches kept of each observation: learning must stay a small part of a step


def drift_labels(source: Patches, target: Patches) -> Tensor:
    """1 for the fifth of the patches that moved furthest, else 0 (float32)."""
    drift = (source - target).norm(dim=-1)
    labels = torch.zeros_like(drift)
    labels[drift.topk(max(1, round(DRIFTED * len(drift)))).indices] = 1
    return labels


def check_patches(x: Tensor, y: Tensor, width: int) -> None:
    """Raise ValueError unless these are features, `width` for each patch, and the patches' labels."""
    if x.shape != (*y.shape[:1], width) or y.ndim != 1 or not bool(((y == 0) | (y == 1)).all()):
        raise ValueError(f"patches of shape {tuple(x.shape)}, {tuple(y.shape)} are not of this selector")


def scorer(width: int) -> nn.Sequential:
    """The Meta-Learner's network: features -> 64 -> 32 -> 1."""
    return nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))


class Learning:
    """What the learning selectors share: the buffer of observations, and choice by score."""

    needs_relevance = False

    def __init__(self, width: int, seed: int) -> None:
        self.width = width
        self.generator = torch.Generator().manual_seed(seed)
        self.x: list[Tensor] = []
        self.y: list[Tensor] = []

    def score(self, x: Tensor) -> Tensor | None:
        """One number a row, higher where drift is expected; None before anything was learnt."""
        raise AssertionError("selectors define their score")

    def learn(self, x: Tensor, y: Tensor) -> float:
        """Fit to features x and labels y; the mean loss."""
        raise AssertionError("selectors define how they learn")

    def select(self, cells: Cells, n: int, generator: torch.Generator) -> Indices:
        scores = self.score(self._padded(cells.source))
        if scores is None or n >= len(cells):
            return by_chance(len(cells), n, generator)
        return scores.topk(n).indices

    def observe(self, cells: Cells) -> None:
        labels = drift_labels(cells.source, cells.target)
        kept = by_chance(len(cells), KEPT, self.generator).to(cells.source.device)
        self.x.append(self._padded(cells.source[kept]))
        self.y.append(labels[kept])

    def _padded(self, x: Patches) -> Tensor:
        return pad(x, (0, self.width - x.shape[1]))

    def update(self) -> Mapping[str, float]:
        if not any(len(x) for x in self.x):  # every layer was smaller than a patch
            return {}
        x, y = torch.cat(self.x), torch.cat(self.y)
        metrics = {}
        scores = self.score(x)
        if scores is not None:  # accuracy on patches it has not learnt from yet
            metrics["selector_accuracy"] = float(((scores > 0) == (y > 0)).float().mean())
        metrics["selector_majority"] = float((1 - y).mean())
        metrics["selector_loss"] = self.learn(x, y)
        self.x, self.y = [], []
        return metrics

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


class LearnedPatches(Learning):
    """A network trained within the run by BCE with Adam 1e-3.

    Until its first update patches are chosen at random: an untrained network's order means nothing.
    """

    EPOCHS = 5

    def __init__(self, width: int, seed: int, device: torch.device) -> None:
        super().__init__(width, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = scorer(width).to(device)
        self.optimizer = OPTIMIZERS["adam"](self.net.parameters(), lr=1e-3)

    def _standardised(self, x: Tensor) -> Tensor:
        # rows have unit length: bring their entries near 1 whatever the width
        return x * x.shape[1] ** 0.5

    @torch.no_grad()
    def score(self, x: Tensor) -> Tensor | None:
        if not self.optimizer.state:  # no update yet
            return None
        return self.net(self._standardised(x))[:, 0]

    def learn(self, x: Tensor, y: Tensor) -> float:
        losses = []
        with torch.enable_grad():
            for _ in range(self.EPOCHS):
                order = torch.randperm(len(x), generator=self.generator).to(x.device)
                for part in order.split(512):
                    loss = binary_cross_entropy_with_logits(self.net(self._standardised(x[part]))[:, 0], y[part])
                    self.optimizer.zero_grad()
                    loss.backward()
                    self.optimizer.step()
                    losses.append(loss.detach())
        return sum(torch.stack(losses).tolist()) / len(losses)

    def state(self) -> dict[str, Tensor]:
        saved = super().state() | {f"net.{k}": v for k, v in self.net.state_dict().items()}
        return saved | {f"adam.{k}": v for k, v in moments(self.optimizer).items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        super().load_state(state)
        self.net.load_state_dict({k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")})
        load_moments(self.optimizer, {k.removeprefix("adam."): v for k, v in state.items() if k.startswith("adam.")})
