"""What a scene shows and how it is seen."""

from dataclasses import dataclass
from pathlib import Path

from cpds.config import require
from scripts.emoji_prior.icons import BACKGROUNDS


@dataclass(frozen=True)
class SceneConfig:
    """What to draw and how it is seen."""

    out: Path
    """Folder to make; it must not exist, or be empty."""
    icon: str = "cat-face"
    """Name of an icon."""
    style: str = "twemoji"
    """Drawing style of the icons: noto, twemoji, 3d, flat, blob or emojione."""
    image: Path | None = None
    """A PNG or SVG file with a transparent background in the icon's place."""
    noun: str = ""
    """What the caption calls the icon. Default: its name."""
    target: str = ""
    """Another icon's name, or a .png or .svg file: the same scene with it is drawn in target/."""
    background: str = "blue"
    """Colour of floor and dome: a name in scripts.emoji_prior.icons.BACKGROUNDS."""
    views: int = 30
    """Views to train on."""
    held_out: int = 6
    """Further views between them, to evaluate on (val_filenames and test_filenames)."""
    side: int = 128
    """Width and height of the views, px."""
    fov: float = 40.0
    """Field of view, degrees; the cameras stand where the icon fills the same part of it."""
    azimuth: float = 60.0
    """Views lie on an arc of this many degrees to either side of the front; 180 goes around."""
    elevation: tuple[float, float] = (2.0, 22.0)
    """Lowest and highest cameras, degrees over the floor."""
    samples: int = 3
    """Rays through each pixel are the square of this."""
    points: int = 5000
    """Points in points.ply."""
    splats: int = 0
    """Gaussians in scene.ply; 0 leaves it out."""
    fit_steps: int = 300
    """Steps for which they are fitted to the views."""
    seed: int = 0
    """Seeds the cameras, the points and the fit."""

    def __post_init__(self) -> None:
        colours = ", ".join(BACKGROUNDS)
        require(self.background in BACKGROUNDS, f"background must be one of {colours}, got {self.background!r}")
        require(self.views >= 2, f"views must be >= 2, got {self.views}")
        require(1 <= self.held_out <= self.views, f"held_out must be 1 ... views, got {self.held_out}")
        require(16 <= self.side <= 2048, f"side must be 16 ... 2048 px, got {self.side}")
        require(10 <= self.fov <= 75, f"fov must be 10 ... 75 degrees, got {self.fov}")
        require(0 < self.azimuth <= 180, f"azimuth must be above 0 and at most 180 degrees, got {self.azimuth}")
        low, high = self.elevation
        require(0 <= low <= high <= 80, f"elevation must be two angles, 0 <= low <= high <= 80, got {self.elevation}")
        require(1 <= self.samples <= 8, f"samples must be 1 ... 8, got {self.samples}")
        most = self.views * self.side**2
        require(1 <= self.points <= most, f"points must be 1 ... {most}, the pixels of all views, got {self.points}")
        require(0 <= self.splats <= most, f"splats must be 0 ... {most}, the pixels of all views, got {self.splats}")
        require(self.fit_steps >= 0, f"fit_steps must be >= 0, got {self.fit_steps}")
