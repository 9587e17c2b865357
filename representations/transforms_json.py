"""The transforms.json of nerfstudio and instant-ngp: camera to world in OpenGL's axes (x right, y up, z back)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from cpds.errors import InputError
from representations.pinhole import (
    OPENGL,
    Camera,
    Frame,
    focal_length,
    image_size,
    number,
    pinhole,
    warn_of_distortion,
)

MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "RADIAL", "SIMPLE_RADIAL", "PERSPECTIVE")
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
# what nerfstudio's converter did to COLMAP's axes before it wrote applied_transform
OLD_TRANSFORM = [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]]


def transforms_cameras(
    file: Path, content: Mapping[str, Any], frame: Frame | None, split: Literal["train", "test"]
) -> list[Camera]:
    """Those of the split, where the file names splits. Raises InputError for a view that cannot be used."""
    frames = content.get("frames")
    if not isinstance(frames, list) or not frames or not all(isinstance(f, dict) for f in frames):
        raise InputError(f"{file} lists no frames: give a transforms.json with at least one camera")
    names = content.get(f"{split}_filenames")
    if names is not None and not (isinstance(names, list) and all(isinstance(n, str) for n in names)):
        raise InputError(f"{split}_filenames of {file} must be a list of names, got {names!r}: correct it")
    wanted = None if names is None else {Path(n) for n in names}
    # what a frame does not say is the same for all frames
    chosen = {
        i: {**content, **own}
        for i, own in enumerate(frames)
        if wanted is None or Path(str(own.get("file_path"))) in wanted
    }
    if not chosen:
        raise InputError(f"none of the frames of {file} is among its {split}_filenames: correct the names")
    frame = None if frame is None else _after_applied(file, content, frame)
    if any(settings.get(key) for settings in chosen.values() for key in DISTORTION):
        warn_of_distortion(file)
    return [_camera(file, i, settings, frame) for i, settings in chosen.items()]


def _camera(file: Path, index: int, settings: Mapping[str, Any], frame: Frame | None) -> Camera:
    name = str(settings.get("file_path", index))
    where = f"frame {index} ({name}) of {file}"
    model = settings.get("camera_model", "PINHOLE")
    if model not in MODELS:
        raise InputError(f"{where} has the camera model {model}: give undistorted views, one of {', '.join(MODELS)}")
    pose = _pose(where, settings.get("transform_matrix"))
    width, height = _size(where, file.parent, settings)
    fx = _focal(where, settings, "x", width)
    fy = _focal(where, settings, "y", height) or fx
    if not fx or not fy:
        raise InputError(f"{where} has no focal length: it needs fl_x in px, or camera_angle_x in radians")
    centre = {key: settings[key] for key in ("cx", "cy") if key in settings}
    return pinhole(name, where, pose @ OPENGL, {"w": width, "h": height, "fx": fx, "fy": fy, **centre}, frame)


def _after_applied(file: Path, content: Mapping[str, Any], frame: Frame) -> Frame:
    """The frame for the poses as written: nerfstudio's begins at COLMAP's axes, which they may have left."""
    old = OLD_TRANSFORM if (file.parent / "colmap/sparse/0").exists() else None
    rows, scale = content.get("applied_transform", old), number(str(file), content, "applied_scale", 1.0)
    if scale <= 0:
        raise InputError(f"{file} has applied_scale = {scale:g}: it must be > 0")
    if rows is None:
        return frame.after(torch.eye(3, 4, dtype=torch.float64), scale)
    rows = [*rows, [0, 0, 0, 1]] if isinstance(rows, list) else rows
    return frame.after(_pose(str(file), rows, "applied_transform")[:3], scale)


def _pose(where: str, rows: Any, key: str = "transform_matrix") -> Float[Tensor, "4 4"]:
    try:
        pose = torch.tensor(rows, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as err:
        raise InputError(f"{where} has no {key} of 4x4 numbers") from err
    if pose.shape != (4, 4):
        raise InputError(f"{where} has a {key} of {'x'.join(map(str, pose.shape))}: it must be 4x4")
    if not torch.isfinite(pose).all():
        raise InputError(f"{where} has NaN or infinite values in its {key}")
    if (pose[3] - torch.tensor([0, 0, 0, 1])).abs().max() > 1e-6:
        raise InputError(f"{where} has a {key} that does not end with 0 0 0 1")
    sizes = torch.linalg.svdvals(pose[:3, :3])
    if not sizes[-1] > 1e-6 * sizes[0]:
        raise InputError(f"{where} has a singular {key}: its axes must be independent")
    return pose


def _focal(where: str, settings: Mapping[str, Any], axis: str, side: int) -> float | None:
    """px; None where neither a length nor an angle is given for the axis."""
    if f"fl_{axis}" in settings:
        return focal_length(where, settings, f"fl_{axis}")
    if f"camera_angle_{axis}" not in settings:
        return None
    angle = number(where, settings, f"camera_angle_{axis}", 0.0)
    if not 0 < angle < math.pi:
        raise InputError(f"{where} has camera_angle_{axis} = {angle:g}: it must be between 0 and pi (radians)")
    return side / 2 / math.tan(angle / 2)


def _size(where: str, folder: Path, settings: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height as written, else those of the frame's image."""
    if "w" in settings and "h" in settings:
        return image_size(where, settings)
    file = folder / str(settings.get("file_path", ""))
    try:
        with Image.open(file if file.suffix else file.with_name(file.name + ".png")) as image:
            return image.size
    except (OSError, ValueError, UnidentifiedImageError) as err:
        raise InputError(f"{where} has no w and h, and its image cannot be opened: write w and h") from err
