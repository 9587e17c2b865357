"""There-and-back edits: from A to B and, beginning at that result, to A again.

What comes back is compared with the start, which needs no ground truth and works for anything that can be edited. An
edit that does nothing comes back perfectly: look at how far it went beside how well it came back.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from cpds.config import EditConfig
from cpds.editor import edit
from cpds.evaluation.cases import Case
from cpds.priors.base import Prior
from cpds.representation import Representation
from cpds.types import Images

R = TypeVar("R", bound=Representation[Any])


@dataclass(frozen=True)
class RoundTrip:
    """How something looked at the start, after its edit, and after the edit back."""

    start: Images
    there: Images
    back: Images


def round_trip(
    shown: R, reopened: Callable[[R], R], prior: Prior, prompts: tuple[str, str], config: EditConfig | None = None
) -> RoundTrip:
    """Edit `shown` from the first prompt to the second, and what `reopened` makes of that back to the first.

    `reopened` should go through the exported file, so that the second edit knows nothing of the first one's source.
    """
    before, after = prompts
    start = shown.preview()
    edit(shown, prior, before, after, config)
    there, again = shown.preview(), reopened(shown)
    edit(again, prior, after, before, config)
    return RoundTrip(start, there, again.preview())


def exchanged(case: Case) -> Case:
    """The case of the way back: its prompts change places, and the source is the ground truth."""
    return replace(case, prompt=case.target_prompt, target_prompt=case.prompt, ground_truth=case.source)
