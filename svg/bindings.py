"""What a document's numbers are used for: their roles, ranges and sizes on the page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from svg.model import Draw, Geometry, Gradient, Group, Paint, Solid, draws, nodes

Role = Literal["outline", "color", "fraction", "width", "linear", "radial"]


@dataclass(frozen=True, slots=True)
class Binding:
    """What a parameter is for, where it is used first. `draw` is what it is drawn with; None for a group's opacity."""

    role: Role
    draw: Draw | None
    gradient: Gradient | None = None

    @property
    def geometry(self) -> Geometry | None:
        return self.draw.geometry if self.draw else None

    @property
    def scale(self) -> float:
        """Page px per user unit."""
        return math.sqrt(abs(self.draw.matrix.det)) if self.draw else 1.0

    @property
    def lowest(self) -> tuple[float, ...]:
        """Least value of each number; a path's or color's one entry stands for all of its numbers."""
        free, zero = -math.inf, 0.0
        if self.role == "outline" and self.geometry:
            kinds = {
                "rect": (free, free, *[zero] * 4),
                "circle": (free, free, zero),
                "ellipse": (free, free, zero, zero),
            }
            return kinds.get(self.geometry.kind, (free,))
        return {"radial": (free, free, zero, free, free, zero), "linear": (free,)}.get(self.role, (zero,))

    @property
    def highest(self) -> float:
        return 1.0 if self.role in ("color", "fraction") else math.inf


def bindings(root: Group) -> dict[str, Binding]:
    """The first use of every parameter, by key."""
    found: dict[str, Binding] = {}

    def paint(own: Paint | None, draw: Draw) -> None:
        if isinstance(own, Gradient):
            found.setdefault(own.key, Binding(own.kind, draw, own))
            for stop in own.stops:
                found.setdefault(stop.color, Binding("color", draw, own))
                found.setdefault(stop.opacity, Binding("fraction", draw, own))
                found.setdefault(stop.offset, Binding("fraction", draw, own))
        elif isinstance(own, Solid):
            found.setdefault(own.key, Binding("color", draw))

    for draw in draws(root):
        found.setdefault(draw.geometry.key, Binding("outline", draw))
        paint(draw.fill, draw)
        if draw.fill_opacity:
            found.setdefault(draw.fill_opacity, Binding("fraction", draw))
        if draw.stroke:
            paint(draw.stroke.paint, draw)
            found.setdefault(draw.stroke.opacity, Binding("fraction", draw))
            found.setdefault(draw.stroke.width, Binding("width", draw))
    for group in (node for node in nodes(root) if isinstance(node, Group)):
        if group.opacity:
            found.setdefault(group.opacity, Binding("fraction", next(draws(group), None)))
        todo, seen = [group.clip], set()
        while todo:
            clip = todo.pop()
            if clip is None or id(clip) in seen:
                continue
            seen.add(id(clip))
            for draw, within in clip.draws:
                found.setdefault(draw.geometry.key, Binding("outline", draw))
                todo.append(within)
            todo.append(clip.clip)
    return found
