"""The splat rasterizer against a naive one in float64, and the conventions that it shares with gsplat."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import randn
from torch import Tensor

from cpds.errors import InputError
from representations.splats import compositing, harmonics
from representations.splats.projection import rotations
from representations.splats.rasterise import rasterization

NAMES = ("means", "quats", "scales", "opacities", "colors")


def scene(n: int = 60, scale: float = 0.1, k: int | None = None, seed: int = 0) -> dict[str, Tensor]:
    """Gaussians in a box of side 2 about the origin, float64; colours as they are, or k coefficients each."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    return {
        "means": uniform(n, 3) * 2 - 1,
        "quats": uniform(n, 4) * 2 - 1,
        "scales": scale * 4 ** (uniform(n, 3) * 2 - 1),
        "opacities": uniform(n),
        "colors": uniform(n, 3) if k is None else uniform(n, k, 3) * 2 - 1,
    }


def cameras(width: int, height: int, count: int = 1) -> dict[str, Tensor]:
    """Cameras on a circle of radius 3 about the y axis, which look at the origin a little beside their centres."""
    views = []
    for i in range(count):
        c, s = math.cos(0.9 * i), math.sin(0.9 * i)
        views.append([[c, 0, s, 0], [0, 1, 0, 0.1], [-s, 0, c, 3], [0, 0, 0, 1]])
    f = 1.1 * width
    ks = [[[f, 0, width / 2 + 1.3], [0, 1.2 * f, height / 2 - 0.7], [0, 0, 1]]] * count
    return {k: torch.tensor(v, dtype=torch.float64) for k, v in (("viewmats", views), ("Ks", ks))}


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
    turn, shift, k = viewmats[0, :3, :3], viewmats[0, :3, 3], Ks[0]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centres = torch.stack([columns, rows], -1).to(means) + 0.5
    light, done = torch.ones(height, width).to(means), torch.zeros(height, width, dtype=torch.bool)
    picture, depths = torch.zeros(height, width, colors.shape[-1]).to(means), torch.zeros(height, width).to(means)
    seen = means @ turn.T + shift
    for i in seen[:, 2].argsort(stable=True).tolist():
        x, y, z = seen[i]
        if not z > near_plane:
            continue
        w, a, b, c = quats[i] / quats[i].norm()
        vector = torch.stack([a, b, c])
        cross = torch.linalg.cross(torch.eye(3).to(means), vector.expand(3, 3)).T  # v × x = -(x × v)
        rotation = torch.eye(3).to(means) - 2 * w * cross + 2 * cross @ cross  # Rodrigues
        sigma = rotation @ torch.diag(scales[i] ** 2) @ rotation.T
        slopes = []
        for t, f, middle, side in ((x, k[0, 0], k[0, 2], width), (y, k[1, 1], k[1, 2], height)):
            margin = 0.3 * 0.5 * side / f
            slopes.append((t / z).clamp(-(middle / f + margin), (side - middle) / f + margin))
        nothing = torch.zeros(()).to(means)
        jacobian = torch.stack(
            [
                torch.stack([k[0, 0] / z, nothing, -k[0, 0] * slopes[0] / z]),
                torch.stack([nothing, k[1, 1] / z, -k[1, 1] * slopes[1] / z]),
            ]
        )
        flat = jacobian @ turn @ sigma @ turn.T @ jacobian.T
        wide = flat + eps2d * torch.eye(2).to(means)
        mean = torch.stack([k[0, 0] * x / z + k[0, 2], k[1, 1] * y / z + k[1, 2]])
        half = wide.trace() / 2
        radius = torch.ceil(3 * (half + (half**2 - wide.det()).clamp(min=0.01).sqrt()).sqrt()).detach()
        corner = torch.stack([columns, rows], -1) // tile * tile
        if not ((mean + radius > 0) & (mean - radius < torch.tensor([width, height]))).all():
            continue
        touched = ((mean + radius > corner) & (mean - radius < corner + tile)).all(-1)
        d = centres - mean
        opacity = opacities[i] * (flat.det() / wide.det()).clamp(min=1e-12).sqrt() if antialiased else opacities[i]
        alpha = (opacity * torch.exp(-(d @ wide.inverse() * d).sum(-1) / 2)).clamp(max=0.999)
        alpha = torch.where(touched & (alpha >= 1 / 255), alpha, 0)
        done = done | (light * (1 - alpha) <= 1e-4)
        weight = torch.where(done, 0, light * alpha)
        picture, depths = picture + weight[..., None] * colors[i], depths + weight * z
        light = torch.where(done, light, light * (1 - alpha))
    return picture, 1 - light, depths


def grads(
    render: Callable[[dict[str, Tensor]], tuple[Tensor, ...]], gaussians: dict[str, Tensor]
) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    """What `render` gives, and the gradients of a fixed random projection of it."""
    leaves = {k: v.clone().requires_grad_() for k, v in gaussians.items()}
    outs = render(leaves)
    loss = sum((randn(7 + i, *x.shape).to(x) * x).sum() for i, x in enumerate(outs))
    assert isinstance(loss, Tensor)
    loss.backward()
    return tuple(x.detach() for x in outs), [v.grad for v in leaves.values() if v.grad is not None]


def close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    """Within `tolerance` of the largest entry, or of 1."""
    assert torch.isfinite(found).all()
    assert (found.double() - wanted).abs().max() <= tolerance * max(1.0, float(wanted.abs().max()))


def agree(gaussians: dict[str, Tensor], width: int, height: int, antialiased: bool = False, **settings: Any) -> None:
    """Ours and the naive one: picture, alpha, depth and all gradients, to rounding in float64, to 1e-4 in float32."""
    cams = cameras(width, height)
    plain = {"width": width, "height": height, "near_plane": 0.2, **settings}

    def ours(leaves: dict[str, Tensor]) -> tuple[Tensor, ...]:
        at = {k: v.to(leaves["means"].dtype) for k, v in cams.items()}
        mode = "antialiased" if antialiased else "classic"
        render, alphas, _ = rasterization(**leaves, **at, **plain, render_mode="RGB+D", rasterize_mode=mode)
        return render[0, ..., :-1], alphas[0, ..., 0], render[0, ..., -1]

    wanted = grads(lambda g: naive(**g, **cams, **plain, antialiased=antialiased), gaussians)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        found = grads(ours, {k: v.to(dtype) for k, v in gaussians.items()})
        for x, y in zip((*found[0], *found[1]), (*wanted[0], *wanted[1]), strict=True):
            close(x, y, tolerance)


CASES = {
    "plain": (scene(), (40, 30), {}),
    "points": (scene(scale=1e-5), (40, 30), {}),  # nothing but eps2d
    "large": (scene(scale=1.0, n=30), (40, 30), {}),  # larger than the picture, partly behind the camera
    "dense": (scene(n=400, scale=0.3), (24, 20), {}),  # pixels go dark
    "opaque": ({**scene(scale=0.3), "opacities": torch.full((60,), 0.9999, dtype=torch.float64)}, (40, 30), {}),
    "faint": ({**scene(), "opacities": torch.full((60,), 0.0045, dtype=torch.float64)}, (40, 30), {}),
    "none": ({**scene(), "opacities": torch.zeros(60, dtype=torch.float64)}, (40, 30), {}),
    "wide picture": (scene(), (70, 9), {}),
    "one pixel": (scene(), (1, 1), {}),
    "behind": ({**scene(), "means": scene()["means"] * 4}, (40, 30), {}),  # around and behind the camera
    "eps2d": (scene(scale=0.2), (40, 30), {"eps2d": 0.05}),
    "antialiased": (scene(scale=0.05), (40, 30), {"antialiased": True}),
    "flat": ({**scene(), "scales": scene()["scales"] * torch.tensor([1, 1, 1e-4])}, (40, 30), {}),
    "needles": (
        {**scene(scale=0.02), "scales": torch.tensor([[1.0, 0.005, 0.005]]).double().repeat(60, 1)},
        (40, 30),
        {},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_naive_rasteriser(case: str) -> None:
    gaussians, (width, height), settings = CASES[case]
    agree(gaussians, width, height, **settings)


@pytest.mark.parametrize("seed", range(8))
def test_random_scenes(seed: int) -> None:
    """Any number, size, spread and opacity of gaussians; any picture."""
    generator = torch.Generator().manual_seed(seed)
    a, b, c, d, e = torch.rand(5, generator=generator).tolist()
    gaussians = scene(20 + int(80 * a), 0.006 * 300**b, seed=seed)
    gaussians["means"] = gaussians["means"] * (1 + 2 * e)
    gaussians["opacities"] = gaussians["opacities"] ** (0.1 + c)
    agree(gaussians, 1 + int(40 * c), 1 + int(40 * d), eps2d=0.5 * e)


@pytest.mark.parametrize(("longest", "block", "kept"), [(5, 1, 0), (33, 2**13, 2**30), (10**6, 2**20, 0)])
def test_how_the_work_is_cut_changes_nothing(
    longest: int, block: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gaussians = scene(n=200, scale=0.3)
    cams = cameras(30, 20, 2)

    def render(leaves: dict[str, Tensor]) -> tuple[Tensor, ...]:
        return rasterization(**leaves, **cams, width=30, height=20)[:2]

    wanted = grads(render, gaussians)
    monkeypatch.setattr(compositing, "LONGEST", longest)
    monkeypatch.setattr(compositing, "BLOCK", {"cpu": block})
    monkeypatch.setattr(compositing, "KEPT", kept)
    found = grads(render, gaussians)
    for a, b in zip((*found[0], *found[1]), (*wanted[0], *wanted[1]), strict=True):
        close(a, b, 1e-9)


@pytest.mark.parametrize("tile", [8, 20, 32])  # cut into cells, and not
def test_tiles_of_other_sizes(tile: int) -> None:
    gaussians, cams = scene(scale=0.2), cameras(50, 40)
    render, alphas, meta = rasterization(**gaussians, **cams, width=50, height=40, tile_size=tile)
    wanted = naive(**gaussians, **cams, width=50, height=40, tile=tile)
    close(render[0], wanted[0], 1e-9)
    close(alphas[0, ..., 0], wanted[1], 1e-9)
    assert (meta["tile_width"], meta["tile_height"]) == (math.ceil(50 / tile), math.ceil(40 / tile))


def test_cameras_are_rendered_as_if_each_were_alone() -> None:
    gaussians, cams = scene(k=4), cameras(30, 40, 3)
    together = rasterization(**gaussians, **cams, width=30, height=40, sh_degree=1)
    for i in range(3):
        alone = {k: v[i : i + 1] for k, v in cams.items()}
        render, alphas, meta = rasterization(**gaussians, **alone, width=30, height=40, sh_degree=1)
        close(together[0][i], render[0], 1e-12)
        close(together[1][i], alphas[0], 1e-12)
        assert torch.equal(together[2]["radii"][i], meta["radii"][0])
    own = torch.stack([gaussians["colors"]] * 3)
    assert torch.equal(
        rasterization(**{**gaussians, "colors": own}, **cams, width=30, height=40, sh_degree=1)[0], together[0]
    )


def test_poses_have_gradients() -> None:
    gaussians, cams = scene(scale=0.2), cameras(24, 20)

    def run(render: Callable[..., Tensor]) -> Tensor:
        viewmats = cams["viewmats"].clone().requires_grad_()
        picture = render(**gaussians, viewmats=viewmats, Ks=cams["Ks"], width=24, height=20)
        (randn(0, *picture.shape).to(picture) * picture).sum().backward()
        assert viewmats.grad is not None
        return viewmats.grad

    close(run(lambda **x: rasterization(**x)[0][0]), run(lambda **x: naive(**x)[0]), 1e-9)


def test_modes_and_background() -> None:
    gaussians, cams = scene(), cameras(40, 30)

    def render(mode: Any, **more: Any) -> Tensor:
        return rasterization(**gaussians, **cams, width=40, height=30, render_mode=mode, **more)[0][0]

    _, alphas, _ = rasterization(**gaussians, **cams, width=40, height=30)
    colours, depth = render("RGB"), render("D")
    expected = depth / alphas[0].clamp(min=1e-10)
    close(render("RGB+D"), torch.cat([colours, depth], -1), 1e-12)
    close(render("RGB+ED"), torch.cat([colours, expected], -1), 1e-12)
    close(render("ED"), expected, 1e-12)
    inside = expected[alphas[0] > 0]
    assert inside.min() > 1.5  # the box is between 3 - √3 and 3 + √3 away
    assert inside.max() < 5
    ground = torch.tensor([[0.2, 0.5, 0.9]], dtype=torch.float64)
    close(render("RGB", backgrounds=ground), colours + (1 - alphas[0]) * ground, 1e-12)
    close(render("RGB+D", backgrounds=ground)[..., 3:], depth, 1e-12)  # depth has no ground


def test_any_number_of_channels() -> None:
    gaussians, cams = scene(), cameras(20, 20)
    many = torch.cat([gaussians["colors"]] * 5, -1)[:, :13]
    wanted = rasterization(**gaussians, **cams, width=20, height=20)[0]
    found = rasterization(**{**gaussians, "colors": many}, **cams, width=20, height=20)[0]
    close(found, torch.cat([wanted] * 5, -1)[..., :13], 1e-12)


# ---- what nerfstudio's splatfacto reads


def test_meta_serves_densification() -> None:
    gaussians, cams = scene(), cameras(40, 30)
    leaves = {k: v.clone().requires_grad_() for k, v in gaussians.items()}
    render, alphas, meta = rasterization(**leaves, **cams, width=40, height=30, absgrad=True)
    meta["means2d"].retain_grad()
    (render.square().sum() + alphas.sum()).backward()
    assert meta["means2d"].grad.shape == meta["means2d"].absgrad.shape == (1, 60, 2)
    assert (meta["means2d"].absgrad >= meta["means2d"].grad.abs() - 1e-12).all()
    assert meta["radii"].dtype == torch.int32
    assert (meta["width"], meta["height"], meta["n_cameras"]) == (40, 30, 1)
    assert meta["gaussian_ids"] is None  # not packed
    hidden = meta["radii"][0] == 0
    assert (meta["means2d"].grad[0, hidden] == 0).all()


def test_means2d_have_the_gradient_of_a_shift_in_the_picture() -> None:
    """Moving the principal point moves all means alike."""
    gaussians, cams = scene(scale=0.3), cameras(24, 24)

    def loss(shift: float) -> tuple[float, Tensor]:
        moved = cams["Ks"].clone()
        moved[0, 0, 2] += shift
        leaves = {k: v.clone().requires_grad_() for k, v in gaussians.items()}
        render, _, meta = rasterization(**leaves, viewmats=cams["viewmats"], Ks=moved, width=24, height=24)
        meta["means2d"].retain_grad()
        value = (randn(3, *render.shape).to(render) * render).sum()
        value.backward()
        return float(value.detach()), meta["means2d"].grad[..., 0].sum()

    step = 1e-6
    difference = (loss(step)[0] - loss(-step)[0]) / (2 * step)
    assert float(loss(0)[1]) == pytest.approx(difference, rel=1e-4)


def test_absolute_gradients_are_summed_pixel_by_pixel() -> None:
    gaussians, cams = scene(n=8, scale=0.3), cameras(6, 5)

    def run(pixel: tuple[int, int] | None) -> tuple[Tensor, Tensor]:
        leaves = {k: v.clone().requires_grad_() for k, v in gaussians.items()}
        render, _, meta = rasterization(**leaves, **cams, width=6, height=5, absgrad=True)
        meta["means2d"].retain_grad()
        weighted = randn(5, *render.shape).to(render) * render
        (weighted.sum() if pixel is None else weighted[0, pixel[0], pixel[1]].sum()).backward()
        return meta["means2d"].grad, meta["means2d"].absgrad

    each = [run((row, column))[0] for row in range(5) for column in range(6)]
    grad, absolute = run(None)
    close(grad, torch.stack(each).sum(0), 1e-10)
    close(absolute, torch.stack(each).abs().sum(0), 1e-10)


# ---- spherical harmonics, rotations, culling


@pytest.mark.parametrize("degree", harmonics.DEGREES)
def test_harmonics_are_orthonormal(degree: int) -> None:
    nodes, weights = np.polynomial.legendre.leggauss(8)
    turn = torch.arange(16, dtype=torch.float64) * (2 * math.pi / 16)
    z = torch.from_numpy(nodes)[:, None].expand(8, 16)
    flat = (1 - z * z).sqrt()
    directions = torch.stack([flat * turn.cos(), flat * turn.sin(), z], -1).flatten(0, 1)
    area = (torch.from_numpy(weights) * (2 * math.pi / 16)).repeat_interleave(16)
    basis = harmonics.basis(degree, directions)
    close(basis.T @ (area[:, None] * basis), torch.eye((degree + 1) ** 2).double(), 1e-12)


def test_harmonics_have_the_signs_and_the_order_of_3dgs() -> None:
    x, y, z = 0.48, 0.6, 0.64
    found = harmonics.basis(3, torch.tensor([x, y, z], dtype=torch.float64))
    signs = [1, -y, z, -x, x * y, -y * z, 2 * z * z - x * x - y * y, -x * z, x * x - y * y]
    signs += [-y * (3 * x * x - y * y), x * y * z, -y * (4 * z * z - x * x - y * y)]
    signs += [z * (2 * z * z - 3 * x * x - 3 * y * y), -x * (4 * z * z - x * x - y * y)]
    signs += [z * (x * x - y * y), -x * (x * x - 3 * y * y)]
    ratio = found / torch.tensor(signs, dtype=torch.float64)
    assert (ratio > 0).all()
    assert ratio[[0, 1, 4, 6, 10]].tolist() == pytest.approx([0.2820948, 0.4886025, 1.0925484, 0.3153916, 2.8906114])


@pytest.mark.parametrize("degree", harmonics.DEGREES)
def test_colours_depend_on_where_they_are_seen_from(degree: int) -> None:
    """A gaussian alone: its colour is 0.5 + Y · c along the ray from the camera, cut at 0; higher bands are unread."""
    gaussians, cams = scene(n=1, scale=0.1, k=16), cameras(16, 16, 2)
    render, alphas, _ = rasterization(**gaussians, **cams, width=16, height=16, sh_degree=degree)
    for i in range(2):
        away = gaussians["means"][0] - cams["viewmats"][i].inverse()[:3, 3]
        weights = harmonics.basis(degree, away / away.norm())
        colour = (0.5 + weights @ gaussians["colors"][0, : (degree + 1) ** 2]).clamp(min=0)
        close(render[i], alphas[i] * colour, 1e-9)


def test_harmonics_have_gradients_of_the_directions() -> None:
    gaussians, cams = scene(n=3, scale=0.2, k=16), cameras(8, 8)

    def value(means: Tensor) -> Tensor:
        moved = {**gaussians, "means": means}
        return rasterization(**moved, **cams, width=8, height=8, sh_degree=3)[0].square().sum()

    at = gaussians["means"].clone().requires_grad_()
    value(at).backward()
    assert at.grad is not None
    for i in range(9):
        step = torch.zeros(9, dtype=torch.float64)
        step[i] = 1e-6
        step = step.view(3, 3)
        difference = (value(gaussians["means"] + step) - value(gaussians["means"] - step)) / 2e-6
        assert float(at.grad.flatten()[i]) == pytest.approx(float(difference), rel=1e-4, abs=1e-5)


def test_quaternions_are_rotations_of_any_length() -> None:
    quats = randn(0, 20, 4).double()
    matrices = rotations(quats)
    close(matrices @ matrices.mT, torch.eye(3).double().expand(20, 3, 3), 1e-12)
    close(torch.linalg.det(matrices), torch.ones(20).double(), 1e-12)
    close(rotations(quats * 5), matrices, 1e-12)
    turn = torch.tensor([[math.cos(0.3), 0, 0, math.sin(0.3)]], dtype=torch.float64)  # by 0.6 about z
    close(rotations(turn)[0, :2, 0], torch.tensor([math.cos(0.6), math.sin(0.6)]).double(), 1e-7)


def test_planes_and_small_radii_cull() -> None:
    gaussians, cams = scene(scale=0.05), cameras(40, 30)

    def radii(**more: Any) -> Tensor:
        return rasterization(**gaussians, **cams, width=40, height=30, **more)[2]["radii"][0]

    plain, depths = radii(), rasterization(**gaussians, **cams, width=40, height=30)[2]["depths"][0]
    assert torch.equal(radii(near_plane=3.0) > 0, (plain > 0) & (depths > 3))
    assert torch.equal(radii(far_plane=3.0) > 0, (plain > 0) & (depths < 3))
    assert torch.equal(radii(radius_clip=3.0) > 0, plain > 3)


def test_nothing_to_see() -> None:
    cams = cameras(20, 20)
    empty = {k: v[:0].requires_grad_() for k, v in scene().items()}
    for gaussians in (empty, {**scene(), "means": scene()["means"] - 50}):
        leaves = {k: v.detach().requires_grad_() for k, v in gaussians.items()}
        render, alphas, _ = rasterization(**leaves, **cams, width=20, height=20)
        assert render.abs().sum() == alphas.sum() == 0
        (render.sum() + alphas.sum()).backward()
        assert all(x.grad is not None and x.grad.abs().sum() == 0 for x in leaves.values())


def test_what_is_hidden_has_no_gradient_at_all() -> None:
    """Not a rounding error either: Adam would make steps of it."""
    wall = {**scene(n=3, scale=100.0), "means": torch.tensor([[0, 0, -1.0]]).double().repeat(3, 1)}
    wall["opacities"] = torch.full((3,), 0.99).double()
    gaussians = {k: torch.cat([x, wall[k]]).float() for k, x in scene(scale=0.2).items()}
    gaussians["means"][:60, 2] += 5
    cams = {k: v.float() for k, v in cameras(24, 20).items()}
    _, gradients = grads(lambda g: rasterization(**g, **cams, width=24, height=20)[:2], gaussians)
    assert all((x[:60] == 0).all() for x in gradients)
    assert all((x[60:] != 0).any() for x in gradients)


def test_degenerate_gaussians_give_no_nan() -> None:
    gaussians = scene(n=4)
    gaussians["quats"][0] = 0
    gaussians["scales"][1] = 0
    gaussians["means"][2] = torch.tensor([0, -0.1, -3.0])  # in the camera
    gaussians["means"][3] = torch.tensor([0, 0, -2.98])  # just before it
    cams = cameras(20, 20)
    for eps2d in (0.3, 0.0):

        def render(leaves: dict[str, Tensor], eps2d: float = eps2d) -> tuple[Tensor, ...]:
            settings: dict[str, Any] = {"eps2d": eps2d, "rasterize_mode": "antialiased"}
            return rasterization(**leaves, **cams, width=20, height=20, **settings)[:2]

        outs, gradients = grads(render, gaussians)
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
    settings: dict[str, Any] = {**scene(), **cameras(20, 20), "width": 20, "height": 20, **changes}
    with pytest.raises(ValueError, match=message):
        rasterization(**settings)


def test_degrees_beyond_3_are_not_known() -> None:
    with pytest.raises(InputError, match="got 4"):
        harmonics.bases(4)
