"""Spherical harmonics and rotations by what defines them; against gsplat: test_representations_splats_gsplat.py."""

import math

import numpy as np
import pytest
import torch
from conftest import randn
from splat_scenes import assert_close, cameras, gaussians
from torch import Tensor

from cpds.errors import InputError
from representations.splats.harmonics import DEGREES, num_bases, sh_bases
from representations.splats.projection import quat_to_rotmat
from representations.splats.rasterize import rasterization


@pytest.mark.parametrize("degree", DEGREES)
def test_harmonics_are_orthonormal(degree: int) -> None:
    nodes, weights = np.polynomial.legendre.leggauss(8)
    phi = torch.arange(16, dtype=torch.float64) * (2 * math.pi / 16)
    z = torch.from_numpy(nodes)[:, None].expand(8, 16)
    flat = (1 - z * z).sqrt()
    dirs = torch.stack([flat * phi.cos(), flat * phi.sin(), z], -1).flatten(0, 1)
    area = (torch.from_numpy(weights) * (2 * math.pi / 16)).repeat_interleave(16)
    bases = sh_bases(degree, dirs)
    assert_close(bases.T @ (area[:, None] * bases), torch.eye((degree + 1) ** 2).double(), 1e-12)


def test_harmonics_have_the_signs_and_the_order_of_3dgs() -> None:
    x, y, z = 0.48, 0.6, 0.64
    found = sh_bases(3, torch.tensor([x, y, z], dtype=torch.float64))
    signs = [1, -y, z, -x, x * y, -y * z, 2 * z * z - x * x - y * y, -x * z, x * x - y * y]
    signs += [-y * (3 * x * x - y * y), x * y * z, -y * (4 * z * z - x * x - y * y)]
    signs += [z * (2 * z * z - 3 * x * x - 3 * y * y), -x * (4 * z * z - x * x - y * y)]
    signs += [z * (x * x - y * y), -x * (x * x - 3 * y * y)]
    ratio = found / torch.tensor(signs, dtype=torch.float64)
    assert (ratio > 0).all()
    assert ratio[[0, 1, 4, 6, 10]].tolist() == pytest.approx([0.2820948, 0.4886025, 1.0925484, 0.3153916, 2.8906114])


@pytest.mark.parametrize("degree", DEGREES)
def test_colors_depend_on_where_they_are_seen_from(degree: int) -> None:
    """A gaussian alone: its color is 0.5 + Y · c along the ray from the camera, cut at 0; higher bands are unread."""
    splats, cams = gaussians(n=1, scale=0.1, k=16), cameras(16, 16, 2)
    render, alphas, _ = rasterization(**splats, **cams, width=16, height=16, sh_degree=degree)
    for i in range(2):
        away = splats["means"][0] - cams["viewmats"][i].inverse()[:3, 3]
        weights = sh_bases(degree, away / away.norm())
        color = (0.5 + weights @ splats["colors"][0, : (degree + 1) ** 2]).clamp(min=0)
        assert_close(render[i], alphas[i] * color, 1e-9)


def test_harmonics_have_gradients_of_the_directions() -> None:
    splats, cams = gaussians(n=3, scale=0.2, k=16), cameras(8, 8)

    def value(means: Tensor) -> Tensor:
        moved = {**splats, "means": means}
        return rasterization(**moved, **cams, width=8, height=8, sh_degree=3)[0].square().sum()

    at = splats["means"].clone().requires_grad_()
    value(at).backward()
    assert at.grad is not None
    for i in range(9):
        step = torch.zeros(9, dtype=torch.float64)
        step[i] = 1e-6
        step = step.view(3, 3)
        difference = (value(splats["means"] + step) - value(splats["means"] - step)) / 2e-6
        assert float(at.grad.flatten()[i]) == pytest.approx(float(difference), rel=1e-4, abs=1e-5)


def test_quaternions_are_rotations_of_any_length() -> None:
    quats = randn(0, 20, 4).double()
    matrices = quat_to_rotmat(quats)
    assert_close(matrices @ matrices.mT, torch.eye(3).double().expand(20, 3, 3), 1e-12)
    assert_close(torch.linalg.det(matrices), torch.ones(20).double(), 1e-12)
    assert_close(quat_to_rotmat(quats * 5), matrices, 1e-12)
    about_z = torch.tensor([[math.cos(0.3), 0, 0, math.sin(0.3)]], dtype=torch.float64)
    assert_close(quat_to_rotmat(about_z)[0, :2, 0], torch.tensor([math.cos(0.6), math.sin(0.6)]).double(), 1e-7)


def test_degrees_beyond_3_are_not_known() -> None:
    with pytest.raises(InputError, match="got 4"):
        num_bases(4)
