"""Parts of a page that are not edited, drawn by resvg (the one place that imports it)."""

from __future__ import annotations

import io

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from cpds.errors import InputError, MissingExtra


def draw(svg: bytes, height: int, width: int) -> Float[Tensor, "H W 4"]:
    """The image at `height` x `width` px of an SVG without a size (model.StaticPart), premultiplied RGBA in [0, 1]."""
    try:
        import resvg_py
    except ImportError as err:
        raise MissingExtra(
            "resvg draws what is not edited (text, images, filters): install it with pip install -e '.[svg]'"
        ) from err
    sized = svg.replace(b"<svg ", b'<svg width="%d" height="%d" ' % (width, height), 1)
    try:
        data = resvg_py.svg_to_bytes(svg_string=sized.decode(), dpi=96)
    except ValueError as err:
        raise InputError(f"what is not edited cannot be drawn ({err}): remove it from the SVG") from err
    image = Image.open(io.BytesIO(bytes(data))).convert("RGBA")
    rgba = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(height, width, 4).float() / 255
    return torch.cat([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], -1)
