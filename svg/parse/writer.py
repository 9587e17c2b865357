"""Changed numbers back into the document's text: only the values of the attributes concerned change."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from svg.model import Parameter
from svg.parse.css import Cascade, change_style, read_style
from svg.parse.gradients import geometry_source, gradient_chain, gradient_texts
from svg.parse.parameters import ParameterTable
from svg.parse.shapes import shape_attributes
from svg.parse.values import fraction, plain
from svg.parse.xml import MARKUP, Tree, tag

COLORS = frozenset(("fill", "stroke", "color", "stop-color"))
FRACTIONS = frozenset(("opacity", "fill-opacity", "stroke-opacity", "stop-opacity", "offset"))
FADE = "fade"  # property of a number that says how visible an element is, beside its opacities
INVISIBLE = 0.02  # up to which it is not written
ADDED = ("data-cpds", "added")  # the mark of what has been added
SHAPE_PROPERTIES = frozenset(("d", "points", "rect", "circle", "ellipse", "line"))
# what Inkscape would draw a path anew from, when it reads d
LIVE = frozenset(
    (
        "{http://sodipodi.sourceforge.net/DTD/sodipodi-0.dtd}type",
        "{http://www.inkscape.org/namespaces/inkscape}original-d",
        "{http://www.inkscape.org/namespaces/inkscape}path-effect",
    )
)
ATTRIBUTE = re.compile(r"""\s+([^\s=/>]+)\s*=\s*("[^"]*"|'[^']*')""")


@dataclass
class Edit:
    """What changes on one element."""

    attributes: dict[str, str] = field(default_factory=dict)
    style: dict[str, tuple[str, bool]] = field(default_factory=dict)
    gone: bool = False


class Writer:
    """Writes values of a table's parameters into its document."""

    def __init__(
        self, tree: Tree, cascade: Cascade, table: ParameterTable, commands: Mapping[str, str], size: float
    ) -> None:
        """commands: of each path's key. size: the page's longer side in px."""
        self.tree, self.cascade, self.table, self.commands = tree, cascade, table, commands
        self.zoom = max(4.0, 1024 / size)  # the largest size, relative to the page, at which errors stay below 1e-3 px

    def write(self, parameters: Mapping[str, Parameter], values: Mapping[str, np.ndarray]) -> bytes:
        """The document with `values`; ValueError for unknown, misshapen, infinite or constant ones."""
        changed: dict[str, np.ndarray] = {}
        for key, value in values.items():
            if key not in parameters:
                raise ValueError(f"the document has no parameter {key!r}")
            new, old = np.asarray(value, dtype=np.float64), parameters[key]
            if new.shape != old.value.shape:
                raise ValueError(f"parameter {key!r} needs the shape {old.value.shape}, got {new.shape}")
            if not np.isfinite(new).all():
                raise ValueError(f"parameter {key!r} must be finite, got {new}")
            if self.differs(old, new):
                if old.group is None:
                    raise ValueError(f"parameter {key!r} is a constant of this document and cannot change")
                changed[key] = new
        fades = {k: float(values.get(k, p.value)) for k, p in parameters.items() if p.property == FADE}
        fades = {k: value for k, value in fades.items() if plain(value, 5) != "1"}
        changed = {k: value for k, value in changed.items() if parameters[k].property != FADE}
        if not changed and not fades:
            return self.tree.data
        for key in list(changed):
            self._take_partners(key, changed)
        self._take_offsets(changed)
        edits: dict[Any, Edit] = defaultdict(Edit)
        for key, new in changed.items():
            self._edit(self.table.parameters[key], new, edits)
        self._keep_inherited(changed, edits)
        for key, value in fades.items():
            self._fade(parameters[key].owner, value, edits)
        return self._patched(edits)

    def with_paths(self, outlines: Sequence[str]) -> bytes:
        """The document with a path more, marked as added, for each value of d, before the root's end."""
        prefix = f"{self.tree.root.prefix}:" if self.tree.root.prefix else ""
        mark = f'{ADDED[0]}="{ADDED[1]}"'
        added = "".join(f'<{prefix}path {mark} fill="#808080" stroke="none" d="{d}"/>\n' for d in outlines)
        text = self.tree.text
        end = [match.start() for match in MARKUP.finditer(text) if match[0].startswith("</")][-1]
        return (text[:end] + added + text[end:]).encode(self.tree.encoding)

    def decimals(self, key: str) -> int:
        """Digits after the point that keep a coordinate's error below 1e-3 px."""
        needed = 500 * self.table.scales.get(key, 1.0) * self.zoom
        return int(np.clip(np.ceil(np.log10(max(needed, 1.0))), 2, 9))

    def differs(self, old: Parameter, new: np.ndarray) -> bool:
        """Whether the new numbers are written differently from the old ones."""
        if np.array_equal(old.value, new):
            return False
        if old.property in COLORS:
            return _hex(old.value) != _hex(new)
        digits = 5 if old.property in FRACTIONS else self.decimals(old.key)
        return any(
            plain(float(a), digits) != plain(float(b), digits) for a, b in zip(old.value.flat, new.flat, strict=True)
        )

    def _take_partners(self, key: str, changed: dict[str, np.ndarray]) -> None:
        """A color that has alpha is written with its opacity, and the other way round."""
        todo = [key]
        while todo:
            for partner in self.table.partners.get(todo.pop(), ()):
                if partner not in changed:
                    changed[partner] = self.table.parameters[partner].value
                    todo.append(partner)

    def _take_offsets(self, changed: dict[str, np.ndarray]) -> None:
        """Offsets that were raised to the one before are written when a neighbour's changes."""
        gradients = {self.table.parameters[k].owner.getparent() for k in changed if k.endswith(":offset")}
        for stop in (s for gradient in gradients for s in gradient.iterchildren("*") if tag(s) == "stop"):
            key = f"{self.tree.path[stop]}:offset"
            parameter = self.table.parameters.get(key)
            if parameter is not None and key not in changed:
                changed[key] = parameter.value

    def _edit(self, parameter: Parameter, new: np.ndarray, edits: dict[Any, Edit]) -> None:
        """Note what one parameter changes."""
        owner, name = parameter.owner, parameter.property
        if name in SHAPE_PROPERTIES:
            commands = self.commands.get(parameter.key, "")
            found = shape_attributes(name, commands, parameter.value, new, self.decimals(parameter.key))
            edits[owner].attributes |= found
        elif name == "gradient":
            edits[owner].attributes |= self._gradient(parameter, new)
        elif name == "offset":
            edits[owner].attributes["offset"] = plain(min(max(float(new), 0.0), 1.0), 5)
        elif name in COLORS:
            self._declare(owner, name, _hex(new), edits)
        elif name in FRACTIONS:
            self._declare(owner, name, plain(min(max(float(new), 0.0), 1.0), 5), edits)
        else:
            self._declare(owner, name, plain(max(float(new), 0.0), self.decimals(parameter.key)), edits)

    def _fade(self, owner: Any, share: float, edits: dict[Any, Edit]) -> None:
        """Note that an element is less opaque, or gone where it is invisible and nothing refers to it."""
        if share <= INVISIBLE and not (owner.get("id") and f"#{owner.get('id')}" in self.tree.text):
            edits[owner].gone = True
            return
        edit = edits[owner]
        declared = self.cascade(owner).get("opacity")
        own = edit.style["opacity"][0] if "opacity" in edit.style else edit.attributes.get("opacity")
        before = fraction(own) if own is not None else fraction(declared.value) if declared else None
        self._declare(owner, "opacity", plain(share * (1.0 if before is None else before), 5), edits)

    def _gradient(self, parameter: Parameter, new: np.ndarray) -> dict[str, str]:
        """The coordinates of a gradient that change; a focus follows its center where it is left out."""
        digits, names = self.decimals(parameter.key), gradient_texts([parameter.owner])
        texts = dict(zip(names, (plain(float(v), digits) for v in new), strict=True))
        before = dict(zip(names, (plain(float(v), digits) for v in parameter.value), strict=True))
        changed = {n for n in names if texts[n] != before[n]}
        for center, focus in (("cx", "fx"), ("cy", "fy")):
            if changed & {center, focus}:
                changed |= {center, focus}
        return {n: texts[n] for n in names if n in changed}

    def _keep_inherited(self, changed: Mapping[str, np.ndarray], edits: dict[Any, Edit]) -> None:
        """Gradients that inherit a coordinate which changes get their own."""
        for key, parameter in self.table.parameters.items():
            if parameter.property != "gradient" or "#" in key:
                continue
            chain = gradient_chain(self.tree, parameter.owner)
            numbers = changed.get(key, parameter.value)
            above = [e for e in chain[1:] if tag(e) == tag(chain[0])]
            for name, value in zip(gradient_texts(chain), numbers, strict=True):
                # a focus that is not given follows the center
                wanted = {name, f"c{name[1]}"} if name in ("fx", "fy") else {name}
                inherited = geometry_source(chain, name) is not chain[0]
                if inherited and any(wanted & edits[e].attributes.keys() for e in above if e in edits):
                    edits[parameter.owner].attributes[name] = plain(float(value), self.decimals(key))

    def _declare(self, owner: Any, name: str, text: str, edits: dict[Any, Edit]) -> None:
        """Change a property where it is declared: in the style attribute, or in its own if nothing overrides that."""
        declaration = self.cascade(owner).get(name)
        own = any(n == name for n, _, _ in read_style(owner.get("style", "")))
        if own or (declaration is not None and declaration.source != "attribute"):
            edits[owner].style[name] = (text, declaration is not None and declaration.important)
        else:
            edits[owner].attributes[name] = text

    def _patched(self, edits: Mapping[Any, Edit]) -> bytes:
        """The document's text with the edits in their start tags."""
        parts, at, depth, text = [], 0, 0, self.tree.text
        elements = iter(self.tree.path)
        hidden: int | None = None  # how deep the element lies that is left out at the moment
        for match in MARKUP.finditer(text):
            closing = match[0].startswith("</")
            depth -= closing
            if match[1]:
                element, whole = next(elements), match[2].endswith("/")
                edit = edits.get(element)
                if hidden is None and edit is not None and edit.gone:
                    parts += [text[at : match.start()], _in_place_of(element)]
                    hidden, at = depth, match.end()
                elif hidden is None and edit is not None:
                    parts += [text[at : match.start(2)], _changed_tag(element, match[2], edit)]
                    at = match.end(2)
                ended, depth = whole, depth + (not whole)
            else:
                ended = closing
            if hidden == depth and ended:
                added = text[match.end() : match.end() + 1] == "\n" and not parts[-1]
                hidden, at = None, match.end() + added
        return ("".join(parts) + text[at:]).encode(self.tree.encoding)


def _in_place_of(element: Any) -> str:
    """A comment for what has been removed; nothing for what might have been added."""
    if element.get(ADDED[0]) == ADDED[1]:
        return ""
    name = f' id="{element.get("id")}"' if element.get("id") else ""
    return f"<!-- cpds: removed {tag(element)}{name.replace('--', '- -')} -->"


def _changed_tag(element: Any, inside: str, edit: Edit) -> str:
    """The text between a start tag's name and its end, with an edit."""
    new = dict(edit.attributes)
    if edit.style:
        new["style"] = change_style(element.get("style", ""), edit.style)

    def replace(match: re.Match[str]) -> str:
        if match[1] not in new:
            prefix, _, local = match[1].rpartition(":")
            live = "d" in edit.attributes and f"{{{element.nsmap.get(prefix)}}}{local}" in LIVE
            return "" if live else match[0]
        quote = match[2][0]
        before = match[0][: len(match[0]) - len(match[2])]
        return f"{before}{quote}{_escaped(new.pop(match[1]), quote)}{quote}"

    inside = ATTRIBUTE.sub(replace, inside)
    end = re.search(r"\s*/?$", inside)
    cut = end.start() if end else len(inside)
    added = "".join(f' {name}="{_escaped(value, chr(34))}"' for name, value in new.items())
    return inside[:cut] + added + inside[cut:]


def _escaped(text: str, quote: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return text.replace(quote, "&quot;" if quote == '"' else "&apos;")


def _hex(color: np.ndarray) -> str:
    """#rrggbb of sRGB in [0, 1]."""
    return "#" + "".join(f"{round(min(max(float(v), 0.0), 1.0) * 255):02x}" for v in color)
