"""Fills and strokes of a shape: from inherited text to the model."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from svg.model import Draw, Geometry, Gradient, GroupName, Paint, Solid, Stroke, Texture
from svg.parse.context import CONSTANT, Context
from svg.parse.css import Cascade
from svg.parse.gradients import GRADIENTS, Gradients, gradient_chain, in_box
from svg.parse.parameters import ParameterTable
from svg.parse.shapes import Shape
from svg.parse.values import LIMIT, color, fraction, number, paint
from svg.parse.xml import Tree, tag

Side = Literal["fill", "stroke"]
TextureOf = Callable[[str, Shape, Context], Texture]


class PaintResolver:
    """Reads paints into the table."""

    def __init__(self, tree: Tree, cascade: Cascade, table: ParameterTable, texture: TextureOf) -> None:
        """texture: the pattern that a paint's text refers to, for the outline and the state that it is painted in."""
        self.tree, self.cascade, self.table, self.texture = tree, cascade, table, texture
        self.gradients = Gradients(tree, cascade, table)

    def draw(self, element: Any, shape: Shape, context: Context, opacity: str | None) -> Draw | None:
        """A painted outline, or None where nothing of it can be seen.

        opacity: the key of the element's own opacity; it stands in for a lone paint's where that is 1.
        """
        fill = self._paint(element, "fill", shape, context) if shape.kind != "line" else None
        stroke = self._stroke(element, shape, context)
        if fill is None and stroke is None:
            return None
        if opacity is not None and (fill is None) != (stroke is None):
            if fill is not None and self._is_one(fill[1]):
                fill = (fill[0], opacity)
            elif stroke is not None and self._is_one(stroke.opacity):
                stroke = replace(stroke, opacity=opacity)
        px = context.matrix.scale
        key = self.table.add(element, shape.property, shape.value, "points", px)
        if shape.flat() and any(self._of_box(context.computed(side)) for side in ("fill", "stroke")):
            self.table.freeze(key)  # the gradient would appear as soon as the outline gets an area
        order = context.computed("paint-order").split()
        return Draw(
            geometry=Geometry(shape.kind, key, shape.commands),
            matrix=context.matrix,
            fill=fill[0] if fill else None,
            fill_opacity=fill[1] if fill else None,
            fill_rule="evenodd" if context.computed("fill-rule") == "evenodd" else "nonzero",
            stroke=stroke,
            stroke_first="stroke" in order
            and (order.index("stroke") < order.index("fill") if "fill" in order else True),
        )

    def is_pattern(self, text: str) -> bool:
        """Whether a paint is a pattern."""
        found = self._referred(text)
        return found is not None and tag(found) == "pattern"

    def _of_box(self, text: str) -> bool:
        """Whether a paint is a gradient or, it may be, a pattern that is measured in the outline's box."""
        found = self._referred(text)
        gradient = found is not None and tag(found) in GRADIENTS
        return in_box(gradient_chain(self.tree, found)) if gradient else self.is_pattern(text)

    def _referred(self, text: str) -> Any:
        """The element that a paint refers to, or None."""
        known = paint(text or "none")
        return self.tree.ids.get(known.target[1:]) if known and known.target.startswith("#") else None

    def _is_one(self, key: str) -> bool:
        return bool(self.table.parameters[key].value == 1)

    def _paint(self, element: Any, side: Side, shape: Shape, context: Context) -> tuple[Paint, str] | None:
        """A paint and the key of its opacity, or None for none."""
        text = context.computed(side) or ("black" if side == "fill" else "none")
        known = paint(text)
        if known is None or known.kind == "none":
            return None
        if self.is_pattern(text):
            return self.texture(text, shape, context), self._opacity(element, f"{side}-opacity", context)
        if known.kind == "reference":
            gradient = self._gradient(known.target, shape, context)
            if gradient is None:
                fallback = paint(known.fallback)
                return (
                    None
                    if fallback is None or fallback.kind == "none"
                    else self._solid(element, side, fallback, context)
                )
            key = self._opacity(element, f"{side}-opacity", context)
            if len(gradient.stops) == 1:
                stop = gradient.stops[0]
                if self._is_one(key):
                    return Solid(stop.color), stop.opacity
                if self._is_one(stop.opacity):
                    return Solid(stop.color), key
            return gradient, key
        return self._solid(element, side, known, context)

    def _gradient(self, target: str, shape: Shape, context: Context) -> Gradient | None:
        found = self.tree.ids.get(target[1:]) if target.startswith("#") else None
        if found is None or tag(found) not in GRADIENTS:
            return None
        gradient = self.gradients.read(found, context.viewport, context.font_size, context.matrix.scale)
        flat = gradient is not None and gradient.units == "objectBoundingBox" and shape.flat()
        return None if flat else gradient

    def _solid(self, element: Any, side: Side, known: Any, context: Context) -> tuple[Paint, str]:
        """A color; its alpha becomes part of the opacity."""
        rgb, alpha, owner, name = known.rgb, known.alpha, context.owner_of(side), side
        if known.kind == "current":
            rgb, alpha = color(context.computed("color") or "black") or ((0.0, 0.0, 0.0), 1.0)
            if owner is None and context.owner_of("color") is not None:
                owner, name = context.owner_of("color"), "color"
        group: GroupName = "fills" if side == "fill" else "strokes"
        # of a color that nobody but this element's draws can hold, the alpha is written beside it
        beside = element if owner is None else None
        key = self._add(element, owner, name, rgb, group)
        opacity = self._opacity(element, f"{side}-opacity", context, alpha, beside)
        if alpha != 1:
            self.table.link(key, opacity)
        return Solid(key), opacity

    def _opacity(self, element: Any, name: str, context: Context, alpha: float = 1.0, beside: Any = None) -> str:
        """An inherited opacity times `alpha`; owned by `beside` where alpha is not 1."""
        value = fraction(context.computed(name))
        owner = context.owner_of(name)
        if alpha != 1 and beside is not None and owner is not CONSTANT:
            owner = beside
        return self._add(element, owner, name, (1.0 if value is None else value) * alpha, "opacities")

    def _add(self, element: Any, owner: Any, name: str, value: Any, group: GroupName, px: float = 1.0) -> str:
        if owner is CONSTANT:
            return self.table.add(element, name, value, None, px)
        return self.table.add(element if owner is None else owner, name, value, group, px)

    def _stroke(self, element: Any, shape: Shape, context: Context) -> Stroke | None:
        painted = (
            self._paint(element, "stroke", shape, context) if context.computed("stroke", "none") != "none" else None
        )
        width = context.measure(context.computed("stroke-width") or "1", "r")
        if painted is None or width is None or width <= 0:
            return None
        key = self._add(
            element, context.owner_of("stroke-width"), "stroke-width", width, "widths", context.matrix.scale
        )
        limit = number(context.computed("stroke-miterlimit"))
        offset = context.measure(context.computed("stroke-dashoffset") or "0", "r") or 0.0
        return Stroke(
            paint=painted[0],
            opacity=painted[1],
            width=key,
            cap=_CAPS.get(context.computed("stroke-linecap"), "butt"),
            join=_JOINS.get(context.computed("stroke-linejoin"), "miter"),
            miter_limit=4.0 if limit is None else max(limit, 1.0),
            dashes=_dashes(context),
            dash_offset=offset if abs(offset) <= LIMIT else 0.0,
        )


_CAPS: dict[str, Literal["butt", "round", "square"]] = {"round": "round", "square": "square"}
_JOINS: dict[str, Literal["miter", "round", "bevel"]] = {"round": "round", "bevel": "bevel"}


def _dashes(context: Context) -> tuple[float, ...]:
    """Lengths of dashes and gaps, in pairs; nothing for a solid line."""
    text = context.computed("stroke-dasharray", "none")
    found = [context.measure(part, "r") for part in text.replace(",", " ").split()]
    dashes = [float(v) for v in found if v is not None and 0 <= v <= LIMIT]
    if len(dashes) != len(found) or sum(dashes) <= 0:
        return ()
    return tuple(dashes * (1 + len(dashes) % 2))
