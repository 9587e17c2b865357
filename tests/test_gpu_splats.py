"""gsplat's kernels against our rasterizer: images, alphas, depths and gradients, whichever version is installed.

They need a card. On the CPU gsplat's own torch reference for projection and harmonics stands in where it is installed,
with a naive compositing of what it gives: so that scenes, settings and comparisons here are right before a card comes.

What versions differ in: 1.4 cuts a gaussian at 3 standard deviations, in squares of tiles, as ours does. From 1.5 on it
is cut at 3.33, or where its opacity falls to 1/255, and alpha is bounded by 0.99 instead of 0.999.
"""

from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import pytest
import torch
from conftest import randn
from devices import CARD, Place, error
from splat_scenes import cameras, flat, gaussians
from torch import Tensor

from representations.splats.rasterize import rasterization, rasterizer_for

reference = pytest.importorskip("gsplat.cuda._torch_impl", exc_type=ImportError)

SIZE = (40, 30)
VERSION = tuple(int(part) for part in version("gsplat").split(".")[:2])
LIKE_OURS = VERSION < (1, 5)
Rasterize = Callable[..., tuple[Tensor, Tensor, dict[str, Any]]]

SCENES: dict[str, tuple[dict[str, Tensor], dict[str, Any]]] = {
    "plain": (gaussians(), {}),
    "depth": (gaussians(), {"render_mode": "RGB+ED"}),
    "dense": (gaussians(n=400, scale=0.2), {}),
    "antialiased": (gaussians(scale=0.03), {"rasterize_mode": "antialiased"}),
    "harmonics": (gaussians(k=16), {"sh_degree": 3}),
    "background": (gaussians(), {"backgrounds": torch.tensor([[0.2, 0.5, 0.9]])}),
    "flat": (flat(), {}),
}


def naive(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    sh_degree: int | None = None,
    render_mode: str = "RGB",
    rasterize_mode: str = "classic",
    backgrounds: Tensor | None = None,
    packed: bool = False,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """One camera: gsplat's reference projects, and every gaussian goes over every pixel of the tiles it may touch."""
    covars, _ = reference._quat_scale_to_covar_preci(quats, scales, compute_preci=False)
    shape = (means, covars, viewmats, Ks, width, height, 0.3, 0.01, 1e10)
    projected = reference._fully_fused_projection(*shape, calc_compensations=True)
    radii, means2d, depths, conics, compensations = (x[0] for x in projected)
    if radii.ndim == 2:  # one for each axis, from 1.5 on
        radii = radii.amax(1)
    if sh_degree is not None:
        eye = torch.linalg.inv(viewmats)[0, :3, 3]
        colors = (reference._spherical_harmonics(sh_degree, means - eye, colors) + 0.5).clamp(min=0)
    if rasterize_mode == "antialiased":
        opacities = opacities * compensations
    if render_mode == "RGB+ED":
        colors = torch.cat([colors, depths[:, None]], 1)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([columns, rows], -1).to(means)
    corners, T = pixels // 16 * 16, torch.ones(height, width).to(means)
    image, finished = torch.zeros(height, width, colors.shape[-1]).to(means), torch.zeros(height, width).to(T) > 0
    for i in [i for i in depths.argsort(stable=True).tolist() if radii[i] > 0]:
        low, high = means2d[i] - radii[i], means2d[i] + radii[i]
        touched = ((high > corners) & (low < corners + 16)).all(-1)
        x, y = (pixels + 0.5 - means2d[i]).unbind(-1)
        a, b, c = conics[i].unbind()
        alpha = (opacities[i] * torch.exp(-(a * x * x + c * y * y) / 2 - b * x * y)).clamp(max=0.999)
        alpha = torch.where(touched & (alpha >= 1 / 255), alpha, 0)
        finished = finished | (T * (1 - alpha) <= 1e-4)
        image = image + torch.where(finished, 0, T * alpha)[..., None] * colors[i]
        T = torch.where(finished, T, T * (1 - alpha))
    if render_mode == "RGB+ED":
        image = torch.cat([image[..., :-1], image[..., -1:] / (1 - T)[..., None].clamp(min=1e-10)], -1)
    if backgrounds is not None:
        image = image + T[..., None] * backgrounds[0]
    return image[None], (1 - T)[None, ..., None], {}


@pytest.fixture
def theirs(place: Place) -> Iterator[Rasterize]:
    """gsplat's kernels, or what stands in for them."""
    if place.kind == "cpu":
        yield naive
        return
    try:
        from gsplat.cuda import _backend  # compiles, and raises what its compiler raises
    except Exception as err:
        pytest.skip(f"gsplat {version('gsplat')} cannot build its kernels here: {err}")
    if getattr(_backend, "_C", None) is None:
        pytest.skip(f"gsplat {version('gsplat')} has no kernels here: install a CUDA toolkit (nvcc), or its own wheels")
    from gsplat.rendering import rasterization as kernels

    assert rasterizer_for(place.device) is kernels
    yield kernels


def drawn(rasterize: Rasterize, scene: str, device: torch.device) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Colors and alphas in float32, and the gradients of a fixed random projection of both."""
    splats, settings = SCENES[scene]
    leaves = {k: v.to(device, torch.float32).requires_grad_() for k, v in splats.items()}
    fixed = {k: v.to(device, torch.float32) for k, v in cameras(*SIZE).items()}
    settings = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in settings.items()}
    width, height = SIZE
    found, alphas, _ = rasterize(**leaves, **fixed, width=width, height=height, packed=False, **settings)
    weights = [randn(i, *x.shape).to(device) for i, x in enumerate((found, alphas))]
    loss = (weights[0] * found).sum() + (weights[1] * alphas).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return [found.detach(), alphas.detach()], dict(zip(leaves, gradients, strict=True))


@pytest.mark.parametrize("place", ["cpu", CARD], indirect=True)
@pytest.mark.parametrize("scene", SCENES)
def test_gsplat_and_ours_agree(scene: str, place: Place, theirs: Rasterize) -> None:
    """To rounding with the same rules; with those of 1.5 and later as far as what is faint goes."""
    same_rules = LIKE_OURS or not place.rounds
    images, gradients = drawn(rasterization, scene, place.device)
    other_images, other_gradients = drawn(theirs, scene, place.device)
    for found, wanted in zip(images, other_images, strict=True):
        assert float((found - wanted).abs().mean()) <= (1e-4 if same_rules else 5e-3)
        assert error(found, wanted) <= (1e-3 if same_rules else 3e-2)
    for name, gradient in gradients.items():
        assert float(other_gradients[name].norm()) > 0, name
        assert bool(torch.isfinite(gradient).all()), name
        assert error(gradient, other_gradients[name]) <= (2e-2 if same_rules else 0.2), name
