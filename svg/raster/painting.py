"""From the coverage of a page's shapes to its image: paints, clips and layers, in paint order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from svg.model import Clip, Draw, Node, StaticPart, Texture
from svg.raster.compose import Inputs, compose
from svg.raster.shapes import Shapes
from svg.raster.steps import Begin, Box, End, Fill, Paste, Step

RGBA = Float[Tensor, "4 H W"]  # premultiplied


@dataclass(frozen=True)
class Covered:
    """What a page's shapes cover on a canvas of `size` (height, width)."""

    size: tuple[int, int]
    matrices: Float[Tensor, "s 3 3"]  # from each shape's user units to canvas px
    low: Float[Tensor, "g 2"]  # bounds of each geometry in its own units
    high: Float[Tensor, "g 2"]
    flat: Float[Tensor, " cells"]  # coverage
    rows: list[tuple[int, int]]  # each shape's (start, stride) there
    boxes: list[Box]
    box: Int[Tensor, "s 4"]  # the same

    def mask(self, i: int) -> Float[Tensor, "H W"]:
        """The coverage of one shape on the whole canvas, a constant."""
        full = self.flat.new_zeros(*self.size)
        (x, y, w, h), (start, stride) = self.boxes[i], self.rows[i]
        full[y : y + h, x : x + w] = self.flat.detach()[start : start + stride * h].view(h, stride)[:, :w]
        return full


class Painting:
    """One page on its way to an image."""

    def __init__(self, shapes: Shapes, values: Mapping[str, Tensor], covered: Covered) -> None:
        self.shapes, self.values, self.covered = shapes, values, covered
        self.device = covered.matrices.device
        self.tape: list[Step] = []
        self.groups = 0  # with an opacity, met so far
        self.map_of: dict[int, int] = {}  # shape -> where its image of a gradient or pattern begins
        self._masks: dict[int, Tensor] = {}  # id of a clip -> what shows

    def image(self) -> RGBA:
        """The page, transparent where nothing is drawn."""
        maps, c = self._maps(), self.covered
        self._visit(self.shapes.root)
        groups = self.shapes.opacities
        opacities = groups.of(self.values).float() if len(groups) else torch.zeros(0, device=self.device)
        inputs = Inputs(c.flat, self._colors(), opacities, maps)
        return compose(c.size, self.tape, c.rows, inputs).permute(2, 0, 1)

    def _colors(self) -> Float[Tensor, "s 4"]:
        """Each shape's color and opacity."""
        shapes, own = self.shapes, self.shapes.constants.like(self.covered.matrices)
        table = torch.zeros(len(shapes), 4, device=self.device)
        table[:, 3] = 1
        color, opacity = table.split([3, 1], 1)
        if len(shapes.colors):
            color = color.index_copy(0, own["solid"], shapes.colors.of(self.values).view(-1, 3).to(table))
        if len(shapes.alphas):
            opacity = opacity.index_copy(0, own["faded"], shapes.alphas.of(self.values).view(-1, 1).to(table))
        return torch.cat([color, opacity], 1)

    def _maps(self) -> Float[Tensor, "m 4"]:
        """The images of gradients and patterns, which begin where `map_of` says."""
        c, to_user = self.covered, torch.linalg.inv_ex(self.covered.matrices)[0]
        parts, at = [], 0
        for group in self.shapes.gradients:
            begin = at
            for i in group.shapes:
                self.map_of[i] = at
                at += c.boxes[i][2] * c.boxes[i][3]
            if at > begin:
                parts.append(group.paint(self.values, to_user, (c.low, c.high), c.box, at - begin).float())
        for i, texture in self.shapes.textured.items():
            self.map_of[i] = at
            parts.append(self._texture(i, texture).flatten(0, 1))
            at += len(parts[-1])
        return torch.cat(parts) if parts else torch.zeros(0, 4, device=self.device)

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
            if i is not None and (box := self.covered.boxes[i])[2] > 0:
                self.tape.append(Fill(i, box, self.map_of.get(i), clip, opacity))

    def _opacity(self, key: str | None) -> int | None:
        """The place of a group's opacity among those of the page, in paint order."""
        self.groups += key is not None
        return None if key is None else self.groups - 1

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
