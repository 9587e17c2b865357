"""Which gaussians are composited where: lists, front to back, for square cells of the picture.

The rule is gsplat's: a gaussian takes part in every tile that its 3-sigma square touches. The lists are finer (a tile
is cut into cells) and leave out what could not reach alpha = 1/255 in a cell; neither changes a pixel.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from representations.splats.projection import Projected

LEAST = 1 / 255  # alpha below this is skipped


@dataclass(frozen=True)
class Cells:
    """A grid of cells over c pictures, and each cell's gaussians as numbers in 0 … c n - 1, nearest first."""

    side: int  # px
    grid: tuple[int, int, int]  # pictures, rows, columns
    order: Int[Tensor, " pairs"]
    start: Int[Tensor, " cells"]
    count: Int[Tensor, " cells"]

    def corners(self, cells: Int[Tensor, " b"]) -> Int[Tensor, "b 2"]:
        """x, y of the upper left corners, px."""
        rows, columns = self.grid[1:]
        return torch.stack([cells % columns, cells // columns % rows], -1) * self.side


def tile_ranges(seen: Projected, size: tuple[int, int], tile: int) -> tuple[Int[Tensor, "c n 2"], Int[Tensor, "c n 2"]]:
    """First tile and the one after the last, in x and y, that each 3-sigma square touches; empty where culled."""
    reach = seen.radii[..., None]
    tiles = torch.tensor([-(-side // tile) for side in size], device=reach.device)
    low = ((seen.means2d - reach) / tile).floor().clamp(min=0).minimum(tiles)
    high = ((seen.means2d + reach) / tile).ceil().clamp(min=0).minimum(tiles)
    return low.long(), torch.where(reach > 0, high, low).long()


@torch.no_grad()
def cells_of(seen: Projected, opacities: Float[Tensor, "c n"], size: tuple[int, int], tile: int, side: int) -> Cells:
    """The lists for pictures of `size` (width, height) px; `side` divides `tile`."""
    per = tile // side
    cameras, count = seen.depths.shape
    columns, rows = (-(-length // tile) * per for length in size)
    low, high = (bound * per for bound in tile_ranges(seen, size, tile))
    # alpha >= 1/255 lies in the ellipse d^T Sigma^-1 d <= 2 ln(255 o), whose box has the sides' roots of Sigma
    power = 2 * (opacities / LEAST).clamp(min=1e-30).log()
    extent = (power.clamp(min=0)[..., None] * seen.covariances[..., ::2]).sqrt() * 1.001 + 0.01
    near = ((seen.means2d - extent - 0.5) / side).clamp(-1, 2**30).floor().long()
    far = ((seen.means2d + extent + 0.5) / side).clamp(-1, 2**30).ceil().long()
    low, high = low.maximum(near), high.minimum(far)
    wide = (high - low).clamp(min=0)
    total = torch.where((seen.radii > 0) & (power >= -1e-3), wide.prod(-1), 0).flatten()

    nearest = seen.depths.flatten().argsort(stable=True)
    nearest = nearest[total[nearest] > 0]
    number = total[nearest]
    owner = nearest.repeat_interleave(number)
    nth = torch.arange(len(owner), device=owner.device) - (number.cumsum(0) - number).repeat_interleave(number)
    width = wide.flatten(0, 1)[owner, 0]
    column = low.flatten(0, 1)[owner, 0] + nth % width
    row = low.flatten(0, 1)[owner, 1] + nth // width
    owner, column, row = _reached(seen, power, side, owner, column, row)
    cell = (owner // count * rows + row) * columns + column
    cell, by_cell = cell.sort(stable=True)
    held = torch.bincount(cell, minlength=cameras * rows * columns)
    return Cells(side, (cameras, rows, columns), owner[by_cell], held.cumsum(0) - held, held)


def _reached(
    seen: Projected, power: Tensor, side: int, owner: Tensor, column: Tensor, row: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Those pairs whose cell has a point inside the gaussian's ellipse.

    A quadratic form's minimum over a rectangle that does not hold its centre lies on the two edges that face it.
    """
    mx, my = seen.means2d.flatten(0, 1)[owner].unbind(-1)
    a, b, c = seen.conics.flatten(0, 1)[owner].unbind(-1)
    left, top = column * side + 0.5 - mx, row * side + 0.5 - my  # of the cell's pixel centres, from the mean
    right, bottom = left + (side - 1), top + (side - 1)
    x, y = (0.0 * left).clamp(left, right), (0.0 * top).clamp(top, bottom)  # the nearest point, axis by axis
    on_x, on_y = (-b * x / c).clamp(top, bottom), (-b * y / a).clamp(left, right)

    def form(u: Tensor, v: Tensor) -> Tensor:
        return a * u * u + 2 * b * u * v + c * v * v

    least = torch.minimum(form(x, on_x), form(on_y, y))
    keep = least <= power.flatten()[owner] + 1e-3 * (1 + least.abs())
    return owner[keep], column[keep], row[keep]
