"""What is drawn but not edited: an element alone on a page, for resvg to draw."""

import copy
import re
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from cpds.config import require
from svg.model import StaticPart, Texture
from svg.parse.context import Context, start
from svg.parse.css import Cascade, change_style, read_style, variables
from svg.parse.shapes import Shape
from svg.parse.transforms import transform
from svg.parse.values import plain
from svg.parse.variables import Variables
from svg.parse.xml import SVG, Tree, href, tag

URLS = re.compile(r"""url\(\s*["']?#([^)"']+)["']?\s*\)""")
CONDITIONS = ("systemLanguage", "requiredExtensions", "requiredFeatures")
UNPAINTED = {"fill": "none", "stroke": "none", "opacity": "1", "clip-path": "none"}
PLAIN_LINE = {"stroke-opacity": "1", "stroke-dasharray": "none", "stroke-linejoin": "miter", "stroke-linecap": "square"}
PLAIN_LINE |= dict.fromkeys(("marker-start", "marker-mid", "marker-end"), "none")
XML_SPACE = "{http://www.w3.org/XML/1998/namespace}space"

MAX_STATIC_BYTES = 200_000_000


class StaticParts:
    """Writes elements alone on a page of their own; `size` is the document's page, `name` what messages call it."""

    def __init__(self, tree: Tree, cascade: Cascade, size: tuple[float, float], name: str) -> None:
        self.tree, self.cascade, self.size, self.name = tree, cascade, size, name
        self.shown: set[Any] = set()  # every element that a page shows or refers to
        self._bytes = 0

    @cached_property
    def _around(self) -> dict[Any, Context]:
        """The state around every element where it stands in the document."""
        around = {self.tree.root: start(self.size)}
        inside: dict[Any, Context] = {}
        for element in self.tree.path:
            if element is not self.tree.root:
                around[element] = inside[element.getparent()]
            inside[element] = around[element].within(self.cascade(element), {})
        return around

    def page(self, elements: list[Any], context: Context, name: str) -> StaticPart:
        """`elements` alone, placed and styled as in `context`."""
        self.shown.update(part for element in elements for part in element.iter("*"))
        clones = [self._clone(e, context.variables) for e in elements]
        return StaticPart(self._page(clones, elements, context), name)

    def markers(self, element: Any, context: Context) -> StaticPart:
        """An element's markers alone."""
        clone = self._clone(element, context.variables)
        clone.set("style", change_style(clone.get("style", ""), {n: (v, True) for n, v in UNPAINTED.items()}))
        return StaticPart(self._page([clone], [element], context), "marker")

    def texture(self, text: str, shape: Shape, context: Context) -> Texture:
        """The pattern that the paint `text` refers to, on and around a shape.

        It is what the stroke of the shape's box would show, as wide as to cover all: a pattern is measured in the box
        of the outline without its stroke, and fills and strokes take the same place in it.
        """
        from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]

        left, top, right, bottom = shape.bounds()
        reach = right - left + bottom - top + (context.measure(context.computed("stroke-width") or "1", "r") or 0.0)
        line = {**UNPAINTED, "stroke": text, "stroke-width": f"{plain(2 * reach, 6)}px", **PLAIN_LINE}
        box = etree.Element(f"{{{SVG}}}path", d=f"M{left} {top}H{right}V{bottom}H{left}Z")
        box.set("style", ";".join(f"{name}:{value}" for name, value in line.items()))
        return Texture(self._page([box], [box], context))

    def _page(self, clones: list[Any], elements: list[Any], context: Context) -> bytes:
        """A page that stretches to any size (model.StaticPart) with `clones` of `elements`; InputError for too much."""
        from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]

        width, height = (plain(v, 6) for v in self.size)
        root = etree.Element(f"{{{SVG}}}svg", nsmap={None: SVG})
        root.set("viewBox", f"0 0 {width} {height}")
        root.set("preserveAspectRatio", "none")
        needed = self._needed(clones, elements, context)
        self.shown.update(part for element in needed for part in element.iter("*"))
        if needed:
            defs = etree.SubElement(root, f"{{{SVG}}}defs")
            for element, clone in needed.items():
                holder = etree.SubElement(defs, f"{{{SVG}}}g")
                self._dress(holder, self._around[element])
                holder.append(clone)
        self._place(etree.SubElement(root, f"{{{SVG}}}g"), clones, elements[0], context)
        svg = etree.tostring(root)
        self._bytes += len(svg)
        advice = "convert text to paths and patterns to shapes"
        require(self._bytes <= MAX_STATIC_BYTES, f"{self.name} has too much that cannot be edited: {advice}")
        return svg

    def _place(self, group: Any, clones: list[Any], first: Any, context: Context) -> None:
        """Put clones, the first of which is that of `first`, into a group in the state `context`, in its viewport."""
        from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]

        group.set("transform", f"matrix({' '.join(repr(v) for v in context.matrix)})")
        self._dress(group, context)
        space = next((e.get(XML_SPACE) for e in _upwards(first) if e.get(XML_SPACE)), None)
        if space:
            group.set(XML_SPACE, space)
        # percentages inside are of the viewport around
        viewport = etree.SubElement(group, f"{{{SVG}}}svg", overflow="visible")
        for name, value in zip(("width", "height"), context.viewport, strict=True):
            viewport.set(name, plain(value, 6))
        for clone in clones:
            for name in CONDITIONS:  # they hold, or nothing would be drawn
                clone.attrib.pop(name, None)
            viewport.append(clone)

    def _dress(self, holder: Any, context: Context) -> None:
        """Give a group the inherited properties."""
        style = [f"{name}:{text}" for name, (text, _) in context.style.items() if text and not _remote(text)]
        if style:
            holder.set("style", ";".join(style))

    def _needed(self, clones: list[Any], elements: list[Any], context: Context) -> dict[Any, Any]:
        """Those elsewhere in the document that clones of `elements`, and the styles around them, refer to.

        However indirectly; each with its clone.
        """
        inside = {e for element in elements for e in element.iter("*")}
        found: dict[Any, Any] = {}
        todo: list[tuple[Any, Context | None]] = [(None, context), *((clone, None) for clone in clones)]
        for clone, around in todo:  # grows while it is read
            names = [name for part in clone.iter("*") for name in _names(part)] if clone is not None else []
            for text, _ in around.style.values() if around else ():
                names += URLS.findall(text)
            for name in names:
                target = self.tree.ids.get(name)
                if target is not None and target not in inside and target not in found:
                    found[target] = self._clone(target, self._around[target].variables)
                    todo.append((found[target], self._around[target]))
        # an element inside another that is needed too comes with it
        return {e: clone for e, clone in found.items() if not any(up in found for up in _upwards(e.getparent()))}

    def _clone(self, element: Any, inherited: Variables) -> Any:
        """A copy with the style sheets' declarations and var() written out, and nothing that would be fetched."""
        clone = copy.deepcopy(element)
        clone.tail = None
        around = {element.getparent(): inherited}
        for old, new in zip(list(element.iter("*")), list(clone.iter("*")), strict=True):
            declared = self.cascade(old, around[old.getparent()])
            around[old] = variables(declared, around[old.getparent()])
            from_sheets = {name for name, _, _ in self.cascade.of_sheets(old) if name in declared}
            written = {n: (declared[n].value, False) for n in from_sheets if declared[n].source == "sheet"}
            written |= {n: (d.value, False) for n, d in declared.items() if d.had_variables}
            # at a custom property resvg stops reading
            written = {n: value for n, value in written.items() if not n.startswith("--")}
            if "--" in (style := new.get("style", "")):
                own = [(n, f"{v} !important" if i else v) for n, v, i in read_style(style) if not n.startswith("--")]
                new.set("style", ";".join(f"{n}:{v}" for n, v in own))
            # resvg knows no px in transforms
            if "transform" in declared and (matrix := transform(declared["transform"].value)):
                text = f"matrix({' '.join(repr(v) for v in matrix)})"
                new.set("transform", text)
                written["transform"] = (text, False)
            if written:
                new.set("style", change_style(new.get("style", ""), written))
            for name in [n for n in new.attrib if n == "href" or n.endswith("}href")]:
                if _remote_link(new.get(name)):
                    del new.attrib[name]
            if tag(new) in ("script", "style") and new is not clone:
                new.getparent().remove(new)
        return clone


def _names(clone: Any) -> Iterable[str]:
    """The ids that one element of a clone refers to."""
    target = href(clone)
    if target and target.startswith("#"):
        yield target[1:]
    for text in clone.attrib.values():
        if "url(" in text:
            yield from URLS.findall(text)


def _upwards(element: Any) -> Iterable[Any]:
    """An element and its ancestors."""
    while element is not None:
        yield element
        element = element.getparent()


def _remote_link(target: str | None) -> bool:
    return target is not None and not target.strip().startswith(("#", "data:"))


def _remote(text: str) -> bool:
    """Whether a property's value refers to another document."""
    return "url(" in text and not URLS.search(text)


def remote(element: Any) -> bool:
    """Whether an element refers to another document."""
    return _remote_link(href(element))
