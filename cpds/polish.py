"""The last touch of an edited image: denoised once more from a low noise level, where the edit has changed it."""

from typing import Any

import torch
from torch.nn.functional import max_pool2d

from cpds.errors import InputError
from cpds.objectives.base import Relevance
from cpds.relevance import changes
from cpds.representation import MovableLatents, Representation
from cpds.sdedit import ddim, descending, noisiest
from cpds.state import EditState
from cpds.types import Images, Latents

STEP = 0.05  # of the schedule's length, between two denoising steps
PROPOSAL = 0.5  # noise level of what the prior proposes: new shapes, the old ones where they are
CHANGED = 0.3  # root mean square over channels from which on a cell of the latents is wholly taken


def require_latents(representation: Representation[Any]) -> None:
    """InputError for what is not edited as latents."""
    if not isinstance(representation, MovableLatents):
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
    if not config.polish or state.unpolished or not isinstance(shown, MovableLatents):
        return
    state.unpolished = {name: x.clone() for name, x in state.tensors().items() if name.startswith("param.")}
    view = shown.sample_view(state.step, torch.Generator())
    edited, source = shown.latents(view), shown.source_latents(view)
    denoised = redrawn(state, edited, config.polish, config.seed)
    share = changed(source, edited)
    if (relevance := guidance.relevance(source)) is not None:
        share = share * changes(relevance).to(share)
    shown.move_latents(share * (denoised - edited))


@torch.no_grad()
def proposed(state: EditState, view: Any) -> Images:
    """The view as the prior would rather see it: SDEdit from the noise level PROPOSAL; its noise is the step's own."""
    seed = state.config.seed * 1_000_003 + state.step
    return state.prior.decode(redrawn(state, state.rendered.latents(view), PROPOSAL, seed % 2**63))


def redrawn(state: EditState, latents: Latents, level: float, seed: int) -> Latents:
    """`latents` noised to a level, a fraction of the schedule, and denoised under the target's prompt."""
    guidance = state.guidance
    schedule, count = state.prior.schedule, len(latents)
    start = min(round(level * len(schedule)), noisiest(schedule))
    grid = descending(start, max(1, round(level / STEP)))
    noise = torch.randn(1, *latents.shape[1:], generator=torch.Generator().manual_seed(seed))
    noisy = schedule.add_noise(latents, noise.to(latents).expand_as(latents), grid[0].expand(count))
    prompts = guidance.conditioning["target"].repeat(count), guidance.conditioning["null"]
    return ddim(state.prior, noisy, grid, *prompts, guidance.config)


def changed(source: Latents, edited: Latents) -> Relevance:
    """(b, 1, h, w), 0 to 1: how far the cells or their neighbours have moved, 1 from CHANGED on."""
    moved = (edited - source).square().mean(1, keepdim=True).sqrt()
    return (max_pool2d(moved, 3, 1, 1) / CHANGED).clamp(max=1)
