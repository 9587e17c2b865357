"""A differentiable rasterizer for SVG in torch alone: fills, strokes, gradients, clips, group opacity; CPU or GPU.

    raster = Raster(document.root, document.width, document.height)
    image = raster.render(values, 128, 128)          # premultiplied RGBA, gradients reach every tensor of `values`

Anti-aliasing is exact area coverage (coverage.py); images agree with resvg's to about its 16 grey levels an edge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from svg.model import Affine2D, Group
from svg.raster.coverage import boxes_of, coverage
from svg.raster.edges import page_edges
from svg.raster.painting import RGBA, Covered, Painting
from svg.raster.shapes import Shapes


class Raster:
    """A page of `width` x `height` px, ready to be drawn with any numbers at any size."""

    def __init__(self, root: Group, width: float, height: float) -> None:
        self.width, self.height, self.shapes = width, height, Shapes(root)

    def render(self, values: Mapping[str, Tensor], height: int, width: int) -> RGBA:
        """The page at `height` x `width` px, transparent where nothing is drawn."""
        return render([self], [values], height, width)[0]


def render(
    pages: Sequence[Raster], values: Sequence[Mapping[str, Tensor]], height: int, width: int
) -> Float[Tensor, "b 4 H W"]:
    """Several pages at one size, each with its own numbers; premultiplied RGBA. Edges of all are covered at once."""
    found, matrices = [], []
    for page, own in zip(pages, values, strict=True):
        device = next((v.device for v in own.values()), torch.device("cpu"))
        like = torch.zeros((), device=device, dtype=torch.float32 if device.type == "mps" else torch.float64)
        view = like.new_tensor(Affine2D.scaling(width / page.width, height / page.height).rows)
        matrices.append(view @ page.shapes.matrices.to(like))
        numbers = {k: v.to(like) for k, v in own.items()}
        found.append(page_edges(page.shapes, numbers, matrices[-1]))
    offsets = [sum(len(p.shapes) for p in pages[:i]) for i in range(len(pages) + 1)]
    shapes = [s for page in pages for s in page.shapes.table]
    drawn = [(f.edges, f.owner + o) for f, o in zip(found, offsets, strict=False)]
    edges, owner = torch.cat([e for e, _ in drawn]), torch.cat([o for _, o in drawn])
    boxes = boxes_of(edges, owner, len(shapes), width, height)
    evenodd = torch.tensor([s.evenodd for s in shapes], dtype=torch.bool, device=edges.device)
    flat = coverage(edges, owner, boxes, evenodd).float()
    rows = list(zip(boxes.start.tolist(), boxes.stride.tolist(), strict=True))
    places = [tuple(p) for p in torch.stack([boxes.left, boxes.top, boxes.width, boxes.height], 1).tolist()]
    images = []
    for i, (page, own) in enumerate(zip(pages, values, strict=True)):
        part = slice(offsets[i], offsets[i + 1])
        covered = Covered((height, width), matrices[i], found[i], flat, rows[part], places[part])
        images.append(Painting(page.shapes, own, covered).image())
    return torch.stack(images)


def over(image: Float[Tensor, "b 4 H W"], background: Tensor) -> Float[Tensor, "b 3 H W"]:
    """The image on an opaque background (broadcastable to (b, 3, H, W), RGB in [0, 1])."""
    return image[:, :3] + (1 - image[:, 3:]) * background
