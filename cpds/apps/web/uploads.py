"""What may be uploaded: images, SVGs, scenes and their cameras, known by what is in them and not by their names."""

import gzip
import json
import os
import zlib
from pathlib import Path

from cpds.apps.web.limits import Limits
from cpds.errors import InputError

HEAD = 4096  # bytes that tell what a file is
KINDS = "an image, an SVG, a scene (.ply) or its cameras (.json)"


def check_file(path: Path, limits: Limits) -> None:
    """InputError for a file that no edit can begin with, or that is too large for one."""
    size = os.path.getsize(path)
    limits.check_upload(size)
    suffix, head = path.suffix.lower(), _head(path)
    if suffix in (".svg", ".svgz"):
        _require(b"<svg" in _unpacked(path, limits), path, "an SVG")
    elif suffix == ".ply":
        _require(head.startswith(b"ply"), path, "a scene")
    elif suffix == ".json":
        _check_json(path)
    else:
        _check_image(path, limits)


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(HEAD)


def _unpacked(path: Path, limits: Limits) -> bytes:
    """An SVG's bytes; of a packed one no more than may be uploaded."""
    data = path.read_bytes()
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        with gzip.open(path) as stream:
            data = stream.read(limits.upload_bytes + 1)
    except (OSError, EOFError, zlib.error):
        return b""
    limits.check_upload(len(data))
    return data


def _check_json(path: Path) -> None:
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        found = None
    _require(isinstance(found, dict | list), path, "a file of cameras")


def _check_image(path: Path, limits: Limits) -> None:
    from PIL import Image

    try:
        with Image.open(path) as image:
            width, height = image.size
    except Image.DecompressionBombError as err:
        raise InputError(f"{path.name} has too many pixels: scale it down") from err
    except Exception as err:  # Pillow's readers raise a dozen kinds
        raise InputError(f"{path.name} cannot be read: upload {KINDS}") from err
    limits.check_pixels(width, height)


def _require(fits: bool, path: Path, what: str) -> None:
    if not fits:
        raise InputError(f"{path.name} is not {what}, whatever its name says: upload {KINDS}")
