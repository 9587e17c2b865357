"""The splat rasterizer against a naive one in float64, and what nerfstudio's splatfacto reads of it."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import randn
from splat_scenes import assert_close, cameras, flat, gaussians, needles
from torch import Tensor

from representations.splats import blocks, compositing
from representations.splats.rasterize import rasterization


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
    near_plane: float = 0.01,
    eps2d: float = 0.3,
    antialiased: bool = False,
    tile: int = 16,
) -> tuple[Tensor, Tensor, Tensor]:
    """Colours, alphas and depth sums of one camera: every gaussian over every pixel, one after the other, no lists."""
    W, t, K = viewmats[0, :3, :3], viewmats[0, :3, 3], Ks[0]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    corner = torch.stack([columns, rows], -1) // tile * tile
    centres = torch.stack([columns, rows], -1).to(means) + 0.5
    T, terminated = torch.ones(height, width).to(means), torch.zeros(height, width, dtype=torch.bool)
    image, depths = torch.zeros(height, width, colors.shape[-1]).to(means), torch.zeros(height, width).to(means)
    means_c = means @ W.T + t
    for i in means_c[:, 2].argsort(stable=True).tolist():
        if not means_c[i, 2] > near_plane:
            continue
        R = rodrigues(quats[i])
        sigma = R @ torch.diag(scales[i] ** 2) @ R.T
        J = jacobian(means_c[i], K, width, height)
        cov2d = J @ W @ sigma @ W.T @ J.T
        wide = cov2d + eps2d * torch.eye(2).to(means)
        mean2d = (K @ means_c[i])[:2] / means_c[i, 2]
        b = wide.trace() / 2
        radius = torch.ceil(3 * (b + (b**2 - wide.det()).clamp(min=0.01).sqrt()).sqrt()).detach()
        if not ((mean2d + radius > 0) & (mean2d - radius < torch.tensor([width, height]))).all():
            continue
        touched = ((mean2d + radius > corner) & (mean2d - radius < corner + tile)).all(-1)
        d = centres - mean2d
        opacity = opacities[i] * (cov2d.det() / wide.det()).clamp(min=1e-12).sqrt() if antialiased else opacities[i]
        alpha = (opacity * torch.exp(-(d @ wide.inverse() * d).sum(-1) / 2)).clamp(max=0.999)
        alpha = torch.where(touched & (alpha >= 1 / 255), alpha, 0)
        terminated = terminated | (T * (1 - alpha) <= 1e-4)
        weight = torch.where(terminated, 0, T * alpha)
        image, depths = image + weight[..., None] * colors[i], depths + weight * means_c[i, 2]
        T = torch.where(terminated, T, T * (1 - alpha))
    return image, 1 - T, depths


def rodrigues(quat: Tensor) -> Tensor:
    """1 + 2 w K + 2 K², where K v is the cross product of the unit quaternion's vector part and v."""
    w, x, y, z = quat / quat.norm()
    zero = torch.zeros_like(w)
    rows = [torch.stack(row) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))]
    cross, one = torch.stack(rows), torch.eye(3).to(quat)
    return one + 2 * w * cross + 2 * cross @ cross


def jacobian(mean_c: Tensor, K: Tensor, width: int, height: int) -> Tensor:
    """Of the projection at the mean, taken at most 15 % of the image outside of it."""
    (x, y, z), zero, rows = mean_c, torch.zeros(()).to(mean_c), []
    for i, (t, side) in enumerate(((x, width), (y, height))):
        f, c = K[i, i], K[i, 2]
        slope = (t / z).clamp(-c / f - 0.15 * side / f, (side - c) / f + 0.15 * side / f)
        rows.append(torch.stack([f / z if i == 0 else zero, f / z if i == 1 else zero, -f * slope / z]))
    return torch.stack(rows)


def grads(
    render: Callable[[dict[str, Tensor]], tuple[Tensor, ...]], splats: dict[str, Tensor]
) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    """What `render` gives, and the gradients of a fixed random projection of it."""
    leaves = {k: v.clone().requires_grad_() for k, v in splats.items()}
    outs = render(leaves)
    loss = sum((randn(7 + i, *x.shape).to(x) * x).sum() for i, x in enumerate(outs))
    assert isinstance(loss, Tensor)
    loss.backward()
    return tuple(x.detach() for x in outs), [v.grad for v in leaves.values() if v.grad is not None]


def assert_naive(splats: dict[str, Tensor], width: int, height: int, antialiased: bool = False, **more: Any) -> None:
    """Image, alpha, depth and all gradients as the naive one's: to rounding in float64, to 1e-4 in float32."""
    cams = cameras(width, height)
    settings = {"width": width, "height": height, "near_plane": 0.2, **more}

    def ours(leaves: dict[str, Tensor]) -> tuple[Tensor, ...]:
        own = {k: v.to(leaves["means"].dtype) for k, v in cams.items()}
        mode = "antialiased" if antialiased else "classic"
        render, alphas, _ = rasterization(**leaves, **own, **settings, render_mode="RGB+D", rasterize_mode=mode)
        return render[0, ..., :-1], alphas[0, ..., 0], render[0, ..., -1]

    wanted = grads(lambda leaves: naive(**leaves, **cams, **settings, antialiased=antialiased), splats)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        found = grads(ours, {k: v.to(dtype) for k, v in splats.items()})
        for x, y in zip((*found[0], *found[1]), (*wanted[0], *wanted[1]), strict=True):
            assert_close(x, y, tolerance)


def of_opacity(opacity: float, scale: float = 0.1) -> dict[str, Tensor]:
    return {**gaussians(scale=scale), "opacities": torch.full((60,), opacity, dtype=torch.float64)}


CASES: dict[str, tuple[dict[str, Tensor], tuple[int, int], dict[str, Any]]] = {  # gaussians, size in px, settings
    "plain": (gaussians(), (40, 30), {}),
    "points": (gaussians(scale=1e-5), (40, 30), {}),  # nothing but eps2d
    "large": (gaussians(scale=1.0, n=30), (40, 30), {}),  # larger than the image, partly behind the camera
    "dense": (gaussians(n=400, scale=0.3), (24, 20), {}),  # pixels are terminated
    "opaque": (of_opacity(0.9999, scale=0.3), (40, 30), {}),  # beyond ALPHA_MAX
    "faint": (of_opacity(0.0045), (40, 30), {}),  # just above ALPHA_MIN at their centres
    "none": (of_opacity(0.0), (40, 30), {}),
    "wide image": (gaussians(), (70, 9), {}),
    "one pixel": (gaussians(), (1, 1), {}),
    "behind": ({**gaussians(), "means": gaussians()["means"] * 4}, (40, 30), {}),  # around and behind the camera
    "eps2d": (gaussians(scale=0.2), (40, 30), {"eps2d": 0.05}),
    "antialiased": (gaussians(scale=0.05), (40, 30), {"antialiased": True}),
    "flat": (flat(), (40, 30), {}),
    "needles": (needles(), (40, 30), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_naive_rasterizer(case: str) -> None:
    splats, (width, height), settings = CASES[case]
    assert_naive(splats, width, height, **settings)


@pytest.mark.parametrize("seed", range(8))
def test_random_scenes(seed: int) -> None:
    """Any number, size, spread and opacity of gaussians; any image."""
    a, b, c, d, e = torch.rand(5, generator=torch.Generator().manual_seed(seed)).tolist()
    splats = gaussians(20 + int(80 * a), 0.006 * 300**b, seed=seed)
    splats["means"] = splats["means"] * (1 + 2 * e)
    splats["opacities"] = splats["opacities"] ** (0.1 + c)
    assert_naive(splats, 1 + int(40 * c), 1 + int(40 * d), eps2d=0.5 * e)


@pytest.mark.parametrize(
    ("longest", "block", "kept"),
    [
        (5, 1, 0),  # a few gaussians of one cell at a time, computed twice
        (33, 2**13, 2**30),  # all kept
        (10**6, 2**20, 0),  # all at once
    ],
)
def test_how_the_work_is_cut_changes_nothing(
    longest: int, block: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    splats, cams = gaussians(n=200, scale=0.3), cameras(30, 20, 2)

    def render(leaves: dict[str, Tensor]) -> tuple[Tensor, ...]:
        return rasterization(**leaves, **cams, width=30, height=20)[:2]

    wanted = grads(render, splats)
    monkeypatch.setattr(blocks, "LONGEST", longest)
    monkeypatch.setattr(blocks, "BLOCK", {"cpu": block})
    monkeypatch.setattr(compositing, "KEPT", kept)
    found = grads(render, splats)
    for a, b in zip((*found[0], *found[1]), (*wanted[0], *wanted[1]), strict=True):
        assert_close(a, b, 1e-9)


@pytest.mark.parametrize("tile", [8, 20, 32])  # cut into cells, and not
def test_tiles_of_other_sizes(tile: int) -> None:
    splats, cams = gaussians(scale=0.2), cameras(50, 40)
    render, alphas, meta = rasterization(**splats, **cams, width=50, height=40, tile_size=tile)
    wanted = naive(**splats, **cams, width=50, height=40, tile=tile)
    assert_close(render[0], wanted[0], 1e-9)
    assert_close(alphas[0, ..., 0], wanted[1], 1e-9)
    assert (meta["tile_width"], meta["tile_height"]) == (math.ceil(50 / tile), math.ceil(40 / tile))


def test_cameras_are_rendered_as_if_each_were_alone() -> None:
    splats, cams = gaussians(k=4), cameras(30, 40, 3)
    together = rasterization(**splats, **cams, width=30, height=40, sh_degree=1)
    for i in range(3):
        alone = {k: v[i : i + 1] for k, v in cams.items()}
        render, alphas, meta = rasterization(**splats, **alone, width=30, height=40, sh_degree=1)
        assert_close(together[0][i], render[0], 1e-12)
        assert_close(together[1][i], alphas[0], 1e-12)
        assert torch.equal(together[2]["radii"][i], meta["radii"][0])
    own = torch.stack([splats["colors"]] * 3)
    assert torch.equal(
        rasterization(**{**splats, "colors": own}, **cams, width=30, height=40, sh_degree=1)[0], together[0]
    )


def test_poses_have_gradients() -> None:
    splats, cams = gaussians(scale=0.2), cameras(24, 20)

    def run(render: Callable[..., Tensor]) -> Tensor:
        viewmats = cams["viewmats"].clone().requires_grad_()
        image = render(**splats, viewmats=viewmats, Ks=cams["Ks"], width=24, height=20)
        (randn(0, *image.shape).to(image) * image).sum().backward()
        assert viewmats.grad is not None
        return viewmats.grad

    assert_close(run(lambda **x: rasterization(**x)[0][0]), run(lambda **x: naive(**x)[0]), 1e-9)


def test_modes_and_background() -> None:
    splats, cams = gaussians(), cameras(40, 30)

    def render(mode: Any, **more: Any) -> Tensor:
        return rasterization(**splats, **cams, width=40, height=30, render_mode=mode, **more)[0][0]

    _, alphas, _ = rasterization(**splats, **cams, width=40, height=30)
    colors, depth = render("RGB"), render("D")
    expected = depth / alphas[0].clamp(min=1e-10)
    assert_close(render("RGB+D"), torch.cat([colors, depth], -1), 1e-12)
    assert_close(render("RGB+ED"), torch.cat([colors, expected], -1), 1e-12)
    assert_close(render("ED"), expected, 1e-12)
    inside = expected[alphas[0] > 0]
    assert inside.min() > 1.5  # the box is between 3 - √3 and 3 + √3 away
    assert inside.max() < 5
    background = torch.tensor([[0.2, 0.5, 0.9]], dtype=torch.float64)
    assert_close(render("RGB", backgrounds=background), colors + (1 - alphas[0]) * background, 1e-12)
    assert_close(render("RGB+D", backgrounds=background)[..., 3:], depth, 1e-12)  # depth has no background


def test_any_number_of_channels() -> None:
    splats, cams = gaussians(), cameras(20, 20)
    many = torch.cat([splats["colors"]] * 5, -1)[:, :13]
    wanted = rasterization(**splats, **cams, width=20, height=20)[0]
    found = rasterization(**{**splats, "colors": many}, **cams, width=20, height=20)[0]
    assert_close(found, torch.cat([wanted] * 5, -1)[..., :13], 1e-12)


# ---- what nerfstudio's splatfacto reads


def test_meta_serves_densification() -> None:
    splats, cams = {**gaussians(), "means": 4 * gaussians()["means"]}, cameras(40, 30)  # some of them out of sight
    leaves = {k: v.clone().requires_grad_() for k, v in splats.items()}
    render, alphas, meta = rasterization(**leaves, **cams, width=40, height=30, absgrad=True)
    meta["means2d"].retain_grad()
    (render.square().sum() + alphas.sum()).backward()
    assert meta["means2d"].grad.shape == meta["means2d"].absgrad.shape == (1, 60, 2)
    assert (meta["means2d"].absgrad >= meta["means2d"].grad.abs() - 1e-12).all()
    assert meta["radii"].dtype == torch.int32
    assert (meta["width"], meta["height"], meta["n_cameras"]) == (40, 30, 1)
    assert meta["gaussian_ids"] is None  # not packed
    hidden = meta["radii"][0] == 0
    assert 0 < hidden.sum() < 60
    assert (meta["means2d"].grad[0, hidden] == 0).all()


def test_means2d_have_the_gradient_of_a_translation_of_the_image() -> None:
    """Moving the principal point moves all means alike."""
    splats, cams = gaussians(scale=0.3), cameras(24, 24)

    def loss(by: float) -> tuple[float, Tensor]:
        moved = cams["Ks"].clone()
        moved[0, 0, 2] += by
        leaves = {k: v.clone().requires_grad_() for k, v in splats.items()}
        render, _, meta = rasterization(**leaves, viewmats=cams["viewmats"], Ks=moved, width=24, height=24)
        meta["means2d"].retain_grad()
        value = (randn(3, *render.shape).to(render) * render).sum()
        value.backward()
        return float(value.detach()), meta["means2d"].grad[..., 0].sum()

    step = 1e-6
    difference = (loss(step)[0] - loss(-step)[0]) / (2 * step)
    assert float(loss(0)[1]) == pytest.approx(difference, rel=1e-4)


def test_absolute_gradients_are_summed_pixel_by_pixel() -> None:
    splats, cams = gaussians(n=8, scale=0.3), cameras(6, 5)

    def run(pixel: tuple[int, int] | None) -> tuple[Tensor, Tensor]:
        leaves = {k: v.clone().requires_grad_() for k, v in splats.items()}
        render, _, meta = rasterization(**leaves, **cams, width=6, height=5, absgrad=True)
        meta["means2d"].retain_grad()
        weighted = randn(5, *render.shape).to(render) * render
        (weighted.sum() if pixel is None else weighted[0, pixel[0], pixel[1]].sum()).backward()
        return meta["means2d"].grad, meta["means2d"].absgrad

    each = [run((row, column))[0] for row in range(5) for column in range(6)]
    grad, absolute = run(None)
    assert_close(grad, torch.stack(each).sum(0), 1e-10)
    assert_close(absolute, torch.stack(each).abs().sum(0), 1e-10)


# ---- culling, extremes, what cannot be served


def test_planes_and_small_radii_cull() -> None:
    splats, cams = gaussians(scale=0.05), cameras(40, 30)

    def radii(**more: Any) -> Tensor:
        return rasterization(**splats, **cams, width=40, height=30, **more)[2]["radii"][0]

    plain, depths = radii(), rasterization(**splats, **cams, width=40, height=30)[2]["depths"][0]
    assert torch.equal(radii(near_plane=3.0) > 0, (plain > 0) & (depths > 3))
    assert torch.equal(radii(far_plane=3.0) > 0, (plain > 0) & (depths < 3))
    assert torch.equal(radii(radius_clip=3.0) > 0, plain > 3)


def test_nothing_to_see() -> None:
    cams = cameras(20, 20)
    empty = {k: v[:0] for k, v in gaussians().items()}
    for splats in (empty, {**gaussians(), "means": gaussians()["means"] - 50}):
        leaves = {k: v.detach().requires_grad_() for k, v in splats.items()}
        render, alphas, _ = rasterization(**leaves, **cams, width=20, height=20)
        assert render.abs().sum() == alphas.sum() == 0
        (render.sum() + alphas.sum()).backward()
        assert all(x.grad is not None and x.grad.abs().sum() == 0 for x in leaves.values())


def test_what_is_hidden_has_no_gradient_at_all() -> None:
    """Not a rounding error either: Adam would make steps of it."""
    wall = {**gaussians(n=3, scale=100.0), "means": torch.tensor([[0, 0, -1.0]]).double().repeat(3, 1)}
    wall["opacities"] = torch.full((3,), 0.99).double()
    splats = {k: torch.cat([x, wall[k]]).float() for k, x in gaussians(scale=0.2).items()}
    splats["means"][:60, 2] += 5
    cams = {k: v.float() for k, v in cameras(24, 20).items()}
    _, gradients = grads(lambda g: rasterization(**g, **cams, width=24, height=20)[:2], splats)
    assert all((x[:60] == 0).all() for x in gradients)
    assert all((x[60:] != 0).any() for x in gradients)


def test_degenerate_gaussians_give_no_nan() -> None:
    splats = gaussians(n=4)
    splats["quats"][0] = 0
    splats["scales"][1] = 0
    splats["means"][2] = torch.tensor([0, -0.1, -3.0])  # in the camera
    splats["means"][3] = torch.tensor([0, 0, -2.98])  # just before it
    cams = cameras(20, 20)
    for eps2d in (0.3, 0.0):

        def render(leaves: dict[str, Tensor], eps2d: float = eps2d) -> tuple[Tensor, ...]:
            settings: dict[str, Any] = {"eps2d": eps2d, "rasterize_mode": "antialiased"}
            return rasterization(**leaves, **cams, width=20, height=20, **settings)[:2]

        outs, gradients = grads(render, splats)
        assert all(torch.isfinite(x).all() for x in (*outs, *gradients))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"packed": True}, "packed=False"),
        ({"sparse_grad": True}, "sparse_grad=False"),
        ({"render_mode": "rgb"}, "got 'rgb'"),
        ({"rasterize_mode": "smooth"}, "got 'smooth'"),
        ({"colors": torch.zeros(59, 3).double()}, r"n = 60, got \(59, 3\)"),
        ({"sh_degree": 2, "colors": torch.zeros(60, 8, 3).double()}, r"k >= 9, got \(60, 8, 3\)"),
    ],
)
def test_what_cannot_be_served_is_said(changes: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {**gaussians(), **cameras(20, 20), "width": 20, "height": 20, **changes}
    with pytest.raises(ValueError, match=message):
        rasterization(**settings)
