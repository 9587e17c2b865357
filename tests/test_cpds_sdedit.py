"""SDEdit against priors whose denoising is known in closed form."""

from dataclasses import dataclass, field

import pytest
import torch
from conftest import randn

from cpds.priors.base import Conditioning, Prediction
from cpds.schedule import NoiseSchedule
from cpds.sdedit import sdedit

CPU = torch.device("cpu")
PROMPT, NULL = (Conditioning({"embeds": torch.full((1, 1, 1), x)}) for x in (1.0, 0.0))


@dataclass
class Points:
    """Knows one clean latent for each text: its prediction is exact for data that consists of that latent alone."""

    guided: torch.Tensor
    unguided: torch.Tensor
    schedule: NoiseSchedule = field(default_factory=NoiseSchedule.scaled_linear)
    seen: list[int] = field(default_factory=list)
    device: torch.device = CPU  # from here on: the rest of the Prior protocol, unused
    image_size: int = 8
    size_multiple: int = 1
    feature_width: int = 1
    parameters: int = 0
    guidance: str = "classifier-free"
    fingerprint: str = "points"

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    decode = embed = encode

    def denoise(self, x_t: torch.Tensor, t: torch.Tensor, conditioning: Conditioning, *, tap: int = 0) -> Prediction:
        self.seen.append(int(t[0]))
        clean = torch.where(conditioning["embeds"].view(-1, 1, 1, 1) > 0, self.guided, self.unguided)
        alpha, sigma = (x[t].to(x_t).view(-1, 1, 1, 1) for x in (self.schedule.alpha, self.schedule.sigma))
        return Prediction((x_t - alpha * clean) / sigma)


def refined(prior: Points, latents: torch.Tensor, **changes: float) -> torch.Tensor:
    settings = {"guidance_scale": 1.0, "steps": 10, "skip": 0.5} | changes
    generator = torch.Generator().manual_seed(0)
    return sdedit(prior, latents, PROMPT, NULL, generator=generator, **settings)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("schedule", [NoiseSchedule.scaled_linear(), NoiseSchedule.flow()])
@pytest.mark.parametrize("skip", [0.0, 0.5, 0.9])
def test_a_prior_that_knows_the_answer_gives_it(schedule: NoiseSchedule, skip: float) -> None:
    prior = Points(randn(1, 1, 4, 3, 3), randn(2, 1, 4, 3, 3), schedule)
    assert torch.allclose(refined(prior, randn(3, 2, 4, 3, 3), skip=skip), prior.guided, atol=1e-4)


def test_guidance_goes_on_past_the_prompt() -> None:
    prior = Points(randn(1, 1, 4, 3, 3), randn(2, 1, 4, 3, 3))
    once = refined(prior, randn(3, 1, 4, 3, 3), steps=1, skip=0.0, guidance_scale=3.0)
    top = prior.schedule.alpha[-1], prior.schedule.sigma[-1]
    x = top[0].float() * randn(3, 1, 4, 3, 3) + top[1].float() * randn(0, 1, 4, 3, 3)
    a, b = ((x - top[0] * z) / top[1] for z in (prior.guided, prior.unguided))
    wanted = (x - top[1] * (b + 3 * (a - b))) / top[0]  # Eq. 12 with the guided prediction
    assert torch.allclose(once, wanted.float(), atol=1e-3)


@pytest.mark.parametrize(("steps", "skip", "left"), [(20, 0.8, 4), (20, 0.9, 2), (20, 0.99, 1), (5, 0.0, 5)])
def test_skip_is_the_share_left_out(steps: int, skip: float, left: int) -> None:
    prior = Points(randn(1, 1, 4, 3, 3), randn(2, 1, 4, 3, 3))
    refined(prior, randn(3, 1, 4, 3, 3), steps=steps, skip=skip)
    assert len(prior.seen) == left
    assert prior.seen == sorted(prior.seen, reverse=True)
    assert abs(prior.seen[0] - 999 * left / steps) < 1


def test_the_more_is_skipped_the_closer_to_the_source() -> None:
    class Nothing(Points):
        def denoise(
            self, x_t: torch.Tensor, t: torch.Tensor, conditioning: Conditioning, *, tap: int = 0
        ) -> Prediction:
            return Prediction(torch.zeros_like(x_t))

    prior, source = Nothing(torch.zeros(1), torch.zeros(1)), randn(3, 1, 4, 3, 3)
    far, near = ((refined(prior, source, skip=s, steps=20) - source).norm() for s in (0.5, 0.9))
    assert near < far


@pytest.mark.parametrize(("steps", "skip"), [(0, 0.5), (10, 1.0), (10, -0.1)])
def test_settings_out_of_range(steps: int, skip: float) -> None:
    with pytest.raises(ValueError, match="need 0 <= skip < 1 and steps >= 1"):
        refined(Points(torch.zeros(1), torch.zeros(1)), randn(3, 1, 4, 3, 3), steps=steps, skip=skip)
