"""scikit-learn's classifiers as patch selectors that learn within a run."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from cpds.errors import MissingExtra
from cpds.selection.base import Cells, Indices, by_chance
from cpds.selection.learning import Learning, check_patches


class ClassifierPatches(Learning):
    """A scikit-learn classifier in the network's place; refitted from the latest patches at every update."""

    LATEST = 1000  # patches that it is fitted to

    def __init__(self, width: int, seed: int, make: Callable[[int], Any]) -> None:
        super().__init__(width, seed)
        self.seed, self.make, self.model = seed, make, None
        self.fitted: tuple[Tensor, Tensor] | None = None

    def select(self, cells: Cells, n: int, generator: torch.Generator) -> Indices:
        scores = self.score(self.padded(cells.source)) if n < len(cells) else None
        return by_chance(len(cells), n, generator) if scores is None else scores.topk(n).indices

    def update(self) -> Mapping[str, float]:
        if not self.observed:  # every layer was smaller than a patch
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

    def score(self, x: Tensor) -> Tensor | None:
        """One number a row, higher where drift is expected; None before anything was learnt."""
        if self.model is None:
            return None
        rows = x.cpu().numpy()
        if hasattr(self.model, "decision_function"):
            scores = self.model.decision_function(rows)
        else:
            scores = self.model.predict_proba(rows)[:, 1] - 0.5
        return torch.as_tensor(scores, dtype=torch.float32, device=x.device)

    def learn(self, x: Tensor, y: Tensor) -> float:
        """Fit to features x and labels y; the training error."""
        chosen = torch.randperm(len(x), generator=self.generator)[: self.LATEST].to(x.device)
        self._fit(x[chosen], y[chosen])
        scores = self.score(x[chosen])
        assert scores is not None
        return float(((scores > 0) != (y[chosen] > 0)).float().mean())

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


def sklearn_classifier(name: str) -> Callable[[int], Any]:
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
