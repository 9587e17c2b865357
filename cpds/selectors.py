"""Which patches the contrastive loss looks at: by chance, or where a classifier expects the edit to drift.

A learning selector sees every patch pair, labels the 20 % that drifted most (||f_src - f_tgt||) with 1, and every few
steps fits a classifier from source features to those labels. Patches with the highest scores are then chosen.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, pad

from cpds.errors import InputError, MissingExtra
from cpds.moments import load_moments, moments
from cpds.parts import imported
from cpds.types import Patches

DRIFTED = 0.2  # share of patches that count as drifted
KEPT = 48  # patches kept of each observation: learning must stay a small part of a step


@runtime_checkable
class PatchSelector(Protocol):
    """Chooses patches from their source features, and may learn from what became of them."""

    def select(self, source: Patches, n: int, generator: torch.Generator) -> Tensor:
        """Indices of at most `n` of the rows of `source`."""
        ...

    def observe(self, source: Patches, target: Patches) -> None:
        """Note one layer's patches before and after."""
        ...

    def update(self) -> Mapping[str, float]:
        """Learn from what was observed since the last update; metrics to log (may be empty)."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        ...


class RandomPatches:
    """Uniform choice without replacement, as CDS does; learns nothing."""

    def select(self, source: Patches, n: int, generator: torch.Generator) -> Tensor:
        return torch.randperm(len(source), generator=generator)[:n].to(source.device)

    def observe(self, source: Patches, target: Patches) -> None:
        pass

    def update(self) -> Mapping[str, float]:
        return {}

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        pass


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


class _Learning:
    """What the learning selectors share: the buffer of observations, and choice by score."""

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

    def select(self, source: Patches, n: int, generator: torch.Generator) -> Tensor:
        scores = self.score(pad(source, (0, self.width - source.shape[1])))
        if scores is None or n >= len(source):
            return torch.randperm(len(source), generator=generator)[:n].to(source.device)
        return scores.topk(n).indices

    def observe(self, source: Patches, target: Patches) -> None:
        labels = drift_labels(source, target)
        kept = torch.randperm(len(source), generator=self.generator)[:KEPT].to(source.device)
        self.x.append(pad(source[kept], (0, self.width - source.shape[1])))
        self.y.append(labels[kept])

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


class LearnedPatches(_Learning):
    """The Meta-Learner: features -> 64 -> 32 -> 1, trained online by BCE with Adam 1e-3.

    Until its first update patches are chosen at random: an untrained network's order means nothing.
    """

    EPOCHS = 5

    def __init__(self, width: int, seed: int, device: torch.device) -> None:
        super().__init__(width, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = nn.Sequential(
                nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1)
            ).to(device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-3)

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


class ClassifierPatches(_Learning):
    """A scikit-learn classifier in the Meta-Learner's place; refitted from the latest patches at every update."""

    LATEST = 1000  # patches that it is fitted to

    def __init__(self, width: int, seed: int, make: Callable[[int], Any]) -> None:
        super().__init__(width, seed)
        self.seed, self.make, self.model = seed, make, None
        self.fitted: tuple[Tensor, Tensor] | None = None

    def score(self, x: Tensor) -> Tensor | None:
        if self.model is None:
            return None
        rows = x.cpu().numpy()
        if hasattr(self.model, "decision_function"):
            scores = self.model.decision_function(rows)
        else:
            scores = self.model.predict_proba(rows)[:, 1] - 0.5
        return torch.as_tensor(scores, dtype=torch.float32, device=x.device)

    def learn(self, x: Tensor, y: Tensor) -> float:
        chosen = torch.randperm(len(x), generator=self.generator)[: self.LATEST].to(x.device)
        self._fit(x[chosen], y[chosen])
        scores = self.score(x[chosen])
        assert scores is not None
        return float(((scores > 0) != (y[chosen] > 0)).float().mean())  # training error

    def _fit(self, x: Tensor, y: Tensor) -> None:
        self.fitted = (x, y)
        self.model = self.make(self.seed).fit(x.cpu().numpy(), y.cpu().numpy().astype(int))

    def state(self) -> dict[str, Tensor]:
        fitted = {} if self.fitted is None else {"fitted_x": self.fitted[0], "fitted_y": self.fitted[1]}
        return super().state() | fitted

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        super().load_state(state)
        if "fitted_x" in state:
            check_patches(state["fitted_x"], state["fitted_y"], self.width)
            self._fit(state["fitted_x"], state["fitted_y"])


def _sklearn(name: str) -> Callable[[int], Any]:
    """Of a scikit-learn classifier by name: what makes one for a seed."""

    def make(seed: int) -> Any:
        try:
            from sklearn.ensemble import RandomForestClassifier
            from sklearn.neighbors import KNeighborsClassifier
            from sklearn.svm import LinearSVC
        except ImportError as err:
            raise MissingExtra(f"patch selector {name!r} needs scikit-learn: pip install -e '.[selectors]'") from err
        return {
            "svm": lambda: LinearSVC(C=1.0, random_state=seed),
            "knn": lambda: KNeighborsClassifier(n_neighbors=9),
            "forest": lambda: RandomForestClassifier(n_estimators=30, max_depth=8, random_state=seed, n_jobs=1),
        }[name]()

    return make


def make_selector(name: str, *, width: int, seed: int, device: torch.device) -> PatchSelector:
    """The selector called `name`, or made by the class at an import path; `width` is that of the widest features."""
    if name == "random":
        return RandomPatches()
    if name == "learned":
        return LearnedPatches(width, seed, device)
    if name not in ("svm", "knn", "forest"):
        try:
            own = imported(name, "patch_selector")(width=width, seed=seed, device=device)
        except TypeError as err:
            raise InputError(f"patch_selector {name} cannot be made with width, seed and device ({err})") from err
        if not isinstance(own, PatchSelector):
            raise InputError(f"patch_selector {name} makes a {type(own).__name__}, which is no PatchSelector")
        return own
    make = _sklearn(name)
    make(seed)  # say at once, not ten steps later, that scikit-learn is missing
    return ClassifierPatches(width, seed, make)
