"""Clip paths: constant outlines that bound what shows."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from cpds.config import require
from svg.model import Affine2D, Clip, Draw, Geometry, Parameter
from svg.parse.context import Context, start
from svg.parse.css import Cascade
from svg.parse.parameters import ParameterTable
from svg.parse.shapes import SHAPES, Shape, read_shape
from svg.parse.values import reference
from svg.parse.xml import Tree, describe, tag

MAX_CHAIN = 50
NOTHING = Clip(())


class Clips:
    """Reads clip paths. `count` is called for everything drawn."""

    def __init__(self, tree: Tree, cascade: Cascade, table: ParameterTable, count: Callable[[], None]) -> None:
        self.tree, self.cascade, self.table, self.count = tree, cascade, table, count
        self._known: dict[tuple[Any, Affine2D, tuple[float, float]], Clip] = {}
        self._open: list[Any] = []

    def of(self, element: Any, context: Context, draws: Callable[[], list[Draw]]) -> Clip | None:
        """The clip of an element whose user space `context` describes. draws: what it draws, for its bounding box."""
        declaration = self.cascade(element, context.variables).get("clip-path")
        path = self._target(declaration.value) if declaration else None
        return None if path is None else self._read(path, context, draws)

    def has_text(self, value: str) -> bool:
        """Whether a clip path clips by text, which is for resvg to do."""
        path = self._target(value)
        if path is None:
            return False
        parts = [self.tree.linked(e) if tag(e) == "use" else e for e in path.iterchildren("*")]
        return any(part is not None and tag(part) == "text" for part in parts)

    def _target(self, value: str) -> Any:
        name = reference(value)
        target = self.tree.ids.get(name) if name else None
        return target if target is not None and tag(target) == "clipPath" else None

    def _read(self, path: Any, context: Context, draws: Callable[[], list[Draw]]) -> Clip:
        """The clip path for one user space."""
        if path in self._open:  # it clips itself: nothing shows
            return NOTHING
        require(
            len(self._open) < MAX_CHAIN, f"{describe(path)} begins a chain of clip paths that is too long: shorten it"
        )
        around = start(context.viewport)
        for up in [*reversed(list(path.iterancestors()))]:
            around = around.within(self.cascade(up), {})
        boxes: list[None] = []

        def boxed() -> list[Draw]:
            boxes.append(None)
            return draws()

        around = replace(around, matrix=context.matrix, viewport=context.viewport)
        own = around.within(self.cascade(path), path.attrib)
        inner = own
        if path.get("clipPathUnits") == "objectBoundingBox":
            box = _box(boxed(), context.matrix, self.table.parameters)
            if box is None:
                return NOTHING
            for draw in draws():  # the file's clip would follow a shape that moves, and the drawn one does not
                self.table.freeze(draw.geometry.key)
            left, top, right, bottom = box
            inner = replace(own, matrix=own.matrix @ Affine2D.onto_box(left, top, right - left, bottom - top))
        key = (path, inner.matrix, context.viewport)
        if key in self._known:
            return self._known[key]
        self._open.append(path)
        parts = []
        if inner.matrix.invertible:
            for child in path.iterchildren("*"):
                parts += self._part(child, inner)
        outer = self.of(path, around, boxed)
        self._open.pop()
        clip = Clip(tuple(parts), outer)
        if not boxes:  # else it depends on what is clipped
            self._known[key] = clip
        return clip

    def _part(self, element: Any, context: Context) -> list[tuple[Draw, Clip | None]]:
        """One child of a clip path: a shape, or a use that leads to one."""
        chain: list[tuple[Any, Context]] = []
        while element is not None and tag(element) in SHAPES | {"use"} and len(chain) < MAX_CHAIN:
            declared = self.cascade(element, context.variables)
            if "display" in declared and declared["display"].value == "none":
                return []
            context = context.within(declared, element.attrib)
            chain.append((element, context))
            if tag(element) != "use":
                return self._shape(chain)
            x, y = (context.measure(element.get(a, "0"), a) or 0.0 for a in "xy")
            context = replace(context, matrix=context.matrix @ Affine2D.translation(x, y))
            element = self.tree.linked(element)
        return []

    def _shape(self, chain: list[tuple[Any, Context]]) -> list[tuple[Draw, Clip | None]]:
        """The shape at a chain's end, within the clips of the uses that lead to it."""
        element, context = chain[-1]
        if context.computed("visibility") in ("hidden", "collapse") or not context.matrix.invertible:
            return []
        shape = read_shape(element, context.measure)
        if shape is None:
            return []
        self.count()
        key = self.table.add(element, shape.property, shape.value, None)
        rule = "evenodd" if context.computed("clip-rule") == "evenodd" else "nonzero"
        draw = Draw(Geometry(shape.kind, key, shape.commands), context.matrix, fill_rule=rule)
        clip: Clip | None = None
        for one, around in chain:
            clip = both(self.of(one, around, lambda: [draw]), clip)
        return [(draw, clip)]


def both(clip: Clip | None, other: Clip | None) -> Clip | None:
    """What shows through two clips."""
    if clip is None or other is None:
        return clip or other
    return replace(clip, clip=both(clip.clip, other))


def _box(
    draws: list[Draw], matrix: Affine2D, parameters: Mapping[str, Parameter]
) -> tuple[float, float, float, float] | None:
    """The box of all outlines in the user space of `matrix`, or None where it has no area."""
    if not draws:
        return None
    back = matrix.inverse()
    table = np.array([outline_box(draw, back, parameters) for draw in draws])
    (left, top), (right, bottom) = table[:, :2].min(0), table[:, 2:].max(0)
    return (float(left), float(top), float(right), float(bottom)) if right > left and bottom > top else None


def outline_box(draw: Draw, matrix: Affine2D, parameters: Mapping[str, Parameter]) -> tuple[float, float, float, float]:
    """The box around a drawn outline's own box, under a further matrix from page px (as resvg has it)."""
    parameter = parameters[draw.geometry.key]
    shape = Shape(draw.geometry.kind, parameter.value, parameter.property, draw.geometry.commands)
    left, top, right, bottom = shape.bounds()
    to_there = matrix @ draw.matrix
    corners = [to_there.apply(x, y) for x in (left, right) for y in (top, bottom)]
    (xs, ys) = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)
