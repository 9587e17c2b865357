"""The contrastive loss against loops in plain Python floats."""

import math
from typing import Any

import pytest
import torch
from labelled_device import DEVICE, labelled_device
from torch import Tensor

from cpds.config import GuidanceConfig
from cpds.contrast import cut_loss, hdce, monce, patch_count, patch_nce, patches, relation_consistency, transport
from cpds.selection.base import Cells
from cpds.selection.rules import RandomPatches

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
    source: list[Tensor],
    target: list[Tensor],
    sizes: tuple[int, ...] = (1, 2),
    n: int = 10_000,
    seed: int = 0,
    **settings: Any,
) -> Tensor:
    config = GuidanceConfig(patch_size=sizes, n_patches=n, temperature=TAU, **settings)
    return cut_loss(source, target, None, config, [RandomPatches()], torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("patch_loss", ["infonce", "hdce"])
@pytest.mark.parametrize("views", [1, 2])
def test_edits_together_are_the_sum_of_edits_alone(views: int, patch_loss: Any) -> None:
    """With the draws that each has alone; some choose fewer patches than others."""

    class Fewer(RandomPatches):
        def select(self, cells: Cells, n: int, generator: torch.Generator) -> Tensor:
            return super().select(cells, n // 2, generator)

    shapes, selectors = [(4, 4), (2, 3)], [RandomPatches(), Fewer(), RandomPatches()]
    source, target = ([maps(10 * k + i, 3 * views, 3, *s) for i, s in enumerate(shapes)] for k in (0, 1))
    target = [x.requires_grad_() for x in target]
    config = GuidanceConfig(n_patches=5, patch_loss=patch_loss)
    together = cut_loss(source, target, None, config, selectors, torch.Generator().manual_seed(3))
    alone = target[0].new_zeros(())
    for i, selector in enumerate(selectors):
        before, after = ([x[i * views : (i + 1) * views] for x in half] for half in (source, target))
        alone = alone + cut_loss(before, after, None, config, [selector], torch.Generator().manual_seed(3))
    torch.testing.assert_close(together, alone)
    for a, b in zip(*(torch.autograd.grad(x, target) for x in (together, alone)), strict=True):
        torch.testing.assert_close(a, b)


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
    src, tgt = (patches(x, 1)[0] for x in (source, target))
    chosen = RandomPatches().select(Cells(src, tgt, (4, 4)), 5, torch.Generator().manual_seed(3)).tolist()
    before, after = ([naive_patches(x[0], 1)[i] for i in chosen] for x in (source, target))
    assert float(cut([source], [target], (1,), n=5, seed=3)) == pytest.approx(naive_nce(before, after), abs=1e-12)


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


@pytest.mark.parametrize(
    ("cells", "share", "most", "n"),
    [
        (256, 1.0, 256, 256),  # as published
        (256, 1.0, 64, 64),  # at most n_patches
        (256, 0.25, 256, 64),
        (16, 0.25, 256, 4),
        (16, 0.01, 256, 2),  # a positive and a negative
        (1, 1.0, 256, 2),  # of which there is one
        (250, 0.11, 256, 28),  # 27.5
    ],
)
def test_a_share_of_the_cells_is_chosen(cells: int, share: float, most: int, n: int) -> None:
    assert patch_count(cells, GuidanceConfig(patch_share=share, n_patches=most)) == n


def test_a_share_is_the_count_that_it_amounts_to() -> None:
    source, target = maps(0, 1, 3, 4, 4), maps(1, 1, 3, 4, 4)
    assert float(cut([source], [target], (1,), patch_share=0.25)) == float(cut([source], [target], (1,), n=4))


class Recorder(RandomPatches):
    """Notes what it is shown."""

    def __init__(self) -> None:
        self.seen: list[Cells] = []

    def observe(self, cells: Cells) -> None:
        self.seen.append(cells)


def test_a_selector_sees_each_images_cells_and_their_relevance() -> None:
    source, target = ([maps(10 * k + i, 2, 3, h, w) for i, (h, w) in enumerate([(4, 6), (2, 3)])] for k in (0, 1))
    relevance, selector = maps(5, 2, 1, 8, 12), Recorder()
    config = GuidanceConfig(patch_size=(1, 2))
    cut_loss(source, target, relevance, config, [selector], torch.Generator())
    expected = [(0, 1, (4, 6)), (0, 2, (2, 3)), (1, 1, (2, 3)), (1, 2, (1, 1))]
    assert [cells.grid for cells in selector.seen] == [grid for *_, grid in expected for _ in range(2)]
    for i, cells in enumerate(selector.seen):
        layer, size, (rows, columns) = expected[i // 2]
        image = i % 2
        torch.testing.assert_close(cells.source, patches(source[layer], size)[image])
        torch.testing.assert_close(cells.target, patches(target[layer], size)[image])
        side = (4, 8)[layer] // 2 * size  # of a cell, in the map's pixels
        whole = relevance[image, 0, : rows * side, : columns * side]
        assert cells.relevance is not None
        naive = [
            whole[r * side : (r + 1) * side, c * side : (c + 1) * side].mean()
            for r in range(rows)
            for c in range(columns)
        ]
        torch.testing.assert_close(cells.relevance, torch.stack(naive))


# ---- losses beside InfoNCE


def rows(seed: int, n: int) -> tuple[Tensor, Tensor]:
    source, target = (torch.nn.functional.normalize(maps(2 * seed + k, n, 5), dim=1) for k in (0, 1))
    return source, target


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def naive_hdce(source: list[list[float]], target: list[list[float]], tau: float, beta: float) -> float:
    """Mean over i of -log(e^(s_ii) / sum_j w_ij e^(s_ij)), w by the likeness of the sources."""
    total = 0.0
    for i, s in enumerate(source):
        others = [j for j in range(len(source)) if j != i]
        hard = {j: math.exp(beta * dot(s, source[j])) for j in others}
        mean = sum(hard.values()) / len(others)
        total -= dot(s, target[i]) / tau
        total += math.log(sum(hard[j] / mean * math.exp(dot(s, target[j]) / tau) for j in others))
    return total / len(source)


def naive_relation(source: list[list[float]], target: list[list[float]]) -> float:
    """Sum over i of the Jensen-Shannon divergence of softmax_j <s_i, s_j> and softmax_j <t_i, t_j>."""
    total = 0.0
    for i in range(len(source)):
        p, q = ([math.exp(dot(x[i], y)) for y in x] for x in (source, target))
        p, q = ([v / sum(w) for v in w] for w in (p, q))
        total += (
            sum(a * math.log(2 * a / (a + b)) + b * math.log(2 * b / (a + b)) for a, b in zip(p, q, strict=True)) / 2
        )
    return total


@pytest.mark.parametrize("beta", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("n", [2, 3, 9])
def test_hdce_is_the_naive_sum(n: int, beta: float) -> None:
    source, target = rows(0, n)
    plain = source.tolist(), target.tolist()
    decoupled = naive_hdce(*plain, TAU, beta)
    assert float(hdce(source, target, TAU, beta, 0.0)) == pytest.approx(decoupled, abs=1e-10)
    wanted = decoupled + 0.5 * naive_relation(*plain)
    assert float(hdce(source, target, TAU, beta)) == pytest.approx(wanted, abs=1e-10)


def test_without_hardness_all_negatives_weigh_alike() -> None:
    """Decoupled InfoNCE (Yeh 2022), whose exponential is that of InfoNCE less the positive's one."""
    source, target = rows(1, 7)
    logits = source @ target.T / TAU
    each = torch.nn.functional.cross_entropy(logits, torch.arange(7), reduction="none")
    assert float(hdce(source, target, TAU, 0.0, 0.0)) == pytest.approx(float((each.exp() - 1).log().mean()), abs=1e-10)


def test_equal_relations_cost_nothing() -> None:
    source, target = rows(0, 6)
    turned = source @ torch.linalg.qr(maps(9, 5, 5)).Q
    assert float(relation_consistency(source, turned)) == pytest.approx(0, abs=1e-12)
    assert float(relation_consistency(source, target)) > 0.01


@pytest.mark.parametrize("eps", [0.2, 1.0])
@pytest.mark.parametrize("n", [2, 3, 9])
def test_a_transport_plan_is_balanced_and_of_the_kernels_form(n: int, eps: float) -> None:
    source, target = rows(2, n)
    plan = transport(source @ target.T, eps, 2000)
    torch.testing.assert_close(plan.sum(0), torch.ones(n, dtype=plan.dtype))
    torch.testing.assert_close(plan.sum(1), torch.ones(n, dtype=plan.dtype))
    assert plan.diagonal().abs().max() == 0
    if n > 3:  # entropic plans are u_i K_ij v_j: cross ratios are the kernel's
        k = (source @ target.T / eps).exp()
        ratio = [float(x[0, 2] * x[1, 3] / (x[0, 3] * x[1, 2])) for x in (plan, k)]
        assert ratio[0] == pytest.approx(ratio[1], rel=1e-8)


@pytest.mark.parametrize("n", [2, 3, 9])
def test_monce_is_the_naive_sum_with_the_plans_weights(n: int) -> None:
    source, target = rows(3, n)
    plan = transport(source @ target.T, 1.0).tolist()
    total = 0.0
    for i in range(n):
        s = [math.exp(dot(source[i].tolist(), t) / TAU) for t in target.tolist()]
        total -= math.log(s[i] / (s[i] + (n - 1) * sum(plan[i][j] * s[j] for j in range(n) if j != i)))
    assert float(monce(source, target, TAU)) == pytest.approx(total / n, abs=1e-8)


def test_with_a_uniform_plan_monce_is_infonce() -> None:
    source, target = rows(4, 8)
    assert float(monce(source, target, TAU, eps=1e12)) == pytest.approx(float(patch_nce(source, target, TAU)), abs=1e-9)


@pytest.mark.parametrize("loss", ["hdce", "monce"])
def test_gradients_of_the_other_losses(loss: str) -> None:
    source, target = maps(0, 1, 3, 4, 4).requires_grad_(), maps(1, 1, 3, 4, 4).requires_grad_()
    cut([source], [target], patch_loss=loss).backward()
    assert source.grad is None
    assert target.grad is not None
    assert bool((target.grad != 0).all())


def test_hdces_gradient_is_that_of_its_value() -> None:
    source, target = rows(5, 5)
    assert torch.autograd.gradcheck(lambda x: hdce(source, x, TAU), target.requires_grad_())


def test_monces_weights_carry_no_gradient() -> None:
    """It is that of InfoNCE with constant weights."""
    source, target = rows(6, 5)
    weights = (4 * transport(source @ target.T, 1.0)).fill_diagonal_(1).log()
    one, other = (target.clone().requires_grad_() for _ in range(2))
    monce(source, one, TAU).backward()
    torch.nn.functional.cross_entropy(source @ other.T / TAU + weights, torch.arange(5)).backward()
    torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("loss", ["infonce", "hdce", "monce"])
def test_one_cell_costs_nothing(loss: str) -> None:
    source, target = maps(0, 1, 3, 2, 2), maps(1, 1, 3, 2, 2).requires_grad_()
    found = cut([source], [target], (2,), patch_loss=loss)
    found.backward()
    assert float(found.detach()) == 0
    assert target.grad is not None
    assert not target.grad.any()


@pytest.mark.parametrize("loss", ["infonce", "hdce", "monce"])
def test_no_loss_waits_for_a_gpu(loss: str) -> None:
    with labelled_device() as record:
        source, target = (maps(k, 1, 3, 4, 4).float().to(DEVICE) for k in (0, 1))
        record.clear()
        torch.autograd.grad(cut([source], [target.requires_grad_()], (1,), 8, patch_loss=loss), target)
    assert record.faults() == ""
    assert record.counts() == {"copy": 1}, str(record)  # the indices
