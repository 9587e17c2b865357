"""Transform lists, view boxes and how they fit into a viewport: texts that become affine maps.

Every reader returns None for text that is not valid: SVG then treats the attribute as if it were not there.
"""

import math
import re
from functools import lru_cache

from svg.model import IDENTITY, Affine2D
from svg.parse.values import NUMBER, UNITS, number

FUNCTION = re.compile(r"[\s,]*([a-zA-Z]+)\s*\(([^()]*)\)[\s,]*")
ARGUMENT = re.compile(rf"[\s,]*({NUMBER})([a-z]*)")
ANGLES = {"": 1.0, "deg": 1.0, "grad": 0.9, "rad": 180 / math.pi, "turn": 360.0}
ALIGN = {"Min": 0.0, "Mid": 0.5, "Max": 1.0}

Box = tuple[float, float, float, float]  # x, y, width, height


@lru_cache(4096)
def transform(text: str) -> Affine2D | None:
    """A transform list, of the attribute or of the CSS property with px and angles."""
    matrix, position = IDENTITY, 0
    if text.strip() in ("", "none"):
        return matrix
    while position < len(text):
        match = FUNCTION.match(text, position)
        step = _function(match[1], match[2]) if match else None
        if match is None or step is None:
            return None
        matrix, position = matrix @ step, match.end()
    return matrix


def _function(name: str, arguments: str) -> Affine2D | None:
    """One function of a transform list."""
    values, position = [], 0
    angular = name in ("rotate", "skewX", "skewY", "skew")
    while match := ARGUMENT.match(arguments, position):
        factor = (ANGLES if angular and not values else UNITS).get(match[2])
        if factor is None:
            return None
        values.append(float(match[1]) * factor)
        position = match.end()
    if arguments[position:].strip():
        return None
    match name, values:
        case "matrix", [a, b, c, d, e, f]:
            return Affine2D(a, b, c, d, e, f)
        case "translate" | "translateX", [x]:
            return Affine2D.translation(x, 0.0)
        case "translate", [x, y]:
            return Affine2D.translation(x, y)
        case "translateY", [y]:
            return Affine2D.translation(0.0, y)
        case "scale", [x]:
            return Affine2D.scaling(x, x)
        case "scale", [x, y]:
            return Affine2D.scaling(x, y)
        case "scaleX", [x]:
            return Affine2D.scaling(x, 1.0)
        case "scaleY", [y]:
            return Affine2D.scaling(1.0, y)
        case "rotate", [angle]:
            return Affine2D.rotation(angle)
        case "rotate", [angle, x, y]:
            return about(x, y, Affine2D.rotation(angle))
        case "skewX", [angle]:
            return Affine2D(c=math.tan(math.radians(angle)))
        case "skewY", [angle]:
            return Affine2D(b=math.tan(math.radians(angle)))
    return None


def about(x: float, y: float, matrix: Affine2D) -> Affine2D:
    """A map with its origin at x, y."""
    return Affine2D.translation(x, y) @ (matrix @ Affine2D.translation(-x, -y))


def view_box(text: str) -> Box | None:
    """Four numbers of any size and sign."""
    parts = [number(part) for part in re.split(r"\s*,\s*|\s+", text.strip())]
    x, y, w, h = parts if len(parts) == 4 else (None,) * 4
    return None if x is None or y is None or w is None or h is None else (x, y, w, h)


def fit(box: Box, width: float, height: float, aspect: str | None) -> Affine2D:
    """From a view box to a viewport of this size, by the words of preserveAspectRatio."""
    x, y, w, h = box
    sx, sy = width / w, height / h
    words = (aspect or "xMidYMid").replace("defer", "").split() or ["xMidYMid"]
    if words[0] == "none":
        return Affine2D.onto_box(-x * sx, -y * sy, sx, sy)
    name = re.fullmatch(r"x(Min|Mid|Max)Y(Min|Mid|Max)", words[0])
    across, down = (ALIGN[name[1]], ALIGN[name[2]]) if name else (0.5, 0.5)
    s = max(sx, sy) if words[1:2] == ["slice"] else min(sx, sy)
    return Affine2D.onto_box((width - w * s) * across - x * s, (height - h * s) * down - y * s, s, s)
