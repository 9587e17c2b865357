"""Alpha compositing of projected gaussians, with a backward pass of its own.

Large images keep nothing per pixel and gaussian: the backward pass computes alphas again.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from representations.splats.blocks import Table, blocks
from representations.splats.tiles import Cells

KEPT = 2**22  # pixels x gaussians up to which the backward pass need not compute them again


def composite(
    means2d: Float[Tensor, "c n 2"],
    conics: Float[Tensor, "c n 3"],
    opacities: Float[Tensor, "c n"],
    colors: Float[Tensor, "c n d"],
    cells: Cells,
    absgrad: bool = False,
) -> Float[Tensor, "c h w e"]:
    """Sums of w_k color_k, and of w_k as the last channel, over the whole grid of cells; w_k = alpha_k T_k.

    T_k = prod_{j<k} (1 - alpha_j), alpha = min(ALPHA_MAX, opacity exp(-d^T cov2d^-1 d / 2)) (3DGS, Kerbl 2023, Eq. 3).
    With `absgrad` the backward pass leaves sums of absolute gradients (AbsGS, Ye 2024) as `means2d.absgrad`.
    """
    return _Composite.apply(means2d, conics, opacities, colors, cells, absgrad)  # pyright: ignore[reportReturnType]


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, means2d: Tensor, conics: Tensor, opacities: Tensor, colors: Tensor, cells: Cells, absgrad: bool
    ) -> Tensor:
        table = Table(means2d, conics, opacities, colors, cells)
        out = colors.new_zeros(len(cells.offsets), cells.side**2, table.colors.shape[-1])
        keep = any(ctx.needs_input_grad) and len(cells.flatten_ids) * cells.side**2 <= KEPT
        ctx.blocks = list(blocks(table)) if keep else None
        for block in ctx.blocks or blocks(table):
            out[block.which] += block.weights @ block.colors
        ctx.save_for_backward(means2d, conics, opacities, colors, out)
        ctx.cells, ctx.absgrad = cells, absgrad
        return _to_image(out, cells)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        means2d, conics, opacities, colors, out = ctx.saved_tensors
        cells: Cells = ctx.cells
        table = Table(means2d, conics, opacities, colors, cells)
        grad = _to_cells(grad, cells)
        rest = (grad * out).sum(-1, dtype=table.exact)  # sum of w_k s_k, over what is not yet walked through
        count = table.rows.shape[1]
        to_rows = out.new_zeros(count, 8 if ctx.absgrad else 6, dtype=table.exact)
        to_colors = out.new_zeros(count, out.shape[-1])
        for block in ctx.blocks or blocks(table):
            ids, of_block = block.ids.flatten(), grad[block.which]
            to_colors.index_add_(0, ids, (block.weights.mT @ of_block).flatten(0, 1))
            exponent, rest[block.which] = block.backward(of_block, rest[block.which])
            to_rows.index_add_(0, ids, block.moments(exponent, ctx.absgrad))
        to_means2d, to_conics, to_log, absolute = to_rows[:-1].to(out).split([2, 3, 1, to_rows.shape[1] - 6], -1)
        if ctx.absgrad:
            means2d.absgrad = absolute.view_as(means2d)
        return (
            to_means2d.view_as(means2d),
            to_conics.view_as(conics),
            to_log[:, 0].view_as(opacities) / opacities.clamp(min=1e-12),
            to_colors[:-1, :-1].view_as(colors),
            None,
            None,
        )


def _to_image(columns: Float[Tensor, "k p e"], cells: Cells) -> Float[Tensor, "c h w e"]:
    c, rows, wide = cells.grid
    shaped = columns.view(c, rows, wide, cells.side, cells.side, -1)
    return shaped.permute(0, 1, 3, 2, 4, 5).reshape(c, rows * cells.side, wide * cells.side, -1)


def _to_cells(image: Float[Tensor, "c h w e"], cells: Cells) -> Float[Tensor, "k p e"]:
    c, rows, wide = cells.grid
    shaped = image.reshape(c, rows, cells.side, wide, cells.side, -1)
    return shaped.permute(0, 1, 3, 2, 4, 5).reshape(c * rows * wide, cells.side**2, -1)
