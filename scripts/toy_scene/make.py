"""Make a small 3D scene from an icon: a relief of it, seen from all around its front, as a nerfstudio data set.

    python -m scripts.toy_scene.make --out scenes/cat                           # 30 views to train on, 6 held out
    python -m scripts.toy_scene.make --out scenes/cat --target dog-face         # and an edit's ground truth, target/
    python -m scripts.toy_scene.make --out scenes/cat --splats 2000             # and scene.ply, gaussian splats of it
    python -m scripts.toy_scene.make --out scenes/mine --picture mine.png       # your own icon; without npm

What is there then: images/, masks/ (white: the icon), transforms.json, points.ply (a sparse coloured point cloud, from
which splatfacto starts) and scene.json (what was drawn, and a caption for prompts). In nerfstudio:

    ns-train nerfacto --data scenes/cat

Icons come from the packages in icons.py, downloaded once with npm; each has its licence in scene.json.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from cpds.apps.cli.main import unboxed
from cpds.config import require
from cpds.errors import InputError
from cpds.threads import one_thread
from scripts.emoji_prior.icons import BACKGROUNDS
from scripts.toy_scene.icons import Icon, find_icon, open_icon
from scripts.toy_scene.raycast import Hits, cast, rays, render
from scripts.toy_scene.relief import relief_of
from scripts.toy_scene.splats import draw_splats
from scripts.toy_scene.views import arc, cloud, focal, transforms

SHARE = 0.72  # of a picture's side that the icon takes, seen from the front
DOME = 1.6  # its radius in cameras' distances
POINTS_ON_RELIEF = 0.7  # of the point cloud


@dataclass(frozen=True)
class Config:
    """What to draw and how it is seen."""

    out: Path
    """Folder to make; it must not exist, or be empty."""
    icon: str = "cat-face"
    """Name of an icon."""
    style: str = "twemoji"
    """Drawing style of the icons: noto, twemoji, 3d, flat, blob or emojione."""
    picture: Path | None = None
    """A PNG or SVG file with a transparent ground in the icon's place."""
    noun: str = ""
    """What the caption calls the icon. Default: its name."""
    target: str = ""
    """Another icon's name, or a .png or .svg file: the same scene with it is drawn in target/."""
    background: str = "blue"
    """Colour of ground and backdrop: a name in icons.BACKGROUNDS."""
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
    """Lowest and highest cameras, degrees over the ground."""
    samples: int = 3
    """Rays a pixel, squared."""
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


def draw_scene(config: Config, icon: Icon, folder: Path) -> None:
    """Everything but the target, into a folder that exists."""
    generator = torch.Generator().manual_seed(config.seed)
    zoom = focal(config.side, config.fov)
    distance = 2 * zoom / config.side / SHARE
    ground = torch.tensor(BACKGROUNDS[config.background]) / 255
    relief = relief_of(icon.rgba, ground, DOME * distance, grid=cells(config.side))
    poses = arc(config.views + config.held_out, distance, config.azimuth, config.elevation, generator)
    meta = transforms(poses, config.side, config.fov, config.held_out)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    seen: list[Hits] = []
    for frame, pose in zip(meta["frames"], poses.float(), strict=True):
        picture, cover = render(relief, pose, zoom, config.side, config.samples)
        path = folder / frame["file_path"]
        save(path, picture)
        save(folder / "masks" / path.name, (cover > 0).float())
        if frame["file_path"] in meta["train_filenames"]:
            seen.append(cast(relief, pose[:3, 3], rays(pose, zoom, config.side)))
    hits = Hits.joined(seen)
    points = Hits.joined(hits.some(config.points, POINTS_ON_RELIEF, generator))
    (folder / "points.ply").write_bytes(cloud(points))
    (folder / "transforms.json").write_text(json.dumps(meta, indent=1) + "\n")
    about: dict[str, Any] = {**icon.origin, "noun": icon.noun, "caption": icon.caption(config.background)}
    about |= {k: v for k, v in asdict(config).items() if k not in ("out", "icon", "style", "picture", "noun")}
    if config.splats:
        decibels = draw_splats(folder, hits, config.splats, config.fit_steps, generator)
        print(f"scene.ply: {config.splats} gaussians, {decibels:.1f} dB on {config.held_out} held-out views")
        about["splats_psnr"] = round(decibels, 2)
    (folder / "scene.json").write_text(json.dumps(about, indent=1) + "\n")


def cells(side: int) -> int:
    """Of the relief's grid: finer than the pictures."""
    return min(1024, max(288, 3 * side // 2))


def save(path: Path, picture: Float[Tensor, "c h w"]) -> None:
    """As PNG, grey where there is one channel."""
    pixels = (picture * 255).round().byte().permute(1, 2, 0).squeeze(2).numpy()
    Image.fromarray(pixels).save(path)


@contextmanager
def whole(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place at the end, or is gone. InputError where `out` is not free."""
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out} exists and is not an empty folder: choose another --out")
        place = out.resolve()
        part = place.with_name(f".{place.name}.{os.getpid()}.part")
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.mkdir()
            yield part
            part.replace(place)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as err:
        raise InputError(f"{out} cannot be written ({err.strerror}): choose another --out or make room") from err


def make(config: Config) -> None:
    """Draw the scene, and its target. Raises InputError."""
    detail = cells(config.side)
    icon = find_icon(config.icon, config.style, detail) if config.picture is None else open_icon(config.picture, detail)
    icon = replace(icon, noun=config.noun or icon.noun)
    target = find_icon(config.target, config.style, detail) if config.target else None
    with whole(config.out) as folder:
        draw_scene(config, icon, folder)
        print(f"{config.out}: {icon.caption(config.background)}")
        if target:
            (folder / "target").mkdir()
            draw_scene(replace(config, target="", splats=0), target, folder / "target")
            print(f"{config.out / 'target'}: {target.caption(config.background)}")


def parse(argv: Sequence[str] | None) -> Config:
    box = StringIO()
    try:
        with redirect_stderr(box):
            return tyro.cli(Config, args=argv, prog="make_scene.py", description=__doc__)
    except SystemExit as stop:
        if stop.code != 2:
            raise
        raise InputError(f"{unboxed(box.getvalue())}; see make_scene.py --help") from None


def main(argv: Sequence[str] | None = None) -> int:
    """2 and one sentence for anything that the user can mend."""
    one_thread()
    try:
        make(parse(argv))
    except InputError as err:
        print(f"make_scene: error: {err}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
