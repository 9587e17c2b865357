"""What a document draws, as plain data: the parse's result and the rasterizer's input. Numbers live in Parameters.

Everything drawn names its numbers by key, so that an optimizer can put tensors in their place and the writer can put
changed numbers back where they came from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from svg.affine import IDENTITY, Affine2D
from svg.config import GroupName

Kind = Literal["path", "rect", "circle", "ellipse", "line"]
# how many points each command of a Geometry takes, all absolute
POINTS = {"M": 1, "L": 1, "Q": 2, "C": 3, "Z": 0}


@dataclass(frozen=True, slots=True)
class Parameter:
    """Numbers of one property, and the element that owns it.

    value: path geometry (n, 2); rect (6,) x y width height rx ry; circle (3,) cx cy r; ellipse (4,) cx cy rx ry;
    line (4,) x1 y1 x2 y2; color (3,) sRGB in [0, 1]; opacity, width, stop offset (); linear gradient (4,) x1 y1 x2 y2;
    radial gradient (6,) cx cy r fx fy fr. Geometry is in the owner's user units.
    """

    key: str  # unique, and the same each time that the same document is parsed
    value: np.ndarray  # float64
    owner: Any  # the element of the tree that the number is written to
    property: str  # d, points, rect, circle, ellipse, line, fill, stroke-width, stop-color, offset, gradient, ...
    group: GroupName | None  # None: a constant, never edited


@dataclass(frozen=True, slots=True)
class Geometry:
    """An outline. `commands` ("MLCZ", see POINTS) belongs to kind path, which polygons and polylines are as well."""

    kind: Kind
    key: str
    commands: str = ""


@dataclass(frozen=True, slots=True)
class Solid:
    """One color."""

    key: str


@dataclass(frozen=True, slots=True)
class Stop:
    """A gradient's stop: keys of offset (), color (3,) and opacity ()."""

    offset: str
    color: str
    opacity: str


@dataclass(frozen=True, slots=True)
class Gradient:
    """A linear or radial gradient, href inheritance resolved."""

    kind: Literal["linear", "radial"]
    key: str  # its geometry
    stops: tuple[Stop, ...]  # one or more
    units: Literal["objectBoundingBox", "userSpaceOnUse"] = "objectBoundingBox"
    matrix: Affine2D = IDENTITY  # gradientTransform
    spread: Literal["pad", "reflect", "repeat"] = "pad"


@dataclass(frozen=True, slots=True)
class Texture:
    """A pattern, which is not edited: a page as in StaticPart that it covers, where the outline was at first."""

    svg: bytes


Paint = Solid | Gradient | Texture


@dataclass(frozen=True, slots=True)
class Stroke:
    """How an outline is stroked; width, dashes and offset are in the shape's user units."""

    paint: Paint
    opacity: str
    width: str
    cap: Literal["butt", "round", "square"] = "butt"
    join: Literal["miter", "round", "bevel"] = "miter"
    miter_limit: float = 4.0
    dashes: tuple[float, ...] = ()  # even count, or none
    dash_offset: float = 0.0


@dataclass(frozen=True, slots=True)
class Draw:
    """One outline, filled and stroked. `matrix` leads from its user units to the page's px."""

    geometry: Geometry
    matrix: Affine2D
    fill: Paint | None = None
    fill_opacity: str | None = None  # None: 1
    fill_rule: Literal["nonzero", "evenodd"] = "nonzero"
    stroke: Stroke | None = None
    stroke_first: bool = False  # paint-order


@dataclass(frozen=True, slots=True)
class Clip:
    """What shows: the union of `draws` (their fills' areas), each within its own clip; all of it within `clip`."""

    draws: tuple[tuple[Draw, Clip | None], ...]  # empty: nothing shows
    clip: Clip | None = None


@dataclass(frozen=True, slots=True)
class StaticPart:
    """A part of the page that is not edited, for resvg to draw: an SVG with this alone and the page as its view box.

    Its root has no size, so that the page fills whatever size it is drawn at (preserveAspectRatio none).
    """

    svg: bytes
    name: str  # of the element, for messages


@dataclass(frozen=True, slots=True)
class Group:
    """Drawn on a layer of its own where it has an opacity or a clip."""

    children: tuple[Node, ...]
    opacity: str | None = None
    clip: Clip | None = None


Node = Group | Draw | StaticPart


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
