"""What an edit of a scene leaves behind for people: strips while it runs, and all views at the end."""

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


def gradient_picture(gradient: Float[Tensor, "1 3 H W"]) -> Images:
    """The norm of each pixel's gradient, black for none and white for the largest."""
    norm = gradient.norm(dim=1, keepdim=True)
    return (norm / norm.max().clamp(min=1e-30)).expand(1, 3, -1, -1)


def side_by_side(pictures: Sequence[Images]) -> bytes:
    """Pictures of one size in a row, as PNG."""
    return png(side_by_side([to_pil(p) for p in pictures]))


def progress(count: int, what: str) -> tqdm[int]:
    """0 ... count - 1, with a bar on standard error that tells the rate and the time left."""
    return tqdm(range(count), desc=what, unit="view", dynamic_ncols=True)


def save(path: Path, data: bytes) -> None:
    """Write a file whole, and its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data)


def save_views(
    folder: Path, names: Sequence[str], before: Callable[[int], Images], after: Callable[[int], Images]
) -> None:
    """NAME.png of each view after the edit, and pairs/NAME.png with both."""
    for view in progress(len(names), "rendering the views"):
        name = names[view]
        edited = after(view).cpu()
        save(folder / f"{name}.png", png(to_pil(edited)))
        save(folder / "pairs" / f"{name}.png", side_by_side([before(view), edited]))


def save_video(path: Path, frames: Sequence[Images]) -> None:
    """The frames, there and back. Needs ffmpeg."""
    import mediapy

    shown = [np.asarray(to_pil(f)) for f in frames]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"part_{path.name}")
    mediapy.write_video(str(part), [*shown, *shown[-2:0:-1]], fps=FPS)
    part.replace(path)


def around(cameras: Sequence[Any], count: int) -> Any:
    """`count` cameras on a smooth way past all of `cameras`, or fewer where there is one alone.

    Their sides are even, as players of H.264 want them.
    """
    from nerfstudio.cameras.camera_paths import get_interpolated_camera_path

    sides = {side: int(getattr(cameras[0], side)) // 2 * 2 for side in ("height", "width")}
    if len(cameras) < 2:
        return with_sides(copy(cameras[0]), **sides)
    every = type(cameras[0])(
        **{k: torch.cat([getattr(c, k) for c in cameras]) for k in ("camera_to_worlds", "fx", "fy", "cx", "cy")}
    )
    way = get_interpolated_camera_path(every, max(2, -(-count // (len(cameras) - 1))), order_poses=True)
    return with_sides(way[torch.linspace(0, len(way) - 1, count).round().long()], **sides)


def with_sides(cameras: Any, height: int, width: int) -> Any:
    """The cameras, cropped or widened at the right and the bottom; changes them."""
    cameras.height = torch.full_like(cameras.height, height)
    cameras.width = torch.full_like(cameras.width, width)
    return cameras
