"""The basic shapes: an element's outline as numbers, and these numbers as attributes again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from svg.model import Kind
from svg.parse.paths import bounds, path_text, points_text, read_path, read_points
from svg.parse.values import plain
from svg.parse.xml import tag

SHAPES = frozenset(("path", "rect", "circle", "ellipse", "line", "polyline", "polygon"))
# attributes of the shapes that stay what they are, in the order of their Parameter
ATTRIBUTES = {
    "rect": ("x", "y", "width", "height", "rx", "ry"),
    "circle": ("cx", "cy", "r"),
    "ellipse": ("cx", "cy", "rx", "ry"),
    "line": ("x1", "y1", "x2", "y2"),
}
SIZES = frozenset(("width", "height", "r", "rx", "ry"))

Bounds = tuple[float, float, float, float]  # left, top, right, bottom
Measure = Callable[[str, str], float | None]  # text and axis (x, y or r) -> user units; None: auto, wrong
Length = Callable[[str, str], float | None]  # the same of an attribute, by name; None where it is absent, too


@dataclass(frozen=True)
class Shape:
    """An outline: `value` as in model.Parameter, `property` where it is written."""

    kind: Kind
    value: np.ndarray
    property: str
    commands: str = ""

    def bounds(self) -> Bounds:
        """The exact box of the outline, in user units."""
        v = [float(x) for x in self.value.ravel()] if self.kind != "path" else []
        if self.kind == "rect":
            return v[0], v[1], v[0] + v[2], v[1] + v[3]
        if self.kind == "circle":
            return v[0] - v[2], v[1] - v[2], v[0] + v[2], v[1] + v[2]
        if self.kind == "ellipse":
            return v[0] - v[2], v[1] - v[3], v[0] + v[2], v[1] + v[3]
        if self.kind == "line":
            return min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]), max(v[1], v[3])
        return bounds(self.commands, self.value)

    def flat(self) -> bool:
        """Whether the outline's box has no area (an objectBoundingBox paint then has no meaning)."""
        if self.kind in ("rect", "circle", "ellipse"):
            return False
        points = self.value.reshape(-1, 2)
        return bool((points.max(0) - points.min(0)).min() <= 0)


def read_shape(element: Any, measure: Measure) -> Shape | None:
    """The outline of a shape, or None where SVG draws nothing: no size, no data."""

    def length(name: str, axis: str) -> float | None:
        text = element.get(name)
        return None if text is None else measure(text, axis)

    name = tag(element)
    if name == "path":
        commands, points = read_path(element.get("d", ""))
        return Shape("path", points, "d", commands) if commands else None
    if name in ("polyline", "polygon"):
        points = read_points(element.get("points", ""))
        commands = "M" + "L" * (len(points) - 1) + ("Z" if name == "polygon" else "")
        return Shape("path", points, "points", commands) if len(points) > 1 else None
    if name == "rect":
        numbers = _rect(length)
    elif name == "circle":
        numbers = [length("cx", "x") or 0.0, length("cy", "y") or 0.0, length("r", "r") or 0.0]
        numbers = numbers if numbers[2] > 0 else None
    elif name == "ellipse":
        rx, ry = _radii(length)
        numbers = [length("cx", "x") or 0.0, length("cy", "y") or 0.0, rx, ry] if rx > 0 and ry > 0 else None
    else:
        numbers = [length(a, a[0]) or 0.0 for a in ATTRIBUTES["line"]]
    kind: Kind = name  # pyright: ignore[reportAssignmentType]
    return None if numbers is None else Shape(kind, np.array(numbers, dtype=np.float64), name)


def _radii(length: Length) -> tuple[float, float]:
    """rx and ry, where one that is missing, auto or negative equals the other."""
    rx, ry = length("rx", "x"), length("ry", "y")
    rx, ry = (None if r is None or r < 0 else r for r in (rx, ry))
    return (rx if rx is not None else ry or 0.0), (ry if ry is not None else rx or 0.0)


def _rect(length: Length) -> list[float] | None:
    width, height = length("width", "x") or 0.0, length("height", "y") or 0.0
    rx, ry = _radii(length)
    corner = [length("x", "x") or 0.0, length("y", "y") or 0.0]
    return [*corner, width, height, min(rx, width / 2), min(ry, height / 2)] if width > 0 and height > 0 else None


def shape_attributes(name: str, commands: str, old: np.ndarray, new: np.ndarray, decimals: int) -> Mapping[str, str]:
    """The attributes that lead from one outline to another: property `name` of model.Parameter."""
    if name == "d":
        return {"d": path_text(commands, new, decimals)}
    if name == "points":
        return {"points": points_text(new, decimals)}
    attributes = ATTRIBUTES[name]
    texts = [
        plain(max(float(v), 0.0) if a in SIZES else float(v), decimals) for a, v in zip(attributes, new, strict=True)
    ]
    before = [plain(float(v), decimals) for v in old]
    changed = {a: t for a, t, b in zip(attributes, texts, before, strict=True) if t != b}
    # radii follow each other and the sides where they are left out or too large: write both
    if name in ("rect", "ellipse") and changed.keys() & SIZES and (old[-2:].any() or new[-2:].any()):
        changed |= dict(zip(attributes[-2:], texts[-2:], strict=True))
    return changed
