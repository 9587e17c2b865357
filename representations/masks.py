"""Masks of a scene's views: images in a folder, named like the cameras' own, white where the edit may show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from cpds.errors import InputError
from cpds.images import SUFFIXES
from cpds.masks import read_mask
from representations.cameras import Camera


def find_masks(folder: str | Path, cameras: Sequence[Camera]) -> list[Path]:
    """An image file for each camera. Raises InputError where one is missing."""
    place = Path(folder)
    if not place.is_dir():
        raise InputError(f"masks {place} is no folder: give one with a mask for each camera")
    paths = [PurePath(camera.name) for camera in cameras]
    shared = Counter(path.stem for path in paths)
    files = []
    for path in paths:
        below = [] if path.is_absolute() or ".." in path.parts else [path, path.with_suffix("")]
        names = [*below, *([path.stem] if shared[path.stem] == 1 else [])]
        candidates = (place / f"{name}{suffix}" for name in names for suffix in SUFFIXES)
        file = next((f for f in candidates if f.is_file()), None)
        if file is None:
            raise InputError(f"there is no mask for the camera {path}: put {names[-1]}.png into {place}")
        files.append(file)
    return files


def fitted_mask(file: Path, camera: Camera, height: int, width: int) -> UInt8[Tensor, "1 1 h w"]:
    """A camera's mask as `camera.fitted(height, width)` sees it. InputError for one of another shape."""
    mask = read_mask(file)[0, 0]
    h, w = mask.shape
    if abs(w * camera.height - h * camera.width) > 1.5 * max(camera.height, camera.width):
        raise InputError(
            f"mask {file} is {w}x{h} px, but its camera {camera.width}x{camera.height}: draw it over that camera's view"
        )
    scale = max(height / camera.height, width / camera.width)
    cut = (w - width / scale * w / camera.width) / 2, (h - height / scale * h / camera.height) / 2
    left, top = (max(0.0, side) for side in cut)
    resized = Image.fromarray((mask * 255).round().byte().numpy())
    resized = resized.resize((width, height), Image.Resampling.BILINEAR, (left, top, w - left, h - top))
    return torch.frombuffer(bytearray(resized.tobytes()), dtype=torch.uint8).view(1, 1, height, width)
