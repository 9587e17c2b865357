"""What a document's numbers are used for: their roles, ranges and sizes on the page."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from svg.model import Clip, Draw, Fixed, Geometry, Gradient, Group, Matrix, Paint

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


def draws(node: Group | Draw | Fixed) -> Iterator[Draw]:
    """Everything that is drawn with numbers, in order."""
    if isinstance(node, Draw):
        yield node
    elif isinstance(node, Group):
        for child in node.children:
            yield from draws(child)


def _groups(node: Group | Draw | Fixed) -> Iterator[Group]:
    if isinstance(node, Group):
        yield node
        for child in node.children:
            yield from _groups(child)


def _clips(clip: Clip | None) -> Iterator[Draw]:
    if clip:
        yield from _clips(clip.clip)
        for draw, within in clip.draws:
            yield draw
            yield from _clips(within)


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
        elif own:
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
    for group in _groups(root):
        if group.opacity:
            found.setdefault(group.opacity, Use("share", next(draws(group), None)))
        for draw in _clips(group.clip):
            found.setdefault(draw.geometry.key, Use("outline", draw))
    return found


def page_point(x: float, y: float, m: Matrix) -> tuple[float, float]:
    """A point of user space on the page."""
    return m[0] * x + m[2] * y + m[4], m[1] * x + m[3] * y + m[5]
