"""An edit led by an image: what is edited is rendered, that image is edited first, and then followed."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch.nn.functional import avg_pool2d

from cpds.config import EditConfig
from cpds.errors import InputError
from cpds.guidance import StepResult
from cpds.representation import Redrawable, Representation
from cpds.state import Callback, EditState
from cpds.types import Images, Scalar

SCALES = 3  # at which images are compared, each half of the one before: at the smaller ones shapes find what is far


def image_of(representation: Representation[Any], prior: Any) -> Representation[Any]:
    """What is edited, as an image; InputError for what cannot follow one."""
    if not isinstance(representation, Redrawable):
        raise InputError("redraw_steps is for drawings, and what is edited is none: leave it at 0")
    return representation.as_image(prior)


class Lead:
    """Tells the callbacks of what follows an image of each step of that image, if they have a method `led`."""

    def __init__(self, state: EditState, callbacks: Sequence[Callback]) -> None:
        self.state = state
        self.told = [told for callback in callbacks if (told := getattr(callback, "led", None))]

    def started(self, state: EditState) -> None:
        pass

    def stepped(self, state: EditState, result: StepResult) -> None:
        for told in self.told:
            told(self.state)

    def finished(self, state: EditState) -> None:
        pass


def image_edit(config: EditConfig) -> EditConfig:
    """How the image is edited: with the same guidance and seed, and farther than the preset for images goes.

    Gradients that are not of unit size are steps of their own, as those down the schedule.
    """
    decay = 0.125 if config.guidance.normalize_gradient else 1.0
    own = EditConfig(config.guidance, config.redraw_steps, "sgd", lr=config.redraw_lr, lr_decay=decay, polish=0.5)
    return replace(own, seed=config.seed)


def distance(image: Images, wanted: Images) -> Scalar:
    """The mean squared difference of colors, summed over SCALES sizes."""
    difference = image - wanted.to(image)
    total = difference.square().mean()
    for _ in range(SCALES - 1):
        difference = avg_pool2d(difference, 2, ceil_mode=True, count_include_pad=False)
        total = total + difference.square().mean()
    return total
