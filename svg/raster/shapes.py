"""What of a page is drawn: its fills and strokes in one table, with everything that depends on no number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from svg.model import Clip, Draw, Geometry, Gradient, Group, Node, Paint, Solid, StaticPart, Stroke, Texture, nodes
from svg.numbers import Keys
from svg.raster.constants import Constants
from svg.raster.gradients import gradient_groups
from svg.raster.outlines import Outlines

ANY = Solid("")  # paints do not change outlines


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True)
class StrokeGroup:
    """Shapes that are strokes of one style; dashes are cut shape by shape."""

    style: Stroke
    widths: Keys
    geometries: list[int]
    constants: Constants  # shape: of each its place in the table


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
        solid = {i: s.paint.key for i, s in enumerate(self.table) if isinstance(s.paint, Solid)}
        faded = {i: s.opacity for i, s in enumerate(self.table) if s.opacity is not None}
        stroked = {i: s.stroke.width for i, s in enumerate(self.table) if s.stroke}
        fills = [i for i, s in enumerate(self.table) if s.stroke is None]
        self.colors, self.alphas, self.widths = (Keys(list(x.values())) for x in (solid, faded, stroked))
        self.outline_numbers = Keys([*(g.key for g in geometries), *self.widths.keys])
        self.opacities = Keys([g.opacity for g in nodes(root) if isinstance(g, Group) and g.opacity is not None])
        self.textured = {i: s.paint for i, s in enumerate(self.table) if isinstance(s.paint, Texture)}
        self.gradients = gradient_groups(
            [(i, s.geometry, s.paint) for i, s in enumerate(self.table) if isinstance(s.paint, Gradient)]
        )
        self.strokes = self._stroke_groups()
        self.filled = [self.table[i].geometry for i in fills]
        self.evenodd = any(s.evenodd for s in self.table)
        rows = [s.draw.matrix.rows for s in self.table]
        self.constants = Constants(
            matrix=torch.tensor(rows, dtype=torch.float64).reshape(-1, 3, 3),  # of each shape, to the page's px
            geometry=torch.tensor([s.geometry for s in self.table], dtype=torch.long),
            evenodd=torch.tensor([s.evenodd for s in self.table], dtype=torch.bool),
            fills=torch.tensor(fills, dtype=torch.long),
            solid=torch.tensor(list(solid), dtype=torch.long),
            faded=torch.tensor(list(faded), dtype=torch.long),
            stroked=torch.tensor(list(stroked), dtype=torch.long),
        )

    def __len__(self) -> int:
        return len(self.table)

    def _stroke_groups(self) -> list[StrokeGroup]:
        styles: dict[tuple[Stroke, int | None], dict[int, str]] = {}
        for i, s in enumerate(self.table):
            if s.stroke:
                style = replace(s.stroke, paint=ANY, opacity="", width="")
                styles.setdefault((style, i if style.dashes else None), {})[i] = s.stroke.width
        return [
            StrokeGroup(
                style,
                Keys(list(members.values())),
                [self.table[i].geometry for i in members],
                Constants(shape=torch.tensor(list(members))),
            )
            for (style, _), members in styles.items()
        ]

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
