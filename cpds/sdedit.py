"""SDEdit (Meng 2022): noise an image in part and denoise it under a prompt. It sharpens what an edit left blurred.

Its parts, guided predictions and DDIM (Song 2021), are those of the evaluation's inversion baselines too.
"""

from itertools import pairwise

import torch
from jaxtyping import Int
from torch import Tensor

from cpds.config import GuidanceConfig
from cpds.guidance_scale import GuidanceScale
from cpds.priors.base import Conditioning, Prior
from cpds.schedule import NoiseSchedule
from cpds.types import Latents

Grid = Int[Tensor, " steps"]  # timesteps in the order that they are passed


@torch.no_grad()
def sdedit(
    prior: Prior,
    latents: Latents,
    conditioning: Conditioning,
    null: Conditioning,
    *,
    guidance_scale: float,
    steps: int,
    skip: float,
    generator: torch.Generator,
) -> Latents:
    """`latents` after the last (1 - skip) of `steps` denoising steps, begun from their noised selves.

    `conditioning` and `null`, the unconditional prompt's, have one row. The noise that it begins from is drawn on the
    CPU. Raises ValueError unless 0 <= skip < 1 and steps >= 1.
    """
    if not 0 <= skip < 1 or steps < 1:
        raise ValueError(f"need 0 <= skip < 1 and steps >= 1, got skip {skip} and {steps} steps")
    grid = descending(noisiest(prior.schedule), steps)[min(steps - 1, round(steps * skip)) :]
    eps = torch.randn(latents.shape, generator=generator).to(latents)
    x = prior.schedule.add_noise(latents, eps, grid[0].expand(len(latents)))
    return ddim(prior, x, grid, conditioning, null, guidance_scale)


def noisiest(schedule: NoiseSchedule) -> int:
    """The last timestep with any signal: flow schedules end in noise alone."""
    return int((schedule.alpha > 0).nonzero().max())


def descending(start: int, steps: int) -> Grid:
    """steps + 1 timesteps evenly from `start` to 0."""
    return torch.linspace(start, 0, steps + 1).round().long()


def guided(
    prior: Prior,
    x: Latents,
    t: Tensor,
    conditioning: Conditioning,
    null: Conditioning,
    guidance: float | GuidanceConfig,
) -> Latents:
    """The guided noise prediction at one timestep; where nothing is mixed the null prompt is not asked.

    `guidance` is a scale, or the settled settings of an edit, of which those of the target's half count.
    `conditioning` has one row, or one for each of the batch.
    """
    count, time = len(x), int(t) / len(prior.schedule)
    config = guidance if isinstance(guidance, GuidanceConfig) else GuidanceConfig(guidance_scale=guidance)
    if prior.guidance == "embedded":
        omega = GuidanceScale.at(config, time).target
        conditioning, null = conditioning.at_scale(omega), null.at_scale(omega)
    scale = GuidanceScale.mixing(config, prior, time)
    if scale.target == 1:
        return prior.denoise(x, t.expand(count), conditioning.repeat(count)).eps
    both = Conditioning.cat([null.repeat(count), conditioning.repeat(count)])
    unconditional, conditional = prior.denoise(torch.cat([x, x]), t.expand(2 * count), both).eps.chunk(2)
    sigma = prior.schedule.at(t.expand(count))[1].to(x).view(-1, 1, 1, 1)
    return scale.mix(scale.target, conditional, unconditional, x, sigma)


def ddim(
    prior: Prior,
    x: Latents,
    grid: Grid,
    conditioning: Conditioning,
    null: Conditioning,
    guidance: float | GuidanceConfig,
) -> Latents:
    """`x` at timestep grid[0] denoised along a descending grid (Song 2021, Eq. 12, eta = 0).

    Its last prediction of the clean latents is the result: the grid's end counts as free of noise. `guidance` is what
    `guided` takes.
    """
    schedule, count = prior.schedule, len(x)
    for now, after in pairwise(grid):
        eps = guided(prior, x, now, conditioning, null, guidance)
        clean = schedule.denoised(x, eps, now.expand(count))
        x = schedule.add_noise(clean, eps, after.expand(count))
    return clean
