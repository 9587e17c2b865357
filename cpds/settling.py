"""When an edit ends before its last step, because it hardly moves any more."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cpds.representation import ParamGroup

WINDOW = 5  # steps from one look to the next


def net_change(now: Sequence[Tensor], before: Sequence[Tensor], start: Sequence[Tensor]) -> float:
    """||now - before|| / ||now - start||; 0 where nothing has moved at all. A GPU is waited for once."""
    moved, whole = (
        torch.stack([(x.detach() - y).square().sum() for x, y in zip(now, since, strict=True)]).sum()
        for since in (before, start)
    )
    return float((moved / whole.clamp(min=1e-30)).sqrt())


@dataclass
class Settling:
    """Whether an edit has settled: its net change over WINDOW steps is less than `below` times that since its start.

    Net changes, as single steps follow the noise that was drawn. The largest of the parameter groups counts. With
    `below` 0 an edit never settles, and nothing is kept.
    """

    below: float
    groups: Sequence[ParamGroup]
    reached: bool = False  # what is followed has been reached before the first step
    change: float = 1.0  # as of the last look
    start: list[list[Tensor]] = field(init=False)
    last: list[list[Tensor]] = field(init=False)

    def __post_init__(self) -> None:
        self.start = self._copies() if self.below else []
        self.last = self.start

    @property
    def settled(self) -> bool:
        return self.reached or self.change < self.below

    def look(self, step: int) -> None:
        """After a step; `step` counts the finished ones."""
        if not self.below or step % WINDOW:
            return
        pairs = zip(self.groups, self.last, self.start, strict=True)
        self.change = max(net_change(group.tensors, last, start) for group, last, start in pairs)
        self.last = self._copies()

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed run needs."""
        if not self.below:
            return {}
        last = {f"{i}.{k}": x for i, tensors in enumerate(self.last) for k, x in enumerate(tensors)}
        return {"change": torch.tensor(self.change), **last}

    def load(self, saved: dict[str, Tensor]) -> None:
        """Go on from what `tensors` gave. KeyError for what is missing."""
        if self.below:
            self.change = float(saved["change"])
            self.last = [
                [saved[f"{i}.{k}"].to(x) for k, x in enumerate(tensors)] for i, tensors in enumerate(self.last)
            ]

    def _copies(self) -> list[list[Tensor]]:
        return [[x.detach().clone() for x in group.tensors] for group in self.groups]
