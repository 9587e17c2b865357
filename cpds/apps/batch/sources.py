"""The files that rows name: opened once before any work, and known again by their content."""

import hashlib
import json
import os
import warnings
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from cpds.apps.batch.columns import OF_ALL
from cpds.apps.batch.rows import Row
from cpds.errors import InputError
from cpds.stored import encode


class Sources:
    """What was found out about files; each is opened once, however many rows name it."""

    def __init__(self) -> None:
        self._opened = cache(_opened)
        self._content = cache(content_of)

    def size(self, row: Row) -> tuple[int, int]:
        """Height and width of an image that is edited, (0, 0) of others. InputError for what cannot be edited."""
        from cpds.masks import require_size

        args: Any = row.args
        size = self._once("image", row.source) if row.command == "image" else (0, 0)
        if row.command == "splats":
            self._once("cameras", args.cameras, args.frame, args.masks)
        elif args.mask is not None:
            mask = self._once("mask", args.mask)
            if row.command == "image":
                require_size(args.mask, mask, size)
        if row.command == "svg":
            self._once("svg", row.source, args.scene, args.rasterizer)
        return size

    def _once(self, what: str, *given: Any) -> Any:
        """What opening something found, or the InputError that it raised, the first time."""
        found = self._opened(what, *given)
        if isinstance(found, InputError):
            raise InputError(str(found)) from found
        return found

    def digest(self, row: Row) -> str:
        """Of prompts, settings, and the content of all files; where they lie does not count."""
        arguments = {f.name: getattr(row.args, f.name) for f in fields(row.args) if f.name not in OF_ALL}
        files = {name: self._content(value) for name, value in arguments.items() if isinstance(value, Path)}
        text = json.dumps([row.command, row.output, encode(arguments) | files], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _opened(what: str, *given: Any) -> Any:
    """Open a file as its edit will. An InputError is returned, to be kept with the rest."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are for whoever edits it
            return _OPEN[what](*given)
    except InputError as err:
        return err


def _image(path: Path) -> tuple[int, int]:
    from cpds.images import open_source

    height, width = open_source(path).image.shape[-2:]
    return height, width


def _mask(path: Path) -> tuple[int, int]:
    from cpds.masks import edit_mask

    height, width = edit_mask(path).shape[-2:]
    return height, width


def _svg(path: Path, scene: Any, rasterizer: Any) -> None:
    from svg.document import Document
    from svg.fading import prepared
    from svg.rasterizer import make_rasterizer
    from svg.selection import chosen

    document = prepared(Document.open(path), scene)
    make_rasterizer(document, rasterizer)  # says what it cannot draw
    chosen(document, scene)


def _cameras(path: Path, frame: Path | None, masks: Path | None) -> None:
    from representations.cameras import Frame, read_cameras
    from representations.masks import find_masks

    cameras = read_cameras(path, None if frame is None else Frame.read(frame))
    if masks is not None:
        find_masks(masks, cameras)


_OPEN = {"image": _image, "mask": _mask, "svg": _svg, "cameras": _cameras}


def content_of(path: Path) -> str:
    """A digest of a file; of a folder, which may be large, one of its files' names, sizes and times."""
    try:
        if path.is_dir():
            files = sorted(f for f in path.rglob("*") if f.is_file())
            told = [(str(f.relative_to(path)), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
            return hashlib.sha256(json.dumps(told).encode(errors="surrogateescape")).hexdigest()
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as err:
        raise InputError(f"{path} cannot be read ({err.strerror}): {os.fspath(path)!r} must be readable") from err
