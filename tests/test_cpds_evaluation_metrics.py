"""Metrics against closed forms and naive computations."""

import pytest
import torch
from conftest import randn
from torch import Tensor

from cpds.evaluation.metrics import mse, psnr, self_similarity, ssim, structure_distance


def random_images(seed: int, n: int = 2) -> Tensor:
    return randn(seed, n, 3, 20, 24).sigmoid()


def halves() -> Tensor:
    weight = torch.ones(2, 1, 20, 24)
    weight[0, :, :, :12] = 0
    return weight


def test_mse_counts_only_what_weighs() -> None:
    a, b = random_images(0), random_images(1)
    got = mse(a, b, halves())
    assert torch.allclose(got[0], (a[0, :, :, 12:] - b[0, :, :, 12:]).square().mean())
    assert torch.allclose(got[1], (a[1] - b[1]).square().mean())
    changed = a.clone()
    changed[0, :, :, :12] = 0.5
    assert torch.equal(mse(changed, b, halves()), got)


def test_psnr_of_a_constant_offset() -> None:
    a = torch.full((2, 3, 20, 24), 0.4)
    assert torch.allclose(psnr(a, a + 0.1), torch.full((2,), 20.0), atol=1e-4)  # 10 log10(1 / 0.01)
    assert torch.isinf(psnr(a, a)).all()


def test_nothing_to_count_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one pixel"):
        mse(random_images(0), random_images(1), torch.zeros(2, 1, 20, 24))


def naive_ssim(x: Tensor, y: Tensor) -> float:
    """One grey 11x11 window under Wang's Gaussian, in double precision."""
    line = torch.exp(-((torch.arange(11.0, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    w = torch.outer(line, line) / line.sum() ** 2
    x, y = x.double(), y.double()
    mx, my = (w * x).sum(), (w * y).sum()
    vx, vy, cov = (w * (x - mx) ** 2).sum(), (w * (y - my) ** 2).sum(), (w * (x - mx) * (y - my)).sum()
    likeness = (2 * mx * my + 1e-4) * (2 * cov + 9e-4)
    return float(likeness / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))


def test_ssim_of_one_window() -> None:
    a, b = random_images(0, 1), random_images(1, 1)
    weight = torch.zeros(1, 1, 20, 24)
    weight[..., 9, 13] = 1
    want = sum(naive_ssim(a[0, c, 4:15, 8:19], b[0, c, 4:15, 8:19]) for c in range(3)) / 3
    assert float(ssim(a, b, weight)) == pytest.approx(want, abs=1e-4)
    assert torch.allclose(ssim(a, a), torch.ones(1), atol=1e-5)


def test_self_similarity_is_cosine() -> None:
    x = randn(0, 2, 5, 3, 4)
    got = self_similarity(x)
    rows = x[1].flatten(1).T
    assert torch.allclose(got[1, 2, 7], torch.cosine_similarity(rows[2], rows[7], dim=0), atol=1e-6)


def test_structure_is_what_recolouring_keeps_and_moving_changes() -> None:
    x = randn(0, 1, 6, 4, 4)
    rotation = torch.linalg.qr(randn(1, 6, 6)).Q
    turned = torch.einsum("ij,bjhw->bihw", rotation, x) * 3  # another appearance, the same relations
    assert float(structure_distance(x, turned)) < 1e-10
    assert float(structure_distance(x, x.roll(1, -1))) > 0.01
