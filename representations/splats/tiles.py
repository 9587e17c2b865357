"""Which gaussians are composited where: lists, front to back, for square cells of the image.

The rule is gsplat's: a gaussian takes part in every tile that its 3-sigma square touches. The lists are finer (a tile
is cut into cells) and leave out what could not reach ALPHA_MIN in a cell; neither changes a pixel.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from representations.splats.projection import Projected

ALPHA_MIN = 1 / 255  # as in gsplat: a smaller alpha, less than a step of an 8-bit color, is skipped


@dataclass(frozen=True)
class Cells:
    """A grid of cells over c images, and each cell's gaussians as numbers in 0 … c n - 1, nearest first.

    Those of cell i are flatten_ids[offsets[i] : offsets[i] + counts[i]].
    """

    side: int  # px
    grid: tuple[int, int, int]  # images, rows, columns
    flatten_ids: Int[Tensor, " pairs"]
    offsets: Int[Tensor, " cells"]
    counts: Int[Tensor, " cells"]

    def corners(self, cells: Int[Tensor, " b"]) -> Int[Tensor, "b 2"]:
        """x, y of the upper left corners, px."""
        rows, columns = self.grid[1:]
        return torch.stack([cells % columns, cells // columns % rows], -1) * self.side


def tile_ranges(
    projected: Projected, size: tuple[int, int], tile: int
) -> tuple[Int[Tensor, "c n 2"], Int[Tensor, "c n 2"]]:
    """First tile and the one after the last, in x and y, that each 3-sigma square touches; empty where culled."""
    radii = projected.radii[..., None]
    columns, rows = (-(-side // tile) for side in size)

    def within(x: Tensor) -> Tensor:
        return torch.stack([x[..., 0].clamp(0, columns), x[..., 1].clamp(0, rows)], -1)

    tile_min = within(((projected.means2d - radii) / tile).floor())
    tile_max = within(((projected.means2d + radii) / tile).ceil())
    return tile_min.long(), torch.where(radii > 0, tile_max, tile_min).long()


@torch.no_grad()
def cells_of(
    projected: Projected, opacities: Float[Tensor, "c n"], size: tuple[int, int], tile: int, side: int
) -> Cells:
    """The lists for images of `size` (width, height) px; `side` divides `tile`."""
    cells_per_tile = tile // side
    cameras, n = projected.depths.shape
    columns, rows = (-(-length // tile) * cells_per_tile for length in size)
    low, high = (bound * cells_per_tile for bound in tile_ranges(projected, size, tile))
    # alpha >= ALPHA_MIN lies in the ellipse d^T cov2d^-1 d <= 2 ln(opacity / ALPHA_MIN) = level, whose bounding box
    # has the half sides sqrt(level cov2d_xx), sqrt(level cov2d_yy)
    level = 2 * (opacities / ALPHA_MIN).clamp(min=1e-30).log()
    extent = (level.clamp(min=0)[..., None] * projected.cov2d[..., ::2]).sqrt() * 1.001 + 0.01
    first = ((projected.means2d - extent - 0.5) / side).clamp(-1, 2**30).floor().long()
    last = ((projected.means2d + extent + 0.5) / side).clamp(-1, 2**30).ceil().long()
    low, high = low.maximum(first), high.minimum(last)
    span = (high - low).clamp(min=0)
    cells_per_gauss = torch.where((projected.radii > 0) & (level >= -1e-3), span.prod(-1), 0).flatten()

    # a pair for each gaussian and cell, by depth; a stable sort by cell then keeps that order within each cell
    nearest = projected.depths.flatten().argsort(stable=True)
    repeats = cells_per_gauss[nearest]
    pairs = int(repeats.sum())
    which = torch.arange(len(nearest), device=nearest.device).repeat_interleave(repeats, output_size=pairs)
    ids = nearest[which]
    nth = torch.arange(pairs, device=ids.device) - (repeats.cumsum(0) - repeats)[which]
    width = span.flatten(0, 1)[ids, 0]
    column = low.flatten(0, 1)[ids, 0] + nth % width
    row = low.flatten(0, 1)[ids, 1] + nth // width
    kept = _intersects(projected, level, side, ids, column, row).nonzero()[:, 0]
    ids, column, row = ids[kept], column[kept], row[kept]
    cell, by_cell = ((ids // n * rows + row) * columns + column).sort(stable=True)
    counts = cell.new_zeros(cameras * rows * columns).index_add_(0, cell, torch.ones_like(cell))
    return Cells(side, (cameras, rows, columns), ids[by_cell], counts.cumsum(0) - counts, counts)


def _intersects(
    projected: Projected,
    level: Float[Tensor, "c n"],
    side: int,
    ids: Int[Tensor, " pairs"],
    column: Int[Tensor, " pairs"],
    row: Int[Tensor, " pairs"],
) -> Bool[Tensor, " pairs"]:
    """Which pairs have a point of the cell (the rectangle of its pixel centres) inside the gaussian's ellipse.

    A quadratic form's minimum over a rectangle that does not hold its centre lies on the two edges that face it.
    """
    mx, my = projected.means2d.flatten(0, 1)[ids].unbind(-1)
    a, b, c = projected.conics.flatten(0, 1)[ids].unbind(-1)
    left, top = column * side + 0.5 - mx, row * side + 0.5 - my  # of the cell's pixel centres, from the mean
    right, bottom = left + (side - 1), top + (side - 1)
    x, y = (0.0 * left).clamp(left, right), (0.0 * top).clamp(top, bottom)  # the nearest point, axis by axis
    on_x, on_y = (-b * x / c).clamp(top, bottom), (-b * y / a).clamp(left, right)

    def form(u: Tensor, v: Tensor) -> Tensor:
        return a * u * u + 2 * b * u * v + c * v * v

    least = torch.minimum(form(x, on_x), form(on_y, y))
    return least <= level.flatten()[ids] + 1e-3 * (1 + least.abs())
