"""The selector that learns within a run by a small network; those of a batch learn and choose as one."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from cpds.moments import load_moments, moments
from cpds.optimizers import OPTIMIZERS
from cpds.selection.base import Cells, Indices, OneByOne, by_chance
from cpds.selection.learning import Learning, rows_of

RATE = 1e-3  # Adam's


def scorer(width: int) -> nn.Sequential:
    """The Meta-Learner's network: features -> 64 -> 32 -> 1."""
    return nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))


class LearnedPatches(Learning):
    """A network trained within the run by BCE with Adam 1e-3.

    Until its first update patches are chosen at random: an untrained network's order means nothing.
    """

    EPOCHS, ROWS = 5, 512  # of an update, and of a step of the optimizer

    def __init__(self, width: int, seed: int, device: torch.device) -> None:
        super().__init__(width, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = scorer(width).to(device)
        self.optimizer = OPTIMIZERS["adam"](self.net.parameters(), lr=RATE)

    @property
    def steps(self) -> int:
        """Those of the optimizer so far."""
        return max((int(own["step"]) for own in self.optimizer.state.values()), default=0)

    def select(self, cells: Cells, n: int, generator: torch.Generator) -> Indices:
        return self.select_all([self], [cells], n, [generator])[0]

    @staticmethod
    @torch.no_grad()
    def select_all(
        selectors: Sequence["LearnedPatches"], cells: Sequence[Cells], n: int, generators: Sequence[torch.Generator]
    ) -> list[Indices]:
        taught = {one.steps > 0 for one in selectors}
        if len(taught) > 1:
            return OneByOne.select_all(selectors, cells, n, generators)
        if n >= len(cells[0]) or taught == {False}:
            return [by_chance(len(seen), n, draws) for seen, draws in zip(cells, generators, strict=True)]
        x = selectors[0].padded(torch.stack([seen.source for seen in cells]))
        return list(Networks(selectors)(x).topk(n).indices)

    def update(self) -> Mapping[str, float]:
        return self.update_all([self])[0]

    @staticmethod
    def update_all(selectors: Sequence["LearnedPatches"]) -> list[Mapping[str, float]]:
        if len({(one.width, one.observed, one.steps) for one in selectors}) > 1:
            return OneByOne.update_all(selectors)
        if not selectors[0].observed:  # every layer was smaller than a patch
            return [{} for _ in selectors]
        x = torch.stack([torch.cat(one.x) for one in selectors])
        y = torch.stack([torch.cat(one.y) for one in selectors])
        networks, metrics = Networks(selectors), {}
        if selectors[0].steps:  # accuracy on patches they have not learnt from yet
            with torch.no_grad():
                metrics["selector_accuracy"] = ((networks(x) > 0) == (y > 0)).float().mean(1)
        metrics["selector_majority"] = (1 - y).mean(1)
        metrics["selector_loss"] = networks.learn(x, y)
        for one in selectors:
            one.x, one.y = [], []
        return [dict(zip(metrics, row, strict=True)) for row in torch.stack(list(metrics.values()), 1).tolist()]

    def state(self) -> dict[str, Tensor]:
        saved = super().state() | {f"net.{k}": v for k, v in self.net.state_dict().items()}
        return saved | {f"adam.{k}": v for k, v in moments(self.optimizer).items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        super().load_state(state)
        self.net.load_state_dict({k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")})
        load_moments(self.optimizer, {k.removeprefix("adam."): v for k, v in state.items() if k.startswith("adam.")})


class Networks:
    """The networks of several selectors as one, each with its own weights, inputs and moments."""

    def __init__(self, selectors: Sequence[LearnedPatches]) -> None:
        self.selectors = selectors
        self.own = list(zip(*(one.net.parameters() for one in selectors), strict=True))
        self.weights = [torch.stack(same).detach().requires_grad_() for same in self.own]

    def __call__(self, x: Float[Tensor, "b m d"]) -> Float[Tensor, "b m"]:
        """One number a row, higher where drift is expected."""
        x = x * x.shape[-1] ** 0.5  # rows have unit length: bring their entries near 1 whatever the width
        *hidden, (weight, bias) = zip(self.weights[::2], self.weights[1::2], strict=True)
        for w, b in hidden:
            x = torch.baddbmm(b[:, None], x, w.mT).relu()
        return torch.baddbmm(bias[:, None], x, weight.mT)[..., 0]

    @torch.enable_grad()
    def learn(self, x: Float[Tensor, "b m d"], y: Float[Tensor, "b m"]) -> Float[Tensor, " b"]:
        """Fit each to its rows, in orders of its own; the mean losses."""
        optimizer, losses = self._optimizer(), []
        for _ in range(LearnedPatches.EPOCHS):
            order = torch.stack([torch.randperm(x.shape[1], generator=one.generator) for one in self.selectors])
            for part in order.to(x.device).split(LearnedPatches.ROWS, 1):
                logits, labels = self(rows_of(x, part)), rows_of(y, part)
                loss = binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1)
                optimizer.zero_grad()
                loss.sum().backward()
                optimizer.step()
                losses.append(loss.detach())
        self._hand_back(optimizer)
        return torch.stack(losses).mean(0)

    def _optimizer(self) -> torch.optim.Optimizer:
        """Adam for all, which goes on from the moments of each; all have made as many steps."""
        optimizer = OPTIMIZERS["adam"](self.weights, lr=RATE)
        for weights, own in zip(self.weights, self.own, strict=True):
            states = [one.optimizer.state.get(x) for one, x in zip(self.selectors, own, strict=True)]
            if states[0]:
                optimizer.state[weights] = {
                    name: value.clone() if name == "step" else torch.stack([s[name] for s in states])
                    for name, value in states[0].items()
                }
        return optimizer

    @torch.no_grad()
    def _hand_back(self, optimizer: torch.optim.Optimizer) -> None:
        for weights, own in zip(self.weights, self.own, strict=True):
            for i, (one, x) in enumerate(zip(self.selectors, own, strict=True)):
                x.copy_(weights[i])
                one.optimizer.state[x] = {
                    name: (value if name == "step" else value[i]).clone()
                    for name, value in optimizer.state[weights].items()
                }
