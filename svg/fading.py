"""Shapes that may fade out of a document or be added to it: how visible each is, is one number more.

Those that may be added are there from the start, invisible, behind everything else in the file, so on top on the page;
what is invisible in the end is not written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np

from svg.affine import Affine2D
from svg.config import SvgConfig
from svg.document import Document
from svg.model import Draw, Group, Node, Parameter, StaticPart, draws, nodes
from svg.parse.clips import outline_box
from svg.parse.writer import FADE

REMOVABLE = 0.5  # of the page's longer side: larger shapes stay
CURVES = 12  # of an added outline
RADIUS = 0.06  # of the page's longer side: that of an added outline before it has its own


def prepared(document: Document, config: SvgConfig) -> Document:
    """The document with the numbers that `may_remove` and `may_add` need; itself where neither is asked for.

    A document that has been prepared is given back.
    """
    if not (config.may_remove or config.may_add) or any(p.property == FADE for p in document.parameters.values()):
        return document
    extended = document
    if config.may_add:
        extended = Document.parse(document.with_paths([_circle(document)] * config.may_add), "the SVG")
    keys = {d.geometry.key: 0.0 for d in draws(extended.root) if d.geometry.key not in document.parameters}
    if config.may_remove:
        keys |= {d.geometry.key: 1.0 for d in _removable(document)}
    return _fading(replace(extended, packed=document.packed), keys)


def addable(document: Document) -> list[Draw]:
    """What may be added, in the order of the file."""
    owners = document.addable
    return [d for d in draws(document.root) if document.parameters[d.geometry.key].owner in owners]


def fade_key(draw: Draw) -> str:
    """The parameter that says how visible a shape is."""
    return f"{draw.geometry.key}:{FADE}"


def _removable(document: Document) -> Iterator[Draw]:
    """Shapes that are not large, and of which nothing is drawn that does not fade with them."""
    groups = [node.children for node in nodes(document.root) if isinstance(node, Group)]
    with_markers = {id(a) for group in groups for a, b in pairwise(group) if _is_marker(b)}
    for draw in draws(document.root):
        left, top, right, bottom = outline_box(draw, Affine2D(), document.parameters)
        large = max(right - left, bottom - top) > REMOVABLE * max(document.width, document.height)
        if not large and id(draw) not in with_markers and document.parameters[draw.geometry.key].group == "points":
            yield draw


def _is_marker(node: Node) -> bool:
    return isinstance(node, StaticPart) and node.name == "marker"


def _fading(document: Document, visible: dict[str, float]) -> Document:
    """With a number for each shape of these geometries that it is multiplied with."""
    made: dict[int, Node] = {}
    parameters = dict(document.parameters)
    for node in reversed(list(nodes(document.root))):  # what a group holds comes before it
        made[id(node)] = node
        if isinstance(node, Group):
            made[id(node)] = replace(node, children=tuple(made[id(child)] for child in node.children))
        elif isinstance(node, Draw) and node.geometry.key in visible:
            key = fade_key(node)
            owner = document.parameters[node.geometry.key].owner
            parameters[key] = Parameter(key, np.array(visible[node.geometry.key]), owner, FADE, "fades")
            alone = node.stroke is None and node.fill_opacity is None
            made[id(node)] = replace(node, fill_opacity=key) if alone else Group((node,), key)
    root = made[id(document.root)]
    assert isinstance(root, Group)
    return replace(document, root=root, parameters=parameters)


def _circle(document: Document) -> str:
    """The outline of a path that may be added, in the root's user units."""
    inverse = document.matrix.inverse()
    x, y = inverse.apply(document.width / 2, document.height / 2)
    radius = RADIUS * max(document.width, document.height) / document.matrix.scale
    angles = [2 * math.pi * k / CURVES for k in range(CURVES)]
    return path_data(np.array([(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]))


def closed_curve(anchors: np.ndarray) -> np.ndarray:
    """Control points (3 n + 1, 2) of a smooth closed curve through n points: Catmull and Rom's."""
    tangent = (np.roll(anchors, -1, 0) - np.roll(anchors, 1, 0)) / 6
    after = np.roll(anchors, -1, 0)
    curves = np.stack([anchors + tangent, after - np.roll(tangent, -1, 0), after], 1).reshape(-1, 2)
    return np.concatenate([anchors[:1], curves])


def path_data(anchors: np.ndarray) -> str:
    """The curve as the d of a path."""
    texts = [f"{x:.9g} {y:.9g}" for x, y in closed_curve(anchors)]
    curves = [" ".join(texts[k : k + 3]) for k in range(1, len(texts), 3)]
    return f"M{texts[0]}C{' '.join(curves)}Z"
