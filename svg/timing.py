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


def measured_steps(
    representation: Representation[Any], prior: Prior, prompts: tuple[str, str], config: EditConfig
) -> dict[int, float]:
    """Seconds of one step for each count of steps: those of the image that is followed, if any, and the edit's own.

    What is edited moves. A first step, which warms up, counts least.
    """
    state, found = start(representation, prior, *prompts, config), dict[int, float]()
    for edit in [state] if state.lead is None else [state.lead, state]:
        clock, steps = _Clock(), edit.config.num_inference_steps
        with suppress(_Enough):
            run(edit, [clock])
        found[steps] = found.get(steps, 0.0) + clock.seconds[-1]
        edit.step = steps  # the image counts as edited
    return found


def estimate(measured: dict[int, float]) -> str:
    """A sentence about a run, of what `measured_steps` gave."""
    total = sum(steps * seconds for steps, seconds in measured.items())
    shown = f"{total:.0f} s" if total < 100 else f"{total / 60:.0f} min" if total < 6000 else f"{total / 3600:.1f} h"
    each = " and ".join(f"{steps} steps of {seconds:.2g} s" for steps, seconds in measured.items())
    return f"about {shown}: {each}, as measured on this machine just now"
