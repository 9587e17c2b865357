"""SDEdit (Meng 2022): noise an image in part and denoise it under a prompt. It sharpens what an edit left blurred."""

from itertools import pairwise

import torch

from cpds.guidance_scale import mixed
from cpds.priors.base import Conditioning, Prior
from cpds.types import Latents


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

    `conditioning` and `null`, the unconditional prompt's, have one row. DDIM without noise of its own (Song 2021,
    Eq. 12, eta = 0); the noise that it begins from is drawn on the CPU. Raises ValueError unless 0 <= skip < 1 and
    steps >= 1.
    """
    if not 0 <= skip < 1 or steps < 1:
        raise ValueError(f"need 0 <= skip < 1 and steps >= 1, got skip {skip} and {steps} steps")
    schedule, count = prior.schedule, len(latents)
    top = int((schedule.alpha > 0).nonzero().max())  # flow schedules end in noise alone
    grid = torch.linspace(top, 0, steps + 1).round().long()[min(steps - 1, round(steps * skip)) :]
    eps = torch.randn(latents.shape, generator=generator).to(latents)
    x = schedule.add_noise(latents, eps, grid[0].expand(count))
    both = Conditioning.cat([null.repeat(count), conditioning.repeat(count)])
    for now, after in pairwise(grid):
        t = now.expand(count)
        unguided, guided = prior.denoise(torch.cat([x, x]), t.repeat(2), both).eps.chunk(2)
        eps = mixed(guided, unguided, guidance_scale)
        clean = schedule.denoised(x, eps, t)
        x = schedule.add_noise(clean, eps, after.expand(count))
    return clean
