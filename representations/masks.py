"""Masks of a scene's views: images in a folder, named like the cameras' own, white where the scene may change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from cpds.errors import InputError
from cpds.images import SUFFIXES
from cpds.masks import read_mask
from cpds.types import Images
from representations.cameras import Camera

Mask = UInt8[Tensor, "1 1 h w"]


def find_masks(folder: str | Path, cameras: Sequence[Camera]) -> list[Path]:
    """A file for each camera. Raises InputError where one is missing."""
    place = Path(folder)
    if not place.is_dir():
        raise InputError(f"masks {place} is no folder: give one with a mask for each camera")
    paths = [PurePath(camera.name) for camera in cameras]
    shared = Counter(path.stem for path in paths)
    found = []
    for path in paths:
        below = [] if path.is_absolute() or ".." in path.parts else [path, path.with_suffix("")]
        names = [*below, *([path.stem] if shared[path.stem] == 1 else [])]
        files = (place / f"{name}{suffix}" for name in names for suffix in SUFFIXES)
        file = next((f for f in files if f.is_file()), None)
        if file is None:
            raise InputError(f"there is no mask for the camera {path}: put {names[-1]}.png into {place}")
        found.append(file)
    return found


def fitted_mask(file: Path, camera: Camera, height: int, width: int) -> Mask:
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
    drawn = Image.fromarray((mask * 255).round().byte().numpy())
    drawn = drawn.resize((width, height), Image.Resampling.BILINEAR, (left, top, w - left, h - top))
    return torch.frombuffer(bytearray(drawn.tobytes()), dtype=torch.uint8).view(1, 1, height, width)


class Held(torch.autograd.Function):
    """See `hold`."""

    @staticmethod
    def forward(ctx: Any, image: Images, source: Images, mask: Float[Tensor, "1 1 h w"], at: float) -> Images:
        moved = image - source
        ctx.save_for_backward(moved, mask)
        ctx.at = at
        return source + mask * moved

    @staticmethod
    def backward(ctx: Any, *gradients: Images) -> tuple[Images, None, None, None]:
        (gradient,), (moved, mask) = gradients, ctx.saved_tensors
        scale = gradient.abs().amax().clamp(min=1e-30)  # first, so that no square overflows
        rms = scale * (gradient / scale).square().mean().sqrt()
        return mask * gradient + (1 - mask) * rms / ctx.at * moved, None, None, None


def hold(image: Images, source: Images, mask: Float[Tensor, "1 1 h w"], at: float) -> Images:
    """`image` where the mask is 1 and `source` where it is 0; what has moved there is pulled back.

    With g the gradient that comes back, that of `image` is

        m g + (1 - m) rms(g) (image - source) / at

    so that a pixel that has moved by `at` (of colours in [0, 1]) is pulled back as strongly as the edit pulls the mean
    pixel, however strong that is, however large the view or the mask.
    """
    return Held.apply(image, source, mask, at)  # pyright: ignore[reportReturnType]
