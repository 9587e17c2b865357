"""An icon as a solid: its silhouette made a slab with rounded edges, over a floor, under a dome, in soft light.

World: x right, y to the back, z up; the icon fills -1 … 1 in x and z and faces -y, both of its faces painted alike. It
floats just over the floor; floor and dome have one colour, so that all of it looks like an icon before a plain
background, with a shadow beneath. Nothing shines: a point has the same colour from everywhere.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample, interpolate, normalize, pad

MARGIN = 1.125  # half the side of the icon's grid, in the world's units: the silhouette never touches the rim
FLOOR = -1.06  # z
DOME = 1.6  # the dome's radius in cameras' distances
LIGHT = (-0.3, -0.75, 0.6)  # towards it: from the left, before and above
AMBIENT = 0.55  # light that comes from everywhere


@dataclass(frozen=True)
class Relief:
    """The scene. Grids cover -MARGIN … MARGIN in x (columns) and z (rows, from above)."""

    distance: Float[Tensor, "1 g g"]  # to the silhouette's edge, > 0 inside
    rgb: Float[Tensor, "3 g g"]
    over: Float[Tensor, "1 1 g"]  # how much stands over the floor, by x
    background: Float[Tensor, " 3"]
    thickness: float  # half of the slab's
    rounding: float  # radius of its edges
    dome: float  # radius; the cameras are inside


def relief_of(
    rgba: Float[Tensor, "4 h h"],
    background: Float[Tensor, " 3"],
    dome: float,
    thickness: float = 0.3,
    rounding: float = 0.4,
    grid: int = 288,
) -> Relief:
    """From a square image with straight alpha in [0, 1], in `grid`² cells."""
    inner, cell = round(grid / MARGIN), 2 * MARGIN / grid
    thin = torch.cat([rgba[:3] * rgba[3:], rgba[3:]])[None]
    small = interpolate(thin, (inner, inner), mode="bilinear", antialias=True)
    layer = pad(small, [(grid - inner) // 2, (grid - inner + 1) // 2] * 2)
    inside = layer[0, 3] > 0.5
    signed = (distances(~inside) - distances(inside)) * cell
    # the silhouette's colours, spread over its edge
    full = inside.float()[None, None]
    straight = layer[:, :3] / layer[:, 3:].clamp(min=0.5)
    rgb = torch.where(
        inside, straight, blurred(straight * full, 0.023 / cell) / blurred(full, 0.023 / cell).clamp(min=1e-6)
    )
    height = (torch.linspace(MARGIN, -MARGIN, grid) - FLOOR)[:, None]
    over = (inside * (-2 * height).exp()).sum(0) * 2 * cell
    over = blurred(over.expand(1, 1, 3, -1), 0.09 / cell)[0, :, :1]
    smooth = blurred(signed[None, None], 0.016 / cell)[0]
    return Relief(smooth, rgb[0], over, background, thickness, rounding, dome)


def distances(to: Bool[Tensor, "g g"]) -> Float[Tensor, "g g"]:
    """In cells from each cell to the nearest of `to`, less the half that lies beyond the edge; 0 within.

    Exact, one axis after the other: min over columns, then over rows (Felzenszwalb and Huttenlocher 2012, Sec. 3).
    """
    n = len(to)
    gap = (torch.arange(n)[:, None] - torch.arange(n)).float() ** 2
    far = torch.where(to, 0.0, 4.0 * n * n)
    rows = torch.stack([(row + gap).amin(1) for row in far])
    both = torch.stack([(column + gap).amin(1) for column in rows.T], 1)
    return (both.sqrt() - 0.5).clamp(min=0)


def blurred(planes: Float[Tensor, "1 c h w"], sigma: float) -> Float[Tensor, "1 c h w"]:
    """Gaussian, borders repeated."""
    reach = round(3 * sigma)
    kernel = (-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2).exp()
    kernel = (kernel / kernel.sum()).expand(planes.shape[1], 1, 1, -1)
    groups = planes.shape[1]
    wide = pad(planes, [reach] * 4, mode="replicate")
    return conv2d(conv2d(wide, kernel, groups=groups), kernel.mT, groups=groups)


def bilinear(grid: Float[Tensor, "c g g"], x: Float[Tensor, " n"], z: Float[Tensor, " n"]) -> Float[Tensor, "n c"]:
    """Bilinear values at places in the world."""
    at = torch.stack([x, -z], -1).view(1, 1, -1, 2) / MARGIN
    return grid_sample(grid[None], at, padding_mode="border", align_corners=False)[0, :, 0].T


def profile(relief: Relief, distance: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Half the slab's thickness at a distance from the edge: a quarter of an ellipse, then flat; < 0 outside."""
    q = (distance / relief.rounding).clamp(max=1)
    return torch.where(q > 0, relief.thickness * (1 - (1 - q.clamp(min=0)) ** 2).sqrt(), -1.0)


def normals_of(relief: Relief, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Of the slab: the gradient of |y| - profile(distance), times what is infinite in it at the rim."""
    x, y, z = points.unbind(1)
    step = 2 * MARGIN / relief.distance.shape[-1]
    dx = (bilinear(relief.distance, x + step, z) - bilinear(relief.distance, x - step, z))[:, 0] / (2 * step)
    dz = (bilinear(relief.distance, x, z + step) - bilinear(relief.distance, x, z - step))[:, 0] / (2 * step)
    q = (bilinear(relief.distance, x, z)[:, 0] / relief.rounding).clamp(0, 1)
    lean = relief.thickness / relief.rounding * (1 - q)
    return normalize(torch.stack([-lean * dx, y.sign() * (1 - (1 - q) ** 2).sqrt(), -lean * dz], 1), dim=1)


def lit(relief: Relief, points: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """The icon's colours in half-Lambert light, 1 on what faces front."""
    light = normalize(torch.tensor(LIGHT), dim=0)
    strength = AMBIENT + (1 - AMBIENT) * (1 + normals @ light) / (1 - light[1])
    return (bilinear(relief.rgb, points[:, 0], points[:, 2]) * strength[:, None]).clamp(0, 1)


def shadow(relief: Relief, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 1"]:
    """How much darker the floor is: softly under what floats over it, a little all around."""
    x, y, _ = points.unbind(1)
    over = bilinear(relief.over.expand(1, 2, -1), x, torch.zeros_like(x))[:, 0]
    under = 0.45 * (1 - (-1.5 * over).exp()) * (-0.5 * (y / 0.45) ** 2).exp()
    return (under + 0.1 * (-(x**2 + y**2) / 2.5**2).exp())[:, None]
