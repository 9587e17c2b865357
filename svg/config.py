"""Settings of an SVG edit. No torch here: the command line reads these to answer --help at once."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from cpds.config import require, require_choices

GroupName = Literal["points", "fills", "strokes", "widths", "opacities", "gradients", "fades"]
GROUPS: tuple[GroupName, ...] = ("points", "fills", "strokes", "widths", "opacities", "gradients")  # to choose from
COLORS: tuple[GroupName, ...] = ("fills", "strokes", "gradients")
Choice = Literal["points", "fills", "strokes", "widths", "opacities", "gradients", "colors", "colours", "all"]
MAX_ADDED = 100


@dataclass(frozen=True)
class Style:
    """A style of drawing (VectorFusion, Jain 2023; PDS, Koo 2024): what may change, and what ends both prompts."""

    optimize: tuple[Choice, ...]
    suffix: str


STYLES = {
    "none": Style(("points", "colors", "widths"), ""),
    "iconography": Style(
        ("points", "colors"),
        ", minimal flat 2d vector icon, lineal color, on a white background, trending on artstation",
    ),
    "pixelart": Style(("colors",), ", pixel art, trending on artstation"),
}


@dataclass(frozen=True)
class SvgConfig:
    """What of a document may change, and how it is rendered."""

    style: Literal["none", "iconography", "pixelart"] = "none"
    """iconography (points and colors) and pixelart (colors alone) also add their style to both prompts."""
    optimize: tuple[Choice, ...] = ()
    """What may change; colors are fills, strokes and gradients. Default: as the style has it, without one all but the
    opacities: what is opaque stays so."""
    only: tuple[str, ...] = ()
    """Only elements with one of these ids or classes, and what they hold: '#face', '.skin', or the bare name."""
    background: tuple[float, float, float] | None = None
    """Background of the page while it is edited, RGB in 0 ... 1; it is not written into the file. Default: the
    document's own background-color, else white."""
    resolution: int | None = None
    """Shorter side while editing, in px. Default: what the prior was trained on."""
    margin: float | None = None
    """Width of the margin around the page while it is edited, as a fraction of the image's sides: priors know things
    that lie within their image, not such as touch its border. Default: 0.1, of drawings with a backdrop 0."""
    smoothness: float = 32.0
    """Length along an outline, in px of a 512-px canvas, over which points move alike: details stay whole."""
    detail_size: float = 0.5
    """Size, as a fraction of the canvas, from which on a shape takes whole steps; smaller ones take less, and bend
    less than they move. 0: all take whole steps."""
    colors_first: bool = True
    """Fit colors to the edited image first; shapes move only if that leaves more than half of the edit undone, or more
    than a tenth of it in regions that are wide enough for a shape."""
    coarse_steps: int = 0
    """Steps at the beginning in which shapes move, turn and stretch but do not bend."""
    simple: bool = True
    """Keep outlines as simple as they are: no new crossings, spikes or slivers, and smooth joints stay smooth."""

    may_remove: bool = False
    """Shapes that the edit has no use for may fade out; what is invisible is not written, a comment stands for it."""
    may_add: int = 0
    """At most this many paths may be added where the target asks for them; data-cpds="added" marks them."""

    def __post_init__(self) -> None:
        require_choices(self)
        for choice in self.optimize:
            known = choice in get_args(Choice)
            require(known, f"optimize must be of {', '.join((*GROUPS, 'colors', 'all'))}, got {choice!r}")
        spelled: tuple[Choice, ...] = tuple("colors" if choice == "colours" else choice for choice in self.optimize)
        object.__setattr__(self, "optimize", spelled)
        require(0 <= (self.margin or 0) <= 0.4, f"margin must be in 0 ... 0.4, got {self.margin}")
        require(0 <= self.smoothness < math.inf, f"smoothness must be >= 0 and finite, got {self.smoothness}")
        require(0 <= self.detail_size < math.inf, f"detail_size must be >= 0 and finite, got {self.detail_size}")
        require(0 <= self.may_add <= MAX_ADDED, f"may_add must be in 0 ... {MAX_ADDED}, got {self.may_add}")
        require(self.coarse_steps >= 0, f"coarse_steps must be >= 0, got {self.coarse_steps}")
        valid = all(0 <= c <= 1 for c in self.background or ())
        require(valid, f"background must be three numbers in 0 ... 1, got {self.background}")
        require(self.resolution is None or self.resolution >= 16, f"resolution must be >= 16 px, got {self.resolution}")

    @property
    def groups(self) -> tuple[GroupName, ...]:
        """The parameter groups that may change."""
        chosen = set(self.optimize or STYLES[self.style].optimize)
        chosen |= set(GROUPS) if "all" in chosen else set()
        chosen |= set(COLORS) if "colors" in chosen else set()
        fades: tuple[GroupName, ...] = ("fades",) if self.may_remove or self.may_add else ()
        return (*(g for g in GROUPS if g in chosen), *fades)

    @property
    def suffix(self) -> str:
        """What the style adds to both prompts."""
        return STYLES[self.style].suffix
