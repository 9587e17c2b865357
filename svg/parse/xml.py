"""From bytes to a tree of elements, safely: sizes, entities and depth are limited, nothing is fetched."""

import codecs
import gzip
import math
import re
import zlib
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from cpds.config import require
from cpds.errors import InputError, MissingExtra
from svg.parse.values import LIMIT, NUMBERS

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
MAX_BYTES = 50_000_000
MAX_DEPTH = 500
MAX_ENTITY = 100_000  # characters that one entity may expand to


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


NUMERIC = words(
    "d points x y width height rx ry cx cy r fx fy fr x1 y1 x2 y2 offset transform gradientTransform viewBox "
    "opacity fill-opacity stroke-opacity stop-opacity stroke-width stroke-dasharray stroke-dashoffset "
    "stroke-miterlimit font-size style"
)
QUOTED = r""""[^"]*+"|'[^']*+'"""
# markup, each kind whole; only start tags fill the groups (name, attributes)
MARKUP = re.compile(
    r"<!--.*?-->|<!\[CDATA\[.*?\]\]>|<\?.*?\?>"
    rf"|<!DOCTYPE(?:[^\[>\"']|{QUOTED}|\[(?:<!--.*?-->|<\?.*?\?>|{QUOTED}|[^\]\"'])*+\])*+>"
    rf"|</[^>]*>|<([^\s/>!?]+)((?:[^\"'>]|{QUOTED})*+)>",
    re.S,
)
UNDECLARED = re.compile(r"Namespace prefix (\S+) ")
ENTITY = re.compile(rf"<!ENTITY\s+(%\s+)?(\S+)\s+({QUOTED}|[^>]*)")
PREDEFINED = ("amp", "lt", "gt", "quot", "apos")
REFERENCE = re.compile(r"&([^;&<#\s]+);")
# how files that are no SVG begin
FOREIGN = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"RIFF": "a WebP image or another RIFF file",
    b"%PDF": "a PDF document",
    b"%!PS": "a PostScript document",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a file packed twice",
}
HTML = re.compile(r"(?:\s|<!--.*?-->)*<(?:!doctype\s+html|html)\b", re.S | re.I)
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


def read_file(path: Path) -> bytes:
    """The bytes of a file, unpacked where it is gzip; InputError if there is no such file or it is too large."""
    require(path.exists(), f"there is no file {path}: check the path")
    require(path.is_file(), f"{path} is a folder or a device: give an .svg or .svgz file")
    size = path.stat().st_size
    require(size <= MAX_BYTES, f"{path} has {size / 1e6:.0f} MB, more than {MAX_BYTES / 1e6:.0f}: simplify the drawing")
    try:
        return path.read_bytes()
    except OSError as err:
        raise InputError(f"{path} cannot be read ({err.strerror}): check its permissions") from err


def is_packed(data: bytes) -> bool:
    """Whether `data` is gzip."""
    return data.startswith(b"\x1f\x8b")


def unpacked(data: bytes, name: str) -> bytes:
    """`data`, unpacked where it is gzip."""
    if not is_packed(data):
        return data
    try:
        with gzip.GzipFile(fileobj=BytesIO(data)) as file:
            plain = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as err:
        raise InputError(f"{name} is damaged: its gzip data is cut short or changed; save it again") from err
    require(len(plain) <= MAX_BYTES, f"{name} unpacks to more than {MAX_BYTES / 1e6:.0f} MB: simplify the drawing")
    return plain


def read_tree(data: bytes, name: str) -> Tree:
    """Parse XML whose root is svg; InputError (one sentence) for everything else."""
    require(len(data) <= MAX_BYTES, f"{name} has more than {MAX_BYTES / 1e6:.0f} MB: simplify the drawing")
    require(bool(data.strip()), f"{name} is empty: give an SVG document")
    foreign = next((kind for start, kind in FOREIGN.items() if data.startswith(start)), None)
    require(foreign is None, f"{name} is {foreign}, not an SVG document: give the drawing itself")
    encoding = _encoding(data)
    try:
        text = data.decode(encoding)
    except LookupError as err:
        raise InputError(f"{name} declares the unknown encoding {encoding}: save it as UTF-8") from err
    except UnicodeDecodeError as err:
        raise InputError(f"{name} is not text in {encoding} from byte {err.start} on: save it as UTF-8") from err
    require(HTML.match(text) is None, f"{name} is an HTML page, not an SVG document: save the drawing in it by itself")
    root, undeclared = _parse(text, name)
    _check_entities(root, name)
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


def _encoding(data: bytes) -> str:
    """By byte order mark, else as declared, else UTF-8."""
    marks = {  # the longer ones first: UTF-32's begins as UTF-16's
        codecs.BOM_UTF32_LE: "utf-32-le",
        codecs.BOM_UTF32_BE: "utf-32-be",
        codecs.BOM_UTF8: "utf-8",
        codecs.BOM_UTF16_LE: "utf-16-le",
        codecs.BOM_UTF16_BE: "utf-16-be",
    }
    for mark, name in marks.items():
        if data.startswith(mark):
            return name
    # without a mark: XML begins with ASCII, so that the zeros around it tell
    zeros = "".join("0" if byte == 0 else "x" for byte in data[:4])
    for pattern, name in (("x000", "utf-32-le"), ("000x", "utf-32-be"), ("x0", "utf-16-le"), ("0x", "utf-16-be")):
        if zeros.startswith(pattern):
            return name
    declared = re.match(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)["']""", data[:300])
    named = declared[1].decode("ascii", "replace").lower() if declared else "utf-8"
    # bytes that could be read so far are no UTF-16, whatever they say
    return "utf-8" if named.startswith(("utf-16", "utf16", "utf-32", "ucs")) else named


def _parse(text: str, name: str) -> tuple[Any, list[str]]:
    """The root, and the declarations of namespaces that it lacks: they are read as if they were there."""
    try:
        from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError as err:
        raise MissingExtra("SVG needs lxml, which is not installed: pip install -e '.[svg]'") from err
    # libxml2's limits on long texts and on what entities expand to come together; ours bound the latter already
    huge = len(text) > HUGE and _expanded(text) <= MAX_BYTES
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
                raise InputError(_why_not(message, name)) from err
            # snippets of web pages leave xmlns:xlink out
            space = {"xlink": XLINK, "svg": SVG}.get(missing[1], f"urn:undeclared:{missing[1]}")
            declared[f"xmlns:{missing[1]}"] = space
    require(root is not None, f"{name} holds no XML element: give an SVG document")
    return root, [f'{attribute}="{space}"' for attribute, space in declared.items()]


def _expanded(text: str) -> float:
    """At most so many characters a text has once its entities are expanded; infinity where that cannot be told."""
    sizes = dict.fromkeys(PREDEFINED, 0.0)
    for parameter, name, value in ENTITY.findall(text):
        hidden = parameter or value[:1] not in "\"'" or "&#" in value or "%" in value  # may declare or become others
        size = len(value) + sum(sizes.get(other, math.inf) for other in REFERENCE.findall(value))
        sizes[name] = max(sizes.get(name, 0.0), math.inf if hidden else size)
    return float(len(text) + sum(sizes.get(other, math.inf) for other in REFERENCE.findall(text)))


def _with_namespaces(text: str, declared: dict[str, str]) -> str:
    """The text without its byte order mark, and with further namespaces declared on its root."""
    text = text.lstrip("\ufeff")
    root = next((match for match in MARKUP.finditer(text) if match[1]), None) if declared else None
    if root is None:
        return text
    added = "".join(f' {attribute}="{space}"' for attribute, space in declared.items())
    return text[: root.start(2)] + added + text[root.start(2) :]


def _why_not(message: str, name: str) -> str:
    """A sentence for what the XML parser found."""
    message = message.split(" (<string>")[0]
    where = re.search(r", line (\d+)", message)
    line = f" (line {where[1]})" if where else ""
    if "depth" in message:
        return f"{name} nests elements too deep{line}: flatten its groups"
    if "amplification" in message or "entity loop" in message:
        return f"{name} has entities that expand without end{line}: remove its DOCTYPE"
    if entity := re.match(r"Entity '([^']*)' not defined", message):
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


def _check_entities(root: Any, name: str) -> None:
    """Only short internal entities of plain text pass: nothing outside is named, nothing explodes."""
    dtd = root.getroottree().docinfo.internalDTD
    sizes: dict[str, int] = {}
    for entity in dtd.entities() if dtd is not None else ():
        content = entity.content
        if content is None:
            raise InputError(f"{name} declares the external entity {entity.name!r}: remove it")
        require("<" not in content, f"{name} keeps elements in the entity {entity.name!r}: write them out")
        size = len(content) + sum(sizes.get(inner, 0) for inner in re.findall(r"&([^;#\s]+);", content))
        require(
            size <= MAX_ENTITY, f"{name} has the entity {entity.name!r} that expands to {size} characters: remove it"
        )
        sizes[entity.name] = size


def _check_numbers(element: Any) -> None:
    """InputError for a number that is infinite or beyond what can be drawn."""
    for attribute, value in element.attrib.items():
        if attribute in NUMERIC and SUSPECT.search(value):
            for found in (BARE if attribute == "style" else NUMBERS).findall(ELSEWHERE.sub("", value)):
                if abs(float(found)) > LIMIT:
                    what = f"{attribute} of {describe(element)} has the number {found[:40]}"
                    raise InputError(f"{what}, beyond the limit of {LIMIT:.0e}: make it smaller")
