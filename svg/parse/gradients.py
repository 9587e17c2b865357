"""Gradients: from the elements of a chain of hrefs to the model."""

from typing import Any, Literal

from svg.model import IDENTITY, Gradient, Stop
from svg.parse.css import Cascade
from svg.parse.parameters import ParameterTable
from svg.parse.transforms import transform
from svg.parse.values import color, fraction, length
from svg.parse.xml import Tree, tag

GRADIENTS = ("linearGradient", "radialGradient")
GEOMETRY = {
    "linearGradient": {"x1": "0%", "y1": "0%", "x2": "100%", "y2": "0%"},
    "radialGradient": {"cx": "50%", "cy": "50%", "r": "50%", "fx": "", "fy": "", "fr": "0%"},
}


def gradient_chain(tree: Tree, element: Any) -> list[Any]:
    """The gradient and those that it takes from by href, nearest first."""
    chain: list[Any] = []
    while element is not None and tag(element) in GRADIENTS and element not in chain:
        chain.append(element)
        element = tree.linked(element)
    return chain


def geometry_source(chain: list[Any], name: str) -> Any:
    """The element of a chain that has a coordinate, or None: only gradients of the same kind pass them on."""
    for element in chain:
        if tag(element) != tag(chain[0]):
            return None
        if element.get(name) is not None:
            return element
    return None


class Gradients:
    """Reads gradients into the table."""

    def __init__(self, tree: Tree, cascade: Cascade, table: ParameterTable) -> None:
        self.tree, self.cascade, self.table = tree, cascade, table

    def read(self, element: Any, viewport: tuple[float, float], font_size: float, px: float) -> Gradient | None:
        """The gradient, or None where it has no stops. px: page px for a user unit of what it paints."""
        chain = gradient_chain(self.tree, element)
        matrix = transform(_attribute(chain, "gradientTransform", ""))
        box = in_box(chain)
        stops = self._stops(chain, px)
        if not stops or (matrix is not None and not matrix.invertible):
            return None
        numbers = _geometry(chain, None if box else viewport, font_size)
        matrix = matrix or IDENTITY
        linear = tag(element) == "linearGradient"
        empty = numbers[:2] == numbers[2:] if linear else numbers[2] <= 0
        if empty or len(stops) == 1:  # painted with the last stop's color
            stops = stops[-1:]
        size = px * matrix.scale * (max(viewport) if box else 1.0)
        key = self.table.add(element, "gradient", numbers, None if len(stops) == 1 else "gradients", size)
        spread = _attribute(chain, "spreadMethod", "pad")
        return Gradient(
            kind="linear" if linear else "radial",
            key=key,
            stops=tuple(stops),
            units="objectBoundingBox" if box else "userSpaceOnUse",
            matrix=matrix,
            spread=_SPREADS.get(spread, "pad"),
        )

    def _stops(self, chain: list[Any], px: float) -> list[Stop]:
        """The stops of the first gradient in the chain that has some."""
        stops, lowest = [], 0.0
        for element in chain:
            for stop in element.iterchildren("*"):
                if tag(stop) != "stop":
                    continue
                offset = fraction(stop.get("offset", "0")) or 0.0
                lowest = max(lowest, offset)
                rgb, alpha = self._color(stop)
                declaration = self.cascade(stop).get("stop-opacity")
                opacity = fraction(declaration.value) if declaration else None
                opacity = 1.0 if opacity is None else opacity
                add = self.table.add
                keys = Stop(
                    add(stop, "offset", lowest, "gradients", 100 * px),
                    add(stop, "stop-color", rgb, "gradients"),
                    add(stop, "stop-opacity", opacity * alpha, "gradients"),
                )
                if alpha != 1:
                    self.table.link(keys.color, keys.opacity)
                stops.append(keys)
            if stops:
                break
        return stops

    def _color(self, stop: Any) -> tuple[tuple[float, float, float], float]:
        """A stop's color and alpha."""
        black = ((0.0, 0.0, 0.0), 1.0)
        name, at = "stop-color", stop
        while at is not None:
            declaration = self.cascade(at).get(name)
            if declaration is not None and declaration.value.lower() == "currentcolor":
                name = "color"
                declaration = self.cascade(at).get(name)
            if declaration is not None and declaration.value not in ("inherit", "unset", "revert"):
                return color(declaration.value) or black
            if declaration is None and name == "stop-color":
                return black
            at = at.getparent()
        return black


_SPREADS: dict[str, Literal["pad", "reflect", "repeat"]] = {"pad": "pad", "reflect": "reflect", "repeat": "repeat"}


def in_box(chain: list[Any]) -> bool:
    """Whether a gradient's coordinates are fractions of the outline's box."""
    return _attribute(chain, "gradientUnits", "") != "userSpaceOnUse"


def _attribute(chain: list[Any], name: str, default: str) -> str:
    """An attribute of the first gradient in the chain that has it."""
    for element in chain:
        if (value := element.get(name)) is not None:
            return value.strip()
    return default


def _geometry(chain: list[Any], viewport: tuple[float, float] | None, font_size: float) -> list[float]:
    """The coordinates in the order of model.Parameter; of the unit box where there is no viewport."""
    width, height = viewport or (1.0, 1.0)
    diagonal = ((width**2 + height**2) / 2) ** 0.5
    found: dict[str, float] = {}
    for name, default in GEOMETRY[tag(chain[0])].items():
        reference = width if "x" in name else height if "y" in name else diagonal
        source = geometry_source(chain, name)
        value = length(source.get(name), reference, font_size) if source is not None else None
        if value is None:
            value = found[f"c{name[1]}"] if name in ("fx", "fy") else length(default, reference)
        found[name] = value or 0.0
    if "fr" in found:
        found["fr"] = max(found["fr"], 0.0)
    return list(found.values())


def gradient_texts(chain: list[Any]) -> tuple[str, ...]:
    """The names of a gradient's coordinates, in the order of model.Parameter."""
    return tuple(GEOMETRY[tag(chain[0])])
