"""How long an edit will take, measured on its first steps."""

import time
from contextlib import suppress
from dataclasses import dataclass, field, replace

import torch

from cpds.config import EditConfig
from cpds.editor import run, start
from cpds.guidance import StepResult
from cpds.polish import STEP
from cpds.priors.base import Prior
from cpds.state import EditState
from svg.color_fit import ROUNDS
from svg.image import SvgImage

SLOW = 5.0  # s: a step that takes so long is measured once
LIMIT = 10.0  # s of rendering a drawing, there and back, beyond which no step of it is tried
ROUND = 1.5  # steps of a drawing that a round of fitting colors is worth: it goes back through the renderer twice


@dataclass(frozen=True)
class Measured:
    """Seconds of an edit."""

    steps: list[tuple[int, float]]  # how many, and each one's: of the image that is followed, if any, and its own
    once: float  # what comes between the two
    at_least: bool = False  # the drawing's step was not tried: rendering is a part of it


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


def measured_steps(image: SvgImage, prior: Prior, prompts: tuple[str, str], config: EditConfig) -> Measured:
    """One step of each kind. `image` moves; a first step, which warms up, counts least.

    Where rendering alone takes LIMIT seconds, it stands for the drawing's step, which takes longer. What is done once,
    between the two kinds, is not waited for: the last denoising of the image and the fit of colors are counted
    as so many steps as they are worth.
    """
    fits_colors = image.config.colors_first
    image.config = replace(image.config, colors_first=False)
    state = start(image, prior, *prompts, config)
    lead, rendering = state.lead, _rendering(image)
    at_least = rendering > LIMIT
    if lead is not None:
        denoising = lead.config.polish / STEP
        lead.config = replace(lead.config, polish=0.0)
        before = _measured(lead)
    own = (config.num_inference_steps, rendering) if at_least else _measured(state)
    if lead is None:
        return Measured([own], 0.0, at_least)
    return Measured([before, own], denoising * before[1] + fits_colors * ROUNDS * ROUND * own[1], at_least)


def _rendering(image: SvgImage) -> float:
    """Seconds from the drawing's numbers to its image and back."""
    numbers, began = [x for group in image.param_groups() for x in group.tensors], time.perf_counter()
    torch.autograd.grad(image.render(None).sum(), numbers, allow_unused=True)
    return time.perf_counter() - began


def _measured(state: EditState) -> tuple[int, float]:
    clock, count = _Clock(), state.config.num_inference_steps
    with suppress(_Enough):
        run(state, [clock])
    state.step = count  # the image counts as edited
    return count, clock.seconds[-1]


def estimate(measured: Measured) -> str:
    """A sentence about a run, of what `measured_steps` gave."""
    total = measured.once + sum(count * seconds for count, seconds in measured.steps)
    each = " and ".join(
        f"{count} {'step' if count == 1 else 'steps'} of {seconds:.2g} s" for count, seconds in measured.steps
    )
    once = f", {_shown(measured.once)} between them" if measured.once else ""
    about, rest = ("at least", "; rendering alone takes so long") if measured.at_least else ("about", "")
    return f"{about} {_shown(total)}: {each}{once}, as measured on this machine just now{rest}"


def _shown(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
