"""A differentiable rasterizer for SVG in torch alone: fills, strokes, gradients, clips, group opacity; CPU or GPU.

    raster = Raster(document.root, document.width, document.height)
    image = raster.render(values, 128, 128)          # premultiplied RGBA, gradients reach every tensor of `values`

Anti-aliasing is exact area coverage (coverage.py); images agree with resvg's to about its 16 grey levels an edge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from svg.model import Group
from svg.numbers import Layout, Numbers
from svg.raster.coverage import boxes_of, coverage
from svg.raster.edges import page_edges
from svg.raster.painting import RGBA, Covered, Painting
from svg.raster.shapes import Shapes

KEPT = 2  # sizes at which what unmoving outlines cover is kept


class Raster:
    """A page of `width` x `height` px, ready to be drawn with any numbers at any size."""

    def __init__(self, root: Group, width: float, height: float) -> None:
        self.width, self.height, self.shapes = width, height, Shapes(root)
        self._covered: dict[tuple[Layout, torch.device, int, int], Covered] = {}  # where no outline moves

    def render(self, values: Mapping[str, Tensor], height: int, width: int) -> RGBA:
        """The page at `height` x `width` px, transparent where nothing is drawn."""
        return Painting(self.shapes, values, self._cover(values, height, width)).image()

    def _cover(self, values: Mapping[str, Tensor], height: int, width: int) -> Covered:
        """What the shapes cover, which is known from before where their outlines do not move."""
        if not (isinstance(values, Numbers) and self.shapes.outline_numbers.still(values)):
            return cover([self], [values], height, width)[0]
        place = values.layout, values.flat.device, height, width
        if place not in self._covered:
            while len(self._covered) >= KEPT:
                del self._covered[next(iter(self._covered))]
            self._covered[place] = cover([self], [values], height, width)[0]
        return self._covered[place]


def render(
    pages: Sequence[Raster], values: Sequence[Mapping[str, Tensor]], height: int, width: int
) -> Float[Tensor, "b 4 H W"]:
    """Several pages at one size, each with its own numbers; premultiplied RGBA. Edges of all are covered at once."""
    covered = cover(pages, values, height, width)
    return torch.stack(
        [Painting(page.shapes, own, c).image() for page, own, c in zip(pages, values, covered, strict=True)]
    )


def cover(pages: Sequence[Raster], values: Sequence[Mapping[str, Tensor]], height: int, width: int) -> list[Covered]:
    """What the shapes of each page cover."""
    found, matrices = [], []
    for page, own in zip(pages, values, strict=True):
        device = next((v.device for v in own.values()), torch.device("cpu"))
        like = torch.zeros((), device=device, dtype=torch.float32 if device.type == "mps" else torch.float64)
        x, y, z = page.shapes.constants.like(like)["matrix"].unbind(1)
        matrices.append(torch.stack([x * (width / page.width), y * (height / page.height), z], 1))
        found.append(page_edges(page.shapes, own, matrices[-1]))
    offsets = [sum(len(p.shapes) for p in pages[:i]) for i in range(len(pages) + 1)]
    if len(found) == 1:
        edges, owner = found[0].edges, found[0].owner
    else:
        edges = torch.cat([f.edges for f in found])
        owner = torch.cat([f.owner + o for f, o in zip(found, offsets, strict=False)])
    boxes = boxes_of(edges, owner, offsets[-1], width, height)
    rules = [page.shapes.constants.like(edges)["evenodd"] for page in pages]
    evenodd = torch.cat(rules) if any(page.shapes.evenodd for page in pages) else None
    flat = coverage(edges, owner, boxes, evenodd).float()
    parts = [slice(a, b) for a, b in pairwise(offsets)]
    return [
        Covered((height, width), m, f.low, f.high, flat, boxes.rows[own], boxes.places[own], boxes.table[own])
        for m, f, own in zip(matrices, found, parts, strict=True)
    ]


def over(image: Float[Tensor, "b 4 H W"], background: Tensor) -> Float[Tensor, "b 3 H W"]:
    """The image on an opaque background (broadcastable to (b, 3, H, W), RGB in [0, 1])."""
    return image[:, :3] + (1 - image[:, 3:]) * background
