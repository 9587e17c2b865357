"""The CSS cascade: which text each property of an element has, and where it was declared."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal
from xml.etree import ElementTree

from cpds.errors import MissingExtra
from svg.parse import values
from svg.parse.variables import REFERENCE, Variables, computed, substituted
from svg.parse.xml import SVG, Tree, tag, words

INHERITED = words(
    "fill fill-opacity fill-rule stroke stroke-opacity stroke-width stroke-linecap stroke-linejoin "
    "stroke-miterlimit stroke-dasharray stroke-dashoffset color visibility clip-rule paint-order marker-start "
    "marker-mid marker-end font-family font-size font-size-adjust font-stretch font-style font-variant "
    "font-weight font-kerning direction letter-spacing word-spacing text-anchor text-rendering shape-rendering "
    "image-rendering writing-mode dominant-baseline color-interpolation color-interpolation-filters white-space "
    "text-decoration"
)
PRESENTATION = INHERITED | words(
    "opacity display clip-path mask filter overflow mix-blend-mode isolation stop-color stop-opacity "
    "transform-origin vector-effect"
)
KEYWORDS = ("inherit", "initial", "unset", "revert")


def _measures(text: str) -> bool:
    size = values.length(text, 1.0)
    return size is not None and 0 <= size <= values.LIMIT


# properties whose invalid values are ignored, as if they were not declared
VALID: dict[str, Callable[[str], object]] = {
    "fill": values.paint,
    "stroke": values.paint,
    "color": values.color,
    "stop-color": lambda text: text.lower() == "currentcolor" or values.color(text),
    "stroke-width": _measures,
    "font-size": lambda text: _measures(text) or text in FONT_SIZES,
    **{name: lambda text: values.fraction(text) is not None for name in ("opacity", "fill-opacity", "stroke-opacity")},
    "stop-opacity": lambda text: values.fraction(text) is not None,
}
FONT_SIZES = {
    "xx-small": 9.0,
    "x-small": 10.0,
    "small": 13.0,
    "medium": 16.0,
    "large": 18.0,
    "x-large": 24.0,
    "xx-large": 32.0,
}


@dataclass(frozen=True, slots=True)
class Declaration:
    """The winning declaration of a property on an element."""

    value: str
    source: Literal["attribute", "sheet", "style"]
    important: bool = False
    had_variables: bool = False  # and has what they stand for


# one declaration of a style attribute; quotes, brackets and comments may hold semicolons
PIECE = re.compile(r"""(?:[^;"'(/]|"[^"]*"|'[^']*'|\([^)]*\)|/\*.*?\*/|["'(/])+""", re.S)
COMMENT = re.compile(r"/\*.*?\*/", re.S)
DECLARATION = re.compile(r"(\s*)(--[\w-]+|[a-zA-Z-]+)(\s*:\s*)(.*?)(\s*)$", re.S)
IMPORTANT = re.compile(r"\s*!\s*important\s*$", re.I)


def read_style(text: str) -> list[tuple[str, str, bool]]:
    """Name, value and importance of each declaration of a style attribute."""
    if "/*" in text:
        text = COMMENT.sub(" ", text)
    found = []
    for piece in PIECE.findall(text):
        if match := DECLARATION.match(piece):
            value = IMPORTANT.sub("", match[4])
            name = match[2] if match[2].startswith("--") else match[2].lower()
            found.append((name, value.strip(), value != match[4]))
    return found


def change_style(text: str, changes: Mapping[str, tuple[str, bool]]) -> str:
    """A style attribute with some declarations (name -> value, important) replaced or added, the rest as it was."""
    pieces, missing = [], dict(changes)
    for piece in text.split(";") if not re.search(r"""["'(/]""", text) else PIECE.findall(text):
        match = DECLARATION.match(COMMENT.sub("", piece))
        name = match[2].lower() if match else ""
        if match and name in changes:
            value, important = changes[name]
            missing.pop(name, None)
            mark = " !important" if important or IMPORTANT.search(match[4]) else ""
            piece = f"{match[1]}{match[2]}{match[3]}{value}{mark}{match[5]}"
        pieces.append(piece)
    added = [f"{name}:{value}{' !important' if important else ''}" for name, (value, important) in missing.items()]
    if pieces and not pieces[-1].strip() and added:
        pieces.pop()
    return ";".join([*pieces, *added])


class Cascade:
    """The properties declared on each element: presentation attributes, then style sheets, then the style attribute."""

    def __init__(self, tree: Tree) -> None:
        self._declared: dict[Any, dict[str, Declaration]] = {}
        self._referring: set[Any] = set()  # elements of whose declarations some have var()
        self._variables: dict[Any, Variables] = {}
        self._sheets = _match_sheets(tree)

    def __call__(self, element: Any, inherited: Variables | None = None) -> dict[str, Declaration]:
        """Property -> its winning declaration on this element itself (nothing but custom properties is inherited here).

        inherited: the custom properties around it, or in it, where it is drawn through `use`; else those of its place
        in the document.
        """
        declared = self._own(element)
        if element not in self._referring:
            return declared
        found = variables(declared, self._around(element) if inherited is None else inherited)
        return {name: _resolved(name, declaration, found) for name, declaration in declared.items()}

    def _own(self, element: Any) -> dict[str, Declaration]:
        if element not in self._declared:
            declared = self._declared[element] = self._find(element)
            if any(REFERENCE.search(declaration.value) for declaration in declared.values()):
                self._referring.add(element)
        return self._declared[element]

    def _around(self, element: Any) -> Variables:
        """The custom properties that an element inherits where it stands in the document."""
        found: Variables = {}
        for up in reversed(list(element.iterancestors())):
            if up not in self._variables:
                self._variables[up] = variables(self._own(up), found)
            found = self._variables[up]
        return found

    def of_sheets(self, element: Any) -> list[tuple[str, str, bool]]:
        """What style sheets declare for an element, later ones winning: name, value, importance."""
        return self._sheets.get(element, [])

    def _find(self, element: Any) -> dict[str, Declaration]:
        found: dict[str, Declaration] = {}
        for name, value in element.attrib.items():
            if name in PRESENTATION or name == "marker":
                _add(found, name, Declaration(value.strip(), "attribute"))
        for name, value, important in self.of_sheets(element):
            _add(found, name, Declaration(value, "sheet", important))
        if style := element.get("style"):
            for name, value, important in read_style(style):
                _add(found, name, Declaration(value, "style", important))
        return found


def _add(found: dict[str, Declaration], name: str, declaration: Declaration) -> None:
    """Let a later declaration win, unless it is invalid or less important."""
    if name == "marker" and declaration.source != "attribute":
        for place in ("marker-start", "marker-mid", "marker-end"):
            _add(found, place, declaration)
        return
    old = found.get(name)
    if old is not None and old.important and not declaration.important:
        return
    if REFERENCE.search(declaration.value) or _is_valid(name, declaration.value):
        found[name] = declaration


def _is_valid(name: str, value: str) -> bool:
    check = VALID.get(name)
    return check is None or value in KEYWORDS or bool(check(value))


def variables(declared: Mapping[str, Declaration], inherited: Variables) -> Variables:
    """The custom properties of an element with these declarations."""
    own = {name: declaration.value for name, declaration in declared.items() if name.startswith("--")}
    return computed(own, inherited) if own else inherited


def _resolved(name: str, declaration: Declaration, custom: Variables) -> Declaration:
    """A declaration with the values of custom properties; as if it said unset where that is invalid."""
    if name.startswith("--") or not REFERENCE.search(declaration.value):
        return declaration
    value = substituted(declaration.value, custom)
    if value is None or not _is_valid(name, value):
        value = "inherit" if name in INHERITED else "initial"
    return replace(declaration, value=value, had_variables=True)


def _match_sheets(tree: Tree) -> dict[Any, list[tuple[str, str, bool]]]:
    """Element -> the declarations of the style sheets' rules that it matches, in the order of the cascade."""
    texts = [
        "".join(element.itertext())
        for element in tree.path
        if tag(element) == "style" and element.get("type", "text/css") in ("text/css", "")
    ]
    if not texts:
        return {}
    try:
        import cssselect2
        import tinycss2
    except ImportError as err:
        raise MissingExtra("SVG style sheets need tinycss2 and cssselect2: pip install -e '.[svg]'") from err
    matcher = cssselect2.Matcher()
    for rule in tinycss2.parse_stylesheet("\n".join(texts), skip_comments=True, skip_whitespace=True):
        if rule.type != "qualified-rule":
            continue
        declarations = [
            (
                item.name if item.name.startswith("--") else item.lower_name,
                tinycss2.serialize(item.value).strip(),
                bool(item.important),
            )
            for item in tinycss2.parse_blocks_contents(rule.content, skip_comments=True, skip_whitespace=True)
            if item.type == "declaration"
        ]
        try:
            selectors = cssselect2.compile_selector_list(rule.prelude, namespaces={"svg": SVG})
        except cssselect2.SelectorError:
            continue
        for selector in selectors:
            if selector.pseudo_element is None:
                matcher.add_selector(selector, declarations)
    # the matcher wants a tree without comments and entities
    copies = {}
    for element in tree.path:
        copy = copies[element] = ElementTree.Element(element.tag, dict(element.attrib))
        if element is not tree.root:
            copies[element.getparent()].append(copy)
    wrapped = cssselect2.ElementWrapper.from_xml_root(copies[tree.root])
    found = {}
    for element, wrapper in zip(tree.path, wrapped.iter_subtree(), strict=True):
        declarations = [item for *_, declared in matcher.match(wrapper) for item in declared]
        if declarations:
            found[element] = declarations
    return found
