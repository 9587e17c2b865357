"""The small languages inside SVG's attributes: numbers, lengths, colors and paints.

Every reader returns None for text that is not valid: SVG then treats the attribute as if it were not there.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from cpds.errors import MissingExtra

NUMBER = r"[+-]?(?:\d++\.?\d*+|\.\d++)(?:[eE][+-]?\d++)?"
LIMIT = 1e9  # larger numbers lose all precision in 32 bits, and their squares overflow
NUMBERS = re.compile(NUMBER)
LENGTH = re.compile(rf"\s*({NUMBER})\s*(%|[a-zA-Z]*)\s*")
URL = re.compile(r"""\s*url\(\s*(?:"([^"]*)"|'([^']*)'|([^)\s]*))\s*\)\s*(.*)""", re.S)
UNITS = {"": 1.0, "px": 1.0, "in": 96.0, "cm": 96 / 2.54, "mm": 9.6 / 2.54, "q": 2.4 / 2.54, "pt": 4 / 3, "pc": 16.0}

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


@lru_cache(4096)
def color(text: str) -> tuple[RGB, float] | None:
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
    """The value of a fill or a stroke: nothing, a color, the current color, or a reference with a fallback."""

    kind: Literal["none", "color", "current", "reference"]
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
    found = color(text)
    return None if found is None else PaintText("color", *found)


def reference(text: str) -> str | None:
    """The id that `url(#id)` names in this document, or None."""
    match = URL.match(text)
    target = (match[1] or match[2] or match[3] or "") if match else ""
    return target[1:] if target.startswith("#") else None
