"""What the tests of svg/ compare with: resvg's image of a document, and the model written as a plain SVG."""

import base64
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lxml import etree
from PIL import Image

from svg.document import Document
from svg.model import Affine2D, Clip, Draw, Gradient, Group, Paint, StaticPart, Texture
from svg.parse.paths import path_text

DATA = Path(__file__).parent / "data/svg"
DRAWINGS = sorted((DATA / "drawings").glob("*.svg"))  # one feature each; 64 x 64 px but for those on sizes
HEAD = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
COLORS = ("fill", "stroke", "color", "stop-color")
FRACTIONS = ("opacity", "fill-opacity", "stroke-opacity", "stop-opacity")
RED = np.array([1.0, 0.0, 0.0])


def svg(body: str, attributes: str = 'width="64" height="64"') -> bytes:
    """A document."""
    return f"{HEAD} {attributes}>{body}</svg>".encode()


def box(attributes: str) -> str:
    """A rectangle."""
    return f'<rect x="8" y="8" width="40" height="30" {attributes}/>'


def drawn_by_resvg(data: bytes, side: int = 128, background: str | None = None) -> np.ndarray:
    """(side, side, 4), premultiplied RGBA in [0, 1]."""
    resvg_py = pytest.importorskip("resvg_py")
    more = {} if background is None else {"background": background}
    png = resvg_py.svg_to_bytes(svg_string=data.decode(), width=side, height=side, dpi=96.0, **more)
    rgba = np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA")) / 255
    return np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], -1)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """At most 100 dB."""
    return -10 * math.log10(max(float(((a - b) ** 2).mean()), 1e-10))


def elements(data: bytes) -> list[Any]:
    """All elements of a document, by an independent reading of it."""
    return list(etree.fromstring(data).iter("*"))


class Redraw:
    """Writes the model as a plain SVG: page matrices, resolved paints, no style, no use. An oracle for the parser."""

    def __init__(self, document: Document) -> None:
        self.document, self.defs, self.count = document, [], 0

    def page(self) -> bytes:
        body = self.node(self.document.root)
        w, h = self.document.width, self.document.height
        size = f'width="{w}" height="{h}" viewBox="0 0 {w} {h}"'
        return f"{HEAD} {size}><defs>{''.join(self.defs)}</defs>{body}</svg>".encode()

    def value(self, key: str) -> np.ndarray:
        return self.document.parameters[key].value

    def define(self, tag: str, attributes: str, body: str) -> str:
        self.count += 1
        self.defs.append(f'<{tag} id="r{self.count}" {attributes}>{body}</{tag}>')
        return f"url(#r{self.count})"

    def node(self, node: Group | Draw | StaticPart) -> str:
        if isinstance(node, StaticPart):
            data = base64.b64encode(node.svg).decode()
            size = f'width="{self.document.width}" height="{self.document.height}"'
            return f'<image {size} href="data:image/svg+xml;base64,{data}"/>'
        if isinstance(node, Draw):
            return f"<path {self.outline(node)} {self.paints(node)}/>"
        body = "".join(self.node(child) for child in node.children)
        opacity = "" if node.opacity is None else f'opacity="{float(self.value(node.opacity))}"'
        return f"<g {opacity} {self.clip(node.clip)}>{body}</g>"

    def clip(self, clip: Clip | None) -> str:
        if clip is None:
            return ""
        parts = [f'<path {self.outline(d)} clip-rule="{d.fill_rule}" {self.around(d, c)}/>' for d, c in clip.draws]
        return f'clip-path="{self.define("clipPath", self.clip(clip.clip), "".join(parts))}"'

    def around(self, draw: Draw, clip: Clip | None) -> str:
        """A clip in page px on an element that has a matrix of its own: put the inverse on the clip path."""
        if clip is None:
            return ""
        back = np.linalg.inv(draw.matrix.rows)
        numbers = " ".join(str(float(v)) for v in back[:2].T.ravel())
        name = self.clip(clip)[len('clip-path="url(#') : -2]
        where = next(i for i, text in enumerate(self.defs) if f'id="{name}"' in text)
        self.defs[where] = self.defs[where].replace("<clipPath ", f'<clipPath transform="matrix({numbers})" ', 1)
        return f'clip-path="url(#{name})"'

    def outline(self, draw: Draw) -> str:
        matrix = " ".join(str(v) for v in draw.matrix)
        v = self.value(draw.geometry.key)
        kind = draw.geometry.kind
        if kind == "path":
            text = path_text(draw.geometry.commands, v, 9)
        elif kind == "line":
            text = f"M{v[0]} {v[1]}L{v[2]} {v[3]}"
        else:
            text = rounded(kind, v)
        return f'd="{text}" transform="matrix({matrix})" fill-rule="{draw.fill_rule}"'

    def paints(self, draw: Draw) -> str:
        found = {
            "paint-order": "stroke" if draw.stroke_first else "normal",
            "fill": self.paint(draw.fill, draw.matrix),
            "fill-opacity": 1.0 if draw.fill_opacity is None else float(self.value(draw.fill_opacity)),
        }
        if (stroke := draw.stroke) is not None:
            found |= {
                "stroke": self.paint(stroke.paint, draw.matrix),
                "stroke-opacity": float(self.value(stroke.opacity)),
                "stroke-width": float(self.value(stroke.width)),
                "stroke-linecap": stroke.cap,
                "stroke-linejoin": stroke.join,
                "stroke-miterlimit": stroke.miter_limit,
                "stroke-dashoffset": stroke.dash_offset,
                "stroke-dasharray": " ".join(map(str, stroke.dashes)) or "none",
            }
        return " ".join(f'{name}="{value}"' for name, value in found.items())

    def paint(self, paint: Paint | None, frame: Affine2D) -> str:
        if paint is None:
            return "none"
        if isinstance(paint, Texture):  # the page's image, as a pattern of one tile
            w, h = self.document.width, self.document.height
            back = " ".join(str(float(v)) for v in np.linalg.inv(frame.rows)[:2].T.ravel())
            attributes = f'patternUnits="userSpaceOnUse" width="{w}" height="{h}" patternTransform="matrix({back})"'
            return self.define("pattern", attributes, self.node(StaticPart(paint.svg, "pattern")))
        if not isinstance(paint, Gradient):
            return hexadecimal(self.value(paint.key))
        names = ("x1", "y1", "x2", "y2") if paint.kind == "linear" else ("cx", "cy", "r", "fx", "fy", "fr")
        attributes = " ".join(f'{n}="{float(x)}"' for n, x in zip(names, self.value(paint.key), strict=True))
        matrix = " ".join(str(x) for x in paint.matrix)
        attributes += (
            f' gradientUnits="{paint.units}" spreadMethod="{paint.spread}" gradientTransform="matrix({matrix})"'
        )
        stops = [(self.value(s.offset), self.value(s.color), self.value(s.opacity)) for s in paint.stops]
        body = "".join(
            f'<stop offset="{float(o)}" stop-color="{hexadecimal(c)}" stop-opacity="{float(a)}"/>' for o, c, a in stops
        )
        return self.define(f"{paint.kind}Gradient", attributes, body)


def hexadecimal(color: np.ndarray) -> str:
    return "#" + "".join(f"{round(float(v) * 255):02x}" for v in color)


def rounded(kind: str, v: np.ndarray) -> str:
    """Path data of a rect, circle or ellipse, by arcs."""
    if kind == "rect":
        x, y, w, h, rx, ry = (float(n) for n in v)
        if rx == 0 or ry == 0:
            return f"M{x} {y}h{w}v{h}h{-w}z"
        corners = [f"a{rx} {ry} 0 0 1 {dx} {dy}" for dx, dy in ((rx, ry), (-rx, ry), (-rx, -ry), (rx, -ry))]
        a, b = w - 2 * rx, h - 2 * ry
        return f"M{x + rx} {y}h{a}{corners[0]}v{b}{corners[1]}h{-a}{corners[2]}v{-b}{corners[3]}z"
    cx, cy, rx, ry = (float(n) for n in (v if len(v) == 4 else (*v, v[2])))
    return f"M{cx + rx} {cy}A{rx} {ry} 0 0 1 {cx - rx} {cy}A{rx} {ry} 0 0 1 {cx + rx} {cy}z"
