"""What diffvg would draw otherwise than SVG prescribes: found, so that it can be refused, before work starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cpds.errors import InputError
from svg.model import Draw, Gradient, Group, Paint, Solid, StaticPart, Stroke, Texture
from svg.raster.outlines import Outlines

REMEDY = "leave rasterizer at torch"
MOST_OVERLAPS = 256  # shapes on one spot, after which diffvg aborts the process


@dataclass(frozen=True)
class Shape:
    """One outline to paint: a draw's fill or its stroke."""

    draw: Draw
    stroke: Stroke | None
    paint: Solid | Gradient
    opacities: tuple[str, ...]  # its own and its groups'


@dataclass(frozen=True)
class Contour:
    """A chain of curves: indices of their control points (p0, p1, p2, p3), and their degrees."""

    control: Int[Tensor, "c 4"]
    degrees: tuple[int, ...]
    closed: bool


def require_none(limits: Sequence[str]) -> None:
    """Raise InputError if diffvg cannot draw something."""
    if limits:
        raise InputError(f"diffvg cannot draw {', '.join(dict.fromkeys(limits))}: {REMEDY}")


def shapes_of(node: Group | Draw | StaticPart, opacities: tuple[str, ...] = ()) -> Iterator[Shape]:
    """All that is painted, back to front."""
    if isinstance(node, Group):
        for child in node.children:
            yield from shapes_of(child, (*opacities, node.opacity) if node.opacity else opacities)
    elif isinstance(node, Draw):
        found = []
        if node.fill and not isinstance(node.fill, Texture):
            own = (node.fill_opacity,) if node.fill_opacity else ()
            found.append(Shape(node, None, node.fill, (*opacities, *own)))
        if node.stroke and not isinstance(node.stroke.paint, Texture):
            found.append(Shape(node, node.stroke, node.stroke.paint, (*opacities, node.stroke.opacity)))
        yield from reversed(found) if node.stroke_first else found


def contours_of(outlines: Outlines) -> list[list[Contour]]:
    """Each geometry's contours."""
    found: list[list[Contour]] = [[] for _ in outlines.geometries]
    table = zip(
        outlines.contour.tolist(),
        outlines.geometry.tolist(),
        outlines.control.tolist(),
        outlines.degree.tolist(),
        strict=True,
    )
    for (contour, geometry), rows in groupby(table, key=lambda row: row[:2]):
        _, _, control, degrees = zip(*rows, strict=True)
        found[geometry].append(Contour(torch.tensor(control), degrees, bool(outlines.closed[contour])))
    return found


def shape_limits(shape: Shape, contours: Sequence[Contour]) -> Iterator[str]:
    """What of a shape diffvg cannot draw, as far as that does not depend on numbers."""
    draw, stroke, paint = shape.draw, shape.stroke, shape.paint
    m = torch.tensor(draw.matrix.rows, dtype=torch.float64)[:2, :2]
    if isinstance(paint, Gradient):
        if paint.spread != "pad":
            yield f"gradients with spreadMethod {paint.spread}"
        if paint.kind == "radial":
            frame = m.new_tensor(paint.matrix.rows)[:2, :2]
            free = paint.units == "objectBoundingBox"  # the box stretches x and y by any amounts
            slanted = not (_upright(frame) and _axes(m)) if free else not _upright(m @ frame)
            if slanted:
                yield "slanted radial gradients"
        if stroke:  # it makes no room for their gradients and crashes
            yield "strokes with a gradient"
    if stroke is None:
        return
    if stroke.dashes:
        yield "dashes"
    if stroke.cap != "round" and not all(c.closed for c in contours):
        yield f"{stroke.cap} line caps"
    corners = draw.geometry.kind not in ("circle", "ellipse") and any(len(c.degrees) > 1 for c in contours)
    if stroke.join != "round" and corners:
        yield f"{stroke.join} line joins"
    if not (_upright(m) and torch.isclose(m[0].norm(), m[1].norm(), rtol=1e-3)):
        yield "strokes that a transform stretches"


def layer_limits(node: Group | Draw | StaticPart) -> Iterator[str]:
    """What needs a layer or another renderer."""
    if isinstance(node, StaticPart):
        yield f"{node.name} (drawn by resvg)"
    if isinstance(node, Draw) and any(isinstance(p, Texture) for p in (node.fill, node.stroke and node.stroke.paint)):
        yield "patterns (drawn by resvg)"
    if not isinstance(node, Group):
        return
    if node.clip:
        yield "clip paths"
    if node.opacity and len(list(shapes_of(node))) > 1:
        yield "group opacity over several shapes"
    for child in node.children:
        yield from layer_limits(child)


def focal_limits(paint: Paint, numbers: Mapping[str, Tensor]) -> Iterator[str]:
    if isinstance(paint, Gradient) and paint.kind == "radial":
        cx, cy, r, fx, fy, fr = numbers[paint.key].tolist()
        if max(abs(fx - cx), abs(fy - cy)) > 1e-3 * r or fr > 0:
            yield "radial gradients with a focal point or circle"


def _upright(m: Float[Tensor, "2 2"]) -> bool:
    """Whether the image of a circle has its axes along x and y."""
    square = m @ m.T
    return abs(float(square[0, 1])) <= 1e-3 * float(square.trace())


def _axes(m: Float[Tensor, "2 2"]) -> bool:
    """Whether x and y stay, or change places."""
    size = float(m.abs().max())
    return bool((m.diagonal().abs() <= 1e-3 * size).all() or (m.flip(0).diagonal().abs() <= 1e-3 * size).all())


def crowd_limits(shapes: Sequence[Sequence[Any]], size: tuple[int, int]) -> list[str]:
    """Whether the boxes of too many shapes share a pixel."""
    if len(shapes) <= MOST_OVERLAPS:
        return []
    count = torch.zeros(size[1] + 1, size[0] + 1)
    for paths in shapes:
        reach = max(float(p.stroke_width.detach()) for p in paths)
        points = torch.cat([p.points.detach() for p in paths])
        x0, y0 = (points.amin(0) - reach).floor().long().tolist()
        x1, y1 = (points.amax(0) + reach).ceil().long().tolist()
        count[max(y0, 0) : max(y1 + 1, 0), max(x0, 0) : max(x1 + 1, 0)] += 1
    return [f"more than {MOST_OVERLAPS} shapes that overlap"] if float(count.max()) > MOST_OVERLAPS else []
