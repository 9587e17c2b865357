"""What users would pick instead: SDEdit, DDIM inversion and edit-friendly DDPM inversion, to compare edits with.

Each goes from clean latents up to a share of the schedule, `strength`, and down again under the target prompt. They see
a prior as (alpha, sigma, eps), so that one that predicts epsilon, v or a flow serves alike.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from cpds.errors import InputError
from cpds.evaluation.settings import BaselineConfig
from cpds.guidance_scale import chosen_scale
from cpds.priors.base import Conditioning, Prior
from cpds.schedule import NoiseSchedule
from cpds.sdedit import Grid, ddim, descending, guided, noisiest
from cpds.types import Latents


def scales(config: BaselineConfig, prior: Prior) -> tuple[float, float]:
    """Guidance of the source's prompt and of the target's: where none was given, as it is usual for the prior."""
    source = chosen_scale(prior, "source", config.source_guidance_scale, 1.0)
    return source, chosen_scale(prior, "target", config.guidance_scale, 7.5)


@torch.no_grad()
def edited(
    prior: Prior, latents: Latents, prompts: Sequence[str], target_prompts: Sequence[str], config: BaselineConfig
) -> Latents:
    """Latents (b, c, h, w) edited from their prompts to their target prompts; every one sees the noise it sees alone.

    Raises InputError where there are more steps than timesteps below `strength`.
    """
    at_source, at_target = scales(config, prior)
    grid = timesteps(prior.schedule, config)
    every = prior.embed([*prompts, *target_prompts, config.negative_prompt])
    source, target, null = every.split([len(prompts), len(target_prompts), 1])
    if config.baseline == "ddpm-inversion":
        return ddpm_inversion(prior, latents, grid, source, target, null, config)
    if config.baseline == "ddim-inversion":
        x = ddim_inversion(prior, latents, grid, source, null, at_source)
    else:
        generator = torch.Generator().manual_seed(config.seed)
        x = prior.schedule.add_noise(latents, noise(latents, generator), grid[0].expand(len(latents)))
    return ddim(prior, x, grid, target, null, at_target)


def timesteps(schedule: NoiseSchedule, config: BaselineConfig) -> Grid:
    """The descending grid: num_inference_steps of them from `strength` on, and 0, which stands for clean latents."""
    start = round(config.strength * noisiest(schedule))
    if config.num_inference_steps > start:
        raise InputError(
            f"num_inference_steps {config.num_inference_steps} is more than the {start} timesteps up to strength "
            f"{config.strength}: lower it, or raise strength"
        )
    return descending(start, config.num_inference_steps)


def noise(like: Latents, generator: torch.Generator) -> Latents:
    """Standard normal, drawn on the CPU, the same for each of the batch."""
    return torch.randn(1, *like.shape[1:], generator=generator).to(like).expand_as(like)


def ddim_inversion(
    prior: Prior,
    latents: Latents,
    grid: Grid,
    source: Conditioning,
    null: Conditioning,
    guidance_scale: float,
) -> Latents:
    """The latents at grid[0] that DDIM would bring back under the source prompt (Song 2021, Sec. 4.3).

    A step up predicts the noise at its end's timestep from its beginning's latents, as Prompt-to-Prompt does.
    """
    x, clean, count = latents, latents, len(latents)
    for before, now in pairwise(grid.flip(0)):
        eps = guided(prior, x, now, source, null, guidance_scale)
        if x is not latents:
            clean = prior.schedule.denoised(x, eps, before.expand(count))
        x = prior.schedule.add_noise(clean, eps, now.expand(count))
    return x


def ddpm_inversion(
    prior: Prior,
    latents: Latents,
    grid: Grid,
    source: Conditioning,
    target: Conditioning,
    null: Conditioning,
    config: BaselineConfig,
) -> Latents:
    """Edit-friendly DDPM inversion (Huberman-Spiegelglas 2024, Eq. 5 and Algorithm 1; eta 1).

    The source's x_t are noised independently at every timestep; sigma_t z_t = x_s - mu_t(x_t) is what a step from t to
    s = t - 1 adds to its mean, and is added to the target's mean again. Source and target go down side by side, so
    that nothing is stored. The last step's s is the clean latents: the same prompt and guidance give them back.
    """
    schedule, count = prior.schedule, len(latents)
    generator = torch.Generator().manual_seed(config.seed)
    x = y = schedule.add_noise(latents, noise(latents, generator), grid[0].expand(count))
    for now, after in pairwise(grid):
        means = []
        for x_t, prompt, scale in zip((x, y), (source, target), scales(config, prior), strict=True):
            means.append(posterior_mean(schedule, x_t, guided(prior, x_t, now, prompt, null, scale), now, after))
        x = latents
        if after > 0:
            x = schedule.add_noise(latents, noise(latents, generator), after.expand(count))
        y = means[1] + x - means[0]
    return y


def posterior_mean(schedule: NoiseSchedule, x_t: Latents, eps: Latents, t: Tensor, s: Tensor) -> Latents:
    """The mean of x_s given x_t: alpha_s z + (alpha_t sigma_s² / (alpha_s sigma_t)) eps, of z the prediction.

    DDPM's posterior (Ho 2020, Eq. 7) for any alpha and sigma. s = 0 is free of noise: z itself.
    """
    clean = schedule.denoised(x_t, eps, t.expand(len(x_t)))
    if s == 0:
        return clean
    alpha_t, sigma_t, alpha_s, sigma_s = (float(x[i]) for i in (t, s) for x in (schedule.alpha, schedule.sigma))
    return alpha_s * clean + alpha_t * sigma_s**2 / (alpha_s * sigma_t) * eps
