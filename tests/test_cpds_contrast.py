"""The contrastive loss against loops in plain Python floats."""

import math

import pytest
import torch
from torch import Tensor

from cpds.contrast import cut_loss, patch_nce, patches
from cpds.selectors import RandomPatches

TAU = 0.07


def maps(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive_nce(source: list[list[float]], target: list[list[float]], tau: float = TAU) -> float:
    """Mean over i of -log(exp(<s_i, t_i> / tau) / sum_j exp(<s_i, t_j> / tau))."""
    total = 0.0
    for i, s in enumerate(source):
        weights = [math.exp(sum(a * b for a, b in zip(s, t, strict=True)) / tau) for t in target]
        total -= math.log(weights[i] / sum(weights))
    return total / len(source)


def naive_patches(picture: Tensor, p: int) -> list[list[float]]:
    """Unit-length means over p x p cells of a (d, h, w) map, row by row; what does not fill a cell is left out."""
    d, h, w = picture.shape
    rows = []
    for top in range(0, h - p + 1, p):
        for left in range(0, w - p + 1, p):
            cell = [sum(picture[c, top + i, left + j].item() for i in range(p) for j in range(p)) for c in range(d)]
            length = math.sqrt(sum(x * x for x in cell))
            rows.append([x / length for x in cell])
    return rows


def naive_cut(source: list[Tensor], target: list[Tensor], sizes: tuple[int, ...]) -> float:
    return sum(
        naive_nce(naive_patches(s, p), naive_patches(t, p))
        for before, after in zip(source, target, strict=True)
        for p in sizes
        if min(before.shape[-2:]) >= p
        for s, t in zip(before, after, strict=True)
    )


def cut(
    source: list[Tensor], target: list[Tensor], sizes: tuple[int, ...] = (1, 2), n: int = 10_000, seed: int = 0
) -> Tensor:
    return cut_loss(
        source,
        target,
        sizes=sizes,
        n_patches=n,
        temperature=TAU,
        selector=RandomPatches(),
        generator=torch.Generator().manual_seed(seed),
    )


@pytest.mark.parametrize("tau", [0.07, 1.0])
@pytest.mark.parametrize("n", [1, 2, 9])
def test_patch_nce_is_the_double_loop(n: int, tau: float) -> None:
    source, target = (torch.nn.functional.normalize(maps(seed, n, 5), dim=1) for seed in (0, 1))
    assert float(patch_nce(source, target, tau)) == pytest.approx(
        naive_nce(source.tolist(), target.tolist(), tau), abs=1e-12
    )


@pytest.mark.parametrize("size", [1, 2, 3])
def test_patches_are_unit_length_means_of_cells(size: int) -> None:
    pictures = maps(0, 2, 3, 4, 7)  # neither side is a multiple of 3: what is left over is dropped
    for picture, got in zip(pictures, patches(pictures, size), strict=True):
        torch.testing.assert_close(got, torch.tensor(naive_patches(picture, size), dtype=torch.float64))


@pytest.mark.parametrize(
    ("shapes", "sizes"),
    [
        ([(1, 3, 4, 4)], (1,)),  # one layer
        ([(1, 3, 4, 4)], (2,)),  # pooled
        ([(1, 3, 4, 6), (1, 5, 2, 3)], (1, 2)),  # several layers, not square
        ([(1, 3, 6, 2)], (1, 2)),  # tall
        ([(2, 3, 4, 4), (2, 4, 2, 2)], (1, 2)),  # a batch: pictures do not see each other, their losses add up
        ([(1, 3, 4, 4), (1, 3, 1, 5)], (2,)),  # a layer lower than a patch is skipped
        ([(1, 3, 3, 3), (1, 3, 5, 2)], (3,)),  # a layer narrower than a patch is skipped
    ],
)
def test_cut_loss_is_the_naive_sum(shapes: list[tuple[int, ...]], sizes: tuple[int, ...]) -> None:
    source, target = ([maps(10 * k + i, *shape) for i, shape in enumerate(shapes)] for k in (0, 1))
    assert float(cut(source, target, sizes)) == pytest.approx(naive_cut(source, target, sizes), abs=1e-10)


def test_chosen_patches_are_each_others_negatives() -> None:
    source, target = maps(0, 1, 3, 4, 4), maps(1, 1, 3, 4, 4)
    chosen = RandomPatches().select(patches(source, 1)[0], 5, torch.Generator().manual_seed(3)).tolist()
    rows = [[naive_patches(x[0], 1)[i] for i in chosen] for x in (source, target)]
    assert float(cut([source], [target], (1,), n=5, seed=3)) == pytest.approx(naive_nce(*rows), abs=1e-12)


def test_gradient_reaches_the_target_alone() -> None:
    source, target = maps(0, 1, 3, 4, 4).requires_grad_(), maps(1, 1, 3, 4, 4).requires_grad_()
    cut([source], [target]).backward()
    assert source.grad is None
    assert target.grad is not None
    assert bool((target.grad != 0).all())


def test_gradient_is_that_of_the_value() -> None:
    source, target = maps(0, 1, 3, 4, 4), maps(1, 1, 3, 4, 4)
    assert torch.autograd.gradcheck(lambda x: cut([source], [x], n=4), target.requires_grad_())


def test_scale_of_the_features_does_not_matter() -> None:
    source, target = maps(0, 1, 3, 4, 4), maps(1, 1, 3, 4, 4)
    torch.testing.assert_close(cut([source], [target], (1,)), cut([7 * source], [0.1 * target], (1,)))
