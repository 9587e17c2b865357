"""Baselines against priors whose denoising is known in closed form."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import randn
from test_cpds_editor import MEANS, SCHEDULES, SHIFT, GaussianPrior
from test_cpds_priors_flow import GaussianFlow

from cpds.errors import InputError
from cpds.evaluation.baselines import edited, posterior_mean, scales
from cpds.evaluation.editors import Counted
from cpds.evaluation.settings import BASELINES, BaselineConfig
from cpds.priors.base import Conditioning, Prediction, Prior
from cpds.priors.unet import UNetPrior

SHAPE = (2, 2, 3, 4)
INVERSIONS = ("ddim-inversion", "ddpm-inversion")


def config(baseline: str, **changes: float) -> BaselineConfig:
    return replace(BASELINES[baseline], **{"guidance_scale": 1.0, **changes})  # pyright: ignore[reportArgumentType]


def edit(
    prior: Prior, z: torch.Tensor, settings: BaselineConfig, prompt: str = "source", target: str = "target"
) -> torch.Tensor:
    return edited(prior, z, [prompt] * len(z), [target] * len(z), settings)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_ddpm_inversion_gives_the_source_back(schedule: str, guidance: float) -> None:
    """Under one prompt and guidance the means are equal, and the residuals make the rest."""
    settings = config("ddpm-inversion", guidance_scale=guidance, source_guidance_scale=guidance, num_inference_steps=20)
    z = randn(0, *SHAPE)
    found = edit(GaussianPrior(schedule), z, settings, target="source")
    torch.testing.assert_close(found, z, rtol=0, atol=1e-5)


def test_ddpm_inversion_gives_the_source_back_through_a_network(prior: UNetPrior) -> None:
    z = randn(0, 1, 4, 8, 8)
    found = edited(prior, z, ["a cat"], ["a cat"], config("ddpm-inversion", num_inference_steps=10))
    torch.testing.assert_close(found, z, rtol=0, atol=1e-3)
    other = edited(prior, z, ["a cat"], ["a dog"], config("ddpm-inversion", num_inference_steps=10))
    assert float((other - z).abs().max()) > 1e-2


def ode(prior: GaussianPrior, z: torch.Tensor, strength: float) -> torch.Tensor:
    """The probability flow up to `strength` under N(m, s²) and down under N(m', s²), in closed form.

    (x_t - alpha m) / r is constant, r = sqrt(alpha² s² + sigma²), so that z' = z + (m' - m) (1 - alpha s / r).
    """
    t = round(strength * int((prior.schedule.alpha > 0).nonzero().max()))
    alpha, sigma, s = float(prior.schedule.alpha[t]), float(prior.schedule.sigma[t]), prior.std
    return z + SHIFT.view(1, 2, 1, 1) * (1 - alpha * s / math.hypot(alpha * s, sigma))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("strength", [0.3, 0.8])
def test_ddim_inversion_goes_to_the_flows_solution(schedule: str, strength: float) -> None:
    prior, z = GaussianPrior(schedule), randn(0, *SHAPE)
    off = [
        float((edit(prior, z, config("ddim-inversion", strength=strength, num_inference_steps=n)) - end).abs().max())
        for end in [ode(prior, z, strength)]
        for n in (10, 40, 160)
    ]
    assert off[0] > 3 * off[1] > 9 * off[2]  # of first order in the steps' length
    assert off[2] < 0.06


def test_ddim_inversion_gives_the_source_back_in_the_limit() -> None:
    prior, z = GaussianPrior(), randn(0, *SHAPE)
    off = [
        float((edit(prior, z, config("ddim-inversion", num_inference_steps=n), target="source") - z).abs().max())
        for n in (10, 40, 160)
    ]
    assert off[0] > 2 * off[1] > 4 * off[2]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_sdedit_leaves_the_source_where_it_hardly_noises_it(schedule: str) -> None:
    prior, z = GaussianPrior(schedule), randn(0, *SHAPE)
    off = [
        float((edit(prior, z, config("sdedit", strength=s, num_inference_steps=1)) - z).abs().max())
        for s in (0.5, 0.1, 0.002)
    ]
    assert off[0] > off[1] > off[2]
    assert off[2] < 4 * float(prior.schedule.sigma[2])


def test_sdedit_from_pure_noise_forgets_the_source() -> None:
    prior = GaussianPrior("flow")
    settings = config("sdedit", strength=1.0, num_inference_steps=100)
    one, other = (edit(prior, randn(i, *SHAPE), settings) for i in (0, 1))
    torch.testing.assert_close(one, other, rtol=0, atol=0.05)
    mean = torch.tensor(MEANS["target"]).view(1, 2, 1, 1)
    assert float((one - mean).abs().max()) < 4 * prior.std


def test_posterior_mean_is_ddpms() -> None:
    """Ho 2020, Eq. 7: (sqrt(a_s) beta / (1 - a_t)) z + (sqrt(1 - beta) (1 - a_s) / (1 - a_t)) x_t."""
    schedule = SCHEDULES["diffusion"]
    x, eps, t, s = randn(0, *SHAPE), randn(1, *SHAPE), torch.tensor(700), torch.tensor(650)
    a_t, a_s = float(schedule.alpha_bar[t]), float(schedule.alpha_bar[s])
    beta, clean = 1 - a_t / a_s, schedule.denoised(x, eps, t.expand(2))
    want = math.sqrt(a_s) * beta / (1 - a_t) * clean + math.sqrt(1 - beta) * (1 - a_s) / (1 - a_t) * x
    torch.testing.assert_close(posterior_mean(schedule, x, eps, t, s), want)


@pytest.mark.parametrize("baseline", BASELINES)
def test_an_edit_does_not_depend_on_its_batch(baseline: str) -> None:
    prior, z = GaussianPrior(), randn(0, *SHAPE)
    settings = config(baseline, guidance_scale=3.0, num_inference_steps=8)
    both = edited(prior, z, ["source", "target"], ["target", "source"], settings)
    alone = edited(prior, z[1:], ["target"], ["source"], settings)
    torch.testing.assert_close(both[1:], alone)
    assert float((both[0] - both[1]).abs().max()) > 0.1


@pytest.mark.parametrize(
    ("baseline", "guidance", "source_guidance", "per_step"),
    [
        ("sdedit", 3.0, 1.0, 2),
        ("sdedit", 1.0, 1.0, 1),  # the null prompt cancels
        ("ddim-inversion", 3.0, 1.0, 3),
        ("ddim-inversion", 3.0, 2.0, 4),
        ("ddpm-inversion", 3.0, 1.0, 3),
        ("ddpm-inversion", 1.0, 1.0, 2),
    ],
)
def test_every_sample_through_the_network_is_counted(
    baseline: str, guidance: float, source_guidance: float, per_step: int
) -> None:
    class Counting(GaussianPrior):
        seen = 0

        def denoise(
            self, x_t: torch.Tensor, t: torch.Tensor, conditioning: Conditioning, *, tap: int = 0
        ) -> Prediction:
            self.seen += len(x_t)
            return super().denoise(x_t, t, conditioning, tap=tap)

    prior = Counting()
    counted = Counted(prior)
    settings = config(baseline, guidance_scale=guidance, source_guidance_scale=source_guidance, num_inference_steps=6)
    assert isinstance(counted, Prior)
    edit(counted, randn(0, *SHAPE), settings)
    assert counted.samples == prior.seen == 6 * per_step * len(randn(0, *SHAPE))


class Bent(GaussianPrior):
    """Not linear in x_t, for what cancels under a Gaussian: noises and steps of DDPM inversion."""

    def denoise(self, x_t: torch.Tensor, t: torch.Tensor, conditioning: Conditioning, *, tap: int = 0) -> Prediction:
        found = super().denoise(x_t, t, conditioning, tap=tap)
        return replace(found, eps=found.eps + 0.1 * torch.sin(3 * x_t))


@pytest.mark.parametrize(
    ("kind", "wanted"), [("classifier-free", (1.0, 7.5)), ("embedded", (1.5, 5.5)), ("none", (1, 1))]
)
def test_guidance_is_usual_for_the_prior_unless_it_is_given(kind: str, wanted: tuple[float, float]) -> None:
    prior = GaussianFlow(guidance=kind)
    assert scales(BASELINES["ddim-inversion"], prior) == wanted
    given = replace(BASELINES["ddim-inversion"], guidance_scale=0.0, source_guidance_scale=2.5)
    assert scales(given, prior) == (2.5, 0.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance_scale": 4.0},
        {"strength": 0.4},
        {"source_guidance_scale": 2.0},
        {"num_inference_steps": 30},
        {"negative_prompt": "blurry"},
        {"seed": 1},
    ],
)
@pytest.mark.parametrize("baseline", BASELINES)
def test_every_setting_is_read(baseline: str, changes: dict) -> None:
    if (baseline, *changes) in (("ddim-inversion", "seed"), ("sdedit", "source_guidance_scale")):
        return  # it has none, as its settings' texts say
    z, plain = randn(0, *SHAPE), config(baseline, guidance_scale=3.0, num_inference_steps=10)
    moved = edit(Bent(), z, replace(plain, **changes)) - edit(Bent(), z, plain)
    assert float(moved.abs().max()) > 0.01


@pytest.mark.parametrize(
    ("baseline", "changes", "message"),
    [
        ("sdedit", {"strength": 0.0}, "strength must be > 0 and at most 1, got 0.0"),
        ("sdedit", {"strength": 1.5}, "strength must be > 0 and at most 1, got 1.5"),
        ("sdedit", {"source_guidance_scale": 2.0}, "sdedit inverts nothing: leave source_guidance_scale at 1"),
        ("ddim-inversion", {"guidance_scale": math.inf}, "guidance_scale must be >= 0 and finite, got inf"),
        ("ddim-inversion", {"source_guidance_scale": -1.0}, "source_guidance_scale must be >= 0 and finite, got -1"),
        ("ddim-inversion", {"num_inference_steps": 0}, "num_inference_steps must be >= 1, got 0"),
        ("ddim-inversion", {"seed": -1}, "seed must be in 0 ... 4294967295, got -1"),
    ],
)
def test_settings_out_of_range(baseline: str, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        config(baseline, **changes)


def test_more_steps_than_timesteps_are_refused() -> None:
    with pytest.raises(InputError, match=r"num_inference_steps 50 is more than the 10 timesteps up to strength 0.01"):
        edit(GaussianPrior(), randn(0, *SHAPE), config("sdedit", strength=0.01))
