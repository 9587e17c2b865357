"""Cameras from others' files: a transforms.json of nerfstudio or instant-ngp, 3DGS's cameras.json, a COLMAP model.

Viewmats are world to camera in OpenCV's axes (x right, y down, z ahead), as rasterizers take them. transforms.json has
camera to world in OpenGL's (x right, y up, z back), cameras.json camera to world in OpenCV's, COLMAP what is wanted.
Lenses' distortions are left out, with a warning: what is rendered is what a pinhole at that place sees.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from cpds.errors import InputError
from representations.colmap import FOCALS, View, is_model, read_model
from representations.splats.projection import rotations

MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "RADIAL", "SIMPLE_RADIAL", "PERSPECTIVE")
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
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
        if not isinstance(found, dict):
            raise InputError(f"{path} must hold an object with transform and scale, not a {type(found).__name__}")
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
    """One camera for each view of a transforms.json, of 3DGS's cameras.json or of a COLMAP model's folder; float32.

    A folder may stand for the one of them that it holds; sparse/ and sparse/0 are looked into. Only transforms.json
    may say which views are for training or testing (train_filenames): then those of the `split` alone.
    `frame` is where the scene lies if that differs from the poses' axes, as it does for what nerfstudio trained.
    Raises InputError for a file or a view that cannot be used.
    """
    file = camera_file(Path(path))
    if file.is_dir():
        return _colmap_cameras(file, frame)
    found = _json(file)
    if isinstance(found, list):
        return _listed_cameras(file, found, frame)
    if not isinstance(found, dict):
        raise InputError(f"{file} must hold an object with frames, or a list of cameras, not a {type(found).__name__}")
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
    if any({**found, **own}.get(key) for _, own in chosen for key in DISTORTION):
        _warn_of_distortion(file)
    return [_camera(file, number, {**found, **own}, frame) for number, own in chosen]


def camera_file(path: Path) -> Path:
    """The JSON file, or the folder of a COLMAP model, that `path` stands for. InputError unless there is just one."""
    if path.suffix in (".bin", ".txt") and is_model(path.parent):
        return path.parent
    if not path.is_dir():
        return path
    found = [path / name for name in ("transforms.json", "cameras.json") if (path / name).is_file()]
    places = (path, *sorted(path.glob("[0-9]*")), path / "sparse", *sorted(path.glob("sparse/[0-9]*")))
    found += [place for place in places if is_model(place)]
    if not found:
        raise InputError(
            f"folder {path} holds no cameras: it needs a transforms.json, 3DGS's cameras.json, or COLMAP's cameras and "
            "images (.bin or .txt)"
        )
    if len(found) > 1:
        raise InputError(f"folder {path} holds several sets of cameras: name one of {', '.join(map(str, found))}")
    return found[0]


def _colmap_cameras(folder: Path, frame: Frame | None) -> list[Camera]:
    views = read_model(folder)
    if not views:
        raise InputError(f"the COLMAP model in {folder} has no images: give one with at least one camera")
    cameras = [_colmap_camera(folder, view, frame) for view in views]
    if any(any(view.lens.params[FOCALS[view.lens.model] + 2 :]) for view in views):
        _warn_of_distortion(folder)
    return cameras


def _colmap_camera(folder: Path, view: View, frame: Frame | None) -> Camera:
    where, lens = f"image {view.name} of {folder}", view.lens
    if lens.model not in FOCALS:
        raise InputError(f"{where} has the camera model {lens.model}: undistort it (colmap image_undistorter)")
    focals = FOCALS[lens.model]
    numbers = {"fx": lens.params[0], "fy": lens.params[focals - 1], "w": lens.width, "h": lens.height}
    numbers |= {"cx": lens.params[focals], "cy": lens.params[focals + 1]}
    quat, translation = (torch.tensor(x, dtype=torch.float64) for x in (view.quat, view.translation))
    if not torch.isfinite(torch.cat([quat, translation])).all() or not quat.any():
        raise InputError(f"{where} has a pose that is none ({view.quat}, {view.translation}): export the model again")
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3], pose[:3, 3] = rotations(quat[None])[0], translation
    return _pinhole(view.name, where, torch.linalg.inv(pose), numbers, frame)


def _listed_cameras(file: Path, found: list[Any], frame: Frame | None) -> list[Camera]:
    if not found:
        raise InputError(f"{file} lists no cameras: give a file with at least one")
    return [_listed_camera(file, number, one, frame) for number, one in enumerate(found)]


def _listed_camera(file: Path, number: int, found: Any, frame: Frame | None) -> Camera:
    """One of 3DGS's: it does not say where the principal point is (3DGS takes the middle), nor what was held out."""
    if not isinstance(found, dict):
        raise InputError(f"camera {number} of {file} must hold an object with position and rotation, not {found!r:.40}")
    name = str(found.get("img_name", number))
    where = f"camera {number} ({name}) of {file}"
    keys = ("rotation", "position", "width", "height", "fx", "fy")
    if missing := [key for key in keys if key not in found]:
        raise InputError(f"{where} lacks {', '.join(missing)}: give the cameras.json that 3DGS's training wrote")
    try:
        rotation, position = (torch.tensor(found[key], dtype=torch.float64) for key in ("rotation", "position"))
    except (TypeError, ValueError, RuntimeError):
        rotation = position = torch.empty(0)
    if rotation.shape != (3, 3) or position.shape != (3,) or not torch.isfinite(position).all():
        raise InputError(f"{where} needs a rotation of 3x3 numbers and a position of 3: write the file again")
    if not (rotation @ rotation.T - torch.eye(3)).abs().max() < 1e-2 or torch.linalg.det(rotation) < 0:
        raise InputError(f"{where} has a rotation that is none: its axes must be right-handed and of length 1")
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3], pose[:3, 3] = rotation, position
    numbers = {"w": found["width"], "h": found["height"], "fx": found["fx"], "fy": found["fy"]}
    return _pinhole(name, where, pose, numbers, frame)


def _warn_of_distortion(file: Path) -> None:
    warnings.warn(f"the lens distortion in {file} is left out: views are rendered by pinhole cameras", stacklevel=3)


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


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as err:
        raise InputError(f"{path} cannot be read ({err.strerror}): check the path") from err
    except (ValueError, RecursionError) as err:
        raise InputError(f"{path} is not valid JSON ({err}): check the path, or write it again") from err


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


def _pinhole(
    name: str, where: str, pose: Float[Tensor, "4 4"], numbers: Mapping[str, Any], frame: Frame | None
) -> Camera:
    """From camera to world in OpenCV's axes; `numbers` are w, h, fx, fy and, unless in the middle, cx, cy."""
    width, height = _whole(where, numbers)
    fx, fy = (_focal_length(where, numbers, key) for key in ("fx", "fy"))
    cx, cy = (_number(where, numbers, key, side / 2) for key, side in (("cx", width), ("cy", height)))
    k = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    placed = pose if frame is None else frame.place(pose)
    return Camera(name, torch.linalg.inv(placed).float(), k, width, height)


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
        return _focal_length(where, found, f"fl_{axis}")
    if f"camera_angle_{axis}" not in found:
        return None
    angle = _number(where, found, f"camera_angle_{axis}", 0.0)
    if not 0 < angle < math.pi:
        raise InputError(f"{where} has camera_angle_{axis} = {angle:g}: it must be between 0 and pi (radians)")
    return side / 2 / math.tan(angle / 2)


def _focal_length(where: str, found: Mapping[str, Any], key: str) -> float:
    focal = _number(where, found, key, 0.0)
    if focal <= 0:
        raise InputError(f"{where} has {key} = {focal:g}: a focal length must be > 0")
    return focal


def _size(where: str, folder: Path, found: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height as written, else those of the frame's picture."""
    if "w" in found and "h" in found:
        return _whole(where, found)
    picture = folder / str(found.get("file_path", ""))
    try:
        with Image.open(picture if picture.suffix else picture.with_name(picture.name + ".png")) as opened:
            return opened.size
    except (OSError, ValueError, UnidentifiedImageError) as err:
        raise InputError(f"{where} has no w and h, and its picture cannot be opened: write w and h") from err


def _whole(where: str, found: Mapping[str, Any]) -> tuple[int, int]:
    width, height = (_number(where, found, key, 0.0) for key in ("w", "h"))
    if width < 1 or height < 1 or width % 1 or height % 1:
        raise InputError(f"{where} is {width:g}x{height:g} px: w and h must be whole and at least 1")
    return int(width), int(height)
