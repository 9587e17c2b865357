"""From text to a tree of elements, safely: entities, depth and numbers are limited, nothing is fetched."""

import re
from dataclasses import dataclass, field
from typing import Any

from cpds.config import require
from cpds.errors import InputError, MissingExtra
from svg.parse.entities import QUOTED, check_entities, expanded_size, is_external
from svg.parse.files import MAX_BYTES, decoded
from svg.parse.values import LIMIT, NUMBERS

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
MAX_DEPTH = 500


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


NUMERIC = words(
    "d points x y width height rx ry cx cy r fx fy fr x1 y1 x2 y2 offset transform gradientTransform viewBox "
    "opacity fill-opacity stroke-opacity stop-opacity stroke-width stroke-dasharray stroke-dashoffset "
    "stroke-miterlimit font-size style"
)
# markup, each kind whole; only start tags fill the groups (name, attributes)
MARKUP = re.compile(
    r"<!--.*?-->|<!\[CDATA\[.*?\]\]>|<\?.*?\?>"
    rf"|<!DOCTYPE(?:[^\[>\"']|{QUOTED}|\[(?:<!--.*?-->|<\?.*?\?>|{QUOTED}|[^\]\"'])*+\])*+>"
    rf"|</[^>]*>|<([^\s/>!?]+)((?:[^\"'>]|{QUOTED})*+)>",
    re.S,
)
UNDECLARED = re.compile(r"Namespace prefix (\S+) ")
HUGE = 9_000_000  # characters: libxml2's own limit for one text or value is 10,000,000
SUSPECT = re.compile(r"\d[eE]\+?\d|\d{9}")
ELSEWHERE = re.compile(r"url\([^)]*\)|--[\w-]+\s*:[^;]*")  # data of images, custom properties
BARE = re.compile(rf"(?<![#\w.]){NUMBERS.pattern}")


@dataclass(frozen=True)
class Tree:
    """A parsed document. Holding all elements keeps them the same objects for as long as the tree lives."""

    data: bytes
    text: str
    encoding: str
    root: Any
    path: dict[Any, str] = field(repr=False)  # element -> its child indices from the root, as 0/3/1
    ids: dict[str, Any] = field(repr=False)
    undeclared: list[str] = field(default_factory=list)  # namespaces that are read as if the root declared them

    def linked(self, element: Any) -> Any:
        """The element of this document that `element` refers to by href, or None."""
        target = href(element)
        return self.ids.get(target[1:]) if target and target.startswith("#") else None


def tag(element: Any) -> str:
    """The local name of an SVG element, or "" for anything else."""
    name = element.tag
    return name[len(SVG) + 2 :] if isinstance(name, str) and name.startswith(f"{{{SVG}}}") else ""


def href(element: Any) -> str | None:
    """What an element refers to, by href or the older xlink:href."""
    value = element.get("href")
    value = element.get(f"{{{XLINK}}}href") if value is None else value
    return None if value is None else value.strip()


def describe(element: Any) -> str:
    """An element as a message names it."""
    name = element.get("id")
    label = f'<{tag(element)} id="{name}">' if name else f"<{tag(element)}>"
    return f"{label} on line {element.sourceline}"


def read_tree(data: bytes, name: str) -> Tree:
    """Parse XML whose root is svg; InputError (one sentence) for everything else."""
    text, encoding = decoded(data, name)
    root, undeclared = _parse(text, name)
    check_entities(root, name)
    require(tag(root) == "svg", f"{name} has the root element {_plain_name(root)}, not svg: give an SVG document")
    path, ids, depth = {root: ""}, {}, {root: 1}
    for element in root.iter("*"):
        if element is root:
            counter = {}
        parent = element.getparent() if element is not root else None
        if parent is not None:
            index = counter.get(parent, 0)
            counter[parent] = index + 1
            path[element] = f"{path[parent]}/{index}" if path[parent] else str(index)
            depth[element] = depth[parent] + 1
            require(
                depth[element] <= MAX_DEPTH, f"{name} nests elements more than {MAX_DEPTH} deep: flatten its groups"
            )
        if element.get("id"):
            ids.setdefault(element.get("id"), element)
        if tag(element):
            _check_numbers(element)
    return Tree(data, text, encoding, root, path, ids, undeclared)


def _parse(text: str, name: str) -> tuple[Any, list[str]]:
    """The root, and the declarations of namespaces that it lacks: they are read as if they were there."""
    try:
        from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError as err:
        raise MissingExtra("SVG needs lxml, which is not installed: pip install -e '.[svg]'") from err
    # libxml2's limits on long texts and on what entities expand to come together; ours bound the latter already
    huge = len(text) > HUGE and expanded_size(text) <= MAX_BYTES
    options = {"resolve_entities": "internal", "no_network": True, "load_dtd": False, "huge_tree": huge}
    declared: dict[str, str] = {}  # attribute -> namespace
    while True:
        # the encoding is of these bytes, whatever the declaration says
        parser = etree.XMLParser(encoding="utf-8", strip_cdata=False, **options)
        try:
            root = etree.fromstring(_with_namespaces(text, declared).encode("utf-8", "surrogatepass"), parser)
            if root is None or root.tag != "svg" or "xmlns" in declared:
                break
            declared["xmlns"] = SVG
        except (etree.XMLSyntaxError, ValueError) as err:
            message = str(getattr(err, "msg", err))
            missing = UNDECLARED.match(message)
            if missing is None or f"xmlns:{missing[1]}" in declared or len(declared) > 20:
                raise InputError(_why_not(message, name, text)) from err
            # snippets of web pages leave xmlns:xlink out
            space = {"xlink": XLINK, "svg": SVG}.get(missing[1], f"urn:undeclared:{missing[1]}")
            declared[f"xmlns:{missing[1]}"] = space
    require(root is not None, f"{name} holds no XML element: give an SVG document")
    return root, [f'{attribute}="{space}"' for attribute, space in declared.items()]


def _with_namespaces(text: str, declared: dict[str, str]) -> str:
    """The text without its byte order mark, and with further namespaces declared on its root."""
    text = text.lstrip("\ufeff")
    root = next((match for match in MARKUP.finditer(text) if match[1]), None) if declared else None
    if root is None:
        return text
    added = "".join(f' {attribute}="{space}"' for attribute, space in declared.items())
    return text[: root.start(2)] + added + text[root.start(2) :]


def _why_not(message: str, name: str, text: str) -> str:
    """A sentence for what the XML parser found."""
    message = message.split(" (<string>")[0]
    where = re.search(r", line (\d+)", message)
    line = f" (line {where[1]})" if where else ""
    if "depth" in message:
        return f"{name} nests elements too deep{line}: flatten its groups"
    if "amplification" in message or "entity loop" in message:
        return f"{name} has entities that expand without end{line}: remove its DOCTYPE"
    if entity := re.match(r"Entity '([^']*)' not defined", message):
        if is_external(text, entity[1]):
            return f"{name} uses the external entity &{entity[1]};, which is not read{line}: write what it stands for"
        return f"{name} uses the entity &{entity[1]}; but does not declare it{line}: write what it stands for"
    if "xmlParseEntityRef" in message:
        return f"{name} has an & that begins no entity{line}: write &amp; for it"
    if "XML_PARSE_HUGE" in message:
        return f"{name} holds a text of more than 10 MB beside entities{line}: write its entities out"
    reason = message.split(", line")[0].split("\n")[0].strip()[:120]
    return f"{name} is not well-formed XML{line}: {reason}"


def _plain_name(element: Any) -> str:
    """An element's name without its namespace."""
    return element.tag.rpartition("}")[2]


def _check_numbers(element: Any) -> None:
    """InputError for a number that is infinite or beyond what can be drawn."""
    for attribute, value in element.attrib.items():
        if attribute in NUMERIC and SUSPECT.search(value):
            for found in (BARE if attribute == "style" else NUMBERS).findall(ELSEWHERE.sub("", value)):
                if abs(float(found)) > LIMIT:
                    what = f"{attribute} of {describe(element)} has the number {found[:40]}"
                    raise InputError(f"{what}, beyond the limit of {LIMIT:.0e}: make it smaller")
