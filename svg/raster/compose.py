"""Painting in order: coverage, colors and layers into one image, with a backward pass that walks back.

out = src + dst (1 - alpha_src), premultiplied (Porter & Duff 1984). Each step is one entry of a tape; the backward pass
reads it from its end, with the backdrops of the steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

Box = tuple[int, int, int, int]  # x, y, width, height on the canvas


@dataclass(frozen=True)
class Fill:
    """Paint shape `shape`'s coverage with row `shape` of the colors, or with map number `map`."""

    shape: int
    box: Box
    map: int | None = None
    clip: Tensor | None = None  # (H, W): what shows
    opacity: int | None = None  # of a group that has this shape alone


@dataclass(frozen=True)
class Paste:
    """Paint a premultiplied image (H, W, 4)."""

    image: Tensor
    clip: Tensor | None = None


@dataclass(frozen=True)
class Begin:
    """Start a layer."""


@dataclass(frozen=True)
class End:
    """Put the layer on what lies below."""

    opacity: int | None
    clip: Tensor | None


Step = Fill | Paste | Begin | End


@dataclass(frozen=True)
class Inputs:
    """What an image depends on, or the gradients of it.

    `colors` are straight RGB and opacity of each shape; `opacities` those of groups; `maps` straight RGBA in a shape's
    box, whose alpha the shape's opacity multiplies.
    """

    coverage: Float[Tensor, " cells"]
    colors: Float[Tensor, "s 4"]
    opacities: Float[Tensor, " o"]
    maps: list[Tensor]

    def covered(self, step: Fill, rows: list[tuple[int, int]]) -> Float[Tensor, "h w 1"]:
        """A shape's coverage, a view into the flat buffer."""
        (start, stride), (_, _, w, h) = rows[step.shape], step.box
        return self.coverage[start : start + stride * h].view(h, stride)[:, :w, None]

    def paint(self, step: Fill) -> tuple[Tensor, Tensor]:
        """A fill's color (…, 3) and the alpha (…, 1) that comes with it."""
        color, opacity = self.colors[step.shape, :3], self.colors[step.shape, 3:]
        return (
            (color, opacity)
            if step.map is None
            else (self.maps[step.map][..., :3], self.maps[step.map][..., 3:] * opacity)
        )

    def shown(self, step: Fill) -> Tensor:
        """What a fill's clip leaves of it."""
        return step.clip[_cut(step.box)][..., None] if step.clip is not None else self.colors.new_ones(1)

    def dim(self, opacity: int | None) -> Tensor:
        """A group's opacity."""
        return self.opacities[opacity] if opacity is not None else self.colors.new_ones(())


class _Compose(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, size: tuple[int, int], tape: list[Step], rows: list[tuple[int, int]], *inputs: Tensor
    ) -> Tensor:
        given, keep = Inputs(inputs[0], inputs[1], inputs[2], list(inputs[3:])), any(ctx.needs_input_grad)
        stack = [given.coverage.new_zeros(*size, 4)]
        backdrops: list[Tensor | None] = []  # what each step found below it
        for step in tape:
            if isinstance(step, Fill):
                part = stack[-1][_cut(step.box)]
                backdrops.append(part.clone() if keep else None)
                color, alpha = given.paint(step)
                alpha = given.covered(step, rows) * (alpha * given.shown(step) * given.dim(step.opacity))
                part.mul_(1 - alpha)
                part[..., :3] += alpha * color
                part[..., 3:] += alpha
                continue
            if isinstance(step, Begin):
                stack.append(torch.zeros_like(stack[-1]))
                backdrops.append(None)
                continue
            layer = stack.pop() if isinstance(step, End) else step.image
            backdrops.append(torch.stack([layer, stack[-1]]) if isinstance(step, End) and keep else None)
            source = layer * _factor(step, given)
            stack[-1].mul_(1 - source[..., 3:]).add_(source)
        ctx.tape, ctx.rows, ctx.backdrops = tape, rows, backdrops
        ctx.save_for_backward(*inputs)
        return stack[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        given, out = (
            Inputs(x[0], x[1], x[2], list(x[3:]))
            for x in (ctx.saved_tensors, [torch.zeros_like(x) for x in ctx.saved_tensors])
        )
        stack = [grads[0].clone()]
        for step, backdrop in zip(reversed(ctx.tape), reversed(ctx.backdrops), strict=True):
            grad = stack[-1]
            if isinstance(step, Fill):
                _fill_backward(step, ctx.rows, grad[_cut(step.box)], backdrop, given, out)
            elif isinstance(step, Begin):
                stack.pop()
            elif isinstance(step, Paste):
                grad.mul_(1 - (step.image * _factor(step, given))[..., 3:])
            else:
                layer, below = backdrop
                factor = _factor(step, given)
                to_source = grad.clone()
                to_source[..., 3] -= (grad * below).sum(-1)
                if step.opacity is not None:
                    shown = step.clip[..., None] if step.clip is not None else 1
                    out.opacities[step.opacity] += (to_source * layer * shown).sum()
                grad.mul_(1 - (layer * factor)[..., 3:])
                stack.append(to_source * factor)
        return (None, None, None, out.coverage, out.colors, out.opacities, *out.maps)


def _cut(box: Box) -> tuple[slice, slice]:
    x, y, w, h = box
    return slice(y, y + h), slice(x, x + w)


def _factor(step: Paste | End, given: Inputs) -> Tensor:
    """What multiplies a layer: its group's opacity and clip."""
    dim = given.dim(step.opacity) if isinstance(step, End) else given.dim(None)
    return dim * step.clip[..., None] if step.clip is not None else dim.reshape(1)


def _fill_backward(
    step: Fill, rows: list[tuple[int, int]], grad: Tensor, below: Tensor, given: Inputs, out: Inputs
) -> None:
    """Pass a fill's gradient on to what it was made of; `grad` becomes that of what lay below."""
    color, a = given.paint(step)
    covered, shown, dim = given.covered(step, rows), given.shown(step), given.dim(step.opacity)
    alpha = covered * (a * shown * dim)
    to_alpha = (grad[..., :3] * color).sum(-1, keepdim=True) + grad[..., 3:] - (grad * below).sum(-1, keepdim=True)
    to_color, to_a = grad[..., :3] * alpha, to_alpha * covered * (shown * dim)
    out.covered(step, rows).add_(to_alpha * (a * shown * dim))
    if step.opacity is not None:
        out.opacities[step.opacity] += (to_alpha * covered * a * shown).sum()
    if step.map is None:
        out.colors[step.shape, :3] += to_color.sum((0, 1))
        out.colors[step.shape, 3] += to_a.sum()
    else:
        out.maps[step.map].add_(torch.cat([to_color, to_a * given.colors[step.shape, 3]], -1))
        out.colors[step.shape, 3] += (to_a * given.maps[step.map][..., 3:]).sum()
    grad.mul_(1 - alpha)


def compose(
    size: tuple[int, int], tape: list[Step], rows: list[tuple[int, int]], inputs: Inputs
) -> Float[Tensor, "h w 4"]:
    """The image (premultiplied RGBA) that the tape paints on a transparent canvas of `size` (height, width).

    `rows` are each shape's (start, stride) in the flat coverage.
    """
    tensors = (inputs.coverage, inputs.colors, inputs.opacities, *inputs.maps)
    return _Compose.apply(size, tape, rows, *tensors)  # pyright: ignore[reportReturnType]
