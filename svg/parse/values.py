"""The small languages inside SVG's attributes: numbers, lengths, transforms, view boxes, colours and paints.

Every reader returns None for text that is not valid: SVG then treats the attribute as if it were not there.
"""

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from cpds.errors import MissingExtra
from svg.model import IDENTITY, Matrix

NUMBER = r"[+-]?(?:\d++\.?\d*+|\.\d++)(?:[eE][+-]?\d++)?"
LIMIT = 1e9  # larger numbers lose all precision in 32 bits, and their squares overflow
NUMBERS = re.compile(NUMBER)
LENGTH = re.compile(rf"\s*({NUMBER})\s*(%|[a-zA-Z]*)\s*")
FUNCTION = re.compile(r"[\s,]*([a-zA-Z]+)\s*\(([^()]*)\)[\s,]*")
ARGUMENT = re.compile(rf"[\s,]*({NUMBER})([a-z]*)")
URL = re.compile(r"""\s*url\(\s*(?:"([^"]*)"|'([^']*)'|([^)\s]*))\s*\)\s*(.*)""", re.S)
UNITS = {"": 1.0, "px": 1.0, "in": 96.0, "cm": 96 / 2.54, "mm": 9.6 / 2.54, "q": 2.4 / 2.54, "pt": 4 / 3, "pc": 16.0}
ANGLES = {"": 1.0, "deg": 1.0, "grad": 0.9, "rad": 180 / math.pi, "turn": 360.0}
ALIGN = {"Min": 0.0, "Mid": 0.5, "Max": 1.0}

RGB = tuple[float, float, float]


def number(text: str) -> float | None:
    """A plain number, or None."""
    text = text.strip()
    return float(text) if NUMBERS.fullmatch(text) else None


def fraction(text: str) -> float | None:
    """An opacity or an offset: a number or a percentage, clamped to [0, 1]."""
    value = length(text, 1.0) if text.strip().endswith("%") else number(text)
    return None if value is None else min(max(value, 0.0), 1.0)


def length(text: str, reference: float, font_size: float = 16.0) -> float | None:
    """A length in px; percentages are of `reference`."""
    if not (match := LENGTH.fullmatch(text)):
        return None
    value, unit = float(match[1]), match[2].lower()
    if unit == "%":
        return value * reference / 100
    relative = {"em": font_size, "ex": font_size / 2, "ch": font_size / 2, "rem": 16.0}
    factor = UNITS.get(unit) or relative.get(unit)
    return None if factor is None else value * factor


def plain(value: float, decimals: int) -> str:
    """The shortest text of a number at so many decimals: no exponent, no trailing zeros."""
    text = f"{value:.{decimals}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def product(m: Matrix, n: Matrix) -> Matrix:
    """The matrix that applies n, then m."""
    a, b, c, d, e, f = m
    p, q, r, s, t, u = n
    return (a * p + c * q, b * p + d * q, a * r + c * s, b * r + d * s, a * t + c * u + e, b * t + d * u + f)


def inverse(m: Matrix) -> Matrix:
    """The inverse of a matrix that has one."""
    a, b, c, d, e, f = m
    det = a * d - b * c
    return (d / det, -b / det, -c / det, a / det, (c * f - d * e) / det, (b * e - a * f) / det)


def invertible(m: Matrix) -> bool:
    """Whether anything can be seen through this matrix."""
    return abs(m[0] * m[3] - m[1] * m[2]) > 1e-18


def scale(m: Matrix) -> float:
    """How much a matrix stretches, at most about."""
    return max(math.hypot(m[0], m[1]), math.hypot(m[2], m[3]))


def translation(x: float, y: float) -> Matrix:
    """A shift."""
    return (1.0, 0.0, 0.0, 1.0, x, y)


@lru_cache(4096)
def transform(text: str) -> Matrix | None:
    """A transform list, of the attribute or of the CSS property with px and angles."""
    matrix, position = IDENTITY, 0
    if text.strip() in ("", "none"):
        return matrix
    while position < len(text):
        match = FUNCTION.match(text, position)
        step = _function(match[1], match[2]) if match else None
        if match is None or step is None:
            return None
        matrix, position = product(matrix, step), match.end()
    return matrix


def _function(name: str, arguments: str) -> Matrix | None:
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
            return (a, b, c, d, e, f)
        case "translate" | "translateX", [x]:
            return translation(x, 0.0)
        case "translate", [x, y]:
            return translation(x, y)
        case "translateY", [y]:
            return translation(0.0, y)
        case "scale", [x]:
            return (x, 0.0, 0.0, x, 0.0, 0.0)
        case "scale", [x, y]:
            return (x, 0.0, 0.0, y, 0.0, 0.0)
        case "scaleX", [x]:
            return (x, 0.0, 0.0, 1.0, 0.0, 0.0)
        case "scaleY", [y]:
            return (1.0, 0.0, 0.0, y, 0.0, 0.0)
        case "rotate", [angle]:
            return _rotation(angle)
        case "rotate", [angle, x, y]:
            return product(translation(x, y), product(_rotation(angle), translation(-x, -y)))
        case "skewX", [angle]:
            return (1.0, 0.0, math.tan(math.radians(angle)), 1.0, 0.0, 0.0)
        case "skewY", [angle]:
            return (1.0, math.tan(math.radians(angle)), 0.0, 1.0, 0.0, 0.0)
    return None


def _rotation(degrees: float) -> Matrix:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (c, s, -s, c, 0.0, 0.0)


Box = tuple[float, float, float, float]  # x, y, width, height


def view_box(text: str) -> Box | None:
    """Four numbers of any size and sign."""
    parts = [number(part) for part in re.split(r"\s*,\s*|\s+", text.strip())]
    x, y, w, h = parts if len(parts) == 4 else (None,) * 4
    return None if x is None or y is None or w is None or h is None else (x, y, w, h)


def fit(box: Box, width: float, height: float, aspect: str | None) -> Matrix:
    """From a view box to a viewport of this size, by the words of preserveAspectRatio."""
    x, y, w, h = box
    sx, sy = width / w, height / h
    words = (aspect or "xMidYMid").replace("defer", "").split() or ["xMidYMid"]
    if words[0] == "none":
        return (sx, 0.0, 0.0, sy, -x * sx, -y * sy)
    name = re.fullmatch(r"x(Min|Mid|Max)Y(Min|Mid|Max)", words[0])
    across, down = (ALIGN[name[1]], ALIGN[name[2]]) if name else (0.5, 0.5)
    s = max(sx, sy) if words[1:2] == ["slice"] else min(sx, sy)
    return (s, 0.0, 0.0, s, (width - w * s) * across - x * s, (height - h * s) * down - y * s)


@lru_cache(4096)
def colour(text: str) -> tuple[RGB, float] | None:
    """sRGB and alpha, each in [0, 1]; currentColor and mistakes give None."""
    try:
        from tinycss2 import color4
    except ImportError as err:
        raise MissingExtra("SVG needs tinycss2, which is not installed: pip install -e '.[svg]'") from err
    found = color4.parse_color(text)
    if found is None or isinstance(found, str):
        return None
    try:
        srgb: Any = found.to("srgb")
    except NotImplementedError:  # lab and its kin, which resvg does not know either
        return None
    r, g, b = (min(max(float(v or 0), 0.0), 1.0) for v in srgb.coordinates)
    return (r, g, b), min(max(float(srgb.alpha or 0), 0.0), 1.0)


@dataclass(frozen=True)
class PaintText:
    """What a fill or a stroke says: nothing, a colour, the current colour, or a reference with a fallback."""

    kind: Literal["none", "colour", "current", "reference"]
    rgb: RGB = (0.0, 0.0, 0.0)
    alpha: float = 1.0
    target: str = ""
    fallback: str = "none"


@lru_cache(4096)
def paint(text: str) -> PaintText | None:
    """Read a fill or a stroke. context-fill and context-stroke (of markers) paint nothing here."""
    text = text.strip()
    if text.lower() in ("none", "context-fill", "context-stroke"):
        return PaintText("none")
    if text.lower() == "currentcolor":
        return PaintText("current")
    if match := URL.fullmatch(text):
        fallback = match[4].strip() or "none"
        known = paint(fallback)
        target = match[1] or match[2] or match[3] or ""
        return PaintText("reference", target=target, fallback=fallback if known else "none")
    found = colour(text)
    return None if found is None else PaintText("colour", *found)


def reference(text: str) -> str | None:
    """The id that `url(#id)` names in this document, or None."""
    match = URL.match(text)
    target = (match[1] or match[2] or match[3] or "") if match else ""
    return target[1:] if target.startswith("#") else None
