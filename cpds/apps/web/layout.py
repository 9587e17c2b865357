"""The widgets of a tab, by name, and the words on the page. No Gradio here."""

from dataclasses import dataclass, field
from typing import Any

TICK = 0.7  # s between two looks at edits that run
TITLE = "# CPDS: edit by prompt\nSay what it shows and what it should become; strength says how far to go."
AS_PRESET = "as the preset"
STRENGTH = (
    "1: as the preset. It multiplies the learning rates, which decide how far an edit goes, and the polish, which "
    "redraws what has changed; for methods that walk down the schedule (flowedit, dvrf, flowalign) the guidance, "
    "which has to be set for priors that take their own (FLUX.1 dev)."
)
PRIVACY = (
    "Runs are seen from this browser alone. Uploads are removed when an edit is done or the page is closed, runs after "
    "{hours:g} hours. Closing the page stops its edits; they can be gone on with from your runs."
)
NAMES = {"image": "Image", "svg": "SVG", "splats": "Gaussian splats"}
PROMPTS = ("a cat face on a blue background", "a dog face on a blue background")
CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important }
.status progress { width: 100%; height: 8px; border: 0; border-radius: 4px; appearance: none; overflow: hidden }
.status progress, .status progress::-webkit-progress-bar { background: var(--border-color-primary) }
.status progress::-webkit-progress-value { background: var(--color-accent) }
.status progress::-moz-progress-bar { background: var(--color-accent) }
"""


@dataclass
class Tab:
    """The widgets of one kind of edit. By their flags' names `fields` are settings, and `files` arguments that are."""

    command: str
    source: Any = None
    shown: Any = None  # the source, where the upload itself does not show it
    told: Any = None  # about the source, in words
    mask: Any = None
    fields: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)
    own: dict[str, Any] = field(default_factory=dict)  # prompts, strength, variants, other settings
    buttons: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    timer: Any = None
    chosen: Any = None  # the run in the history that was clicked

    @property
    def inputs(self) -> set[Any]:
        found = {self.source, *self.fields.values(), *self.files.values(), *self.own.values()}
        return found | ({self.mask} if self.mask is not None else set())
