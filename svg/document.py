"""An SVG document: what it draws, the numbers that can be edited, and the same document with other numbers."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cpds.config import require
from cpds.errors import InputError
from svg.affine import Affine2D
from svg.bindings import bindings
from svg.model import IDENTITY, Group, Parameter, draws
from svg.parse.builder import Builder
from svg.parse.clips import outline_box
from svg.parse.context import Context, start
from svg.parse.css import Cascade
from svg.parse.files import is_packed, read_file, unpacked
from svg.parse.parameters import ParameterTable
from svg.parse.transforms import Box, fit, view_box
from svg.parse.use_expansion import check_use_expansion
from svg.parse.values import RGB, color, length
from svg.parse.writer import FADE, Writer
from svg.parse.xml import Tree, read_tree, tag

MIN_SIDE, MAX_SIDE = 1e-3, 1e6  # px
PLURALS = {"clip path of text": "clip paths of text", "reference to another document": "references to other documents"}


@dataclass
class Document:
    """A parsed SVG. `width` and `height` are the page in px; Draw's matrices lead to it."""

    width: float
    height: float
    root: Group
    parameters: dict[str, Parameter]  # every key that `root` uses, and no other
    notes: list[str]  # what is not edited, as "2 text elements"
    background: RGB  # of the page: the root's background-color on white
    packed: bool  # read from gzip, as .svgz files are
    matrix: Affine2D  # from the root's user units to the page's px
    _tree: Tree = field(repr=False)
    _writer: Writer = field(repr=False)

    @classmethod
    def open(cls, path: str | Path) -> Document:
        """Read an .svg or .svgz file; InputError names what is wrong with it."""
        return cls.parse(read_file(Path(path)), str(path))

    @classmethod
    def parse(cls, data: bytes, name: str = "the SVG") -> Document:
        """Read a document from its bytes, gzip or not; `name` is what messages call it."""
        tree = read_tree(unpacked(data, name), name)
        check_use_expansion(tree, name)
        cascade = Cascade(tree)
        size, box = _page(tree.root, name)
        page = size or (100.0, 100.0)
        builder = Builder(tree, cascade, page, name)
        inside = _inside(tree.root, page, box)
        root = builder.build(inside)
        if size is None:  # as large as what it draws
            page = _extent(root, builder.table, name)
            builder = Builder(tree, cascade, page, name)
            inside = _inside(tree.root, (100.0, 100.0), None)
            root = builder.build(inside)
        parameters = builder.table.used(bindings(root))
        notes = [f"{n} {kind if n == 1 else PLURALS.get(kind, kind + 's')}" for kind, n in builder.notes.items()]
        notes += _left_alone(tree)
        if not any(parameter.group for parameter in parameters.values()):
            has = f" (only {', '.join(notes)})" if notes else ""
            raise InputError(
                f"{name} draws no shape that can be edited{has}: give a drawing made of paths or basic shapes"
            )
        commands = {draw.geometry.key: draw.geometry.commands for draw in draws(root)}
        writer = Writer(tree, cascade, builder.table, commands, max(page))
        background = _background(tree, cascade)
        return cls(*page, root, parameters, notes, background, is_packed(data), inside.matrix, tree, writer)

    def warning(self) -> str | None:
        """What is drawn but not edited, and what was missing, as one sentence; or None."""
        parts = [f"not edited: {', '.join(self.notes)}"] if self.notes else []
        if self.lags:
            parts.append(f"while editing, {self.lags} stay where they were, and the written file moves them along")
        if self._tree.undeclared:
            lacks = " and ".join(self._tree.undeclared)
            parts.append(
                f"its svg element lacks {lacks}: read as if it were there, written as it was; browsers need it"
            )
        return "; ".join(parts) or None

    @property
    def lags(self) -> str:
        """What is drawn where it was while the outlines that it belongs to move: patterns, markers, both or nothing."""
        kinds = {note.split()[-1].rstrip("s") for note in self.notes}
        return " and ".join(f"{kind}s" for kind in ("pattern", "marker") if kind in kinds)

    def write(self, values: Mapping[str, np.ndarray] = {}) -> bytes:
        """The same document with other numbers for these parameters; as XML, even if it was read from gzip.

        Only attributes and properties whose numbers change are touched; without changes these are the bytes that were
        read. Numbers are rounded to 1e-3 px of a page 1024 px or four times its size, colors to 8 bits. ValueError
        names the key of a value that is unknown, of another shape, infinite, or a constant's.
        """
        return self._writer.write(self.parameters, values)

    @property
    def addable(self) -> set[Any]:
        """The elements that were put in to become visible where they are wanted (svg.fading)."""
        return {p.owner for p in self.parameters.values() if p.property == FADE and p.value == 0}

    def with_paths(self, outlines: Sequence[str]) -> bytes:
        """The document with a path more, marked as added, for each of these values of d, at its end."""
        return self._writer.with_paths(outlines)

    def matches(self, parameter: Parameter, names: Collection[str]) -> bool:
        """Whether the parameter's element or one around it has one of these ids or classes (#id, .class or bare)."""
        element: Any = parameter.owner
        while element is not None:
            own, classes = element.get("id"), (element.get("class") or "").split()
            known = {f".{c}" for c in classes} | set(classes) | ({own, f"#{own}"} if own else set())
            if known & set(names):
                return True
            element = element.getparent()
        return False


def _page(root: Any, name: str) -> tuple[tuple[float, float] | None, Box | None]:
    """The page's size in px (None: it is not given) and the view box; InputError for sizes that cannot be."""
    text = root.get("viewBox")
    box = view_box(text) if text is not None else None
    if text is not None:
        advice = "give four numbers, width and height above 0"
        fine = box is not None and min(box[2:]) > 0 and max(box[2:]) <= MAX_SIDE * 1000
        require(fine, f"{name} has viewBox {text[:60]!r}: {advice}")
    sides: list[float | None] = []
    for i, side in enumerate(("width", "height")):
        given = (root.get(side) or "").strip()
        value = length(given, box[2 + i] if box else math.nan) if given != "auto" else None
        value = None if value is not None and math.isnan(value) else value
        require(
            value is None or 0 < value <= MAX_SIDE,
            f"{name} has {side} {given[:60]!r}: give 0 < {side} <= {MAX_SIDE:.0f} px",
        )
        sides.append(value)
    width, height = sides
    if box is not None:
        # a side that is not given follows the other one, or both the view box
        neither = width is None and height is None
        found_width = width or (box[2] if neither else (height or 0.0) * box[2] / box[3])
        found_height = height or (box[3] if neither else (width or 0.0) * box[3] / box[2])
        low, high = sorted((found_width, found_height))
        require(
            low >= MIN_SIDE and high <= MAX_SIDE,
            f"{name} is {found_width:.3g} x {found_height:.3g} px large: change viewBox so that each side has "
            f"{MIN_SIDE:g} to {MAX_SIDE:.0f} px",
        )
        return (found_width, found_height), box
    return ((width, height) if width and height else None), box


def _inside(root: Any, page: tuple[float, float], box: Box | None) -> Context:
    """The state inside the root's viewport."""
    if box is None:
        return start(page)
    return Context((box[2], box[3]), fit(box, *page, root.get("preserveAspectRatio")), {})


def _background(tree: Tree, cascade: Cascade) -> RGB:
    """The root's background-color, or a background that is a color alone, as browsers lay it on a white page."""
    for name in ("background-color", "background"):
        declaration = cascade(tree.root).get(name)
        if declaration is not None and (found := color(declaration.value)):
            (r, g, b), alpha = found
            return (1 - alpha * (1 - r), 1 - alpha * (1 - g), 1 - alpha * (1 - b))
    return (1.0, 1.0, 1.0)


def _extent(root: Group, table: ParameterTable, name: str) -> tuple[float, float]:
    """Right and bottom of everything drawn, the page of a document without a size (as in resvg)."""
    right = bottom = 0.0
    for draw in draws(root):
        box = outline_box(draw, IDENTITY, table.parameters)
        right, bottom = max(right, box[2]), max(bottom, box[3])
    fine = 0 < right <= MAX_SIDE and 0 < bottom <= MAX_SIDE
    require(fine, f"{name} has no size and draws nothing that has one: give it a viewBox")
    return right, bottom


def _left_alone(tree: Tree) -> list[str]:
    """Notes about what stays in the file and does nothing here."""
    notes = []
    names = [tag(element) for element in tree.path]
    scripted = any(a.startswith("on") for element in tree.path for a in element.attrib)
    if "script" in names or scripted:
        notes.append("scripts")
    if any(n in ("animate", "animateTransform", "animateMotion", "set") for n in names):
        notes.append("animations")
    return notes
