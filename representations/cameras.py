"""Cameras from others' files: a transforms.json of nerfstudio or instant-ngp, 3DGS's cameras.json, a COLMAP model.

Lenses' distortions are left out, with a warning: what is rendered is what a pinhole at that place sees.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from cpds.errors import InputError
from representations.cameras_json import listed_cameras
from representations.colmap import colmap_cameras, is_model
from representations.pinhole import Camera, Frame, read_json
from representations.transforms_json import transforms_cameras


def view_at(step: int, every: int, count: int) -> int:
    """Which of `count` cameras a step looks through: each for `every` steps, all of them, shuffled, in every round."""
    number, place = divmod(step // every, count)
    return int(torch.randperm(count, generator=torch.Generator().manual_seed(number))[place])


def read_cameras(
    path: str | Path, frame: Frame | None = None, split: Literal["train", "test"] = "train"
) -> list[Camera]:
    """One camera for each view of a transforms.json, of 3DGS's cameras.json or of a COLMAP model's folder; float32.

    A folder may stand for the one of them that it holds; sparse/ and sparse/0 are looked into. Only transforms.json
    may say which views are for training or testing (train_filenames): then those of the `split` alone.
    `frame` is where the scene lies if that differs from the poses' axes, as it does for what nerfstudio trained.
    Raises InputError for a file or a view that cannot be used.
    """
    file = camera_file(Path(path))
    if file.is_dir():
        return colmap_cameras(file, frame)
    content = read_json(file)
    if isinstance(content, list):
        return listed_cameras(file, content, frame)
    if isinstance(content, dict):
        return transforms_cameras(file, content, frame, split)
    raise InputError(f"{file} must hold an object with frames, or a list of cameras, not a {type(content).__name__}")


def camera_file(path: Path) -> Path:
    """The JSON file, or the folder of a COLMAP model, that `path` stands for. InputError unless there is just one."""
    if path.suffix in (".bin", ".txt") and is_model(path.parent):
        return path.parent
    if not path.is_dir():
        return path
    found = [path / name for name in ("transforms.json", "cameras.json") if (path / name).is_file()]
    folders = (path, *sorted(path.glob("[0-9]*")), path / "sparse", *sorted(path.glob("sparse/[0-9]*")))
    found += [folder for folder in folders if is_model(folder)]
    if not found:
        raise InputError(
            f"folder {path} holds no cameras: it needs a transforms.json, 3DGS's cameras.json, or COLMAP's cameras and "
            "images (.bin or .txt)"
        )
    if len(found) > 1:
        raise InputError(f"folder {path} holds several sets of cameras: name one of {', '.join(map(str, found))}")
    return found[0]
