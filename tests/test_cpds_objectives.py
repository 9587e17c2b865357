"""Edit directions as functions of one noised pair, against their closed forms."""

from dataclasses import replace

import pytest
import torch
from jaxtyping import TypeCheckError

from cpds.errors import InputError
from cpds.objectives import OBJECTIVES, Branch, EditPair, Objective, Predictions, Weights, mixed, proximity_loss, pull
from cpds.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule.scaled_linear()
SHAPE = (2, 4, 3, 5)
T = torch.tensor([333, 333])


def latents(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


PAIR = EditPair(latents(0), latents(1), latents(2), T)
BRANCHES = [Branch("source", "source"), Branch("source", "null"), Branch("target", "target"), Branch("target", "null")]
PREDICTIONS = Predictions(dict(zip(BRANCHES, map(latents, (3, 5, 4, 6)), strict=True)), 7.5)
SAME = Predictions(dict(zip(BRANCHES, map(latents, (3, 5, 3, 5)), strict=True)), 7.5)  # of both halves
TARGET = latents(6) + 7.5 * (latents(4) - latents(6))


def direction(
    method: str,
    pair: EditPair = PAIR,
    predictions: Predictions = PREDICTIONS,
    *,
    stride: int = 2,
    w_identity: float = 1.0,
) -> torch.Tensor:
    objective = OBJECTIVES[method]
    weights = Weights.at(pair.t, SCHEDULE, pair.eps, w_identity, stride if objective.posterior else None)
    return objective.direction(pair, predictions, weights)


@pytest.mark.parametrize("method", ["dds", "cds", "pds", "cpds"])
@pytest.mark.parametrize("stride", [1, 2, 20])
def test_nothing_to_change_gives_exactly_zero(method: str, stride: int) -> None:
    same = direction(method, replace(PAIR, target=PAIR.source), SAME, stride=stride)
    assert torch.equal(same, torch.zeros(SHAPE, dtype=torch.float64))


@pytest.mark.parametrize(
    ("t", "w_identity", "stride"),
    [
        (21, 0.0, 2),  # psi is largest at small t
        (333, 0.0, 2),
        (981, 0.0, 2),
        (333, 1.0, 1),  # one step: psi vanishes by itself
    ],
)
def test_pds_without_identity_is_dds_times_chi(t: int, w_identity: float, stride: int) -> None:
    pair = replace(PAIR, t=torch.tensor([t, t]))
    chi = SCHEDULE.posterior_weights(pair.t, stride)[1].view(-1, 1, 1, 1)
    torch.testing.assert_close(
        direction("pds", pair, stride=stride, w_identity=w_identity), chi * direction("dds", pair)
    )


def test_each_image_of_a_batch_has_its_own_weights() -> None:
    various = replace(PAIR, t=torch.tensor([100, 900]))
    for method in OBJECTIVES:
        for i, t in enumerate([100, 900]):
            alone = direction(method, replace(PAIR, t=torch.tensor([t, t])))
            assert torch.equal(direction(method, various)[i], alone[i])


@pytest.mark.parametrize("w_identity", [0.25, 1.0, 3.0])
def test_identity_multiplies_psi_alone(w_identity: float) -> None:
    psi = SCHEDULE.posterior_weights(T, 2)[0].view(-1, 1, 1, 1)
    expected = (w_identity * psi) * (latents(1) - latents(0))
    torch.testing.assert_close(direction("pds", w_identity=w_identity) - direction("pds", w_identity=0.0), expected)


def test_sds_closed_form() -> None:
    weight = 1 - float(SCHEDULE.alpha_bar[333])
    half = Predictions({branch: PREDICTIONS[branch] for branch in OBJECTIVES["sds"].branches}, 7.5)
    torch.testing.assert_close(direction("sds", predictions=half), weight * (TARGET - latents(2)))


@pytest.mark.parametrize("method", OBJECTIVES)
def test_an_objective_reads_the_branches_that_it_names_and_no_other(method: str) -> None:
    named = OBJECTIVES[method].branches
    alone = Predictions({branch: PREDICTIONS[branch] for branch in named}, 7.5)
    assert torch.equal(direction(method, predictions=alone), direction(method))
    for branch in named:
        with pytest.raises(InputError, match="which is not among the branches that it names"):
            direction(method, predictions=Predictions({b: PREDICTIONS[b] for b in named - {branch}}, 7.5))


@pytest.mark.parametrize("method", OBJECTIVES)
def test_an_objective_without_posterior_weighs_with_neither_psi_nor_chi(method: str) -> None:
    moved = replace(PAIR, source=latents(9))
    assert torch.equal(direction(method), direction(method, stride=20)) == (not OBJECTIVES[method].posterior)
    assert torch.equal(direction(method), direction(method, moved)) == (not OBJECTIVES[method].posterior)


def test_psi_and_chi_are_for_objectives_that_say_so() -> None:
    weights = Weights.at(T, SCHEDULE, PAIR.eps, 1.0, None)
    for name in ("psi", "chi"):
        with pytest.raises(InputError, match="does not say posterior=True"):
            getattr(weights, name)
    torch.testing.assert_close(weights.alpha**2, weights.alpha_bar)
    torch.testing.assert_close(weights.sigma**2, weights.one_minus_alpha_bar)


@pytest.mark.parametrize(
    ("branches", "message"),
    [
        ([("both", "target")], r"names the branch \('both', 'target'\): there are \('source', 'null'\)"),
        ([("target", "other")], r"names the branch \('target', 'other'\)"),
        ([], "needs a direction, to be called, and the branches"),
    ],
)
def test_objectives_that_are_none(branches: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Objective(lambda *_: latents(0), branches)  # pyright: ignore[reportArgumentType]


def test_branches_may_be_plain_pairs() -> None:
    assert Objective(lambda *_: latents(0), [("target", "null")]).branches == {Branch("target", "null")}


@pytest.mark.parametrize("coupling", [0.0, 0.3, 1.0])
def test_coupled_noise(coupling: float) -> None:
    """x_t of the target: alpha z_tgt + sigma (eps + eta (z_tgt - z_src)); with eta 1 it moves as z_tgt - z_src does."""
    alpha, sigma = float(SCHEDULE.alpha[333]), float(SCHEDULE.sigma[333])
    noised = PAIR.noised("target", SCHEDULE, coupling)
    eps = latents(2) + coupling * (latents(1) - latents(0))
    torch.testing.assert_close(noised, alpha * latents(1) + sigma * eps)
    source = PAIR.noised("source", SCHEDULE, coupling)
    torch.testing.assert_close(source, alpha * latents(0) + sigma * latents(2))
    torch.testing.assert_close(noised - source, (alpha + coupling * sigma) * (latents(1) - latents(0)))


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5])
def test_guidance_of_predictions(scale: float) -> None:
    found = Predictions(PREDICTIONS.eps, scale).guided("source")
    torch.testing.assert_close(found, (1 - scale) * latents(5) + scale * latents(3))
    assert torch.equal(found, mixed(latents(3), latents(5), scale))


def test_the_contrastive_methods_share_their_directions() -> None:
    assert torch.equal(direction("cds"), direction("dds"))
    assert torch.equal(direction("cpds"), direction("pds"))


def test_gradient_of_pull_is_the_direction() -> None:
    x = latents(1).requires_grad_()
    # a direction that itself depends on x: that dependence must not leak into the gradient
    pulled = direction("pds", replace(PAIR, target=x)) + x**2
    (gradient,) = torch.autograd.grad(pull(x, pulled), x)
    assert torch.equal(gradient, pulled.detach())


def test_a_pair_shares_one_seeded_noise_and_timestep() -> None:
    drawn = [EditPair.draw(latents(0), latents(1), T[:1], torch.Generator().manual_seed(s)) for s in (5, 5, 6)]
    assert torch.equal(drawn[0].eps, drawn[1].eps)
    assert not torch.equal(drawn[0].eps, drawn[2].eps)
    assert drawn[0].eps.dtype == torch.float64
    assert drawn[0].t.tolist() == [333, 333]
    assert not torch.equal(drawn[0].eps[0], drawn[0].eps[1])


@pytest.mark.parametrize(
    "parts",
    [
        {"target": latents(1)[:1]},  # a (1, ...)/(2, ...) broadcast
        {"eps": latents(2)[:, :1]},  # one noise channel for all
        {"t": T[:1]},  # one timestep for two images
    ],
)
def test_shapes_that_would_broadcast_are_refused(parts: dict[str, torch.Tensor]) -> None:
    with pytest.raises(TypeCheckError):
        replace(PAIR, **parts)


def test_proximity_holds_what_is_near_and_lets_go_of_what_is_far() -> None:
    source, target = latents(0), latents(1).requires_grad_()
    (gradient,) = torch.autograd.grad(proximity_loss(source, target), target)
    moved = (target - source).detach()
    torch.testing.assert_close(gradient, moved / (1 + (moved**2).sum(1, keepdim=True)) ** 2)  # the docstring's
    strongest = 3**-0.5
    assert proximity_pull(1e-3) == pytest.approx(1e-3, rel=1e-4)  # a spring near by
    assert proximity_pull(strongest) > max(proximity_pull(0.9 * strongest), proximity_pull(1.1 * strongest))
    assert proximity_pull(30) < 1e-3 * proximity_pull(1)


def proximity_pull(distance: float | int) -> float:
    """Gradient of the proximity loss on one cell that has moved by `distance` along one channel."""
    z = torch.zeros(1, 4, 1, 1, dtype=torch.float64)
    z[0, 2] = distance
    z.requires_grad_()
    return float(torch.autograd.grad(proximity_loss(torch.zeros_like(z), z), z)[0][0, 2, 0, 0])
