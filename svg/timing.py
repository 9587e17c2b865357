"""How long an edit will take, measured on its first steps."""

import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from cpds.config import EditConfig
from cpds.editor import run, start
from cpds.guidance import StepResult
from cpds.priors.base import Prior
from cpds.representation import Representation
from cpds.state import EditState

SLOW = 5.0  # s: a step that takes so long is measured once


class _Enough(Exception):
    pass


@dataclass
class _Clock:
    """A callback that ends a run after its second step, or after a slow first one."""

    seconds: list[float] = field(default_factory=list)

    def started(self, state: EditState) -> None:
        self.began = time.perf_counter()

    def stepped(self, state: EditState, result: StepResult) -> None:
        self.seconds.append(time.perf_counter() - self.began)
        if len(self.seconds) == 2 or self.seconds[0] > SLOW:
            raise _Enough
        self.began = time.perf_counter()

    def finished(self, state: EditState) -> None:
        pass


def measured_step(
    representation: Representation[Any], prior: Prior, prompts: tuple[str, str], config: EditConfig
) -> float:
    """Seconds of one step, which moves what is edited. The first, which warms up, counts least."""
    clock = _Clock()
    with suppress(_Enough):
        run(start(representation, prior, *prompts, config), [clock])
    return clock.seconds[-1]


def estimate(seconds: float, steps: int) -> str:
    """A sentence about a run of so many steps."""
    total = seconds * steps
    shown = f"{total:.0f} s" if total < 100 else f"{total / 60:.0f} min" if total < 6000 else f"{total / 3600:.1f} h"
    return f"about {shown}: {steps} steps of {seconds:.2g} s, as measured on this machine just now"
