"""Settings of a splat edit. No torch here: the command line reads these to answer --help at once."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from cpds.config import require, require_choices

GroupName = Literal["xyz", "color", "opacity", "scale", "rotation"]
GROUPS: tuple[GroupName, ...] = get_args(GroupName)
SHAPES = "x y z and a radius > 0, or two corners x y z x y z that differ in all three"


def is_region(region: tuple[float, ...]) -> bool:
    """Whether these numbers are a sphere or a box."""
    box = len(region) == 6 and all(a != b for a, b in zip(region[:3], region[3:], strict=True))
    return all(map(math.isfinite, region)) and (box or (len(region) == 4 and region[3] > 0))


@dataclass(frozen=True)
class SplatConfig:
    """From where a splat scene is seen, and what of it may change."""

    optimize: tuple[GroupName | Literal["colour"], ...] = GROUPS
    """What may change; colour is taken for color."""
    region: tuple[float, ...] | None = None
    """Sphere (x y z radius) or box (x y z x y z), in the .ply's axes: gaussians centred outside stay as they are."""
    view_every: int = 1
    """Steps for which one camera is kept; the paper's is 10 (PDS, Koo 2024)."""
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Color where nothing is, RGB in 0 ... 1: the one that the scene was trained with."""
    resolution: int | None = None
    """Shorter side of the views, in px. Default: what the prior was trained on."""
    shown: Literal[1, 4] = 4
    """Views in an image for people: one, or four in a square."""

    def __post_init__(self) -> None:
        require_choices(self)
        american: tuple[GroupName, ...] = tuple("color" if g == "colour" else g for g in self.optimize)
        object.__setattr__(self, "optimize", american)
        unknown = sorted(set(american) - set(GROUPS))
        require(bool(american) and not unknown, f"optimize must name some of {', '.join(GROUPS)}, got {self.optimize}")
        require(self.region is None or is_region(self.region), f"region must be {SHAPES}, got {self.region}")
        require(self.view_every >= 1, f"view_every must be >= 1, got {self.view_every}")
        rgb = len(self.background) == 3 and all(0 <= c <= 1 for c in self.background)
        require(rgb, f"background must be three numbers in 0 ... 1, got {self.background}")
        require(self.resolution is None or self.resolution >= 16, f"resolution must be >= 16 px, got {self.resolution}")
