"""Shapes that cover the whole page: what is drawn on them changes, they stay where they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from svg.document import Document
from svg.model import Draw, Gradient, Group, Node, Parameter, Solid

INSET = 1e-3  # of the page's sides, by which a shape may miss its border

Parameters = Mapping[str, Parameter]


def backdrops(document: Document) -> set[str]:
    """Keys of the outlines of opaque shapes that cover the page, outside of clips: rectangles, ellipses, polygons."""
    parameters = document.parameters
    low, high = INSET, 1 - INSET
    x, y = np.array([[low, high, high, low], [low, low, high, high]])
    corners = x * document.width, y * document.height
    return {
        draw.geometry.key
        for draw in _unclipped(document.root, parameters)
        if _opaque(draw, parameters)
        and _surrounds(draw, parameters, np.stack(draw.matrix.inverse().apply(*corners), 1))
    }


def _unclipped(root: Group, parameters: Parameters) -> Iterator[Draw]:
    """All that is drawn on the page itself, or in groups as it would be there."""
    todo: list[Node] = [root]
    while todo:
        node = todo.pop()
        if isinstance(node, Draw):
            yield node
        elif isinstance(node, Group) and node.clip is None and _whole(node.opacity, parameters):
            todo.extend(node.children)


def _opaque(draw: Draw, parameters: Parameters) -> bool:
    """Whether nothing shows through a shape's fill."""
    stops = draw.fill.stops if isinstance(draw.fill, Gradient) else ()
    whole = all(_whole(key, parameters) for key in (draw.fill_opacity, *(stop.opacity for stop in stops)))
    return whole and isinstance(draw.fill, Solid | Gradient)


def _whole(opacity: str | None, parameters: Parameters) -> bool:
    return opacity is None or float(parameters[opacity].value) == 1


def _surrounds(draw: Draw, parameters: Parameters, corners: np.ndarray) -> bool:
    """Whether the page's corners (4, 2), in the shape's user units, and so all between them, lie within its outline."""
    geometry, numbers = draw.geometry, parameters[draw.geometry.key].value
    if geometry.kind in ("circle", "ellipse"):
        radii = numbers[2:] if numbers[2:].all() else np.full(1, np.nan)
        return bool((((corners - numbers[:2]) / radii) ** 2).sum(1).max() <= 1)
    if geometry.kind == "rect":
        inside = (corners >= numbers[:2]) & (corners <= numbers[:2] + numbers[2:4])
        return bool(inside.all()) and not numbers[4:].all()
    if geometry.kind == "line" or set(geometry.commands[1:]) - set("LZ"):
        return False
    sides = np.roll(numbers, -1, 0) - numbers  # the corners lie on one side of all of them
    x, y = np.moveaxis(corners[:, None] - numbers, 2, 0)
    turns = sides[:, 0] * y - sides[:, 1] * x
    return bool(turns.any() and ((turns >= 0).all() or (turns <= 0).all()))
