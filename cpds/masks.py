"""Masks: white may change, black is held, gray lets that share of the change through."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from cpds.errors import InputError
from cpds.image_files import decode
from cpds.images import split_alpha
from cpds.types import Images

BLACK, WHITE = 5 / 255, 250 / 255  # beyond these a JPEG's noise is all that is in a mask
ONE_COLOR = 16  # of 255: colors of a lossy file that was painted with a single one


def read_mask(path: Path) -> Float[Tensor, "1 1 H W"]:
    """A mask's gray values in [0, 1]: black is held, white may change. InputError as `open_source`.

    Where it is transparent it is held, too; painted in one color, whichever, on a transparent layer, it is its alpha.
    Which of the two it was is said in a warning.
    """
    image, _ = decode(path, "mask")
    colors, alpha = split_alpha(image)
    mask = torch.from_numpy(np.array(colors)).float().div(255).mean(-1)
    if alpha is not None:
        cover = torch.from_numpy(np.array(alpha))
        painted = np.asarray(colors)[np.asarray(alpha) > 0]
        one = len(painted) > 0 and int(np.ptp(painted, axis=0).max()) <= ONE_COLOR
        mask = cover / 255 if one else mask * cover / 255
        meaning = "what is painted may change, and" if one else "white may change; black and"
        warnings.warn(f"mask {path} has transparency: {meaning} what is transparent is held", stacklevel=2)
    return mask[None, None]


def open_mask(path: Path, like: Images) -> Float[Tensor, "1 1 H W"]:
    """`read_mask`; InputError unless it has the image's size."""
    return fitting(read_mask(path), path, like)


def fitting(mask: Float[Tensor, "1 1 h w"], path: Path, like: Images) -> Float[Tensor, "1 1 h w"]:
    """The mask that was read from `path`; InputError unless it has the image's size."""
    require_size(path, mask.shape[-2:], like.shape[-2:])
    return mask


def require_size(path: Path, found: Sequence[int], wanted: Sequence[int]) -> None:
    """InputError unless a mask's (H, W) is the image's."""
    if tuple(found) != tuple(wanted):
        ours, theirs = (f"{width}x{height}" for height, width in (found, wanted))
        raise InputError(f"mask {path} is {ours} px but the image is {theirs}: make them the same size")


def edit_mask(path: Path) -> Float[Tensor, "1 1 H W"]:
    """`read_mask` for an edit: InputError for a mask under which nothing could change; warns where all may."""
    mask = read_mask(path)
    if mask.max() < BLACK:
        raise InputError(
            f"mask {path} is black or transparent everywhere (its brightest value is {round(float(mask.max()) * 255)} "
            "of 255), so nothing could change: make white what may change"
        )
    if mask.min() > WHITE:
        warnings.warn(f"mask {path} is white everywhere: all of the image may change", stacklevel=2)
    return mask


def to_cells(mask: Float[Tensor, "b 1 H W"], size: Sequence[int], cells: Sequence[int]) -> Float[Tensor, "b 1 h w"]:
    """A mask for the latents (h, w = `cells`) of an image of `size`: each may change as much as any of its pixels."""
    return max_pool2d(interpolate(mask, tuple(size), mode="area"), size[0] // cells[0])
