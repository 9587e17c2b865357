"""What an element knows from its ancestors while a document is read: matrix, inherited style, viewport, owners."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from svg.model import IDENTITY, Affine2D
from svg.parse.css import FONT_SIZES, INHERITED, Declaration, variables
from svg.parse.transforms import about, fit, transform, view_box
from svg.parse.values import length
from svg.parse.variables import Variables

CONSTANT = "constant"  # the owner of what cannot be written without changing something else

Inherited = Mapping[str, tuple[str, Any]]  # property -> text and owner (None: whoever is drawn)


@dataclass(frozen=True)
class Context:
    """The state at one place of the drawing.

    An owner other than None is where an inherited property is to be written: at the `use` through which it comes
    into a subtree that may be drawn several times, or nowhere (CONSTANT).
    """

    viewport: tuple[float, float]
    matrix: Affine2D = IDENTITY  # user units -> page px
    style: Inherited = ()  # pyright: ignore[reportAssignmentType]
    owner: Any = None  # of what has no declaration
    font_size: float = 16.0
    uses: tuple[Any, ...] = ()  # the elements drawn through `use`, outermost first
    variables: Variables = field(default_factory=dict)

    def computed(self, name: str, default: str = "") -> str:
        """A property's computed value here, as text."""
        return self.style[name][0] if name in self.style else default

    def owner_of(self, name: str) -> Any:
        """Where a property is written: None for the drawn element."""
        return self.style[name][1] if name in self.style else self.owner

    def within(self, declared: Mapping[str, Declaration], attributes: Mapping[str, str]) -> "Context":
        """The state of an element: its own properties and its transform."""
        style, font_size = self.style, self.font_size
        own = [(n, s.value) for n, s in declared.items() if n in INHERITED and s.value not in _INHERIT]
        if own:
            style = dict(style)
            for name, value in own:
                if value == "initial":
                    style[name] = ("", None)
                elif name == "font-size":
                    font_size = FONT_SIZES.get(value) or length(value, font_size, font_size) or font_size
                    style[name] = (f"{font_size!r}px", None)
                else:
                    style[name] = (value, None)
        inner = replace(self, style=style, font_size=font_size, variables=variables(declared, self.variables))
        matrix = self.element_matrix(declared, attributes, font_size)
        return inner if matrix is IDENTITY else replace(inner, matrix=self.matrix @ matrix)

    def element_matrix(
        self, declared: Mapping[str, Declaration], attributes: Mapping[str, str], font_size: float
    ) -> Affine2D:
        """The transform of an element, by CSS or by attribute, about its transform-origin."""
        text = declared["transform"].value if "transform" in declared else attributes.get("transform")
        matrix = transform(text.strip()) if text else None
        if matrix is None or matrix == IDENTITY:
            return IDENTITY
        declaration = declared.get("transform-origin")
        if declaration is None:
            return matrix
        names = {"left": "0%", "top": "0%", "center": "50%", "right": "100%", "bottom": "100%"}
        words = declaration.value.split()
        if words[:1] in (["top"], ["bottom"]) or words[1:2] in (["left"], ["right"]):
            words[:2] = [*words[1:2], words[0]] if len(words) > 1 else ["center", words[0]]
        words = [names.get(word, word) for word in [*words, "center"][:2]]
        x, y = (length(w, v, font_size) for w, v in zip(words, self.viewport, strict=True))
        if x is None or y is None:
            return matrix
        return about(x, y, matrix)

    def given_to(self, owner: Any) -> "Context":
        """The same state, where what is inherited so far is written at `owner`."""
        style = {name: (text, owner if old is None else old) for name, (text, old) in self.style.items()}
        return replace(self, style=style, owner=owner if self.owner is None else self.owner)

    def measure(self, text: str, axis: str) -> float | None:
        """A length in user units; percentages are of the viewport's width (x), height (y) or diagonal."""
        width, height = self.viewport
        reference = width if axis == "x" else height if axis == "y" else math.hypot(width, height) / math.sqrt(2)
        return length(text, reference, self.font_size)


_INHERIT = ("inherit", "unset", "revert")


@dataclass(frozen=True)
class Viewport:
    """Where a nested svg or a symbol is drawn, in the user units around it."""

    x: float
    y: float
    width: float
    height: float

    def enter(self, context: Context, box: str | None, aspect: str | None) -> Context | None:
        """The state inside, or None where nothing can be seen."""
        if self.width <= 0 or self.height <= 0:
            return None
        matrix, size = Affine2D.translation(self.x, self.y), (self.width, self.height)
        shown = view_box(box) if box else None
        if shown is not None:
            if min(shown[2:]) <= 0:
                return None
            matrix, size = matrix @ fit(shown, *size, aspect), (shown[2], shown[3])
        return replace(context, matrix=context.matrix @ matrix, viewport=size)


def start(size: tuple[float, float]) -> Context:
    """The state around the root."""
    return Context(size, style={})
