"""The cameras.json that 3DGS writes beside a trained scene: camera to world in OpenCV's axes.

It does not say where the principal point is (3DGS takes the middle), nor what was held out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cpds.errors import InputError
from representations.pinhole import Camera, Frame, pinhole

KEYS = ("rotation", "position", "width", "height", "fx", "fy")


def listed_cameras(file: Path, content: list[Any], frame: Frame | None) -> list[Camera]:
    """In the file's order. Raises InputError for a view that cannot be used."""
    if not content:
        raise InputError(f"{file} lists no cameras: give a file with at least one")
    return [_camera(file, number, entry, frame) for number, entry in enumerate(content)]


def _camera(file: Path, number: int, entry: Any, frame: Frame | None) -> Camera:
    if not isinstance(entry, dict):
        raise InputError(f"camera {number} of {file} must hold an object with position and rotation, not {entry!r:.40}")
    name = str(entry.get("img_name", number))
    where = f"camera {number} ({name}) of {file}"
    if missing := [key for key in KEYS if key not in entry]:
        raise InputError(f"{where} lacks {', '.join(missing)}: give the cameras.json that 3DGS's training wrote")
    try:
        rotation, position = (torch.tensor(entry[key], dtype=torch.float64) for key in ("rotation", "position"))
    except (TypeError, ValueError, RuntimeError):
        rotation = position = torch.empty(0)
    if rotation.shape != (3, 3) or position.shape != (3,) or not torch.isfinite(position).all():
        raise InputError(f"{where} needs a rotation of 3x3 numbers and a position of 3: write the file again")
    if not (rotation @ rotation.T - torch.eye(3)).abs().max() < 1e-2 or torch.linalg.det(rotation) < 0:
        raise InputError(f"{where} has a rotation that is none: its axes must be right-handed and of length 1")
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3], pose[:3, 3] = rotation, position
    numbers = {"w": entry["width"], "h": entry["height"], "fx": entry["fx"], "fy": entry["fy"]}
    return pinhole(name, where, pose, numbers, frame)
