"""Draw a scene: views, masks, points and splats, in a folder that is made completely or not at all."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from cpds.errors import InputError
from scripts.emoji_prior.icons import BACKGROUNDS
from scripts.toy_scene.config import SceneConfig
from scripts.toy_scene.icons import Icon, find_icon, open_icon
from scripts.toy_scene.raycast import Hits, cast, rays, render
from scripts.toy_scene.relief import DOME, relief_of
from scripts.toy_scene.splats import draw_splats
from scripts.toy_scene.views import arc, cloud, focal, transforms

SHARE = 0.72  # of an image's side that the icon takes, seen from the front
POINTS_ON_RELIEF = 0.7  # of the point cloud


def make_scene(config: SceneConfig) -> None:
    """Draw the scene, and its target. Raises InputError."""
    detail = cells(config.side)
    icon = find_icon(config.icon, config.style, detail) if config.image is None else open_icon(config.image, detail)
    icon = replace(icon, noun=config.noun or icon.noun)
    target = find_icon(config.target, config.style, detail) if config.target else None
    with atomic_dir(config.out) as folder:
        draw_scene(config, icon, folder)
        print(f"{config.out}: {icon.caption(config.background)}")
        if target:
            (folder / "target").mkdir()
            draw_scene(replace(config, target="", splats=0), target, folder / "target")
            print(f"{config.out / 'target'}: {target.caption(config.background)}")


def draw_scene(config: SceneConfig, icon: Icon, folder: Path) -> None:
    """Everything but the target, into a folder that exists."""
    generator = torch.Generator().manual_seed(config.seed)
    zoom = focal(config.side, config.fov)
    distance = 2 * zoom / config.side / SHARE
    background = torch.tensor(BACKGROUNDS[config.background]) / 255
    relief = relief_of(icon.rgba, background, DOME * distance, grid=cells(config.side))
    poses = arc(config.views + config.held_out, distance, config.azimuth, config.elevation, generator)
    meta = transforms(poses, config.side, config.fov, config.held_out)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    seen: list[Hits] = []
    for frame, pose in zip(meta["frames"], poses.float(), strict=True):
        image, cover = render(relief, pose, zoom, config.side, config.samples)
        path = folder / frame["file_path"]
        save(path, image)
        save(folder / "masks" / path.name, (cover > 0).float())
        if frame["file_path"] in meta["train_filenames"]:
            seen.append(cast(relief, pose[:3, 3], rays(pose, zoom, config.side)))
    hits = Hits.joined(seen)
    points = Hits.joined(hits.some(config.points, POINTS_ON_RELIEF, generator))
    (folder / "points.ply").write_bytes(cloud(points))
    (folder / "transforms.json").write_text(json.dumps(meta, indent=1) + "\n")
    about: dict[str, Any] = {**icon.origin, "noun": icon.noun, "caption": icon.caption(config.background)}
    about |= {k: v for k, v in asdict(config).items() if k not in ("out", "icon", "style", "image", "noun")}
    if config.splats:
        decibels = draw_splats(folder, hits, config.splats, config.fit_steps, generator)
        print(f"scene.ply: {config.splats} gaussians, {decibels:.1f} dB on {config.held_out} held-out views")
        about["splats_psnr"] = round(decibels, 2)
    (folder / "scene.json").write_text(json.dumps(about, indent=1) + "\n")


def cells(side: int) -> int:
    """Of the relief's grid: finer than the images."""
    return min(1024, max(288, 3 * side // 2))


def save(path: Path, image: Float[Tensor, "c h w"]) -> None:
    """As PNG, grey where there is one channel."""
    pixels = (image * 255).round().byte().permute(1, 2, 0).squeeze(2).numpy()
    Image.fromarray(pixels).save(path)


@contextmanager
def atomic_dir(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place at the end, or is gone. InputError where `out` is not free."""
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out} exists and is not an empty folder: choose another folder")
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
        raise InputError(f"{out} cannot be written ({err.strerror}): choose another folder or make room") from err
