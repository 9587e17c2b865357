"""Alphas and weights of gaussians at pixels, block by block, and the gradients through them.

Cells with about as many gaussians are worked on together, so many that a block stays in a CPU's cache; long lists are
cut, and left where every pixel is terminated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from representations.splats.tiles import ALPHA_MIN, Cells

ALPHA_MAX = 0.999  # as in gsplat: the gradient in alpha divides by 1 - alpha
TRANSMITTANCE_MIN = 1e-4  # as in gsplat: a pixel is terminated before the gaussian that would take it this low
BLOCK = {"cpu": 2**16, "cuda": 2**24}  # pixels x gaussians worked on at once
LONGEST = 512  # gaussians of a list worked on at once


class Table:
    """All gaussians by number, and after the last one another of opacity 0: it fills short lists up."""

    def __init__(self, means2d: Tensor, conics: Tensor, opacities: Tensor, colors: Tensor, cells: Cells) -> None:
        a, b, c = conics.reshape(-1, 3).unbind(-1)
        rows = (*means2d.reshape(-1, 2).unbind(-1), -a / 2, -b, -c / 2, opacities.flatten().log())
        # x, y; the exponent's xx, xy, yy, 1
        self.rows = torch.nn.functional.pad(torch.stack(rows), (0, 1))
        self.rows[-1, -1] = -torch.inf
        with_one = torch.nn.functional.pad(colors.flatten(0, 1), (0, 1), value=1.0)
        self.colors = torch.cat([with_one, with_one.new_zeros(1, with_one.shape[1])])
        self.cells = cells
        self.asks = means2d.device.type == "cpu"  # whether a mask is needed; elsewhere asking costs more
        self.exact = torch.float32 if means2d.device.type == "mps" else torch.float64  # of sums that cancel
        self.centres = torch.arange(cells.side, device=means2d.device, dtype=means2d.dtype) + 0.5
        y, x = torch.meshgrid(self.centres, self.centres, indexing="ij")
        powers = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y])
        self.powers = powers.flatten(1).to(self.exact)  # of the pixel centres in a cell


class Block:
    """Part of the lists of some cells: b cells, p pixels each, g gaussians, nearest first."""

    def __init__(
        self, table: Table, which: Int[Tensor, " b"], begin: int, end: int, transmittance: Float[Tensor, "b p"]
    ) -> None:
        cells, self.which = table.cells, which
        place = torch.arange(begin, end, device=which.device)
        listed = place < cells.counts[which, None]
        ids = cells.flatten_ids[torch.where(listed, cells.offsets[which, None] + place, 0)]
        self.table = table
        self.ids = torch.where(listed, ids, table.rows.shape[1] - 1)
        flat, shape = self.ids.flatten(), self.ids.shape
        self.colors = table.colors.index_select(0, flat).view(*shape, -1)
        corners = cells.corners(which)
        x, y, self.xx, self.xy, self.yy, peak = table.rows.index_select(1, flat).view(-1, *shape)
        self.x, self.y = x - corners[:, :1], y - corners[:, 1:]  # from the cell's corner
        alphas = self._alphas(peak)
        self.clamped = None
        if not table.asks or bool((peak > math.log(ALPHA_MAX)).any()):
            self.clamped = alphas > ALPHA_MAX
            alphas.clamp_(max=ALPHA_MAX)
        self.alphas = torch.threshold_(alphas, ALPHA_MIN, 0.0)
        b, p, g = alphas.shape
        self.transmittances = alphas.new_empty(b, p, g + 1)  # before each gaussian, and after the last
        self.transmittances[..., 0] = transmittance
        torch.sub(1, alphas, out=self.transmittances[..., 1:])
        self.transmittances.cumprod_(-1)
        self.weights = self.alphas * self.transmittances[..., :-1]
        self.terminated = None
        if not table.asks or bool((self.transmittances[..., -1] <= TRANSMITTANCE_MIN).any()):
            self.terminated = self.transmittances[..., 1:] <= TRANSMITTANCE_MIN
            self.weights.masked_fill_(self.terminated, 0)

    def _alphas(self, peak: Float[Tensor, "b g"]) -> Float[Tensor, "b p g"]:
        """opacity exp(-d^T cov2d^-1 d / 2), before it is cut to its range; `peak` is ln opacity."""
        dx = self.table.centres[:, None] - self.x[:, None]
        dy = self.table.centres[:, None] - self.y[:, None]
        slope = torch.add((self.xy[:, None] * dy)[:, :, None], (self.xx[:, None] * dx)[:, None])
        exponent = torch.addcmul((self.yy[:, None] * dy * dy + peak[:, None])[:, :, None], slope, dx[:, None])
        return exponent.exp_().flatten(1, 2)

    def transmittance(self) -> Float[Tensor, "b p"]:
        """After the block; 0 where the pixel is terminated."""
        last = self.transmittances[..., -1]
        return torch.where(last <= TRANSMITTANCE_MIN, 0, last)

    def backward(
        self, grad: Float[Tensor, "b p e"], rest: Float[Tensor, "b p"]
    ) -> tuple[Float[Tensor, "b p g"], Float[Tensor, "b p"]]:
        """Gradients in the exponents, and what `rest`, the sum of w s from here on, leaves for later blocks.

        dL/dalpha_k = T_k s_k - sum_{j>k} w_j s_j / (1 - alpha_k), where s_k is the gradient in w_k.
        """
        w_s = (grad @ self.colors.mT).mul_(self.weights)
        walked = w_s.cumsum(-1, dtype=rest.dtype)
        last = rest - walked[..., -1]
        later = torch.sub(rest[..., None], walked, out=walked).to(w_s.dtype)
        # alpha_k T_k s_k is w_k s_k; and the exponent's gradient is alpha's times alpha
        exponent = w_s.sub_(later.mul_(self.alphas).div_(1 - self.alphas))
        for flat in (self.terminated, self.clamped):
            if flat is not None:
                exponent.masked_fill_(flat, 0)
        return exponent, last

    def moments(self, exponent: Float[Tensor, "b p g"], absgrad: bool) -> Float[Tensor, "m k"]:
        """A row for each listed gaussian: gradients in mean (2), conic (3), log opacity, absolute ones in mean (2)."""
        one, x, y, xx, xy, yy = (self.table.powers @ exponent.to(self.table.exact)).unbind(1)
        dx, dy = x - self.x * one, y - self.y * one
        dxx = xx - self.x * (2 * x - self.x * one)
        dxy = xy - self.x * y - self.y * dx
        dyy = yy - self.y * (2 * y - self.y * one)
        rows = [-2 * self.xx * dx - self.xy * dy, -self.xy * dx - 2 * self.yy * dy, -dxx / 2, -dxy, -dyy / 2, one]
        if absgrad:
            rows += self._absgrad(exponent)
        return torch.stack(rows, -1).flatten(0, 1)

    def _absgrad(self, exponent: Float[Tensor, "b p g"]) -> list[Float[Tensor, "b g"]]:
        """Sums over pixels of the absolute gradients in the mean's x and y."""
        dx = (self.table.centres[:, None] - self.x[:, None])[:, None]
        dy = (self.table.centres[:, None] - self.y[:, None])[:, :, None]
        size = exponent.abs().unflatten(1, (len(self.table.centres), -1))
        xx, xy, yy = (row[:, None, None] for row in (self.xx, self.xy, self.yy))
        slopes = (2 * xx * dx + xy * dy, xy * dx + 2 * yy * dy)
        return [(size * slope.abs()).sum((1, 2)) for slope in slopes]


def blocks(table: Table) -> Iterator[Block]:
    """All lists, cut into blocks; those of a cell in order."""
    for which, length in _groups(table.cells, table.rows.device):
        transmittance = table.rows.new_ones(len(which), table.cells.side**2)
        for begin in range(0, length, LONGEST):
            block = Block(table, which, begin, min(length, begin + LONGEST), transmittance)
            yield block
            transmittance = block.transmittance()
            if begin + LONGEST < length and not transmittance.any():
                break


def _groups(cells: Cells, device: torch.device) -> Iterator[tuple[Int[Tensor, " b"], int]]:
    """Cells with lists of about one length, and the longest of these."""
    counts, cell = cells.counts.sort(descending=True)
    lengths, at = [n for n in counts.tolist() if n], 0
    block = BLOCK.get(device.type, BLOCK["cpu"]) // cells.side**2
    while at < len(lengths):
        end = at + max(1, block // min(lengths[at], LONGEST))
        yield cell[at : min(end, len(lengths))], lengths[at]
        at = end
