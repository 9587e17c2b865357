"""Cameras from a transforms.json as nerfstudio and instant-ngp write it.

There poses are camera to world in OpenGL's axes (x right, y up, z back); here viewmats are world to camera in OpenCV's
(x right, y down, z ahead), as rasterisers take them. Lenses' distortions are left out: what is rendered is what a
pinhole at that place sees.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from cpds.errors import InputError

MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "RADIAL", "SIMPLE_RADIAL", "PERSPECTIVE")
OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))  # to OpenCV's axes, and back


@dataclass(frozen=True)
class Camera:
    """A pinhole camera; `k` in px, pixel centres at halves."""

    name: str
    viewmat: Float[Tensor, "4 4"]
    k: Float[Tensor, "3 3"]
    width: int
    height: int

    def fitted(self, height: int, width: int) -> Camera:
        """The view at another size: scaled evenly until it covers that, and cropped about its centre."""
        scale = max(height / self.height, width / self.width)
        k = torch.diag(self.k.new_tensor([scale, scale, 1])) @ self.k
        k[0, 2] -= (scale * self.width - width) / 2
        k[1, 2] -= (scale * self.height - height) / 2
        return replace(self, k=k, width=width, height=height)


@dataclass(frozen=True)
class Frame:
    """A scene's own axes: x -> scale (turn x + shift). nerfstudio writes it as dataparser_transforms.json."""

    turn: Float[Tensor, "3 3"]
    shift: Float[Tensor, " 3"]
    scale: float

    @classmethod
    def read(cls, path: str | Path) -> Frame:
        """Raises InputError unless it holds a 3x4 `transform` and a `scale` > 0."""
        found = _json(Path(path))
        try:
            matrix = torch.tensor(found["transform"], dtype=torch.float64)
            scale = float(found["scale"])
        except (KeyError, TypeError, ValueError, RuntimeError) as err:
            raise InputError(f"{path} lacks transform or scale: give nerfstudio's dataparser_transforms.json") from err
        if matrix.shape != (3, 4) or not torch.isfinite(matrix).all() or not 0 < scale < math.inf:
            raise InputError(f"{path} must hold a finite 3x4 transform and a scale > 0: export the scene again")
        return cls(matrix[:, :3], matrix[:, 3], scale)

    def place(self, pose: Float[Tensor, "4 4"]) -> Float[Tensor, "4 4"]:
        """A camera-to-world pose in these axes."""
        moved = pose.clone()
        moved[:3, :3] = self.turn @ pose[:3, :3]
        moved[:3, 3] = self.scale * (self.turn @ pose[:3, 3] + self.shift)
        return moved

    def after(self, applied: Float[Tensor, "3 4"], scale: float) -> Frame:
        """For poses that have `applied` and `scale` in them already, where this frame begins before those."""
        turn = self.turn @ torch.linalg.inv(applied[:, :3])
        return Frame(turn, self.shift - turn @ applied[:, 3], self.scale / scale)


def view_at(step: int, every: int, count: int) -> int:
    """Which of `count` cameras a step looks through: each for `every` steps, all of them, shuffled, in every round."""
    turn, place = divmod(step // every, count)
    return int(torch.randperm(count, generator=torch.Generator().manual_seed(turn))[place])


def read_cameras(
    path: str | Path, frame: Frame | None = None, split: Literal["train", "test"] = "train"
) -> list[Camera]:
    """One camera for each frame of a transforms.json, or of the one in a folder, in its order; float32.

    Where the file says which views are for training or testing (train_filenames), those of the `split` alone.
    `frame` is where the scene lies if that differs from the poses' axes, as it does for what nerfstudio trained.
    Raises InputError for a file or a frame that cannot be used.
    """
    file = Path(path)
    file = file / "transforms.json" if file.is_dir() else file
    found = _json(file)
    frames = found.get("frames")
    if not isinstance(frames, list) or not frames or not all(isinstance(f, dict) for f in frames):
        raise InputError(f"{file} lists no frames: give a transforms.json with at least one camera")
    names = found.get(f"{split}_filenames")
    if names is not None and not (isinstance(names, list) and all(isinstance(n, str) for n in names)):
        raise InputError(f"{split}_filenames of {file} must be a list of names, got {names!r}: correct it")
    wanted = None if names is None else {Path(n) for n in names}
    chosen = [(i, f) for i, f in enumerate(frames) if wanted is None or Path(str(f.get("file_path"))) in wanted]
    if not chosen:
        raise InputError(f"none of the frames of {file} is among its {split}_filenames: correct the names")
    frame = None if frame is None else _applied(file, found, frame)
    return [_camera(file, number, {**found, **own}, frame) for number, own in chosen]


def _applied(file: Path, found: Mapping[str, Any], frame: Frame) -> Frame:
    """The frame for the poses as written: nerfstudio's begins at COLMAP's axes, which they may have left."""
    old = [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]] if (file.parent / "colmap/sparse/0").exists() else None
    rows, scale = found.get("applied_transform", old), _number(str(file), found, "applied_scale", 1.0)
    if scale <= 0:
        raise InputError(f"{file} has applied_scale = {scale:g}: it must be > 0")
    if rows is None:
        return frame.after(torch.eye(3, 4, dtype=torch.float64), scale)
    rows = [*rows, [0, 0, 0, 1]] if isinstance(rows, list) else rows
    return frame.after(_pose(str(file), rows, "applied_transform")[:3], scale)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except OSError as err:
        raise InputError(f"cameras {path} cannot be read ({err.strerror}): check the path") from err
    except (ValueError, RecursionError) as err:
        raise InputError(f"{path} is not valid JSON ({err}): write it again") from err
    if not isinstance(found, dict):
        raise InputError(f"{path} must hold an object with frames, not a {type(found).__name__}")
    return found


def _camera(file: Path, number: int, found: Mapping[str, Any], frame: Frame | None) -> Camera:
    name = str(found.get("file_path", number))
    where = f"frame {number} ({name}) of {file}"
    model = found.get("camera_model", "PINHOLE")
    if model not in MODELS:
        raise InputError(f"{where} has the camera model {model}: give undistorted views, one of {', '.join(MODELS)}")
    pose = _pose(where, found.get("transform_matrix"))
    pose = pose if frame is None else frame.place(pose)
    width, height = _size(where, file.parent, found)
    fx = _focal(where, found, "x", width)
    fy = _focal(where, found, "y", height) or fx
    if not fx or not fy:
        raise InputError(f"{where} has no focal length: it needs fl_x in px, or camera_angle_x in radians")
    cx, cy = (_number(where, found, key, side / 2) for key, side in (("cx", width), ("cy", height)))
    k = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    return Camera(name, torch.linalg.inv(pose @ OPENGL).float(), k, width, height)


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


def _number(where: str, found: Mapping[str, Any], key: str, default: float) -> float:
    value = found.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
        raise InputError(f"{where} has {key} = {value!r}: it must be a finite number")
    return float(value)


def _focal(where: str, found: Mapping[str, Any], axis: str, side: int) -> float | None:
    """px; None where nothing is said of the axis."""
    if f"fl_{axis}" in found:
        focal = _number(where, found, f"fl_{axis}", 0.0)
        if focal <= 0:
            raise InputError(f"{where} has fl_{axis} = {focal:g}: a focal length must be > 0")
        return focal
    if f"camera_angle_{axis}" not in found:
        return None
    angle = _number(where, found, f"camera_angle_{axis}", 0.0)
    if not 0 < angle < math.pi:
        raise InputError(f"{where} has camera_angle_{axis} = {angle:g}: it must be between 0 and pi (radians)")
    return side / 2 / math.tan(angle / 2)


def _size(where: str, folder: Path, found: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height as written, else those of the frame's picture."""
    if "w" in found and "h" in found:
        width, height = (_number(where, found, key, 0.0) for key in ("w", "h"))
    else:
        picture = folder / str(found.get("file_path", ""))
        try:
            with Image.open(picture if picture.suffix else picture.with_name(picture.name + ".png")) as opened:
                width, height = opened.size
        except (OSError, ValueError, UnidentifiedImageError) as err:
            raise InputError(f"{where} has no w and h, and its picture cannot be opened: write w and h") from err
    if width < 1 or height < 1 or width % 1 or height % 1:
        raise InputError(f"{where} is {width:g}x{height:g} px: w and h must be whole and at least 1")
    return int(width), int(height)
