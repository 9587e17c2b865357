"""Parts of a page that are not edited, drawn by resvg (the one place that imports it)."""

from __future__ import annotations

import io

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from cpds.errors import InputError, MissingExtra


def draw(svg: bytes, height: int, width: int) -> Float[Tensor, "H W 4"]:
    """An SVG's picture stretched to `height` x `width` px, premultiplied RGBA in [0, 1]."""
    try:
        import resvg_py
    except ImportError as err:
        raise MissingExtra(
            "resvg draws what is not edited (text, pictures, filters): install it with pip install -e '.[svg]'"
        ) from err
    try:
        data = resvg_py.svg_to_bytes(svg_string=svg.decode(), width=width, dpi=96)  # the height follows from the page
    except ValueError as err:
        raise InputError(f"what is not edited cannot be drawn ({err}): remove it from the SVG") from err
    picture = Image.open(io.BytesIO(bytes(data))).convert("RGBA")
    rgba = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(picture.height, picture.width, 4)
    rgba = rgba.float() / 255
    rgba = torch.cat([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], -1)
    if rgba.shape[:2] == (height, width):
        return rgba
    stretched = interpolate(rgba.permute(2, 0, 1)[None], (height, width), mode="bilinear", antialias=True)
    return stretched[0].permute(1, 2, 0)
