"""What a document's numbers are used for: their roles, ranges and sizes on the page."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from svg.model import Draw, Fixed, Geometry, Gradient, Group, Paint, Solid

Node = Group | Draw | Fixed
Role = Literal["outline", "colour", "share", "width", "linear", "radial"]


@dataclass(frozen=True)
class Use:
    """The first use of a parameter. `draw` is what it is drawn with; None for a group's opacity."""

    role: Role
    draw: Draw | None
    gradient: Gradient | None = None

    @property
    def geometry(self) -> Geometry | None:
        return self.draw.geometry if self.draw else None

    @property
    def scale(self) -> float:
        """Page px per user unit."""
        a, b, c, d, _, _ = self.draw.matrix if self.draw else (1, 0, 0, 1, 0, 0)
        return math.sqrt(abs(a * d - b * c))

    @property
    def lowest(self) -> tuple[float, ...]:
        """Least value of each number; a path's or colour's one entry stands for all of its numbers."""
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
        return 1.0 if self.role in ("colour", "share") else math.inf


def nodes(*roots: Node) -> Iterator[Node]:
    """The nodes and all that they hold, in paint order; documents may nest deeper than Python calls do."""
    todo = list(reversed(roots))
    while todo:
        node = todo.pop()
        yield node
        if isinstance(node, Group):
            todo.extend(reversed(node.children))


def draws(*roots: Node) -> Iterator[Draw]:
    """Everything that is drawn with numbers, in paint order."""
    return (node for node in nodes(*roots) if isinstance(node, Draw))


def uses(root: Group) -> dict[str, Use]:
    """The first use of every parameter, by key."""
    found: dict[str, Use] = {}

    def paint(own: Paint | None, draw: Draw) -> None:
        if isinstance(own, Gradient):
            found.setdefault(own.key, Use(own.kind, draw, own))
            for stop in own.stops:
                found.setdefault(stop.color, Use("colour", draw, own))
                found.setdefault(stop.opacity, Use("share", draw, own))
                found.setdefault(stop.offset, Use("share", draw, own))
        elif isinstance(own, Solid):
            found.setdefault(own.key, Use("colour", draw))

    for draw in draws(root):
        found.setdefault(draw.geometry.key, Use("outline", draw))
        paint(draw.fill, draw)
        if draw.fill_opacity:
            found.setdefault(draw.fill_opacity, Use("share", draw))
        if draw.stroke:
            paint(draw.stroke.paint, draw)
            found.setdefault(draw.stroke.opacity, Use("share", draw))
            found.setdefault(draw.stroke.width, Use("width", draw))
    for group in (node for node in nodes(root) if isinstance(node, Group)):
        if group.opacity:
            found.setdefault(group.opacity, Use("share", next(draws(group), None)))
        todo, seen = [group.clip], set()
        while todo:
            clip = todo.pop()
            if clip is None or id(clip) in seen:
                continue
            seen.add(id(clip))
            for draw, within in clip.draws:
                found.setdefault(draw.geometry.key, Use("outline", draw))
                todo.append(within)
            todo.append(clip.clip)
    return found
