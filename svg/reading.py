"""From bytes to a tree of elements, safely: sizes, entities and depth are limited, nothing is fetched."""

import codecs
import gzip
import re
import zlib
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from cpds.config import require
from cpds.errors import InputError, MissingExtra
from svg.values import LIMIT, NUMBERS

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
SUSPECT = re.compile(r"\d[eE]\+?\d|\d{9}")
ELSEWHERE = re.compile(r"url\([^)]*\)|--[\w-]+\s*:[^;]*")  # data of pictures, custom properties
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


def unpacked(data: bytes, name: str) -> bytes:
    """`data`, unpacked where it is gzip."""
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        with gzip.GzipFile(fileobj=BytesIO(data)) as file:
            plain = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as err:
        raise InputError(f"{name} is not whole gzip data ({err}): save it again") from err
    require(len(plain) <= MAX_BYTES, f"{name} unpacks to more than {MAX_BYTES / 1e6:.0f} MB: simplify the drawing")
    return plain


def read_tree(data: bytes, name: str) -> Tree:
    """Parse XML whose root is svg; InputError (one sentence) for everything else."""
    require(len(data) <= MAX_BYTES, f"{name} has more than {MAX_BYTES / 1e6:.0f} MB: simplify the drawing")
    require(bool(data.strip()), f"{name} is empty: give an SVG document")
    encoding = _encoding(data)
    try:
        text = data.decode(encoding)
    except (UnicodeDecodeError, LookupError) as err:
        raise InputError(f"{name} is not text in {encoding} ({err}): save it as UTF-8") from err
    root = _parse(text, name)
    _check_entities(root, name)
    require(tag(root) == "svg", _not_svg(root, name))
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
    return Tree(data, text, encoding, root, path, ids)


def _encoding(data: bytes) -> str:
    """By byte order mark, else as declared, else UTF-8."""
    for mark, name in ((codecs.BOM_UTF8, "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if data.startswith(mark):
            return name
    for start, name in ((b"<\0", "utf-16-le"), (b"\0<", "utf-16-be")):
        if data.startswith(start):
            return name
    declared = re.match(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)["']""", data[:300])
    named = declared[1].decode("ascii", "replace").lower() if declared else "utf-8"
    # bytes that could be read so far are no UTF-16, whatever they say
    return "utf-8" if named.startswith(("utf-16", "utf16", "utf-32", "ucs")) else named


def _parse(text: str, name: str) -> Any:
    try:
        from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError as err:
        raise MissingExtra("SVG needs lxml, which is not installed: pip install -e '.[svg]'") from err
    options = {"resolve_entities": "internal", "no_network": True, "load_dtd": False, "huge_tree": False}
    declared: dict[str, str] = {}
    while True:
        # the encoding is of these bytes, whatever the declaration says
        parser = etree.XMLParser(encoding="utf-8", strip_cdata=False, **options)
        try:
            root = etree.fromstring(_with_namespaces(text, declared).encode("utf-8", "surrogatepass"), parser)
            break
        except (etree.XMLSyntaxError, ValueError) as err:
            message = str(getattr(err, "msg", err))
            missing = UNDECLARED.match(message)
            if missing is None or missing[1] in declared or len(declared) > 20:
                raise InputError(_why_not(message, name)) from err
            # snippets of web pages leave xmlns:xlink out
            declared[missing[1]] = XLINK if missing[1] == "xlink" else f"urn:undeclared:{missing[1]}"
    require(root is not None, f"{name} holds no XML element: give an SVG document")
    return root


def _with_namespaces(text: str, declared: dict[str, str]) -> str:
    """The text without its byte order mark, and with further prefixes declared on its root."""
    text = text.lstrip("\ufeff")
    root = next((match for match in MARKUP.finditer(text) if match[1]), None) if declared else None
    if root is None:
        return text
    added = "".join(f' xmlns:{prefix}="{space}"' for prefix, space in declared.items())
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
    if message.startswith("Entity"):
        return f"{name} uses an entity that it does not declare itself{line}: replace {message.split(',')[0]}"
    reason = message.split(", line")[0].split("\n")[0].strip()[:120]
    return f"{name} is not well-formed XML{line}: {reason}"


def _not_svg(root: Any, name: str) -> str:
    if root.tag == "svg":
        return f'{name} lacks a namespace: add xmlns="{SVG}" to its svg element'
    return f"{name} has the root element {root.tag}, not svg: give an SVG document"


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
