"""diffvg (Li et al. 2020) behind the interface of svg.raster.page, for those who have built it.

    raster = DiffvgRaster(document.root, document.width, document.height)
    image = raster.render(values, 128, 128)          # premultiplied RGBA, gradients reach the tensors of `values`

Coverage is estimated from `samples` x `samples` jittered points a pixel, the gradient of outlines from as many points
on them. What diffvg would draw otherwise than SVG says is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cpds.errors import InputError, MissingExtra
from svg.model import IDENTITY, Affine2D, Draw, Gradient, Group, Paint, Solid, StaticPart, Stroke, Texture
from svg.raster.outlines import Outlines

REMEDY = "leave rasterizer at torch"
MOST_OVERLAPS = 256  # shapes on one spot, after which diffvg aborts the process
GAP = 1e-6  # between a gradient's stops, which diffvg wants strictly ascending
SEEN = 2**-10  # what the background's alpha lacks of 1
NUDGE = 2**-10  # px by which all is moved, since diffvg counts an edge on the border of two pixels in both
FAR = 1e3  # offset of a stop that nothing reaches


@dataclass(frozen=True)
class _Shape:
    """One outline to paint: a draw's fill or its stroke."""

    draw: Draw
    stroke: Stroke | None
    paint: Solid | Gradient
    opacities: tuple[str, ...]  # its own and its groups'


@dataclass(frozen=True)
class _Contour:
    """A chain of curves: indices of their control points (p0, p1, p2, p3), and their degrees."""

    control: Int[Tensor, "c 4"]
    degrees: tuple[int, ...]
    closed: bool


class DiffvgRaster:
    """A page of `width` x `height` px, ready to be drawn with any numbers at any size.

    Raises MissingExtra without pydiffvg, and one InputError that names all that diffvg cannot draw.
    """

    def __init__(self, root: Group, width: float, height: float, samples: int = 2) -> None:
        _library()
        self.width, self.height, self.samples = width, height, samples
        self.shapes = list(_shapes(root))
        geometries = list(dict.fromkeys(s.draw.geometry for s in self.shapes))
        self.outlines = Outlines(geometries)
        self.contours = dict(zip(geometries, _contours(self.outlines), strict=True))
        _require_none([*_layer_limits(root), *(limit for s in self.shapes for limit in self._limits(s))])

    def _limits(self, shape: _Shape) -> Iterator[str]:
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
        contours = self.contours[draw.geometry]
        if stroke.dashes:
            yield "dashes"
        if stroke.cap != "round" and not all(c.closed for c in contours):
            yield f"{stroke.cap} line caps"
        corners = draw.geometry.kind not in ("circle", "ellipse") and any(len(c.degrees) > 1 for c in contours)
        if stroke.join != "round" and corners:
            yield f"{stroke.join} line joins"
        if not (_upright(m) and torch.isclose(m[0].norm(), m[1].norm(), rtol=1e-3)):
            yield "strokes that a transform stretches"

    def render(self, values: Mapping[str, Tensor], height: int, width: int, seed: int = 0) -> Float[Tensor, "4 H W"]:
        """The page at `height` x `width` px, transparent where nothing is drawn; `seed` places the sampling points."""
        library = _library()
        device = next((v.device for v in values.values()), torch.device("cpu"))
        numbers = {k: v.cpu().double() for k, v in values.items()}
        _require_none([limit for s in self.shapes for limit in _focal(s.paint, numbers)])
        paths, groups = self._scene(library, numbers, (width, height))
        if not groups:
            return torch.zeros(4, height, width, device=device)
        library.set_device(device if device.type == "cuda" else torch.device("cpu"))
        scene = library.RenderFunction.serialize_scene(width, height, paths, groups)
        # diffvg averages straight colors over a pixel, which is right on an opaque background alone; on a black one
        # that is opaque but for SEEN, alpha still tells how much of the background is seen
        background = torch.zeros(height, width, 4)
        background[..., 3] = 1 - SEEN
        each = (self.samples, self.samples)
        try:
            found = library.RenderFunction.apply(width, height, *each, seed, background, *scene).permute(2, 0, 1)
        except RuntimeError as err:
            if "GPU" not in str(err):
                raise
            raise InputError(f"this diffvg was built without CUDA: set device to cpu, or {REMEDY}") from err
        return torch.cat([found[:3] * found[3:], 1 - (1 - found[3:]) / SEEN]).to(device)

    def _scene(
        self, library: ModuleType, numbers: Mapping[str, Tensor], size: tuple[int, int]
    ) -> tuple[list[Any], list[Any]]:
        """diffvg's paths and groups, one for each shape that has a length; geometry in px of its canvas."""
        one = torch.ones((), dtype=torch.float64)
        view = one.new_tensor(Affine2D.scaling(size[0] / self.width, size[1] / self.height).rows)
        points = self.outlines.points(numbers) if self.shapes else one.new_zeros(0, 2)
        paths, groups = [], []
        for s in self.shapes:
            frame = view @ one.new_tensor(s.draw.matrix.rows)
            half = numbers[s.stroke.width].reshape(()) / 2 * frame[:2, :2].det().abs().sqrt() if s.stroke else one
            chains = [_chain(c, points, fill=s.stroke is None) for c in self.contours[s.draw.geometry]]
            own = [
                library.Path(
                    torch.tensor(inner, dtype=torch.int32),
                    (points[index] @ frame[:2, :2].T + frame[:2, 2] + NUDGE).float().contiguous(),
                    shut,
                    stroke_width=half.float(),
                )
                for inner, index, shut in chains
                if inner
            ]
            if not own:
                continue
            opacity = torch.stack([one, *(numbers[k].reshape(()) for k in s.opacities)]).prod()
            color = _paint(library, s.paint, opacity, numbers, frame @ _box(s, numbers, frame))
            groups.append(
                library.ShapeGroup(
                    torch.arange(len(paths), len(paths) + len(own), dtype=torch.int32),
                    fill_color=None if s.stroke else color,
                    stroke_color=color if s.stroke else None,
                    use_even_odd_rule=s.stroke is None and s.draw.fill_rule == "evenodd",
                )
            )
            paths += own
        _require_none(_crowd([[paths[i] for i in g.shape_ids.tolist()] for g in groups], size))
        return paths, groups


def _library() -> ModuleType:
    try:
        import pydiffvg  # pyright: ignore[reportMissingImports]
    except ImportError as err:
        raise MissingExtra(
            f"diffvg cannot be imported ({err}): it is on no registry, so build it from its source "
            f"(https://github.com/BachiLi/diffvg), or {REMEDY}"
        ) from err
    return pydiffvg


def _require_none(limits: Sequence[str]) -> None:
    """Raise InputError if diffvg cannot draw something."""
    if limits:
        raise InputError(f"diffvg cannot draw {', '.join(dict.fromkeys(limits))}: {REMEDY}")


def _shapes(node: Group | Draw | StaticPart, opacities: tuple[str, ...] = ()) -> Iterator[_Shape]:
    """All that is painted, back to front."""
    if isinstance(node, Group):
        for child in node.children:
            yield from _shapes(child, (*opacities, node.opacity) if node.opacity else opacities)
    elif isinstance(node, Draw):
        found = []
        if node.fill and not isinstance(node.fill, Texture):
            own = (node.fill_opacity,) if node.fill_opacity else ()
            found.append(_Shape(node, None, node.fill, (*opacities, *own)))
        if node.stroke and not isinstance(node.stroke.paint, Texture):
            found.append(_Shape(node, node.stroke, node.stroke.paint, (*opacities, node.stroke.opacity)))
        yield from reversed(found) if node.stroke_first else found


def _layer_limits(node: Group | Draw | StaticPart) -> Iterator[str]:
    """What needs a layer or another renderer."""
    if isinstance(node, StaticPart):
        yield f"{node.name} (drawn by resvg)"
    if isinstance(node, Draw) and any(isinstance(p, Texture) for p in (node.fill, node.stroke and node.stroke.paint)):
        yield "patterns (drawn by resvg)"
    if not isinstance(node, Group):
        return
    if node.clip:
        yield "clip paths"
    if node.opacity and len(list(_shapes(node))) > 1:
        yield "group opacity over several shapes"
    for child in node.children:
        yield from _layer_limits(child)


def _focal(paint: Paint, numbers: Mapping[str, Tensor]) -> Iterator[str]:
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


def _contours(outlines: Outlines) -> list[list[_Contour]]:
    """Each geometry's contours."""
    found: list[list[_Contour]] = [[] for _ in outlines.geometries]
    table = zip(
        outlines.contour.tolist(),
        outlines.geometry.tolist(),
        outlines.control.tolist(),
        outlines.degree.tolist(),
        strict=True,
    )
    for (contour, geometry), rows in groupby(table, key=lambda row: row[:2]):
        _, _, control, degrees = zip(*rows, strict=True)
        found[geometry].append(_Contour(torch.tensor(control), degrees, bool(outlines.closed[contour])))
    return found


def _chain(contour: _Contour, points: Float[Tensor, "p 2"], fill: bool) -> tuple[list[int], list[int], bool]:
    """A contour in diffvg's order: inner control points of each curve, indices of points, whether it runs back.

    The first is empty if the contour has no length. To fill, it always runs back.
    """
    corners = points.detach()[contour.control]
    still = (corners == corners[:, :1]).flatten(1).all(1).tolist()
    if all(still):
        return [], [], False
    inner, index = [], []
    for row, degree, dot in zip(contour.control.tolist(), contour.degrees, still, strict=True):
        inner.append(0 if dot else degree - 1)
        index += row[: inner[-1] + 1]
    if contour.closed:
        return inner, index, True
    return inner + [0] * fill, [*index, int(contour.control[-1, 3])], fill


@torch.no_grad()
def _box(shape: _Shape, numbers: Mapping[str, Tensor], matrix: Float[Tensor, "3 3"]) -> Float[Tensor, "3 3"]:
    """What leads from a paint's units to the shape's: to its bounds where the paint is fitted to it."""
    if isinstance(shape.paint, Solid) or shape.paint.units == "userSpaceOnUse":
        return matrix.new_tensor(IDENTITY.rows)
    px = torch.linalg.matrix_norm(matrix[:2, :2], ord=2)
    segments = Outlines([shape.draw.geometry]).flatten(numbers, px.reshape(1))
    both = torch.cat([segments.start, segments.end])
    low, size = both.amin(0), both.amax(0) - both.amin(0)
    return torch.cat([torch.cat([size.diag(), low[:, None]], 1), matrix.new_tensor([[0, 0, 1]])])


def _paint(
    library: ModuleType,
    paint: Solid | Gradient,
    opacity: Float[Tensor, ""],
    numbers: Mapping[str, Tensor],
    frame: Float[Tensor, "3 3"],
) -> Any:
    """A color (4,) or a gradient of diffvg's, which it wants in px of its canvas; `frame` leads there."""
    if isinstance(paint, Solid):
        return torch.cat([numbers[paint.key].reshape(3), opacity.reshape(1)]).float()
    colors = torch.stack(
        [torch.cat([numbers[s.color].reshape(3), (numbers[s.opacity] * opacity).reshape(1)]) for s in paint.stops]
    ).float()
    frame = frame @ frame.new_tensor(paint.matrix.rows)
    linear, shift, geometry = frame[:2, :2], frame[:2, 2], numbers[paint.key]
    along = geometry[2:4] - geometry[:2]
    reach = along.norm() if paint.kind == "linear" else geometry[2]
    if float(reach.detach()) <= 0 or len(colors) == 1 or abs(float(linear.det())) < 1e-20:
        return colors[-1].contiguous()
    offsets = torch.stack([numbers[s.offset].reshape(()) for s in paint.stops]).clamp(0, 1).cummax(0).values
    offsets = (offsets + GAP * torch.arange(len(offsets))).float()
    if paint.kind == "linear":
        across = torch.linalg.solve(linear.T, along) / (along * along).sum()  # gradient of the offset in the canvas
        start = linear @ geometry[:2] + shift
        end = start + across / (across * across).sum()
        return library.LinearGradient(start.float(), end.float(), offsets, colors)
    # diffvg has no focal point: one that lies on the center moves with it
    center = linear @ (geometry[:2] + geometry[3:5]) / 2 + shift
    radii = geometry[2] * (linear @ linear.T).diagonal().sqrt()
    # its backward pass adds every gradient to the last stop's as well, so a copy out of reach is the last one
    offsets = torch.cat([offsets, offsets.new_full((1,), FAR)])
    colors = torch.cat([colors, colors[-1:].detach()])
    return library.RadialGradient(center.float(), radii.float(), offsets, colors)


def _crowd(shapes: Sequence[Sequence[Any]], size: tuple[int, int]) -> list[str]:
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
