"""From a file to text: sizes are limited, gzip is unpacked, and what is no SVG document is told apart."""

import codecs
import gzip
import re
import zlib
from io import BytesIO
from pathlib import Path

from cpds.config import require
from cpds.errors import InputError

MAX_BYTES = 50_000_000
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


def decoded(data: bytes, name: str) -> tuple[str, str]:
    """The text and its encoding; InputError (one sentence) for what is no SVG document."""
    require(len(data) <= MAX_BYTES, f"{name} has more than {MAX_BYTES / 1e6:.0f} MB: simplify the drawing")
    require(bool(data.strip()), f"{name} is empty: give an SVG document")
    foreign = next((kind for start, kind in FOREIGN.items() if data.startswith(start)), None)
    require(foreign is None, f"{name} is {foreign}, not an SVG document: give the drawing itself")
    encoding = encoding_of(data)
    try:
        text = data.decode(encoding)
    except LookupError as err:
        raise InputError(f"{name} declares the unknown encoding {encoding}: save it as UTF-8") from err
    except UnicodeDecodeError as err:
        raise InputError(f"{name} is not text in {encoding} from byte {err.start} on: save it as UTF-8") from err
    require(HTML.match(text) is None, f"{name} is an HTML page, not an SVG document: save the drawing in it by itself")
    return text, encoding


def encoding_of(data: bytes) -> str:
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
