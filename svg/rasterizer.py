"""What draws a page while it is edited: this package's own rasterizer, or diffvg where somebody has built it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from svg.document import Document
from svg.raster.diffvg import DiffvgRaster
from svg.raster.page import Raster

RasterizerName = Literal["torch", "diffvg"]


@runtime_checkable
class Rasterizer(Protocol):
    """A page, ready to be drawn with any numbers at any size."""

    def render(self, values: Mapping[str, Tensor], height: int, width: int) -> Float[Tensor, "4 H W"]:
        """Premultiplied RGBA, differentiable in `values`."""
        ...


def make_rasterizer(document: Document, name: RasterizerName = "torch") -> Rasterizer:
    """Raises InputError that names all of the document that it cannot draw, MissingExtra where it is not installed."""
    make = {"torch": Raster, "diffvg": DiffvgRaster}[name]
    return make(document.root, document.width, document.height)
