"""The SVG parser and writer against resvg: what a document draws, and what it draws after its numbers are rewritten."""

import base64
import gzip
import io
import time

import numpy as np
import pytest
from PIL import Image

from cpds.errors import InputError
from svg.document import Document
from svg.model import POINTS, Affine2D, Clip, Draw, Gradient, Group, Paint, StaticPart, Texture, draws
from svg.parse.paths import arc, path_text, read_path

resvg_py = pytest.importorskip("resvg_py")

HEAD = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
COLORS = ("fill", "stroke", "color", "stop-color")
SHARES = ("opacity", "fill-opacity", "stroke-opacity", "stop-opacity")


def svg(body: str, attributes: str = 'width="64" height="64"') -> bytes:
    return f"{HEAD} {attributes}>{body}</svg>".encode()


def box(attributes: str) -> str:
    return f'<rect x="8" y="8" width="40" height="30" {attributes}/>'


def image(data: bytes, side: int = 128) -> np.ndarray:
    """Premultiplied RGBA of resvg, 0 to 255."""
    png = resvg_py.svg_to_bytes(svg_string=data.decode(), width=side, height=side, dpi=96.0)
    rgba = np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA")).astype(float)
    return np.concatenate([rgba[..., :3] * rgba[..., 3:] / 255, rgba[..., 3:]], -1)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(((a - b) ** 2).mean(), 1e-9)))


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
        a, b, c, d, e, f = draw.matrix
        back = np.linalg.inv([[a, c, e], [b, d, f], [0, 0, 1]])
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
        order = "stroke" if draw.stroke_first else "normal"
        opacity = 1.0 if draw.fill_opacity is None else float(self.value(draw.fill_opacity))
        said = f'paint-order="{order}" fill="{self.paint(draw.fill, draw.matrix)}" fill-opacity="{opacity}"'
        if (s := draw.stroke) is not None:
            said += f' stroke="{self.paint(s.paint, draw.matrix)}" stroke-opacity="{float(self.value(s.opacity))}"'
            said += f' stroke-width="{float(self.value(s.width))}" stroke-linecap="{s.cap}" stroke-linejoin="{s.join}"'
            said += f' stroke-miterlimit="{s.miter_limit}" stroke-dashoffset="{s.dash_offset}"'
            said += f' stroke-dasharray="{" ".join(map(str, s.dashes)) or "none"}"'
        return said

    def paint(self, paint: Paint | None, frame: Affine2D) -> str:
        if paint is None:
            return "none"
        if isinstance(paint, Texture):  # the page's image, as a pattern of one tile
            w, h = self.document.width, self.document.height
            a, b, c, d, e, f = frame
            back = " ".join(str(float(v)) for v in np.linalg.inv([[a, c, e], [b, d, f], [0, 0, 1]])[:2].T.ravel())
            said = f'patternUnits="userSpaceOnUse" width="{w}" height="{h}" patternTransform="matrix({back})"'
            return self.define("pattern", said, self.node(StaticPart(paint.svg, "pattern")))
        if not isinstance(paint, Gradient):
            return hexadecimal(self.value(paint.key))
        names = ("x1", "y1", "x2", "y2") if paint.kind == "linear" else ("cx", "cy", "r", "fx", "fy", "fr")
        said = " ".join(f'{n}="{float(x)}"' for n, x in zip(names, self.value(paint.key), strict=True))
        matrix = " ".join(str(x) for x in paint.matrix)
        said += f' gradientUnits="{paint.units}" spreadMethod="{paint.spread}" gradientTransform="matrix({matrix})"'
        stops = [(self.value(s.offset), self.value(s.color), self.value(s.opacity)) for s in paint.stops]
        body = "".join(
            f'<stop offset="{float(o)}" stop-color="{hexadecimal(c)}" stop-opacity="{float(a)}"/>' for o, c, a in stops
        )
        return self.define(f"{paint.kind}Gradient", said, body)


def hexadecimal(color: np.ndarray) -> str:
    return "#" + "".join(f"{round(float(v) * 255):02x}" for v in color)


def rounded(kind: str, v: np.ndarray) -> str:
    """Path data of a rect, circle or ellipse, by arcs."""
    if kind == "rect":
        x, y, w, h, rx, ry = (float(n) for n in v)
        if rx == 0 or ry == 0:
            return f"M{x} {y}h{w}v{h}h{-w}z"
        turn = [f"a{rx} {ry} 0 0 1 {dx} {dy}" for dx, dy in ((rx, ry), (-rx, ry), (-rx, -ry), (rx, -ry))]
        a, b = w - 2 * rx, h - 2 * ry
        return f"M{x + rx} {y}h{a}{turn[0]}v{b}{turn[1]}h{-a}{turn[2]}v{-b}{turn[3]}z"
    cx, cy, rx, ry = (float(n) for n in (v if len(v) == 4 else (*v, v[2])))
    return f"M{cx + rx} {cy}A{rx} {ry} 0 0 1 {cx - rx} {cy}A{rx} {ry} 0 0 1 {cx + rx} {cy}z"


# name | attributes of the root (else 64 x 64 px), then the body; the model must draw what resvg draws from the file
DRAWINGS = r"""
== path, every command
<path d="M5 5h20v10H8V8zm30 0l9 9-9 9zM5 30c5-9 9 9 14 0s9 9 14 0q4-9 8 0t8 0M5 50a9 5 30 1 1 8 8z"/>
== arcs, all flags
<path d="M6 6a12 7 20 00 14 6L10 15z"/><path d="M6 38a12 7 20 01 14 6L10 47z"/><path d="M38 6a12 7 20 10 14 6L42
15z"/><path d="M38 38a12 7 20 11 14 6L42 47z"/>
== arc too small, arc of no radius
<path d="M5 30A2 1 0 0 1 50 30V50zM5 5A0 3 0 0 1 40 9V20z"/>
== path cut at its error
<path d="M5 5H50V50 x H0 V0"/><path d="M20 50 30 50 30 60 9"/>
== subpath goes on after Z
<path d="M5 5h20v20zl30 9v9z" stroke="red"/>
== rect, one radius, too large
<rect width="40" height="20" rx="50"/><rect y="30" width="40" height="20" ry="4" rx="auto"/>
== circle, ellipse, one radius
<circle cx="20" cy="20" r="9"/><ellipse cx="40" cy="40" ry="9"/>
== line, polyline, polygon
<g stroke="red" stroke-width="3"><line x1="5" x2="50" y2="20"/><polyline points="5,30 20 40,40 30"/><polygon points="5
50 20 60 40 50 7"/></g>
== no size, no drawing
<rect width="0" height="9"/><circle r="-4"/><path d=""/><polygon points="4 4"/>{BOX}/>
== units
<rect x="0.1in" y="2mm" width="10pt" height="2pc"/><circle cx="50%" cy="75%" r="10%"/>
== em
<g font-size="10"><rect width="2em" height="3ex" style="font-size:20px"/><circle cx="4em" cy="4em" r="1em"/></g>
== transforms
<g transform="translate(20 5) rotate(20) scale(.5,-.5) skewX(10)"><g transform="rotate(30,10 10)">{BOX}fill="red"
/></g></g>
== transform with an error
{BOX}transform="scale(.5) foo(3)" />
== transform that is singular
{BOX}transform="scale(0 1)" /><circle r="9"/>
== transform-origin
{BOX}transform="rotate(40)" transform-origin="20 30" />
== view box, meet | width="64" height="64" viewBox="-10 -20 40 60"
<circle r="9" cx="5"/>
== view box, slice | width="64" height="64" viewBox="-10 -20 40 60" preserveAspectRatio="xMaxYMin slice"
<circle r="9" cx="5"/>
== view box, none | width="64" height="64" viewBox="-10 -20 40 60" preserveAspectRatio="none"
<circle r="9" cx="5"/>
== one side from the other | width="96" viewBox="0 0 20 10"
<circle r="9" cx="5"/>
== no size at all |
{BOX}/><circle cx="9" cy="50" r="9"/>
== groups, a, unknown elements
<a><g fill="red">{BOX}/></g></a><b>{BOX}fill="blue" /></b><title>t</title>
== switch
<switch><foreignObject/><rect width="9" height="9" requiredExtensions="x"/>{BOX}/><circle r='9'/></switch>
== nested svg
<svg x="5" y="5" width="30" height="40" viewBox="0 0 10 10"><rect width="50%" height="20"/></svg>
== nested svg, visible
<svg x="5" y="5" width="10" height="10" overflow="visible">{BOX}/></svg>
== nested svg without a size
<svg x="4" viewBox="0 0 10 10"><circle r="9"/></svg>
== use
<defs><rect id="r" x="8" y="8" width="40" height="30"  /></defs><use href="#r" transform="scale(.5)" fill="red"/><use
xlink:href="#r" x="9" y="20" stroke="lime"/>
== use of a use
<defs><path id="p" d="M0 0h9v9z"/><use id="q" href="#p" x="9" fill="red"/><use id="r" href="#q" y="9" fill="blue"
stroke="lime"/></defs><use href="#q"/><use href="#r" y="9"/><use href="#r" x="20" y="20" transform="scale(1.5)"/>
== uses of uses that are drawn themselves
<g id="d"><g id="b"><path id="a" d="M20 5l5 9h-5z"/><use href="#a" transform="matrix(-1 0 0 1 40 0)"/></g><use id="e"
href="#b" transform="rotate(72 20 20)"/><use href="#e" transform="rotate(72 20 20)"/></g><use href="#e" x="20" y="20"
fill="red"/>
== use of a group, twice nested
<defs><g id="g"><circle id="c" r="8" cx="9" cy="9"/></g><g id="h"><use href="#g" x="20"/></g></defs><use href="#h"
y="3" opacity=".5"/><use href="#h" y="30" fill="blue"/>
== use of what is drawn itself
<g fill="red"><circle id="c" r="8" cx="9" cy="9"/></g><use href="#c" x="20"/>
== use of itself
<g id="g">{BOX}/><use href="#g"/></g><use id="u" href="#u"/><use href="#none"/>
== symbol
<symbol id="s" viewBox="0 0 10 10"><circle r="9"/></symbol><use href="#s" x="5" y="5" width="20" height="30"/>
== use of an svg
<defs><svg id="s" viewBox="0 0 10 10" width="9" height="9"><circle r="9"/></svg></defs><use href="#s" x="5" y="5"
width="20" height="30"/>
== cascade
<style>rect{fill:red;stroke:blue} .k{fill:lime!important} g>.k#i{fill:pink;stroke-width:5} @media
print{*{fill:red}}</style><g>{BOX}class="k" id="i" fill="black" style="fill:blue;stroke:red" /></g>
== style in a comment and CDATA
<style><![CDATA[/* x */ rect{fill:red}]]></style>{BOX}/>
== inherit, currentColor
<g color="red" fill="lime" stroke="currentColor">{BOX}color="blue" style="fill:inherit" /></g>
== invalid opacity, percentages
{BOX}opacity="x" /><circle r="20" fill="red" opacity="40%" fill-opacity="50%"/>
== fill-rule
<path fill-rule="evenodd" d="M5 5h50v50h-50zM20 20h20v20h-20z"/>
== colors with alpha
{BOX}fill="rgba(255,0,0,.5)" stroke="#00f8" stroke-width="5" fill-opacity=".7" />
== transparent
{BOX}fill="transparent" stroke="red" />
== opacity at every level
<g opacity=".7"><g opacity=".5">{BOX}opacity=".6" stroke="red" /></g><circle r="30"/></g>
== strokes
<g fill="none" stroke="red" stroke-width="6"><path d="M9 9h20l-9 9" stroke-linecap="round"
stroke-linejoin="round"/><path d="M9 30h20l-9 9" stroke-linecap="square" stroke-linejoin="bevel"/><path d="M40 30l5-20
5 20" stroke-miterlimit="2"/></g>
== dashes
<g fill="none" stroke="red" stroke-width="3"><path d="M2 9h60" stroke-dasharray="5 2 1" stroke-dashoffset="4"/><path
d="M2 19h60" stroke-dasharray="10%"/><path d="M2 29h60" stroke-dasharray="-4 2"/></g>
== paint-order
{BOX}paint-order="stroke" stroke="red" stroke-width="9" />
== linear gradient
{LINEAR}{BOX}fill="url(#a)" stroke="url(#a)" stroke-width="4" />
== gradient in user space
<linearGradient id="a" x1="25%" x2="40" y2="10" gradientUnits="userSpaceOnUse" gradientTransform="rotate(20)"
spreadMethod="reflect">{STOPS}</linearGradient>{BOX}fill="url(#a)" />
== radial gradient
<radialGradient id="a" cx=".4" r="40%" fx="30%" fy=".5" fr="5%"
spreadMethod="repeat">{STOPS}</radialGradient>{BOX}fill="url(#a)" />
== gradient from a gradient
<linearGradient id="b" x1=".2" gradientUnits="objectBoundingBox">{STOPS}</linearGradient><linearGradient id="a"
x2=".7" xlink:href="#b"/><radialGradient id="c" href="#b"/>{BOX}fill="url(#a)" /><circle cx="40" cy="50" r="9"
fill="url(#c)"/>
== gradient, offsets that fall
<linearGradient id="a"><stop offset=".6" stop-color="red"/><stop offset=".2" stop-color="lime"/><stop
offset="1"/></linearGradient>{BOX}fill="url(#a)" />
== gradients of one stop and none
<linearGradient id="a"><stop stop-color="red" stop-opacity=".5"/></linearGradient><linearGradient
id="b"/>{BOX}fill="url(#a)" />{BOX}transform="translate(20 20)" fill="url(#b) lime" />
== stops that share an offset at an end
<linearGradient id="a" x1=".3" x2=".7"><stop stop-color="red"/><stop stop-color="blue"/><stop offset="1"
stop-color="lime"/><stop offset="1" stop-color="black"/></linearGradient><radialGradient id="b" r=".3"><stop
offset="1" stop-color="red"/><stop offset="1" stop-color="blue"/></radialGradient>{BOX}fill="url(#a)" /><circle
cx="40" cy="50" r="12" fill="url(#b)"/>
== gradients of no length
<linearGradient id="a" x1=".5" x2=".5">{STOPS}</linearGradient><radialGradient id="b"
r="0">{STOPS}</radialGradient>{BOX}fill="url(#a)" /><circle cx="40" cy="50" r="9" fill="url(#b)"/>
== gradient on a flat line
{LINEAR}<path d="M5 30h50" stroke-width="9" stroke="url(#a) lime"/><path d="M5 50h50" stroke-width="9"
stroke="url(#a)"/>
== paints that refer to nothing
{BOX}fill="url(#none)" stroke="url(#none) red" />
== clip path
<clipPath id="c"><circle r="30"/><rect x="40" y="30" width="20" height="20" clip-path="url(#d)"/></clipPath><clipPath
id="d"><path d="M40 30h20v20z"/></clipPath>{BOX}clip-path="url(#c)" fill="red" />
== clip path with a clip path and a transform
<clipPath id="c" clip-path="url(#d)" transform="rotate(10)"><circle r="40"/></clipPath><clipPath id="d"><rect
width="20" height="20"/></clipPath><g transform="scale(1.2)" clip-path="url(#c)">{BOX}/></g>
== clip path of the box
<clipPath id="c" clipPathUnits="objectBoundingBox"><circle cx=".5" cy=".5" r=".4"/></clipPath><g
clip-path="url(#c)"><path d="M5 5c90 0 0 50 20 50z" transform="rotate(10)"/>{BOX}fill="red" /></g>
== clip path of uses
<defs><circle id="o" r="20"/><use id="p" href="#o" y="9"/></defs><clipPath id="c"><use href="#p" x="20"
y="9"/></clipPath>{BOX}clip-path="url(#c)" />
== clip-rule
<clipPath id="c"><path clip-rule="evenodd" d="M5 5h50v50h-50zM20 20h20v20h-20z"/></clipPath>{BOX}clip-path="url(#c)"
/>
== clip paths of nothing
<clipPath id="c"/>{BOX}clip-path="url(#c)" />{BOX}clip-path="url(#none)" fill="red" />
== display and visibility
<g visibility="hidden">{BOX}/><circle r="9" visibility="visible"/></g>{BOX}display="none" />
== gradient that is clipped and faint
{LINEAR}<clipPath id="c"><circle r="40"/></clipPath>{BOX}fill="url(#a)" clip-path="url(#c)" opacity=".5" />
== filter
<filter id="f"><feGaussianBlur stdDeviation="3"/></filter><g opacity=".5" transform="rotate(9)"
fill="red">{BOX}filter="url(#f)" />{BOX}transform="scale(.5)" /></g>
== mask
<mask id="m"><rect width="64" height="64" fill="#888"/></mask><g
mask="url(#m)">{BOX}/></g>{BOX}transform="translate(30)" />
== pattern
<style>.d{fill:red}</style><pattern id="p" width="9" height="9" patternUnits="userSpaceOnUse"><circle class="d"
r="6"/></pattern><g transform="scale(.8)">{BOX}fill="url(#p)" /></g><circle r="9"/>
== patterns of every measure, moved, faint, on strokes and with colors to fall back on
<pattern id="p" width=".2" height=".3"><circle r="6" fill="red"/></pattern><pattern id="q" width=".2" height=".2"
patternContentUnits="objectBoundingBox"><path d="M0 0h.1v.1z" fill="blue"/></pattern><pattern id="r" width="5"
height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(30)"><path d="M0 0h3v3z" fill="lime"/></pattern>
<pattern id="n"/><g transform="rotate(8)"><path d="M5 5h20c9 9 0 20-9 20z" fill="url(#p)" fill-opacity=".5"
stroke="red"/><path d="M35 5h20c9 9 0 20-9 20z" fill="url(#q)" stroke="url(#r)" stroke-width="4"/><path
d="M5 40h20v9z" fill="url(#n) blue" stroke="url(#r) red" opacity=".5" stroke-dasharray="4"/></g>
== a pattern on a flat line
<pattern id="p" width="4" height="4" patternUnits="userSpaceOnUse"><circle r="3" fill="red"/></pattern><path
d="M5 30h50" stroke-width="9" stroke="url(#p)"/><pattern id="q" width=".1" height=".1"><circle r="3"/></pattern><path
d="M5 50h50" stroke-width="9" stroke="url(#q)"/>
== markers
<marker id="m" orient="auto" markerWidth="4" markerHeight="4"><rect width="3" height="3" fill="lime"/></marker><g
style="marker-end:url(#m)" stroke="red" stroke-width="3"><path d="M5 5l30 30"/></g>{BOX}transform="translate(30)" />
== markers on what is faint, clipped, unpainted, moved and used
<marker id="m" orient="auto" markerWidth="4" markerHeight="4" viewBox="-2 -2 4 4"><rect x="-1" width="3" height="3"
fill="lime"/></marker><clipPath id="c"><rect width="64" height="30"/></clipPath><g style="marker:url(#m)"
stroke-width="3"><path id="p" d="M5 9h20v9l20 20" opacity=".5" stroke="red" clip-path="url(#c)"
transform="rotate(9)"/><polyline points="5,40 20,50 30,40" fill="none"/></g><use href="#p" y="20"
stroke="blue"/><rect width="9" height="9"/>
== markers in the colors of their shape, or below it
<marker id="m" markerWidth="4" markerHeight="4"><rect width="3" height="3" fill="context-stroke"/></marker><marker
id="n" markerWidth="4" markerHeight="4"><circle r="2" fill="lime"/></marker><g stroke="red" stroke-width="3"><path
marker-end="url(#m)" style="marker-end:url(#m)" d="M5 5l30 30"/><path d="M5 40h30" paint-order="markers"
style="marker-start:url(#n)"/></g>{BOX}transform="translate(30)" />
== image
<image width="30" height="30" href="data:image/svg+xml;utf8,&lt;svg xmlns='http://www.w3.org/2000/svg' width='9'
height='9'&gt;&lt;circle r='9'/&gt;&lt;/svg&gt;"/>{BOX}opacity=".4" />
== fixed parts in a use
<filter id="f"><feOffset dx="9"/></filter><symbol id="s" viewBox="0 0 10 10"><circle r="5"
filter="url(#f)"/></symbol><use href="#s" width="30" height="30" fill="red"/>{BOX}/>
== drawn in place and by several uses
<g fill="red" stroke="blue"><g id="g"><circle id="c" r="8" cx="9" cy="9"/></g></g><use href="#g" x="20"/>
<use href="#c" y="20" fill="lime" opacity=".5"/><g stroke-width="3"><use href="#g" x="20" y="30"/></g>
== currentColor and alpha through a use
<symbol id="s"><path d="M0 0h9v9z"/><path d="M9 9h9v9z" fill="currentColor"/></symbol>
<g color="red"><use href="#s"/><use href="#s" y="30" color="blue" fill="rgba(0,255,0,.5)" fill-opacity=".5"/></g>
== alpha that is inherited
<g fill="#f008"><path d="M0 0h9v9z"/><path d="M20 0h9v9z" fill-opacity=".5"/></g>
<defs><path id="p" d="M0 20h9v9z" fill-opacity=".3"/></defs><use href="#p" fill="#00f8"/>
== rules and uses
<style>.a{fill:red}.b .a{stroke:blue;stroke-opacity:.5}</style><defs><g id="p"><path class="a" d="M0 20h9v9z"/></g>
</defs>
<g class="b"><use href="#p"/></g><use href="#p" x="20"/><g class="b"><path class="a" d="M40 40h9v9z"/></g>
== a chain of radial gradients
<linearGradient id="a"><stop stop-color="#f008"/><stop offset="1" stop-color="currentColor" color="lime"/>
</linearGradient>
<radialGradient id="b" href="#a" cx=".3"/><radialGradient id="c" href="#b" fy=".6"/>{BOX}fill="url(#a)" />
{BOX}fill="url(#b)" transform="translate(9 9)" />{BOX}fill="url(#c)" stroke="url(#b)" transform="translate(14 20)" />
== a prefix for svg
<s:rect xmlns:s="http://www.w3.org/2000/svg" width="9" height="9"/><s:g xmlns:s="http://www.w3.org/2000/svg" fill="red">
<s:circle cx="30" cy="30" r="9"/></s:g>
"""
SHORT = {
    "{LINEAR}": '<linearGradient id="a">{STOPS}</linearGradient>',
    "{STOPS}": '<stop offset="10%" stop-color="red"/><stop offset=".9" stop-color="blue" stop-opacity=".5"/>',
    "{BOX}": '<rect x="8" y="8" width="40" height="30" ',
}


def drawings() -> dict[str, bytes]:
    """Name -> document of the table above."""
    found = {}
    for entry in DRAWINGS.split("\n== ")[1:]:
        title, _, body = entry.partition("\n")
        name, bar, attributes = title.partition(" | ")
        for short, long in SHORT.items():
            body = body.replace(short, long)
        attributes = attributes if bar or title.endswith(" |") else 'width="64" height="64"'
        found[name.removesuffix(" |")] = svg(body, attributes)
    return found


FILES = drawings()


def perturbed(document: Document, seed: int = 0) -> dict[str, np.ndarray]:
    """Other values for everything that can be edited, of the kind that a file can hold."""
    rng, values = np.random.default_rng(seed), {}
    for key, parameter in document.parameters.items():
        v, name = parameter.value, parameter.property
        if parameter.group is None:
            continue
        new = v + rng.uniform(-1, 1, v.shape) * (0.01 + 0.05 * np.abs(v).max())
        if name in COLORS:
            new = rng.integers(0, 256, 3) / 255
        elif name in SHARES:
            new = np.array(rng.uniform(0.1, 0.9))
        elif name == "offset":
            new = v * 0.8 + 0.1
        elif name == "stroke-width":
            new = v * rng.uniform(0.8, 1.2)
        elif name == "rect":
            new[2:] = v[2:] * rng.uniform(1, 1.1, 4)
            new[4:] = np.minimum(new[4:], new[2:4] / 2)
        elif name in ("circle", "ellipse"):
            new[2:] = v[2:] * rng.uniform(0.9, 1.1, len(v) - 2)
        elif name == "gradient" and len(v) == 6:
            new[[2, 5]] = v[[2, 5]] * 1.1
        values[key] = np.asarray(new)
    return values


@pytest.mark.parametrize("name", FILES)
def test_the_model_draws_what_resvg_draws(name: str) -> None:
    data = FILES[name]
    document = Document.parse(data)
    assert psnr(image(data), image(Redraw(document).page())) > 42


@pytest.mark.parametrize("name", FILES)
def test_written_values_are_read_back_and_nothing_else_changes(name: str) -> None:
    data = FILES[name]
    document = Document.parse(data)
    assert document.write() == data
    assert document.write({k: p.value for k, p in document.parameters.items()}) == data
    values = perturbed(document)
    again = Document.parse(document.write(values))
    assert list(again.parameters) == list(document.parameters)
    for key, parameter in again.parameters.items():
        wanted = values.get(key, document.parameters[key].value)
        tolerance = 1 / 500 if parameter.property in COLORS else 1e-3
        np.testing.assert_allclose(parameter.value, wanted, atol=tolerance, err_msg=key)
    untouched = [{k: v for k, v in e.attrib.items() if k not in WRITTEN} for e in document._tree.path]
    assert untouched == [{k: v for k, v in e.attrib.items() if k not in WRITTEN} for e in again._tree.path]
    assert [e.tag for e in document._tree.path] == [e.tag for e in again._tree.path]


WRITTEN = {
    *("d points style x y width height rx ry cx cy r fx fy fr x1 y1 x2 y2 offset stroke-width".split()),  # noqa: SIM905
    *COLORS,
    *SHARES,
}


@pytest.mark.parametrize("name", FILES)
def test_rewriting_every_number_keeps_the_drawing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = FILES[name]
    document = Document.parse(data)
    monkeypatch.setattr(type(document._writer), "differs", lambda *_: True)
    rewritten = document.write({k: p.value for k, p in document.parameters.items() if p.group})
    assert psnr(image(data), image(rewritten)) > 42


def deep(n: int) -> str:
    return "<g>" * n + '<rect width="9" height="9"/>' + "</g>" * n


OUTSIDE = b'<!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
TENFOLD = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))
LAUGHS = f'<!DOCTYPE svg [<!ENTITY a0 "ha">{TENFOLD}]>'.encode()
USES = '<path id="u0" d="M0 0h9v9z"/>' + "".join(
    f'<g id="u{i}">' + f'<use href="#u{i - 1}"/>' * 10 + "</g>" for i in range(1, 9)
)
BAD = {
    "empty": (b"  ", "is empty"),
    "not text": (svg("<desc>\xe9</desc>" + box("")).decode().encode("latin-1"), "not text in utf-8 from byte 112 on"),
    "not XML": (b"hello", "not well-formed XML"),
    "PNG": (b"\x89PNG\r\n\x1a\n....", "is a PNG image, not an SVG"),
    "PDF": (b"%PDF-1.4 ...", "is a PDF document, not an SVG"),
    "packed PNG": (gzip.compress(b"\x89PNG\r\n\x1a\n...."), "is a PNG image, not an SVG"),
    "packed twice": (gzip.compress(gzip.compress(svg(box("")))), "packed twice"),
    "HTML": (b"<!DOCTYPE html>\n<html><head><meta charset=utf-8></head>", "is an HTML page, not an SVG"),
    "undeclared entity": (svg("<desc>\n&nbsp;</desc>" + box("")), "uses the entity &nbsp; but .* \\(line 2\\)"),
    "undeclared entity, foreign DTD": (
        b'<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://x/svg11.dtd">' + svg('<g id="&eacute;"/>' + box("")),
        "uses the entity &eacute; but",
    ),
    "lone ampersand": (svg("<desc>cats & dogs</desc>" + box("")), "has an & that begins no entity"),
    "unclosed": (b"<svg xmlns='http://www.w3.org/2000/svg'>\n<g></svg>", "line 2"),
    "another root": (b"<div xmlns='urn:x'/>", "root element div, not svg"),
    "another namespace": (b"<svg xmlns='urn:x'><path d='M0 0h9v9z'/></svg>", "root element svg, not svg"),
    "external entity": (OUTSIDE + svg("<g>&a;</g>"), "entity"),
    "external entity, unused": (
        OUTSIDE + svg("<g/>"),
        "entity 'a'",
    ),
    "external parameter entity": (b'<!DOCTYPE svg [<!ENTITY % a SYSTEM "http://x/y"> %a;]>' + svg(""), "entity"),
    "laughs": (LAUGHS + svg("<text>&a11;</text>"), "expand"),
    "laughs in an attribute": (
        LAUGHS + svg('<g id="&a11;"/>'),
        "expand",
    ),
    "laughs, unused": (LAUGHS + svg("<g/>"), "expands to"),
    "entity with elements": (b'<!DOCTYPE svg [<!ENTITY a "<g/>">]>' + svg("&a;"), "elements in the entity 'a'"),
    "view box of no size": (svg("<rect/>", 'viewBox="0 0 0 10"'), "viewBox '0 0 0 10'"),
    "view box below zero": (svg("<rect/>", 'viewBox="0 0 10 -1"'), "viewBox"),
    "view box of words": (svg("<rect/>", 'viewBox="0 0 NaN 3"'), "viewBox"),
    "view box of infinity": (svg("<rect/>", 'viewBox="0 0 1e999 3"'), "viewBox of <svg>"),
    "view box too large": (svg("<rect/>", 'viewBox="0 0 1e30 3"'), "viewBox"),
    "page of no size": (svg("<rect/>", 'width="0" height="4"'), "width '0'"),
    "infinite path": (svg('<path id="p" d="M0 0L1e400 3z"/>'), 'd of <path id="p"> on line 1'),
    "infinite width": (svg('<path style="stroke-width:1e99" d="M0 0L3 3z"/>'), "style of <path>"),
    "huge transform": (
        svg('<g transform="scale(9e8)"><g transform="scale(9e8)">' + box("") + "</g></g>"),
        "transform of",
    ),
    "nothing drawn": (svg("<title>t</title>"), "no shape that can be edited"),
    "only text": (svg("<text>t</text><text>u</text>"), "only 1 text element|only 2 text elements"),
    "deep": (svg(deep(400)), "deep"),
    "deeper": (svg(deep(5000)), "deep"),
    "deep by use": (
        svg(
            "".join(f'<symbol id="u{i}"><use href="#u{i - 1}"/></symbol>' for i in range(1, 600))
            + '<circle id="u0"/><use href="#u599"/>'
        ),
        "deep",
    ),
    "use of use of use": (svg(USES), "draws more than 100000"),
    "chain of clip paths": (
        svg(
            "".join(f'<clipPath id="c{i}" clip-path="url(#c{i + 1})"><circle r="9"/></clipPath>' for i in range(300))
            + box('clip-path="url(#c0)"')
        ),
        "chain of clip paths",
    ),
    "broken gzip": (gzip.compress(svg(box("")))[:-20], "gzip"),
    "changed gzip": (gzip.compress(svg(box("")))[:-8] + b"12345678", "damaged: its gzip data is cut short or changed"),
    "huge laughs": (LAUGHS + svg(f'<g id="{"x" * 10_000_000}"/><text>&a6;</text>' + box("")), "10 MB|expand"),
    "huge laughs, hidden": (
        b"<!DOCTYPE svg [<!ENTITY % a \"<!ENTITY b '"
        + b"b" * 99_000
        + b"'>\"> %a;]>"
        + svg(f'<g id="{"x" * 10_000_000}"/>' + "&b;" * 2000 + box("")),
        "10 MB|expand|DTD|entit|PEReference|well-formed",
    ),
    "gzip of too much": (gzip.compress(b" " * 60_000_000), "unpacks to more than 50 MB"),
    "unknown encoding": (b'<?xml version="1.0" encoding="klingon"?>' + svg(box("")), "klingon"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gives_one_sentence_in_time(name: str) -> None:
    data, message = BAD[name]
    start = time.perf_counter()
    with pytest.raises(InputError, match=message) as caught:
        Document.parse(data)
    assert time.perf_counter() - start < 5
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


RED = np.array([1.0, 0.0, 0.0])
# body; key, value; what the body becomes: only the value's own text changes
CHANGES = [
    # an attribute, in its own quotes, with everything around it
    ("<!-- a --><path  fill = 'blue'\n id='p' d='M0 0h9v9z' x:y='1'/>", "0:fill", RED, {"'blue'": "'#ff0000'"}),
    # a declaration of the style attribute, the others verbatim
    (
        '<path d="M0 0h9v9z" style=" fill : blue ;stroke:url(&quot;#a;b&quot;);opacity:1"/>',
        "0:fill",
        RED,
        {"fill : blue ": "fill : #ff0000 "},
    ),
    # importance stays
    ('<path d="M0 0h9v9z" style="fill:blue!important"/>', "0:fill", RED, {"blue!": "#ff0000 !"}),
    # a rule overrides attributes: the style attribute is needed
    (
        '<style>path{fill:blue}</style><path fill="lime" d="M0 0h9v9z"/>',
        "1:fill",
        RED,
        {'9z"': '9z" style="fill:#ff0000"'},
    ),
    (
        '<style>path{fill:blue!important}</style><path d="M0 0h9v9z" style="opacity:.5"/>',
        "1:fill",
        RED,
        {"opacity:.5": "opacity:.5;fill:#ff0000 !important"},
    ),
    # a default, and an inherited value: the attribute is added to the shape
    ('<path d="M0 0h9v9z" />', "0:fill-opacity", np.array(0.25), {'9z"': '9z" fill-opacity="0.25"'}),
    ('<g fill="blue"><path d="M0 0h9v9z"/></g>', "0/0:fill", RED, {'9z"': '9z" fill="#ff0000"'}),
    # one number of several
    ('<circle cx="1in" r="10%"/>', "0:circle", np.array([9.5, 0, 6.4]), {'"1in"': '"9.5"', '%"': '%"'}),
    ('<path d="m0 0h9v9z"/>', "0:d", np.array([(0, 0), (9, 0), (9, 8.25)]), {"m0 0h9v9z": "M0 0L9 0L9 8.25Z"}),
    ('<polygon points="0 0 9 0 9 9"/>', "0:points", np.array([(0, 0), (9, 0), (9, 8)]), {"0 0 9 0 9 9": "0,0 9,0 9,8"}),
    # alpha leaves the color for the opacity
    (
        '<path d="M0 0h9v9z" fill="rgba(0,0,255,.5)"/>',
        "0:fill",
        RED,
        {"rgba(0,0,255,.5)": "#ff0000", '"/': '" fill-opacity="0.5"/'},
    ),
    (
        '<path d="M0 0h9v9z" fill="rgba(0,0,255,.5)"/>',
        "0:fill-opacity",
        np.array(0.75),
        {"rgba(0,0,255,.5)": "#0000ff", '"/': '" fill-opacity="0.75"/'},
    ),
    # what comes through a use is written on the use
    (
        '<defs><path id="p" d="M0 0h9v9z"/></defs><use href="#p" fill="blue"/><use href="#p"/>',
        "1:fill",
        RED,
        {'"blue"': '"#ff0000"'},
    ),
    (
        '<defs><path id="p" d="M0 0h9v9z" fill="currentColor"/></defs><g color="blue"><use href="#p"/></g>',
        "1/0:color",
        RED,
        {'"#p"/': '"#p" color="#ff0000"/'},
    ),
    # but what the used subtree says itself is said there, once
    (
        '<defs><g id="p" fill="blue"><path d="M0 0h9v9z"/></g></defs><use href="#p"/><use href="#p"/>',
        "0/0/0:fill",
        RED,
        {'9z"': '9z" fill="#ff0000"'},
    ),
]


@pytest.mark.parametrize(("body", "key", "value", "changes"), CHANGES)
def test_only_the_changed_value_is_written(body: str, key: str, value: np.ndarray, changes: dict[str, str]) -> None:
    attributes = 'width="64" height="64" xmlns:x="urn:x" color="#000000"'
    document = Document.parse(svg(body, attributes))
    for old, new in changes.items():
        body = body.replace(old, new)
    assert document.write({key: value}).decode() == svg(body, attributes).decode()


def test_gradients_that_inherit_a_coordinate_keep_it() -> None:
    body = f'<linearGradient id="a" x1=".2">{SHORT["{STOPS}"]}</linearGradient><linearGradient id="b" href="#a"/>'
    document = Document.parse(svg(body + box('fill="url(#a)"') + box('fill="url(#b)"')))
    moved = document.parameters["0:gradient"].value + 0.1
    again = Document.parse(document.write({"0:gradient": moved}))
    np.testing.assert_allclose(again.parameters["0:gradient"].value, moved)
    np.testing.assert_allclose(again.parameters["1:gradient"].value, [0.2, 0, 1, 0])


@pytest.mark.parametrize(
    ("body", "key"),
    [
        # drawn in place and by use: its color comes from two places
        ('<g fill="red"><circle id="c" r="8"/></g><use href="#c"/>', "0/0:fill"),
        # half of two different viewports
        (
            '<symbol id="s"><rect width="50%" height="9"/></symbol><use href="#s" width="9"/><use href="#s"/>',
            "0/0:rect",
        ),
        # a clip path
        ('<clipPath id="c"><circle r="9"/></clipPath>' + box('clip-path="url(#c)"'), "0/0:circle"),
    ],
)
def test_what_cannot_be_written_is_a_constant(body: str, key: str) -> None:
    document = Document.parse(svg(body))
    parameter = document.parameters[key]
    assert parameter.group is None
    with pytest.raises(ValueError, match=key):
        document.write({key: parameter.value + 1})


@pytest.mark.parametrize(
    "bad", [{"0:fill": np.array([np.nan, 0, 0])}, {"0:fill": np.zeros(4)}, {"9:fill": np.zeros(3)}]
)
def test_bad_values_are_named(bad: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Document.parse(svg(box(""))).write(bad)


PROLOGUE = """<?xml version="1.0" encoding="{}"?>
<!-- Generator: "x" [y] > -->
<?xml-stylesheet href="none.css"?>
<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd" [
  <!-- ]> "' -->
  <!ENTITY ns_svg "http://www.w3.org/2000/svg"> <!ENTITY blue "fill:blue;"> <!ENTITY who "&#233;t&#233; &amp; co">
]>
<svg xmlns="&ns_svg;" xmlns:i="urn:ink" i:version='1 > 0' width="64" height="64">
<metadata><i:a i:b="<"/> été </metadata>
  <title>&who; <![CDATA[<g>]]></title><path style="&blue;" d="M0 0h9v9z"/></svg>
<!-- end -->
""".replace('"<"', '"&lt;"')


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "iso-8859-1", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"]
)
def test_the_prologue_survives(encoding: str) -> None:
    text = PROLOGUE.format(encoding.removesuffix("-sig"))
    document = Document.parse(text.encode(encoding))
    written = document.write({"2:fill": RED}).decode(encoding)
    assert written == text.replace('style="&blue;"', 'style="fill:#ff0000;"')


def test_files_are_opened_from_disk_plain_or_packed(tmp_path) -> None:
    data = svg(box(""))
    for name, content in (("a.svg", data), ("a.svgz", gzip.compress(data))):
        (tmp_path / name).write_bytes(content)
        assert Document.open(tmp_path / name).write() == data
    for bad, message in ((tmp_path / "b.svg", "no file"), (tmp_path, "folder")):
        with pytest.raises(InputError, match=message):
            Document.open(bad)


def test_owners_are_found_by_id_and_class() -> None:
    document = Document.parse(svg('<g id="hat" class="a b"><path d="M0 0h9v9z" id="p"/></g><circle r="4"/>'))
    found = {n: {k[0] for k, p in document.parameters.items() if document.matches(p, [n])} for n in MATCHES}
    assert found == MATCHES


MATCHES = {"hat": {"0"}, "#hat": {"0"}, ".a": {"0"}, "b": {"0"}, "p": {"0"}, ".hat": set(), "c": set()}


@pytest.mark.parametrize(
    ("body", "note"),
    [
        ("<text>a</text><text>b</text>", "2 text elements"),
        ('<use href="http://x/y.svg#a"/>', "1 reference to another document"),
        ('<image href="file:///etc/passwd" width="9" height="9"/>', "1 reference to another document"),
        ('<rect width="9" height="9" style="mix-blend-mode:multiply"/>', "1 blend mode"),
        ("<script>x</script>", "scripts"),
        ('<g onclick="x"/>', "scripts"),
        ("<animate/>", "animations"),
    ],
)
def test_what_is_not_edited_is_named(body: str, note: str) -> None:
    document = Document.parse(svg(body + box("")))
    assert note in document.notes
    assert note in (document.warning() or "")
    assert Document.parse(svg(box(""))).warning() is None


def test_nothing_remote_reaches_resvg() -> None:
    body = (
        '<filter id="f"><feImage href="file:///etc/passwd"/></filter><g filter="url(#f)"><image href="//x/y.png"/></g>'
    )
    fixed = Document.parse(svg(body + box(""))).root.children[0]
    assert isinstance(fixed, StaticPart)
    assert b"passwd" not in fixed.svg
    assert b"y.png" not in fixed.svg


@pytest.mark.parametrize("sweep", [0, 1])
@pytest.mark.parametrize("large", [0, 1])
def test_arcs_stay_on_their_ellipse(large: int, sweep: int) -> None:
    start, end, rx, ry, degrees = (1.0, 2.0), (4.0, 3.0), 3.0, 2.0, 30.0
    at, points = np.array(start), [np.array(start)]
    for cubic in arc(start, (rx, ry), degrees, bool(large), bool(sweep), end):
        p = np.array([*at, *cubic]).reshape(4, 2)
        t = np.linspace(0, 1, 20)[:, None]
        points += list((1 - t) ** 3 * p[0] + 3 * (1 - t) ** 2 * t * p[1] + 3 * (1 - t) * t**2 * p[2] + t**3 * p[3])
        at = p[3]
    np.testing.assert_allclose(at, end)
    turn = np.radians(degrees)
    unit = np.array(points) @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) / [rx, ry]
    # three points give the center, all others must lie on the unit circle around it
    a, b, c = unit[0], unit[len(unit) // 3], unit[-1]
    center = np.linalg.solve(2 * np.array([b - a, c - a]), [b @ b - a @ a, c @ c - a @ a])
    np.testing.assert_allclose(np.linalg.norm(unit - center, axis=1), 1, atol=3e-3)
    angles = np.unwrap(np.arctan2(*(unit - center).T[::-1]))
    assert (abs(angles[-1] - angles[0]) > np.pi) == bool(large)
    assert (angles[-1] > angles[0]) == bool(sweep)


def test_paths_are_read_up_to_their_error_in_absolute_commands() -> None:
    commands, points = read_path("m1 1 2 0v3Hz")
    assert commands == "MLL"
    assert points.tolist() == [[1, 1], [3, 1], [3, 4]]
    assert len(points) == sum(POINTS[c] for c in commands)


@pytest.mark.parametrize("opening", ["<svg ", '<svg xmlns:s="http://www.w3.org/2000/svg" ', "<svg xlink:x='1' "])
def test_a_missing_namespace_is_added_in_memory_and_told(opening: str) -> None:
    text = f"<!-- <svg> -->{opening}width='64' height='64'><path d='M0 0h9v9z' fill='blue'/></svg>"
    document = Document.parse(text.encode())
    assert "its svg element lacks xmlns" in (document.warning() or "")
    assert 'xmlns="http://www.w3.org/2000/svg"' in (document.warning() or "")
    assert document.write() == text.encode()
    assert document.write({"0:fill": RED}).decode() == text.replace("blue", "#ff0000")  # nothing that is not the user's
    if "xlink" not in opening:
        assert psnr(image(text.encode()), image(Redraw(document).page())) > 42
    assert Document.parse(svg(box(""))).warning() is None


def test_uses_in_a_ring_end() -> None:
    body = '<g id="a"><path d="M9 9h9v9z"/><use href="#b" x="9"/></g><g id="b"><circle r="3"/><use href="#a"/></g>'
    drawn = [node.geometry.kind for node in draws(Document.parse(svg(body)).root)]
    assert set(drawn) == {"path", "circle"}
    assert len(drawn) < 10


def test_texts_beyond_the_parsers_own_limit_are_read() -> None:
    long = "M0 0" + "L9 9 " * 10 + " " * 11_000_000 + "L1 2"
    for entities in ("", '<!DOCTYPE svg [<!ENTITY ns "http://www.w3.org/2000/svg">]>'):
        data = entities.encode() + svg(f'<path d="{long}" fill="blue"/><desc>{"x" * 11_000_000}</desc>')
        document = Document.parse(data)
        assert document.parameters["0:d"].value.shape == (12, 2)
        assert document.write() == data


@pytest.mark.parametrize(
    ("attributes", "css", "want"),
    [
        ("", "", (1, 1, 1)),
        ('style="background-color:#00f"', "", (0, 0, 1)),
        ('style="background: rgb(255 0 0 / 50%)"', "", (1, 0.5, 0.5)),
        ("", "svg{background-color:lime}", (0, 1, 0)),
        ('style="background:url(x.png)"', "", (1, 1, 1)),
        ('style="background-color:none"', "", (1, 1, 1)),
    ],
)
def test_the_roots_background(attributes: str, css: str, want: tuple[float, float, float]) -> None:
    data = svg(f"<style>{css}</style>" + box(""), f'width="64" height="64" {attributes}')
    document = Document.parse(data)
    assert document.background == pytest.approx(want)
    if "background:" not in attributes:  # of the two, resvg knows background-color
        over_white = image(data)[0, 0, :3] + 255 - image(data)[0, 0, 3]
        np.testing.assert_allclose(over_white / 255, want, atol=0.01)


SHAPED = {
    "pattern": '<pattern id="p" width="9" height="9" patternUnits="userSpaceOnUse"><circle r="6"/></pattern>'
    '<path d="M5 5h30v30z" fill="url(#p)" stroke="red" stroke-width="3"/>',
    "marker": '<marker id="m" markerWidth="4" markerHeight="4"><circle r="2" fill="lime"/></marker>'
    '<path d="M5 5h30v30z" fill="blue" stroke="red" stroke-width="3" marker-mid="url(#m)" style="marker-end:url(#m)"/>',
}


@pytest.mark.parametrize("kind", SHAPED)
def test_shapes_with_a_pattern_or_markers_keep_their_points_and_stroke(kind: str) -> None:
    document = Document.parse(svg(SHAPED[kind]))
    groups = {p.property: p.group for p in document.parameters.values() if p.key.startswith("1:")}
    assert (groups["d"], groups["stroke"], groups["stroke-width"]) == ("points", "strokes", "widths")
    assert groups.get("fill") == ("fills" if kind == "marker" else None)
    assert f"1 {kind}" in (document.warning() or "")
    assert f"while editing, {kind}s stay where they were" in (document.warning() or "")
    # the written file draws pattern and markers at the new points
    moved = document.parameters["1:d"].value + np.array([9.0, 4.0])
    again = svg(SHAPED[kind].replace("M5 5h30v30z", "M14 9h30v30z"))
    assert psnr(image(document.write({"1:d": moved})), image(again)) > 50
