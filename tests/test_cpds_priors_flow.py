"""Objectives on a Gaussian flow, whose velocities are known, against their published velocity forms.

Under prompt p the data are N(m_p, S) with S diagonal. Of x_s = (1 - s) z + s eps the posterior mean is
E[z | x_s] = m + (1 - s) S / ((1 - s)^2 S + s^2) (x_s - (1 - s) m), E[eps | x_s] follows from x_s, v = E[eps] - E[z].
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from conftest import randn
from torch import Tensor

from cpds.config import GuidanceConfig
from cpds.guidance import Guidance
from cpds.priors.base import Conditioning, Prediction
from cpds.schedule import NoiseSchedule

SHAPE = (1, 4, 3, 5)
MEANS = {"a cat": randn(1, *SHAPE), "a dog": randn(2, *SHAPE), "": randn(3, *SHAPE)}
VARIANCE = randn(4, *SHAPE).exp()
Z_SOURCE, Z_TARGET = randn(5, *SHAPE), randn(6, *SHAPE)


@dataclass
class GaussianFlow:
    """Predicts the velocity, which the schedule turns into epsilon, as it does a network's."""

    schedule: NoiseSchedule = field(default_factory=lambda: NoiseSchedule.flow(shift=3.0))
    asked: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # timesteps and x_t
    guidance: str = "classifier-free"
    device: torch.device = torch.device("cpu")  # noqa: RUF009
    image_size: int = 8
    size_multiple: int = 1
    feature_width: int = 0
    parameters: int = 0
    fingerprint: str = "gaussian"

    def encode(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    decode = encode

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        return Conditioning({"mean": torch.cat([MEANS[p] for p in prompts])})

    def denoise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning, *, tap: int = 0) -> Prediction:
        self.asked.append((t, x_t))
        v = velocity(x_t, self.schedule.at(t)[1].float().view(-1, 1, 1, 1), conditioning["mean"])
        return Prediction(self.schedule.to_epsilon(v, x_t, t))


def velocity(x: Tensor, s: Tensor, mean: Tensor) -> Tensor:
    clean = mean + (1 - s) * VARIANCE / ((1 - s) ** 2 * VARIANCE + s**2) * (x - (1 - s) * mean)
    return (x - (1 - s) * clean) / s - clean


def stepped(method: Any, **settings: Any) -> tuple[Tensor, GaussianFlow, Tensor, Tensor]:
    """One step's direction, the prior, its sigma, and the noise that was drawn."""
    prior = GaussianFlow()
    config = GuidanceConfig(method, **{"guidance_scale": 1.0, **settings})
    guidance = Guidance(prior, "a cat", "a dog", config, steps=4)
    gradient = guidance.step(Z_SOURCE, Z_TARGET, 1, torch.Generator().manual_seed(3)).gradient
    t, x = prior.asked[0]
    s = prior.schedule.at(t[:1])[1].float().view(1, 1, 1, 1)
    return gradient, prior, s, (x[:1] - (1 - s) * Z_SOURCE) / s


def delta_velocity(s: Tensor, eps: Tensor, scale: float = 1.0) -> Tensor:
    """Of both halves noised alike, each guided under its own prompt."""
    guided = []
    for z, prompt in ((Z_TARGET, "a dog"), (Z_SOURCE, "a cat")):
        x = (1 - s) * z + s * eps
        null = velocity(x, s, MEANS[""])
        guided.append(null + scale * (velocity(x, s, MEANS[prompt]) - null))
    return guided[0] - guided[1]


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_dds_is_the_delta_velocity(scale: float) -> None:
    """d eps = (1 - s) (d v + d z), as eps = x_s + (1 - s) v and d x_s = (1 - s) d z."""
    got, _, s, eps = stepped("dds", guidance_scale=scale)
    wanted = (1 - s) * (delta_velocity(s, eps, scale) + Z_TARGET - Z_SOURCE)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_pds_is_the_posterior_of_the_equivalent_process() -> None:
    """x / sqrt(alpha^2 + sigma^2) is variance preserving; its stochastic latents' difference, by hand (Koo, Eq. 9)."""
    got, prior, s, eps = stepped("pds", stride=5, t_min=0.2, t_max=0.8)
    (t, _), *_ = prior.asked
    t = t[:1]

    def bar(at: Tensor) -> Tensor:
        u = (at + 1) / 1000
        sigma = 3 * u / (1 + 2 * u)
        return (1 - sigma) ** 2 / ((1 - sigma) ** 2 + sigma**2)

    a, a_s, beta = bar(t), bar(t - 5), 1 - bar(t) / bar(t - 1)
    std = ((1 - a_s) / (1 - a) * beta).sqrt()

    def stochastic(z: Tensor, prompt: str) -> Tensor:
        """(x_{t-5} - mu(x_t)) / std, with a noise at t - 5 that both halves share and that is left out."""
        x = a.sqrt() * z + (1 - a).sqrt() * eps
        found = velocity((1 - s) * z + s * eps, s, MEANS[prompt])
        predicted = (1 - s) * z + s * eps + (1 - s) * found  # the same noise, whatever the scale of x
        clean = (x - (1 - a).sqrt() * predicted) / a.sqrt()
        mean = a_s.sqrt() * beta / (1 - a) * clean + (1 - beta).sqrt() * (1 - a_s) / (1 - a) * x
        return (a_s.sqrt() * z - mean) / std

    wanted = stochastic(Z_TARGET, "a dog") - stochastic(Z_SOURCE, "a cat")
    torch.testing.assert_close(got, wanted.float(), rtol=1e-3, atol=1e-3)


def test_flowedit_is_the_step_of_its_sampler() -> None:
    """(s - s_next) (v(x_T, tgt) - v(x_S, src)), x_S the noised source and x_T = x_S + dz  (Kulikov, Alg. 1)."""
    got, prior, s, eps = stepped("flowedit", timesteps="descending", t_min=0.1, t_max=0.7)
    x_source = (1 - s) * Z_SOURCE + s * eps
    x_target = x_source + Z_TARGET - Z_SOURCE
    after = prior.schedule.at(torch.tensor([700 - 600 * 2 / 3], dtype=torch.float64))[1].float()
    wanted = (s - after) * (velocity(x_target, s, MEANS["a dog"]) - velocity(x_source, s, MEANS["a cat"]))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_the_prior_is_asked_between_whole_timesteps() -> None:
    prior = GaussianFlow()
    guidance = Guidance(prior, "a cat", "a dog", GuidanceConfig("dds"), steps=3)
    for step in range(3):
        guidance.step(Z_SOURCE, Z_TARGET, step, torch.Generator().manual_seed(step))
    assert all(t.is_floating_point() and float(t[0]) != round(float(t[0])) for t, _ in prior.asked)
