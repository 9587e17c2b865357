"""Painting in order: coverage, colors and layers into one image, with a backward pass that walks back.

out = src + dst (1 - alpha_src), premultiplied (Porter & Duff 1984). Each step is one entry of a tape; the backward pass
reads it from its end, with the backdrops of the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from svg.raster.steps import BLOCK, Begin, End, Fill, Paste, Pixels, Step, Together, in_levels

Rows = Sequence[tuple[int, int]]  # each shape's (start, stride) in the coverage
FIELDS = fields(Pixels)


@dataclass(frozen=True)
class Inputs:
    """What an image depends on, or the gradients of it.

    `colors` are straight RGB and opacity of each shape; `opacities` those of groups; `maps` straight RGBA in a shape's
    box, row by row, box after box, whose alpha the shape's opacity multiplies.
    """

    coverage: Float[Tensor, " cells"]
    colors: Float[Tensor, "s 4"]
    opacities: Float[Tensor, " o"]
    maps: Float[Tensor, "m 4"]

    def covered(self, fill: Fill, rows: Rows) -> Float[Tensor, "h w 1"]:
        """A shape's coverage, a view into the flat buffer."""
        (start, stride), (_, _, w, h) = rows[fill.shape], fill.box
        return self.coverage[start : start + stride * h].view(h, stride)[:, :w, None]

    def map(self, fill: Fill) -> Float[Tensor, "h w 4"]:
        """A fill's map, a view."""
        assert fill.map is not None
        return self.maps[fill.map : fill.map + fill.area].view(fill.box[3], fill.box[2], 4)

    def paint(self, fill: Fill) -> tuple[Tensor, Tensor]:
        """A fill's color (…, 3) and the alpha (…, 1) that comes with it."""
        color, opacity = self.colors[fill.shape].split([3, 1])
        return (color, opacity) if fill.map is None else (self.map(fill)[..., :3], self.map(fill)[..., 3:] * opacity)

    def dimmed(self, x: Tensor, step: Fill | Paste | End) -> Tensor:
        """`x` (…, 1) or (…, 4) times what the step's clip and its group's opacity leave of it."""
        if step.clip is not None:
            x = x * (step.clip[step.cut] if isinstance(step, Fill) else step.clip)[..., None]
        opacity = None if isinstance(step, Paste) else step.opacity
        return x if opacity is None else x * self.opacities[opacity]


class _Compose(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, size: tuple[int, int], steps: list[Step], rows: Rows, blocks: list[Pixels], *inputs: Tensor
    ) -> Tensor:
        given, keep = Inputs(*inputs), any(ctx.needs_input_grad)
        stack = [given.coverage.new_zeros(*size, 4)]
        backdrops: list[Tensor | None] = []  # what each step found below it
        made = _Made(given, blocks)
        for step in steps:
            if isinstance(step, Together):
                backdrops.append(made.block(step).paint(step, stack[-1], keep))
            elif isinstance(step, Fill):
                part = stack[-1][step.cut]
                backdrops.append(part.clone() if keep else None)
                color, alpha = given.paint(step)
                alpha = given.covered(step, rows) * given.dimmed(alpha, step)
                part.mul_(1 - alpha)
                part[..., :3] += alpha * color
                part[..., 3:] += alpha
            elif isinstance(step, Begin):
                stack.append(torch.zeros_like(stack[-1]))
                backdrops.append(None)
            else:
                layer = stack.pop() if isinstance(step, End) else step.image
                backdrops.append(torch.stack([layer, stack[-1]]) if isinstance(step, End) and keep else None)
                source = given.dimmed(layer, step)
                stack[-1].mul_(1 - source[..., 3:]).add_(source)
        ctx.steps, ctx.rows = steps, rows
        ctx.save_for_backward(*inputs, *(getattr(p, f.name) for p in blocks for f in FIELDS), *backdrops)
        return stack[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        inputs, kept = ctx.saved_tensors[:4], ctx.saved_tensors[4:]
        given, out = Inputs(*inputs), Inputs(*(torch.zeros_like(x) for x in inputs))
        first = len(kept) - len(ctx.steps)
        made = _Made(given, [Pixels(*kept[i : i + len(FIELDS)]) for i in range(0, first, len(FIELDS))])
        stack = [grads[0].clone(memory_format=torch.contiguous_format)]
        for step, backdrop in zip(reversed(ctx.steps), reversed(kept[first:]), strict=True):
            grad = stack[-1]
            if isinstance(step, Together):
                made.block(step).walk_back(step, grad, backdrop, out)
            elif isinstance(step, Fill):
                _fill_backward(step, ctx.rows, grad[step.cut], backdrop, given, out)
            elif isinstance(step, Begin):
                stack.pop()
            elif isinstance(step, Paste):
                grad.mul_(1 - given.dimmed(step.image, step)[..., 3:])
            else:
                layer, below = backdrop
                to_source = grad.clone()
                to_source[..., 3] -= (grad * below).sum(-1)
                if step.opacity is not None:
                    shown = step.clip[..., None] if step.clip is not None else 1
                    out.opacities[step.opacity] += (to_source * layer * shown).sum()
                grad.mul_(1 - given.dimmed(layer, step)[..., 3:])
                stack.append(given.dimmed(to_source, step))
        return (None, None, None, None, out.coverage, out.colors, out.opacities, out.maps)


def _fill_backward(step: Fill, rows: Rows, grad: Tensor, below: Tensor, given: Inputs, out: Inputs) -> None:
    """Pass a fill's gradient on to what it was made of; `grad` becomes that of what lay below."""
    color, a = given.paint(step)
    covered, dimmed = given.covered(step, rows), given.dimmed(a, step)
    alpha = covered * dimmed
    to_alpha = (grad[..., :3] * color).sum(-1, keepdim=True) + grad[..., 3:] - (grad * below).sum(-1, keepdim=True)
    to_color, to_a = grad[..., :3] * alpha, given.dimmed(to_alpha * covered, step)
    out.covered(step, rows).add_(to_alpha * dimmed)
    if step.opacity is not None:
        shown = step.clip[step.cut][..., None] if step.clip is not None else 1
        out.opacities[step.opacity] += (to_alpha * covered * a * shown).sum()
    if step.map is None:
        out.colors[step.shape, :3] += to_color.sum((0, 1))
        out.colors[step.shape, 3] += to_a.sum()
    else:
        out.map(step).add_(torch.cat([to_color, to_a * given.colors[step.shape, 3]], -1))
        out.colors[step.shape, 3] += (to_a * given.map(step)[..., 3:]).sum()
    grad.mul_(1 - alpha)


class _Made:
    """The block at hand of fills that are painted together."""

    def __init__(self, given: Inputs, blocks: Sequence[Pixels]) -> None:
        self.given, self.blocks = given, blocks
        self._at, self._painted = -1, None

    def block(self, step: Together) -> _Painted:
        """That of a step."""
        if self._painted is None or self._at != step.block:
            self._at, self._painted = step.block, None  # the one before is let go first
            self._painted = _Painted(self.given, self.blocks[step.block])
        return self._painted


class _Painted:
    """What the pixels of a block are made of, and their gradients."""

    def __init__(self, given: Inputs, pixels: Pixels) -> None:
        self.pixels = pixels
        self.covered = given.coverage.index_select(0, pixels.cell)[:, None]
        paint = self.solid = given.colors.index_select(0, pixels.shape)
        if pixels.map is not None:
            self.mapped = (pixels.map >= 0)[:, None]
            self.map = given.maps.index_select(0, pixels.map.clamp(min=0))
            of_map = torch.cat([self.map[:, :3], self.map[:, 3:] * self.solid[:, 3:]], 1)
            paint = torch.where(self.mapped, of_map, self.solid)
        self.color, self.a = paint.split([3, 1], 1)
        self.dim = None
        if pixels.opacity is not None:
            with_one = torch.cat([given.opacities, given.opacities.new_ones(1)])
            self.dim = with_one.index_select(0, pixels.opacity % len(with_one))[:, None]
        self.alpha = self.covered * self._dimmed(self.a)

    def _dimmed(self, x: Tensor, rows: slice = slice(None)) -> Tensor:
        """As Inputs.dimmed."""
        for factor in (self.pixels.shown, self.dim):
            x = x if factor is None else x * factor[rows]
        return x

    def paint(self, step: Together, canvas: Tensor, keep: bool) -> Tensor | None:
        """Paint them; what lay below, where it is to be kept."""
        rows, flat = slice(step.begin, step.end), canvas.view(-1, 4)
        place, alpha = self.pixels.place[rows], self.alpha[rows]
        below = flat.index_select(0, place)
        flat.index_copy_(0, place, below * (1 - alpha) + torch.cat([alpha * self.color[rows], alpha], 1))
        return below if keep else None

    def walk_back(self, step: Together, canvas: Tensor, below: Tensor, out: Inputs) -> None:
        """As _fill_backward."""
        p, rows, flat = self.pixels, slice(step.begin, step.end), canvas.view(-1, 4)
        grad = flat.index_select(0, p.place[rows])
        alpha, covered, color, a = (x[rows] for x in (self.alpha, self.covered, self.color, self.a))
        to_alpha = (grad[:, :3] * color).sum(-1, keepdim=True) + grad[:, 3:] - (grad * below).sum(-1, keepdim=True)
        to_color, to_a = grad[:, :3] * alpha, self._dimmed(to_alpha * covered, rows)
        out.coverage.index_add_(0, p.cell[rows], (to_alpha * self._dimmed(a, rows))[:, 0])
        if p.opacity is not None:
            seen = to_alpha * covered * a * (1 if p.shown is None else p.shown[rows])
            own = p.opacity[rows]
            out.opacities.index_add_(0, own.clamp(min=0), torch.where(own < 0, 0, seen[:, 0]))
        if p.map is not None:
            mapped, opacity = self.mapped[rows], self.solid[rows, 3:]
            to_map = torch.where(mapped, torch.cat([to_color, to_a * opacity], 1), 0)
            out.maps.index_add_(0, p.map[rows].clamp(min=0).long(), to_map)
            to_color = torch.where(mapped, 0, to_color)
            to_a = torch.where(mapped, to_a * self.map[rows, 3:], to_a)
        out.colors.index_add_(0, p.shape[rows].long(), torch.cat([to_color, to_a], 1))
        flat.index_copy_(0, p.place[rows], grad * (1 - alpha))


def compose(size: tuple[int, int], tape: Sequence[Step], rows: Rows, inputs: Inputs) -> Float[Tensor, "h w 4"]:
    """The image (premultiplied RGBA) that the tape paints on a transparent canvas of `size` (height, width).

    `rows` are each shape's (start, stride) in the flat coverage.
    """
    device = inputs.coverage.device
    steps, together = in_levels(tape, size, BLOCK.get(device.type, BLOCK["cpu"]))
    blocks = [Pixels.of(fills, rows, size[1], device) for fills in together]
    tensors = (inputs.coverage, inputs.colors, inputs.opacities, inputs.maps)
    return _Compose.apply(size, steps, rows, blocks, *tensors)  # pyright: ignore[reportReturnType]
