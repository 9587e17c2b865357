"""Gaussian splatting in plain torch, differentiable, on any device: the signature and conventions of gsplat 1.4.

For machines without CUDA and for modest scenes; where gsplat runs, it is faster.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from representations.splats.compositing import composite
from representations.splats.harmonics import num_bases, sh_colors
from representations.splats.projection import Quats, project
from representations.splats.tiles import cells_of, tile_ranges

MODES = ("RGB", "D", "ED", "RGB+D", "RGB+ED")
Rasterizer = Callable[..., tuple[Tensor, Tensor, dict[str, Any]]]
CELL = 8  # px; tiles are cut into cells of this side where it divides them


@cache
def rasterizer_for(device: torch.device) -> Rasterizer:
    """gsplat's on CUDA where it is installed and its kernels are built, else ours."""
    if device.type == "cuda":
        try:
            from gsplat.cuda import _backend  # compiles, and raises what its compiler raises
            from gsplat.rendering import rasterization as theirs
        except Exception:
            return rasterization
        return theirs if getattr(_backend, "_C", None) is not None else rasterization
    return rasterization


def rasterization(
    means: Float[Tensor, "n 3"],
    quats: Quats,
    scales: Float[Tensor, "n 3"],
    opacities: Float[Tensor, " n"],
    colors: Float[Tensor, "..."],
    viewmats: Float[Tensor, "c 4 4"],
    Ks: Float[Tensor, "c 3 3"],
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    packed: bool = False,
    tile_size: int = 16,
    backgrounds: Float[Tensor, "c d"] | None = None,
    render_mode: str = "RGB",
    sparse_grad: bool = False,
    absgrad: bool = False,
    rasterize_mode: str = "classic",
) -> tuple[Float[Tensor, "c h w e"], Float[Tensor, "c h w 1"], dict[str, Any]]:
    """Colours, alphas and intermediate results of n gaussians before c pinhole cameras.

    `quats` w x y z of any length, `scales` and `opacities` as they are (no exp, no sigmoid), `viewmats` world to camera
    in OpenCV's axes, `Ks` in px with pixel centres at halves. `colors` are (n, d) or (c, n, d), or, with `sh_degree`,
    coefficients (n, k, 3) or (c, n, k, 3), k >= (sh_degree + 1)². `render_mode` D is sum w z, ED that over alpha; depth
    is the last channel. Raises ValueError for shapes or settings that it cannot serve.
    """
    if packed or sparse_grad:
        raise ValueError("packed and sparse_grad save memory on CUDA alone: pass packed=False, sparse_grad=False")
    if render_mode not in MODES:
        raise ValueError(f"render_mode must be one of {', '.join(MODES)}, got {render_mode!r}")
    if rasterize_mode not in ("classic", "antialiased"):
        raise ValueError(f"rasterize_mode must be classic or antialiased, got {rasterize_mode!r}")
    size, channels = (width, height), render_mode.replace("ED", "D")
    projected = project(means, quats, scales, viewmats, Ks, size, (near_plane, far_plane), eps2d, radius_clip)
    if rasterize_mode == "antialiased":
        opacities = opacities * projected.compensations
    else:
        opacities = opacities.expand_as(projected.depths)
    features = _features(colors, means, viewmats, sh_degree) if "RGB" in channels else projected.depths[..., :0, None]
    if "D" in channels:
        depth = torch.where(projected.radii > 0, projected.depths, 0)[..., None]
        features = torch.cat([features, depth], -1) if "RGB" in channels else depth

    side = CELL if tile_size % CELL == 0 else tile_size
    cells = cells_of(projected, opacities, size, tile_size, side)
    conics = projected.conics
    sums = composite(projected.means2d, conics, opacities, features, cells, absgrad)[:, :height, :width]
    render, alphas = sums[..., :-1], sums[..., -1:]
    if backgrounds is not None:
        padded = torch.nn.functional.pad(backgrounds, (0, render.shape[-1] - backgrounds.shape[-1]))
        render = render + (1 - alphas) * padded[:, None, None]
    if "ED" in render_mode:
        render = torch.cat([render[..., :-1], render[..., -1:] / alphas.clamp(min=1e-10)], -1)

    tile_min, tile_max = tile_ranges(projected, size, tile_size)
    meta = {
        "camera_ids": None,
        "gaussian_ids": None,
        "radii": projected.radii,
        "means2d": projected.means2d,
        "depths": projected.depths,
        "conics": conics,
        "opacities": opacities,
        "tiles_per_gauss": (tile_max - tile_min).prod(-1).int(),
        "tile_width": -(-width // tile_size),
        "tile_height": -(-height // tile_size),
        "tile_size": tile_size,
        "width": width,
        "height": height,
        "n_cameras": len(viewmats),
    }
    return render, alphas, meta


def _features(
    colors: Float[Tensor, "..."],
    means: Float[Tensor, "n 3"],
    viewmats: Float[Tensor, "c 4 4"],
    sh_degree: int | None,
) -> Float[Tensor, "c n d"]:
    """What is composited, for every camera."""
    count = len(means)
    if sh_degree is None:
        if colors.shape[-2:-1] != (count,) or colors.dim() not in (2, 3):
            raise ValueError(f"colors must be (n, d) or (c, n, d) with n = {count}, got {tuple(colors.shape)}")
        return colors.expand(len(viewmats), -1, -1)
    needed = num_bases(sh_degree)
    if colors.dim() not in (3, 4) or colors.shape[-3] != count or colors.shape[-1] != 3 or colors.shape[-2] < needed:
        raise ValueError(
            f"with sh_degree={sh_degree} colors must be (n, k, 3) or (c, n, k, 3) with n = {count} and k >= {needed}, "
            f"got {tuple(colors.shape)}"
        )
    campos = torch.linalg.inv_ex(viewmats)[0][:, None, :3, 3]  # inv would wait to hear that it exists
    return sh_colors(sh_degree, colors, means - campos)
