"""diffvg (Li et al. 2020) behind the interface of svg.raster.page, for those who have built it.

    raster = DiffvgRaster(document.root, document.width, document.height)
    image = raster.render(values, 128, 128)          # premultiplied RGBA, gradients reach the tensors of `values`

Coverage is estimated from `samples` x `samples` jittered points a pixel, the gradient of outlines from as many points
on them. What diffvg would draw otherwise than SVG prescribes is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cpds.errors import InputError, MissingExtra
from svg.model import IDENTITY, Affine2D, Gradient, Group, Solid
from svg.raster.diffvg_limits import (
    REMEDY,
    Contour,
    Shape,
    contours_of,
    crowd_limits,
    focal_limits,
    layer_limits,
    require_none,
    shape_limits,
    shapes_of,
)
from svg.raster.outlines import Outlines

GAP = 1e-6  # between a gradient's stops, which diffvg wants strictly ascending
SEEN = 2**-10  # what the background's alpha lacks of 1
NUDGE = 2**-10  # px by which all is moved, since diffvg counts an edge on the border of two pixels in both
FAR = 1e3  # offset of a stop that nothing reaches


class DiffvgRaster:
    """A page of `width` x `height` px, ready to be drawn with any numbers at any size.

    Raises MissingExtra without pydiffvg, and one InputError that names all that diffvg cannot draw.
    """

    def __init__(self, root: Group, width: float, height: float, samples: int = 2) -> None:
        _library()
        self.width, self.height, self.samples = width, height, samples
        self.shapes = list(shapes_of(root))
        geometries = list(dict.fromkeys(s.draw.geometry for s in self.shapes))
        self.outlines = Outlines(geometries)
        self.contours = dict(zip(geometries, contours_of(self.outlines), strict=True))
        limits = [limit for s in self.shapes for limit in shape_limits(s, self.contours[s.draw.geometry])]
        require_none([*layer_limits(root), *limits])

    def render(self, values: Mapping[str, Tensor], height: int, width: int, seed: int = 0) -> Float[Tensor, "4 H W"]:
        """The page at `height` x `width` px, transparent where nothing is drawn; `seed` places the sampling points."""
        library = _library()
        device = next((v.device for v in values.values()), torch.device("cpu"))
        numbers = {k: v.cpu().double() for k, v in values.items()}
        require_none([limit for s in self.shapes for limit in focal_limits(s.paint, numbers)])
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
        require_none(crowd_limits([[paths[i] for i in g.shape_ids.tolist()] for g in groups], size))
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


def _chain(contour: Contour, points: Float[Tensor, "p 2"], fill: bool) -> tuple[list[int], list[int], bool]:
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
def _box(shape: Shape, numbers: Mapping[str, Tensor], matrix: Float[Tensor, "3 3"]) -> Float[Tensor, "3 3"]:
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
    A, t, geometry = frame[:2, :2], frame[:2, 2], numbers[paint.key]  # p' = A p + t
    v = geometry[2:4] - geometry[:2]
    length = v.norm() if paint.kind == "linear" else geometry[2]
    if float(length.detach()) <= 0 or len(colors) == 1 or abs(float(A.det())) < 1e-20:
        return colors[-1].contiguous()
    offsets = torch.stack([numbers[s.offset].reshape(()) for s in paint.stops]).clamp(0, 1).cummax(0).values
    offsets = (offsets + GAP * torch.arange(len(offsets))).float()
    if paint.kind == "linear":
        g = torch.linalg.solve(A.T, v) / (v * v).sum()  # the offset's gradient in the canvas
        start = A @ geometry[:2] + t
        end = start + g / (g * g).sum()
        return library.LinearGradient(start.float(), end.float(), offsets, colors)
    # diffvg has no focal point: one that lies on the center moves with it
    center = A @ (geometry[:2] + geometry[3:5]) / 2 + t
    radii = geometry[2] * (A @ A.T).diagonal().sqrt()
    # its backward pass adds every gradient to the last stop's as well, so a copy out of reach is the last one
    offsets = torch.cat([offsets, offsets.new_full((1,), FAR)])
    colors = torch.cat([colors, colors[-1:].detach()])
    return library.RadialGradient(center.float(), radii.float(), offsets, colors)
