"""Edit directions as functions of one noised pair, against their closed forms."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError

from cpds.errors import InputError
from cpds.guidance_scale import GuidanceScale, mixed
from cpds.objectives.base import Branch, EditPair, Half, Objective, Predictions, Prompt, Weights
from cpds.objectives.losses import proximity_loss, pull
from cpds.objectives.table import OBJECTIVES
from cpds.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule.scaled_linear()
SHAPE = (2, 4, 3, 5)
HALVES: tuple[Half, Half] = ("source", "target")
T = torch.tensor([333, 333])


def latents(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


PAIR = EditPair(latents(0), latents(1), latents(2), T)
BRANCHES = [Branch(half, prompt, at) for half in HALVES for prompt in (*HALVES, "null") for at in (0, 1)]
EPS = {branch: latents(3 + i) for i, branch in enumerate(BRANCHES)}
SAME = {b: EPS[Branch("source", "null" if b.prompt == "null" else "source", b.at)] for b in BRANCHES}  # one prompt
OMEGA = 7.5


def direction(
    method: str,
    pair: EditPair = PAIR,
    eps: Mapping[Branch, torch.Tensor] = EPS,
    *,
    stride: int = 2,
    w_identity: float = 1.0,
    **weights: Any,
) -> torch.Tensor:
    """What the objective makes of these predictions, with guidance OMEGA on both halves."""
    predictions = predicted(method, pair, eps, stride=stride, w_identity=w_identity, **weights)
    return OBJECTIVES[method].direction(pair, predictions, predictions.levels[0])


def predicted(
    method: str,
    pair: EditPair,
    eps: Mapping[Branch, torch.Tensor],
    *,
    stride: int = 2,
    w_identity: float = 1.0,
    coupling: float = 0.3,
    **weights: Any,
) -> Predictions:
    objective, levels, x_t = OBJECTIVES[method], [], {}
    for at, offset in enumerate(objective.offsets):
        moved = replace(pair, t=pair.t + round(offset * len(SCHEDULE)))
        level = Weights.at(moved.t, SCHEDULE, pair.eps, w_identity, stride if objective.posterior else None)
        options = {"spacing": 0.05, "coupling": coupling, "options": objective.options} | weights
        levels.append(replace(level, **options))
        for half in HALVES:
            x_t[half, at] = moved.noised(half, SCHEDULE, coupling)
    return Predictions(eps, GuidanceScale(OMEGA, OMEGA), x_t, tuple(levels))


def guided(half: Half, prompt: Prompt | None = None, instead_of: Prompt = "null") -> torch.Tensor:
    uncond = EPS[Branch(half, instead_of)]
    return uncond + OMEGA * (EPS[Branch(half, prompt or half)] - uncond)


@pytest.mark.parametrize("method", sorted(OBJECTIVES.keys() - {"sds", "csd"}))
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
    torch.testing.assert_close(direction("sds"), weight * (guided("target") - latents(2)))


@pytest.mark.parametrize("method", OBJECTIVES)
def test_an_objective_reads_the_branches_that_it_names_and_no_other(method: str) -> None:
    named = {branch for branch in BRANCHES if branch in OBJECTIVES[method].branches}
    assert named == OBJECTIVES[method].branches
    assert torch.equal(direction(method, eps={branch: EPS[branch] for branch in named}), direction(method))
    for branch in named:
        with pytest.raises(InputError, match="which is not among the branches that it names"):
            direction(method, eps={b: EPS[b] for b in named - {branch}})


@pytest.mark.parametrize("method", OBJECTIVES)
def test_an_objective_without_posterior_weighs_with_neither_psi_nor_chi(method: str) -> None:
    assert torch.equal(direction(method), direction(method, stride=20)) == (not OBJECTIVES[method].posterior)


def test_scores_alone_do_not_look_at_the_source_latents() -> None:
    moved = replace(PAIR, source=latents(99))
    for method in ("sds", "dds", "cds", "csd"):
        assert torch.equal(direction(method), direction(method, moved))


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
@pytest.mark.parametrize("half", HALVES)
def test_guidance_of_predictions(half: Half, scale: float) -> None:
    scales = GuidanceScale(target=scale, source=2 * scale)
    predictions = replace(predicted("dds", PAIR, EPS), scale=scales)
    omega, cond, uncond = (scale, 2 * scale)[half == "source"], EPS[Branch(half, half)], EPS[Branch(half, "null")]
    torch.testing.assert_close(predictions.guided(half), (1 - omega) * uncond + omega * cond)
    assert torch.equal(predictions.guided(half), cond if omega == 1 else mixed(cond, uncond, omega))


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


@pytest.mark.parametrize(("toward", "away"), [(1.0, 0.5), (40.0, 40.0), (3.0, 0.0)])
def test_csd_closed_form(toward: float, away: float) -> None:
    tgt, null, src = (EPS[Branch("target", prompt)] for prompt in ("target", "null", "source"))
    found = direction("csd", options={"w1": toward, "w2": away})
    torch.testing.assert_close(found, toward * (tgt - null) - away * (src - null))


def test_lusd_weighs_the_score_alone_with_where_the_edit_belongs() -> None:
    where = torch.rand(2, 1, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    score = EPS[Branch("target", "target")] - EPS[Branch("target", "source")]
    found = direction("lusd", changes=where, options={"pull": 0.1})
    torch.testing.assert_close(found, 0.9 * where * score + 0.1 * (latents(1) - latents(0)))


def test_pds_weighs_the_predictions_alone_with_where_the_edit_belongs() -> None:
    nowhere = direction("pds", changes=torch.zeros(2, 1, 3, 5, dtype=torch.float64))
    psi = SCHEDULE.posterior_weights(T, 2)[0].view(-1, 1, 1, 1)
    torch.testing.assert_close(nowhere, psi * (latents(1) - latents(0)))


def as_flow(x_t: torch.Tensor, eps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Velocity and clean latents of a flow in x / (alpha + sigma) at T: x_s = (1 - s) z + s eps, v = eps - z."""
    alpha, sigma = SCHEDULE.alpha[333], SCHEDULE.sigma[333]
    s, x_s = sigma / (alpha + sigma), x_t / (alpha + sigma)
    clean = (x_s - s * eps) / (1 - s)
    return eps - clean, clean


def noised(eta: float) -> dict[Half, torch.Tensor]:
    """x_t of both halves with coupling eta, by the book."""
    alpha, sigma = SCHEDULE.alpha[333], SCHEDULE.sigma[333]
    z_src, z_tgt, eps = latents(0), latents(1), latents(2)
    return {"source": alpha * z_src + sigma * eps, "target": alpha * z_tgt + sigma * (eps + eta * (z_tgt - z_src))}


def test_flowedit_is_an_euler_step_of_the_velocities_difference() -> None:
    x_t = noised(1.0)
    velocities = {half: as_flow(x_t[half], guided(half))[0] for half in HALVES}
    expected = 0.05 * (velocities["target"] - velocities["source"])
    torch.testing.assert_close(direction("flowedit", coupling=1.0), expected)


def test_flowedit_is_dds_in_other_variables() -> None:
    """With the noises coupled: dv = (1 + sigma / alpha) (d eps - dz)."""
    alpha, sigma = SCHEDULE.alpha[333], SCHEDULE.sigma[333]
    moved = latents(1) - latents(0)
    expected = 0.05 * (1 + sigma / alpha) * (direction("dds") - moved)
    torch.testing.assert_close(direction("flowedit", coupling=1.0), expected)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_dvrf_adds_what_the_coupling_leaves_of_the_difference(eta: float) -> None:
    x_t = noised(eta)
    velocities = {half: as_flow(x_t[half], guided(half))[0] for half in HALVES}
    delta = velocities["target"] - velocities["source"] + (1 - eta) * (latents(1) - latents(0))
    torch.testing.assert_close(direction("dvrf", coupling=eta), 0.05 * delta)
    if eta == 1:
        torch.testing.assert_close(direction("dvrf", coupling=eta), direction("flowedit", coupling=eta))


@pytest.mark.parametrize("zeta", [0.0, 0.33, 2.0])
def test_flowalign_closed_form(zeta: float) -> None:
    x_t = noised(1.0)
    v_tgt, clean_tgt = as_flow(x_t["target"], guided("target", instead_of="source"))
    v_src, clean_src = as_flow(x_t["source"], EPS[Branch("source", "source")])
    expected = 0.05 * (v_tgt - v_src) + zeta / 33 * (clean_tgt - clean_src)
    found = direction("flowalign", coupling=1.0, share=1 / 33, options={"zeta": zeta})
    torch.testing.assert_close(found, expected)


def test_chordedit_weighs_two_residuals_by_fractions_of_the_schedule() -> None:
    residuals = []
    for t, at in ((333, 0), (183, 1)):  # 0.15 of 1000 earlier
        alpha, sigma = float(SCHEDULE.alpha[t]), float(SCHEDULE.sigma[t])
        delta = EPS[Branch("target", "target", at)] - EPS[Branch("target", "source", at)]
        residuals.append(-sigma / alpha * delta)  # of clean latents
    late, early = residuals
    expected = -(0.333 * early + 0.15 * late) / (0.333 + 0.15)
    torch.testing.assert_close(direction("chordedit", time=0.333), expected)


def test_the_flow_time_of_a_flow_is_its_own() -> None:
    flow = NoiseSchedule.flow(10)
    torch.testing.assert_close(flow.flow_time, torch.arange(1, 11, dtype=torch.float64) / 10)
    assert flow.timestep_at(0.69) == 6
    t = torch.tensor([3])
    weights = Weights.at(t, flow, latents(0)[:1], 1.0, None)
    torch.testing.assert_close(weights.flow_time.flatten(), flow.flow_time[t])
