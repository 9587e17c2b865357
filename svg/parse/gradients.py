"""Gradients: from the elements of a chain of hrefs to the model."""

from typing import Any, Literal

from svg.model import Gradient, Stop
from svg.parse.css import Cascade
from svg.parse.parameters import Ledger
from svg.parse.values import colour, fraction, invertible, length, scale, transform
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
    """The element of a chain that says a coordinate, or None: only gradients of the same kind pass them on."""
    for element in chain:
        if tag(element) != tag(chain[0]):
            return None
        if element.get(name) is not None:
            return element
    return None


class Gradients:
    """Reads gradients into the ledger."""

    def __init__(self, tree: Tree, cascade: Cascade, ledger: Ledger) -> None:
        self.tree, self.cascade, self.ledger = tree, cascade, ledger

    def read(self, element: Any, viewport: tuple[float, float], font_size: float, px: float) -> Gradient | None:
        """The gradient, or None where it has no stops. px: page px for a user unit of what it paints."""
        chain = gradient_chain(self.tree, element)
        matrix = transform(_said(chain, "gradientTransform", ""))
        box = in_box(chain)
        stops = self._stops(chain, px)
        if not stops or (matrix is not None and not invertible(matrix)):
            return None
        numbers = _geometry(chain, None if box else viewport, font_size)
        matrix = matrix or (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)
        linear = tag(element) == "linearGradient"
        empty = numbers[:2] == numbers[2:] if linear else numbers[2] <= 0
        if empty or len(stops) == 1:  # painted with the last stop's colour
            stops = stops[-1:]
        size = px * scale(matrix) * (max(viewport) if box else 1.0)
        key = self.ledger.add(element, "gradient", numbers, None if len(stops) == 1 else "gradients", size)
        spread = _said(chain, "spreadMethod", "pad")
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
                rgb, alpha = self._colour(stop)
                said = self.cascade(stop).get("stop-opacity")
                opacity = fraction(said.value) if said else None
                opacity = 1.0 if opacity is None else opacity
                add = self.ledger.add
                keys = Stop(
                    add(stop, "offset", lowest, "gradients", 100 * px),
                    add(stop, "stop-color", rgb, "gradients"),
                    add(stop, "stop-opacity", opacity * alpha, "gradients"),
                )
                if alpha != 1:
                    self.ledger.link(keys.color, keys.opacity)
                stops.append(keys)
            if stops:
                break
        return stops

    def _colour(self, stop: Any) -> tuple[tuple[float, float, float], float]:
        """A stop's colour and alpha."""
        black = ((0.0, 0.0, 0.0), 1.0)
        name, at = "stop-color", stop
        while at is not None:
            said = self.cascade(at).get(name)
            if said is not None and said.value.lower() == "currentcolor":
                name = "color"
                said = self.cascade(at).get(name)
            if said is not None and said.value not in ("inherit", "unset", "revert"):
                return colour(said.value) or black
            if said is None and name == "stop-color":
                return black
            at = at.getparent()
        return black


_SPREADS: dict[str, Literal["pad", "reflect", "repeat"]] = {"pad": "pad", "reflect": "reflect", "repeat": "repeat"}


def in_box(chain: list[Any]) -> bool:
    """Whether a gradient's coordinates are fractions of the outline's box."""
    return _said(chain, "gradientUnits", "") != "userSpaceOnUse"


def _said(chain: list[Any], name: str, default: str) -> str:
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
