"""Alpha compositing of projected gaussians, cell by cell, with a backward pass of its own.

Large pictures keep nothing per pixel and gaussian: the backward pass computes alphas again. Cells with about as many
gaussians are worked on together, so many that a block stays in a CPU's cache; long lists are cut, and left where no
light is left.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from representations.splats.tiles import LEAST, Cells

MOST = 0.999  # the largest alpha
DARK = 1e-4  # transmittance at which a pixel is done: the gaussian that would reach it is left out
BLOCK = {"cpu": 2**16, "cuda": 2**24}  # pixels x gaussians worked on at once
KEPT = 2**22  # pixels x gaussians up to which the backward pass need not compute them again
LONGEST = 512  # gaussians of a list worked on at once


def composite(
    means2d: Float[Tensor, "c n 2"],
    conics: Float[Tensor, "c n 3"],
    opacities: Float[Tensor, "c n"],
    colours: Float[Tensor, "c n d"],
    cells: Cells,
    absgrad: bool = False,
) -> Float[Tensor, "c h w e"]:
    """Sums of w_k colour_k, and of w_k as the last channel, over the whole grid of cells; w_k = alpha_k T_k.

    T_k = prod_{j<k} (1 - alpha_j), alpha = min(0.999, o exp(-d^T Sigma^-1 d / 2)) (3DGS, Kerbl 2023, Eq. 3).
    With `absgrad` the backward pass leaves sums of absolute gradients (AbsGS, Ye 2024) as `means2d.absgrad`.
    """
    return _Composite.apply(means2d, conics, opacities, colours, cells, absgrad)  # pyright: ignore[reportReturnType]


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, means2d: Tensor, conics: Tensor, opacities: Tensor, colours: Tensor, cells: Cells, absgrad: bool
    ) -> Tensor:
        table = _Table(means2d, conics, opacities, colours, cells)
        out = colours.new_zeros(len(cells.start), cells.side**2, table.colours.shape[-1])
        keep = any(ctx.needs_input_grad) and len(cells.order) * cells.side**2 <= KEPT
        ctx.blocks = list(_blocks(table)) if keep else None
        for block in ctx.blocks or _blocks(table):
            out[block.which] += block.weights @ block.colours
        ctx.save_for_backward(means2d, conics, opacities, colours, out)
        ctx.cells, ctx.absgrad = cells, absgrad
        return _picture(out, cells)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        means2d, conics, opacities, colours, out = ctx.saved_tensors
        cells: Cells = ctx.cells
        table = _Table(means2d, conics, opacities, colours, cells)
        grad = _columns(grad, cells)
        behind = (grad * out).sum(-1, dtype=table.exact)
        number = table.shapes.shape[1]
        to_shape = out.new_zeros(number, 8 if ctx.absgrad else 6, dtype=table.exact)
        to_colour = out.new_zeros(number, out.shape[-1])
        for block in ctx.blocks or _blocks(table):
            pull = grad[block.which]
            to_colour.index_add_(0, block.index.flatten(), (block.weights.mT @ pull).flatten(0, 1))
            exponent, behind[block.which] = block.backward(pull, behind[block.which])
            to_shape.index_add_(0, block.index.flatten(), block.moments(exponent, ctx.absgrad))
        to_mean, to_conic, to_opacity, absolute = to_shape[:-1].to(out).split([2, 3, 1, to_shape.shape[1] - 6], -1)
        if ctx.absgrad:
            means2d.absgrad = absolute.view_as(means2d)
        to_opacity = to_opacity[:, 0].view_as(opacities) / opacities.clamp(min=1e-12)
        return (
            to_mean.view_as(means2d),
            to_conic.view_as(conics),
            to_opacity,
            to_colour[:-1, :-1].view_as(colours),
            None,
            None,
        )


class _Table:
    """All gaussians by number, and after the last one another that is not seen: it fills short lists up."""

    def __init__(self, means2d: Tensor, conics: Tensor, opacities: Tensor, colours: Tensor, cells: Cells) -> None:
        a, b, c = conics.reshape(-1, 3).unbind(-1)
        rows = (*means2d.reshape(-1, 2).unbind(-1), -a / 2, -b, -c / 2, opacities.flatten().log())
        # x, y; the exponent's xx, xy, yy, 1
        self.shapes = torch.nn.functional.pad(torch.stack(rows), (0, 1))
        self.shapes[-1, -1] = -torch.inf
        seen = torch.nn.functional.pad(colours.flatten(0, 1), (0, 1), value=1.0)
        self.colours = torch.cat([seen, seen.new_zeros(1, seen.shape[1])])
        self.cells = cells
        self.exact = torch.float32 if means2d.device.type == "mps" else torch.float64  # of sums that cancel
        steps = torch.arange(cells.side, device=means2d.device, dtype=means2d.dtype) + 0.5
        self.steps = steps
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        powers = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y])
        self.powers = powers.flatten(1).to(self.exact)  # of the pixels in a cell


class _Block:
    """Part of the lists of some cells: b cells, p pixels each, g gaussians, nearest first."""

    def __init__(self, table: _Table, which: Int[Tensor, " b"], begin: int, end: int, light: Tensor) -> None:
        cells, self.which = table.cells, which
        place = torch.arange(begin, end, device=which.device)
        listed = place < cells.count[which, None]
        found = cells.order[torch.where(listed, cells.start[which, None] + place, 0)]
        self.table = table
        self.index = torch.where(listed, found, table.shapes.shape[1] - 1)
        flat, shape = self.index.flatten(), self.index.shape
        self.colours = table.colours.index_select(0, flat).view(*shape, -1)
        corners = cells.corners(which)
        x, y, self.xx, self.xy, self.yy, peak = table.shapes.index_select(1, flat).view(-1, *shape)
        self.x, self.y = x - corners[:, :1], y - corners[:, 1:]  # from the cell's corner
        dx = table.steps[:, None] - self.x[:, None]
        dy = table.steps[:, None] - self.y[:, None]
        slope = torch.add((self.xy[:, None] * dy)[:, :, None], (self.xx[:, None] * dx)[:, None])
        exponent = torch.addcmul((self.yy[:, None] * dy * dy + peak[:, None])[:, :, None], slope, dx[:, None])
        alphas = exponent.exp_().flatten(1, 2)
        self.clamped = None
        if bool((peak > math.log(MOST)).any()):
            self.clamped = alphas > MOST
            alphas.clamp_(max=MOST)
        self.alphas = torch.threshold_(alphas, LEAST, 0.0)
        b, p, g = alphas.shape
        self.lights = alphas.new_empty(b, p, g + 1)  # before each gaussian, and after the last
        self.lights[..., 0] = light
        torch.sub(1, alphas, out=self.lights[..., 1:])
        self.lights.cumprod_(-1)
        self.weights = self.alphas * self.lights[..., :-1]
        self.dark = None
        if bool((self.lights[..., -1] <= DARK).any()):
            self.dark = self.lights[..., 1:] <= DARK
            self.weights.masked_fill_(self.dark, 0)

    def light(self) -> Float[Tensor, "b p"]:
        """Transmittance after the block; 0 where the pixel is done."""
        last = self.lights[..., -1]
        return torch.where(last <= DARK, 0, last)

    def backward(self, pull: Float[Tensor, "b p e"], rest: Float[Tensor, "b p"]) -> tuple[Tensor, Tensor]:
        """Gradients in the exponents (b, p, g), and what `rest`, the sum of w s from here on, leaves for later blocks.

        dL/dalpha_k = T_k s_k - sum_{j>k} w_j s_j / (1 - alpha_k), where s_k is the gradient in w_k.
        """
        seen = (pull @ self.colours.mT).mul_(self.weights)
        behind = seen.cumsum(-1, dtype=rest.dtype)
        last = rest - behind[..., -1]
        later = torch.sub(rest[..., None], behind, out=behind).to(seen.dtype)
        # alpha_k T_k s_k is w_k s_k; and the exponent's gradient is alpha's times alpha
        exponent = seen.sub_(later.mul_(self.alphas).div_(1 - self.alphas))
        for hidden in (self.dark, self.clamped):
            if hidden is not None:
                exponent.masked_fill_(hidden, 0)
        return exponent, last

    def moments(self, exponent: Float[Tensor, "b p g"], absolute: bool) -> Float[Tensor, "m k"]:
        """A row for each listed gaussian: gradients in mean (2), conic (3), log opacity, absolute ones in mean (2)."""
        one, x, y, xx, xy, yy = (self.table.powers @ exponent.to(self.table.exact)).unbind(1)
        dx, dy = x - self.x * one, y - self.y * one
        dxx = xx - self.x * (2 * x - self.x * one)
        dxy = xy - self.x * y - self.y * dx
        dyy = yy - self.y * (2 * y - self.y * one)
        rows = [-2 * self.xx * dx - self.xy * dy, -self.xy * dx - 2 * self.yy * dy, -dxx / 2, -dxy, -dyy / 2, one]
        if absolute:
            rows += self._absolute(exponent)
        return torch.stack(rows, -1).flatten(0, 1)

    def _absolute(self, exponent: Float[Tensor, "b p g"]) -> list[Tensor]:
        dx = (self.table.steps[:, None] - self.x[:, None])[:, None]
        dy = (self.table.steps[:, None] - self.y[:, None])[:, :, None]
        force = exponent.abs().unflatten(1, (len(self.table.steps), -1))
        xx, xy, yy = (row[:, None, None] for row in (self.xx, self.xy, self.yy))
        slopes = (2 * xx * dx + xy * dy, xy * dx + 2 * yy * dy)
        return [(force * slope.abs()).sum((1, 2)) for slope in slopes]


def _blocks(table: _Table) -> Iterator[_Block]:
    """All lists, cut into blocks; those of a cell in order."""
    for which, length in _groups(table.cells, table.shapes.device):
        light = table.shapes.new_ones(len(which), table.cells.side**2)
        for begin in range(0, length, LONGEST):
            block = _Block(table, which, begin, min(length, begin + LONGEST), light)
            yield block
            light = block.light()
            if begin + LONGEST < length and not light.any():
                break


def _groups(cells: Cells, device: torch.device) -> Iterator[tuple[Int[Tensor, " b"], int]]:
    """Cells with lists of about one length, and the longest of these."""
    count, cell = cells.count.sort(descending=True)
    lengths, at = count[: int((count > 0).sum())].tolist(), 0
    block = BLOCK.get(device.type, BLOCK["cpu"]) // cells.side**2
    while at < len(lengths):
        end = at + max(1, block // min(lengths[at], LONGEST))
        yield cell[at : min(end, len(lengths))], lengths[at]
        at = end


def _picture(columns: Float[Tensor, "k p e"], cells: Cells) -> Float[Tensor, "c h w e"]:
    c, rows, wide = cells.grid
    shaped = columns.view(c, rows, wide, cells.side, cells.side, -1)
    return shaped.permute(0, 1, 3, 2, 4, 5).reshape(c, rows * cells.side, wide * cells.side, -1)


def _columns(picture: Float[Tensor, "c h w e"], cells: Cells) -> Float[Tensor, "k p e"]:
    c, rows, wide = cells.grid
    shaped = picture.reshape(c, rows, cells.side, wide, cells.side, -1)
    return shaped.permute(0, 1, 3, 2, 4, 5).reshape(c * rows * wide, cells.side**2, -1)
