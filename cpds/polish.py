"""The last touch of an edited image: denoised once more from a low noise level, where the edit has changed it."""

from typing import Any

import torch
from torch.nn.functional import max_pool2d

from cpds.errors import InputError
from cpds.guidance_scale import GuidanceScale
from cpds.objectives.base import Relevance
from cpds.relevance import changes
from cpds.representation import Representation, WritableLatents
from cpds.sdedit import ddim, descending, noisiest
from cpds.state import EditState
from cpds.types import Latents

STEP = 0.05  # of the schedule's length, between two denoising steps
CHANGED = 0.3  # root mean square over channels from which on a cell of the latents is wholly taken


def require_latents(representation: Representation[Any]) -> None:
    """InputError for what is not edited as latents."""
    if not isinstance(representation, WritableLatents):
        raise InputError(
            f"polish is for what is edited as latents, which {type(representation).__name__} is not: leave it at 0"
        )


@torch.no_grad()
def polish(state: EditState) -> None:
    """SDEdit (Meng 2022) of the edited latents from the noise level `config.polish`, if any, under the target's prompt.

    Guidance is that of the edit at each time. Cells are taken in proportion to how far they, or their neighbours, have
    moved, and to how much the edit belongs there, where that is known: what the edit left alone stays as it is. Every
    edit of several sees the noise that it sees alone.
    """
    shown, guidance, config = state.representation, state.guidance, state.config
    if not config.polish or state.unpolished or not isinstance(shown, WritableLatents):
        return
    state.unpolished = {name: x.clone() for name, x in state.tensors().items() if name.startswith("param.")}
    view = shown.sample_view(state.step, torch.Generator())
    edited, source = shown.latents(view), shown.source_latents(view)
    schedule, count = state.prior.schedule, len(edited)
    start = min(round(config.polish * len(schedule)), noisiest(schedule))
    grid = descending(start, max(1, round(config.polish / STEP)))
    noise = torch.randn(1, *edited.shape[1:], generator=torch.Generator().manual_seed(config.seed))
    noisy = schedule.add_noise(edited, noise.to(edited).expand_as(edited), grid[0].expand(count))
    prompts = guidance.conditioning["target"].repeat(count), guidance.conditioning["null"]
    denoised = ddim(state.prior, noisy, grid, *prompts, lambda time: GuidanceScale.at(config.guidance, time).target)
    share = changed(source, edited)
    if (relevance := guidance.relevance(source)) is not None:
        share = share * changes(relevance).to(share)
    shown.set_latents(edited + share * (denoised - edited))


def changed(source: Latents, edited: Latents) -> Relevance:
    """(b, 1, h, w), 0 to 1: how far the cells or their neighbours have moved, 1 from CHANGED on."""
    moved = (edited - source).square().mean(1, keepdim=True).sqrt()
    return (max_pool2d(moved, 3, 1, 1) / CHANGED).clamp(max=1)
