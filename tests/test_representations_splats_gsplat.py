"""The splat rasterizer's parts against gsplat's own torch reference, which needs no CUDA: values and gradients.

Where the two differ by convention:

- what is culled (radius 0) has no values that mean anything, here or there: compared are the visible gaussians;
- gsplat's reference has no radius_clip, and bounds the determinant below by 1e-10, which none of these scenes reaches;
- gsplat's reference multiplies with all of Ks, ours takes fx, fy, cx, cy from it: gradients are compared in these four;
- ours bounds compensations below by 1e-6, so that the square root keeps a gradient: theirs by 0, with none.

All in float64, so that what is left is rounding, 1e-15: theirs multiplies the covariance out and takes determinants by
differences, which costs needles three digits. Tolerances are about a hundred times what was found.
"""

import inspect
from typing import Any

import pytest
import torch
from conftest import randn
from splat_scenes import assert_close, cameras, flat, gaussians, needles
from torch import Tensor

from representations.splats.harmonics import DEGREES, sh_bases, sh_colors
from representations.splats.projection import Projected, project, quat_to_rotmat
from representations.splats.rasterize import rasterization
from representations.splats.tiles import cells_of

gsplat = pytest.importorskip("gsplat.cuda._torch_impl", exc_type=ImportError)

SIZE, PLANES = (40, 30), (0.2, 10.0)
INPUTS = ("means", "quats", "scales", "viewmats", "Ks")
OUTPUTS = ("means2d", "depths", "conics", "compensations")


def ours(inputs: dict[str, Tensor], eps2d: float) -> Projected:
    return project(*(inputs[name] for name in INPUTS), size=SIZE, planes=PLANES, eps2d=eps2d, radius_clip=0.0)


def theirs(inputs: dict[str, Tensor], eps2d: float) -> dict[str, Tensor]:
    covars, _ = gsplat._quat_scale_to_covar_preci(inputs["quats"], inputs["scales"], compute_preci=False)
    shape = (inputs["means"], covars, inputs["viewmats"], inputs["Ks"], *SIZE, eps2d, *PLANES)
    radii, *values = gsplat._fully_fused_projection(*shape, calc_compensations=True)
    return {"radii": radii, **dict(zip(("means2d", "depths", "conics", "compensations"), values, strict=True))}


def gradients(outputs: dict[str, Tensor], inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """Of a fixed random projection of the outputs."""
    loss = sum((randn(i, *x.shape).double() * x).sum() for i, x in enumerate(outputs.values()))
    assert isinstance(loss, Tensor)
    return torch.autograd.grad(loss, list(inputs.values()))


SCENES: dict[str, tuple[dict[str, Tensor], int, float]] = {  # gaussians, cameras, eps2d
    "plain": (gaussians(), 1, 0.3),
    "three cameras": (gaussians(), 3, 0.3),
    "not widened": (gaussians(), 1, 0.0),
    "larger than the image": (gaussians(scale=1.0), 2, 0.3),
    "beside the image": ({**gaussians(200, 0.5), "means": 3 * gaussians(200)["means"]}, 2, 0.3),  # J is bounded
    "points": (gaussians(scale=1e-2), 1, 0.3),  # nothing but eps2d: compensations near 0
    "flat": (flat(), 1, 0.3),
    "needles": (needles(), 1, 0.3),
}


@pytest.mark.parametrize("name", SCENES)
def test_projection(name: str) -> None:
    made, count, eps2d = SCENES[name]
    inputs = {k: v for k, v in {**made, **cameras(*SIZE, count)}.items() if k in INPUTS}
    wanted = theirs(inputs, eps2d)
    found = ours(inputs, eps2d)
    assert torch.equal(found.radii, wanted["radii"])
    visible = wanted["radii"] > 0
    assert visible.sum() > 20
    for output in OUTPUTS:
        assert_close(getattr(found, output)[visible], wanted[output][visible], 1e-11)


@pytest.mark.parametrize("name", SCENES)
def test_gradients_of_the_projection(name: str) -> None:
    """Of gaussians that all cameras see: gsplat's gradients of what lies behind a camera are NaN."""
    made, count, eps2d = SCENES[name]
    inputs = {k: v for k, v in {**made, **cameras(*SIZE, count)}.items() if k in INPUTS}
    visible = (theirs(inputs, eps2d)["radii"] > 0).all(0)
    assert visible.sum() > 20
    leaves = {k: (v if k in ("viewmats", "Ks") else v[visible]).requires_grad_() for k, v in inputs.items()}
    projected, reference = ours(leaves, eps2d), theirs(leaves, eps2d)
    found = gradients({k: getattr(projected, k) for k in OUTPUTS}, leaves)
    wanted = gradients({k: reference[k] for k in OUTPUTS}, leaves)
    for name, x, y in zip(leaves, found, wanted, strict=True):
        used = leaves[name] != 0 if name == "Ks" else torch.ones_like(y)
        assert (used * y).abs().max() > 0
        assert_close(used * x, used * y, 1e-11)


def test_rotation_matrices() -> None:
    quats = randn(0, 20, 4).double()
    assert_close(quat_to_rotmat(quats), gsplat._quat_to_rotmat(quats), 1e-15)


@pytest.mark.parametrize("degree", DEGREES)
def test_spherical_harmonics(degree: int) -> None:
    dirs, coeffs = randn(1, 50, 3).double().requires_grad_(), randn(2, 50, 16, 3).double().requires_grad_()
    unit = torch.nn.functional.normalize(dirs, dim=-1)
    assert_close(sh_bases(degree, unit), gsplat._eval_sh_bases_fast((degree + 1) ** 2, unit), 1e-13)
    found = sh_colors(degree, coeffs, dirs)
    wanted = (gsplat._spherical_harmonics(degree, dirs, coeffs) + 0.5).clamp(min=0)  # as gsplat's rasterization does
    assert (wanted == 0).any()
    assert_close(found, wanted, 1e-13)
    inputs = {"coeffs": coeffs} if degree == 0 else {"coeffs": coeffs, "dirs": dirs}  # a constant has no direction
    for x, y in zip(gradients({"": found}, inputs), gradients({"": wanted}, inputs), strict=True):
        assert y.abs().max() > 0
        assert_close(x, y, 1e-13)


@pytest.mark.parametrize("tile", [16, 20])
def test_tiles_and_their_order(tile: int) -> None:
    """Each list is gsplat's for that tile, front to back, less what is too faint there."""
    made, cams = gaussians(n=100, scale=0.3), cameras(*SIZE, 2)
    grid = (-(-SIZE[0] // tile), -(-SIZE[1] // tile))
    _, _, meta = rasterization(**made, **cams, width=SIZE[0], height=SIZE[1], tile_size=tile)
    seen: tuple[Any, ...] = (meta["means2d"], meta["radii"], meta["depths"])
    tiles_per_gauss, isect_ids, flatten_ids = gsplat._isect_tiles(*seen, tile, *grid)
    assert torch.equal(meta["tiles_per_gauss"], tiles_per_gauss)

    offsets = gsplat._isect_offset_encode(isect_ids, 2, *grid).flatten().tolist()
    inputs = {k: v for k, v in {**made, **cams}.items() if k in INPUTS}
    projected = project(*(inputs[name] for name in INPUTS), size=SIZE, planes=(0.01, 1e10), eps2d=0.3, radius_clip=0.0)
    cells = cells_of(projected, made["opacities"].expand(2, -1), SIZE, tile, tile)
    assert len(cells.counts) == len(offsets)
    for i, (begin, end) in enumerate(zip(offsets, [*offsets[1:], len(flatten_ids)], strict=True)):
        listed = cells.flatten_ids[cells.offsets[i] : cells.offsets[i] + cells.counts[i]].tolist()
        reference = flatten_ids[begin:end].tolist()
        assert listed == [one for one in reference if one in listed]
        assert len(listed) > 0.5 * len(reference) > 0


def test_the_signature_is_gsplats() -> None:
    """What ours takes has the name, the place and the default that it has there; only packed=True is not served."""
    rendering = pytest.importorskip("gsplat.rendering", exc_type=ImportError)
    own, reference = (inspect.signature(f).parameters for f in (rasterization, rendering.rasterization))
    assert list(own) == [name for name in reference if name in own]
    assert {name for name in own if own[name].default != reference[name].default} == {"packed"}
    assert set(reference) - set(own) <= {"channel_chunk", "distributed", "camera_model", "covars"}
