"""What an edit of a scene leaves behind for people: comparisons while it runs, all views and a video at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from cpds.images import png, side_by_side, to_pil
from cpds.runs import write_atomic
from cpds.types import Images

FPS = 24


def gradient_image(gradient: Float[Tensor, "1 3 H W"]) -> Images:
    """The norm of each pixel's gradient, black for none and white for the largest."""
    norm = gradient.norm(dim=1, keepdim=True)
    return (norm / norm.max().clamp(min=1e-30)).expand(1, 3, -1, -1)


def comparison(images: Sequence[Images]) -> bytes:
    """Images of one size in a row, as PNG."""
    return png(side_by_side([to_pil(image) for image in images]))


def log_images(images: Sequence[Images], step: int) -> None:
    """Source, edit and gradient in a row, in TensorBoard."""
    from nerfstudio.utils import writer  # which cannot be the first of nerfstudio's modules to be imported

    writer.put_image("source | edit | gradient", torch.cat(list(images), 3)[0].permute(1, 2, 0), step)


def progress(count: int, what: str) -> tqdm[int]:
    """0 ... count - 1, with a bar on standard error that tells the rate and the time left."""
    return tqdm(range(count), desc=what, unit="view", dynamic_ncols=True)


def save(path: Path, data: bytes) -> None:
    """Write a file completely or not at all, and its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data)


def save_views(
    folder: Path, names: Sequence[str], source: Callable[[int], Images], edited: Callable[[int], Images]
) -> None:
    """NAME.png of each view after the edit, and pairs/NAME.png with both."""
    for view in progress(len(names), "rendering the views"):
        name, image = names[view], edited(view).cpu()
        save(folder / f"{name}.png", png(to_pil(image)))
        save(folder / "pairs" / f"{name}.png", comparison([source(view), image]))


def save_video(path: Path, frames: Sequence[Images]) -> None:
    """The frames, there and back. Needs ffmpeg."""
    import mediapy

    pixels = [np.asarray(to_pil(frame)) for frame in frames]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"part_{path.name}")
    mediapy.write_video(str(part), [*pixels, *pixels[-2:0:-1]], fps=FPS)
    part.replace(path)


def trajectory(cameras: Sequence[Any], count: int) -> Any:
    """`count` cameras on a smooth trajectory past all of `cameras`, or one where there is one alone.

    Their sides are even, as players of H.264 want them.
    """
    from nerfstudio.cameras.camera_paths import get_interpolated_camera_path

    height, width = (int(side) // 2 * 2 for side in (cameras[0].height, cameras[0].width))
    if len(cameras) < 2:
        return cropped(copy(cameras[0]), height, width)
    names = ("camera_to_worlds", "fx", "fy", "cx", "cy")
    all_of_them = type(cameras[0])(**{name: torch.cat([getattr(c, name) for c in cameras]) for name in names})
    found = get_interpolated_camera_path(all_of_them, max(2, -(-count // (len(cameras) - 1))), order_poses=True)
    return cropped(found[torch.linspace(0, len(found) - 1, count).round().long()], height, width)


def cropped(cameras: Any, height: int, width: int) -> Any:
    """The cameras, cropped or widened at the right and the bottom; changes them."""
    cameras.height = torch.full_like(cameras.height, height)
    cameras.width = torch.full_like(cameras.width, width)
    return cameras
