"""Pinhole cameras, and the checks that every file format's numbers pass on the way to one.

A viewmat is world to camera in OpenCV's axes (x right, y down, z ahead), as rasterizers take it.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cpds.errors import InputError

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

    def sees(self, points: Float[Tensor, "n 3"]) -> bool:
        """Whether one of the points is in the image, and ahead of the camera by more than 0.01."""
        viewmat, k = self.viewmat.to(points), self.k.to(points)
        x, y, z = ((points @ viewmat[:3, :3].T + viewmat[:3, 3]) @ k.T).unbind(1)
        u, v = x / z.clamp(min=1e-6), y / z.clamp(min=1e-6)
        return bool(((z > 0.01) & (u > 0) & (u < self.width) & (v > 0) & (v < self.height)).any())


@dataclass(frozen=True)
class Frame:
    """A scene's own axes: x -> scale (R x + t). nerfstudio writes it as dataparser_transforms.json."""

    rotation: Float[Tensor, "3 3"]
    translation: Float[Tensor, " 3"]
    scale: float

    @classmethod
    def read(cls, path: str | Path) -> Frame:
        """Raises InputError unless it holds a 3x4 `transform` and a `scale` > 0."""
        content = read_json(Path(path))
        if not isinstance(content, dict):
            raise InputError(f"{path} must hold an object with transform and scale, not a {type(content).__name__}")
        try:
            matrix = torch.tensor(content["transform"], dtype=torch.float64)
            scale = float(content["scale"])
        except (KeyError, TypeError, ValueError, RuntimeError) as err:
            raise InputError(f"{path} lacks transform or scale: give nerfstudio's dataparser_transforms.json") from err
        if matrix.shape != (3, 4) or not torch.isfinite(matrix).all() or not 0 < scale < math.inf:
            raise InputError(f"{path} must hold a finite 3x4 transform and a scale > 0: export the scene again")
        return cls(matrix[:, :3], matrix[:, 3], scale)

    def place(self, pose: Float[Tensor, "4 4"]) -> Float[Tensor, "4 4"]:
        """A camera-to-world pose in these axes."""
        placed = pose.clone()
        placed[:3, :3] = self.rotation @ pose[:3, :3]
        placed[:3, 3] = self.scale * (self.rotation @ pose[:3, 3] + self.translation)
        return placed

    def after(self, applied: Float[Tensor, "3 4"], scale: float) -> Frame:
        """For poses that have `applied` and `scale` in them already, where this frame begins before those."""
        rotation = self.rotation @ torch.linalg.inv(applied[:, :3])
        return Frame(rotation, self.translation - rotation @ applied[:, 3], self.scale / scale)


def pinhole(
    name: str, where: str, pose: Float[Tensor, "4 4"], numbers: Mapping[str, Any], frame: Frame | None
) -> Camera:
    """From camera to world in OpenCV's axes; `numbers` are w, h, fx, fy and, unless in the middle, cx, cy.

    Raises InputError, which begins with `where` the numbers stand.
    """
    width, height = image_size(where, numbers)
    fx, fy = (focal_length(where, numbers, key) for key in ("fx", "fy"))
    cx, cy = (number(where, numbers, key, side / 2) for key, side in (("cx", width), ("cy", height)))
    k = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    placed = pose if frame is None else frame.place(pose)
    return Camera(name, torch.linalg.inv(placed).float(), k, width, height)


def number(where: str, numbers: Mapping[str, Any], key: str, default: float) -> float:
    value = numbers.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
        raise InputError(f"{where} has {key} = {value!r}: it must be a finite number")
    return float(value)


def focal_length(where: str, numbers: Mapping[str, Any], key: str) -> float:
    focal = number(where, numbers, key, 0.0)
    if focal <= 0:
        raise InputError(f"{where} has {key} = {focal:g}: a focal length must be > 0")
    return focal


def image_size(where: str, numbers: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height."""
    width, height = (number(where, numbers, key, 0.0) for key in ("w", "h"))
    if width < 1 or height < 1 or width % 1 or height % 1:
        raise InputError(f"{where} is {width:g}x{height:g} px: w and h must be whole and at least 1")
    return int(width), int(height)


def warn_of_distortion(file: Path) -> None:
    warnings.warn(f"the lens distortion in {file} is left out: views are rendered by pinhole cameras", stacklevel=4)


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as err:
        raise InputError(f"{path} cannot be read ({err.strerror}): check the path") from err
    except (ValueError, RecursionError) as err:
        raise InputError(f"{path} is not valid JSON ({err}): check the path, or write it again") from err
