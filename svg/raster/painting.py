"""From the coverage of a page's shapes to its image: paints, clips and layers, in paint order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from svg.model import Clip, Draw, Gradient, Node, Solid, StaticPart, Texture
from svg.raster.compose import Begin, Box, End, Fill, Inputs, Paste, Step, compose
from svg.raster.edges import PageEdges
from svg.raster.gradients import paint
from svg.raster.shapes import Shape, Shapes

RGBA = Float[Tensor, "4 H W"]  # premultiplied


@dataclass(frozen=True)
class Covered:
    """What a page's shapes cover on a canvas of `size` (height, width)."""

    size: tuple[int, int]
    matrices: Float[Tensor, "s 3 3"]  # from each shape's user units to canvas px
    edges: PageEdges
    flat: Float[Tensor, " cells"]  # coverage
    rows: list[tuple[int, int]]  # each shape's (start, stride) there
    boxes: list[Box]

    def mask(self, i: int) -> Float[Tensor, "H W"]:
        """The coverage of one shape on the whole canvas, a constant."""
        full = self.flat.new_zeros(*self.size)
        x, y, w, h = self.boxes[i]
        start, stride = self.rows[i]
        full[y : y + h, x : x + w] = self.flat.detach()[start : start + stride * h].view(h, stride)[:, :w]
        return full


class Painting:
    """One page on its way to an image."""

    def __init__(self, shapes: Shapes, values: Mapping[str, Tensor], covered: Covered) -> None:
        self.shapes, self.values, self.covered = shapes, values, covered
        self.device = covered.matrices.device
        self.tape: list[Step] = []
        self.opacities: list[Tensor] = []  # of groups
        self.maps: list[Tensor] = []  # images of gradients and patterns
        self.map_of: dict[int, int] = {}  # shape -> its map
        self._masks: dict[int, Tensor] = {}  # id of a clip -> what shows

    def image(self) -> RGBA:
        """The page, transparent where nothing is drawn."""
        colors = [self._paint(i, shape) for i, shape in enumerate(self.shapes.table)]
        self._visit(self.shapes.root)
        none = torch.zeros(0, device=self.device)
        table = torch.stack(colors) if colors else none.reshape(0, 4)
        opacities = torch.stack(self.opacities) if self.opacities else none
        c = self.covered
        inputs = Inputs(c.flat, table, opacities, self.maps)
        return compose(c.size, self.tape, c.rows, inputs).permute(2, 0, 1)

    def _paint(self, i: int, shape: Shape) -> Float[Tensor, 4]:
        """A shape's color and opacity; where its paint is an image, that is put among the maps."""
        paint_, box = shape.paint, self.covered.boxes[i]
        color = torch.zeros(3, device=self.device)
        if isinstance(paint_, Solid):
            color = self.values[paint_.key].reshape(3).float()
        opacity = torch.ones(1, device=self.device)
        if shape.opacity is not None:
            opacity = self.values[shape.opacity].reshape(1).float()
        found = torch.cat([color, opacity])
        if isinstance(paint_, Gradient | Texture) and box[2] > 0:
            self.map_of[i] = len(self.maps)
            self.maps.append(self._gradient(i, paint_) if isinstance(paint_, Gradient) else self._texture(i, paint_))
        return found

    def _gradient(self, i: int, gradient: Gradient) -> Float[Tensor, "h w 4"]:
        """A gradient's straight colors in a shape's box."""
        edges, geometry = self.covered.edges, self.shapes.table[i].geometry
        low, high = edges.low[geometry].tolist(), edges.high[geometry].tolist()
        bounds = (low[0], low[1], high[0] - low[0], high[1] - low[1])
        to_user = torch.linalg.inv(self.covered.matrices[i])
        return paint(gradient, self.values, to_user, bounds, self.covered.boxes[i]).float()

    def _texture(self, i: int, texture: Texture) -> Float[Tensor, "h w 4"]:
        """A pattern's straight colors in a shape's box."""
        x, y, w, h = self.covered.boxes[i]
        part = self.shapes.static_image(texture, self.covered.size, self.device)[y : y + h, x : x + w]
        return torch.cat([part[..., :3] / part[..., 3:].clamp(min=1e-6), part[..., 3:]], -1)

    def _visit(self, root: Node) -> None:
        """Put all steps on the tape."""
        todo: list[Node | End] = [root]
        while todo:
            node = todo.pop()
            if isinstance(node, End):
                self.tape.append(node)
            elif isinstance(node, Draw):
                self._draw(node, None, None)
            elif isinstance(node, StaticPart):
                self.tape.append(Paste(self.shapes.static_image(node, self.covered.size, self.device)))
            else:
                mask, opacity = self._mask(node.clip), self._opacity(node.opacity)
                child = node.children[0] if len(node.children) == 1 else None
                if isinstance(child, Draw) and not (child.fill and child.stroke):  # needs no layer
                    self._draw(child, mask, opacity)
                    continue
                if mask is not None or opacity is not None:
                    self.tape.append(Begin())
                    todo.append(End(opacity, mask))
                todo.extend(reversed(node.children))

    def _draw(self, draw: Draw, clip: Tensor | None, opacity: int | None) -> None:
        """Put a fill and a stroke on the tape; clip, opacity: of a group that holds this draw alone."""
        for stroke in (True, False) if draw.stroke_first else (False, True):
            i = self.shapes.index(draw, stroke)
            if i is not None and self.covered.boxes[i][2] > 0:
                self.tape.append(Fill(i, self.covered.boxes[i], self.map_of.get(i), clip, opacity))

    def _opacity(self, key: str | None) -> int | None:
        """The place of a group's opacity among those of this page."""
        if key is None:
            return None
        self.opacities.append(self.values[key].reshape(()).float())
        return len(self.opacities) - 1

    def _mask(self, clip: Clip | None) -> Tensor | None:
        """What shows through a clip (H, W), in [0, 1]."""
        if clip is None:
            return None
        if id(clip) not in self._masks:
            self._masks[id(clip)] = self._union(clip)
        return self._masks[id(clip)]

    def _union(self, clip: Clip) -> Tensor:
        hidden = self.covered.flat.new_ones(*self.covered.size)
        for draw, within in clip.draws:
            i = self.shapes.index(draw)
            assert i is not None
            own, inner = self.covered.mask(i), self._mask(within)
            hidden = hidden * (1 - (own if inner is None else own * inner))
        outer = self._mask(clip.clip)
        return 1 - hidden if outer is None else (1 - hidden) * outer
