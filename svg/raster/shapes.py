"""What of a page is drawn: its fills and strokes in one table, with everything that depends on no number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from svg.model import Clip, Draw, Geometry, Group, Node, Paint, StaticPart, Stroke, Texture
from svg.raster.outlines import Outlines


@dataclass(frozen=True)
class Shape:
    """One outline to cover: a draw's fill or its stroke."""

    draw: Draw
    geometry: int
    stroke: Stroke | None

    @property
    def paint(self) -> Paint | None:
        return self.stroke.paint if self.stroke else self.draw.fill

    @property
    def opacity(self) -> str | None:
        return self.stroke.opacity if self.stroke else self.draw.fill_opacity

    @property
    def evenodd(self) -> bool:
        return self.stroke is None and self.draw.fill_rule == "evenodd"


class Shapes:
    """All shapes of the drawing `root` and of its clips."""

    def __init__(self, root: Group) -> None:
        self.root = root
        self.table: list[Shape] = []
        self._index: dict[tuple[int, bool], int] = {}  # (id of a draw, stroke) -> place in the table
        self._images: dict[tuple[int, int, int, torch.device], Tensor] = {}
        geometries: dict[Geometry, int] = {}
        for draw, stroke in _painted(root):
            if (id(draw), stroke is not None) not in self._index:
                self._index[id(draw), stroke is not None] = len(self.table)
                self.table.append(Shape(draw, geometries.setdefault(draw.geometry, len(geometries)), stroke))
        self.outlines = Outlines(list(geometries))
        rows = [s.draw.matrix.rows for s in self.table]
        self.matrices = torch.tensor(rows, dtype=torch.float64).reshape(-1, 3, 3)  # of each shape, to the page's px

    def __len__(self) -> int:
        return len(self.table)

    def index(self, draw: Draw, stroke: bool = False) -> int | None:
        """The place of a draw's fill or stroke in the table, if it has one."""
        return self._index.get((id(draw), stroke))

    def static_image(
        self, part: StaticPart | Texture, size: tuple[int, int], device: torch.device
    ) -> Float[Tensor, "H W 4"]:
        """resvg's image of what is not edited, premultiplied; drawn once for each size."""
        from svg.raster import resvg

        place = (id(part), *size, device)
        if place not in self._images:
            self._images[place] = resvg.draw(part.svg, *size).to(device)
        return self._images[place]


def _painted(root: Group) -> Iterator[tuple[Draw, Stroke | None]]:
    """Every fill (None) and stroke, each group's children before its clip; a clip's draws are filled, once."""
    todo: list[Node | Clip | tuple[Draw]] = [root]
    seen: set[int] = set()
    while todo:
        node = todo.pop()
        if isinstance(node, tuple):  # of a clip: its area counts, whatever its paint
            yield node[0], None
        elif isinstance(node, Group):
            todo += [node.clip] if node.clip else []
            todo += reversed(node.children)
        elif isinstance(node, Clip) and id(node) not in seen:
            seen.add(id(node))
            todo += [node.clip] if node.clip else []
            for draw, within in reversed(node.draws):
                todo += [within] if within else []
                todo.append((draw,))
        elif isinstance(node, Draw):
            if node.fill:
                yield node, None
            if node.stroke:
                yield node, node.stroke
