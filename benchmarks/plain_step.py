"""The published step of CDS and CPDS, plainly: two full passes of the network, and the loss through both halves."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from cpds.contrast import cut_loss
from cpds.guidance import AFTER, BEFORE, Guidance
from cpds.guidance_scale import GuidanceScale
from cpds.objectives.base import Branch, EditPair, Predictions
from cpds.objectives.losses import pull
from cpds.priors.base import Conditioning
from cpds.priors.hooks import Tap
from cpds.priors.unet import UNetPrior
from cpds.types import Features, Latents

NULLS = (Branch("source", "null"), Branch("target", "null"))


def plain_step(
    guidance: Guidance, source: Latents, target: Latents, step: int, generator: torch.Generator
) -> Latents:  # fmt: skip
    """The gradient at `target` in two full passes, of one image, with our draws."""
    prior: Any = guidance.prior
    pair = EditPair.draw(source, target, guidance.levels.draw(step, generator), generator)
    (weights,) = guidance.levels.weights(pair, step, None)
    live = target.clone().requires_grad_()
    with torch.no_grad():
        x_source, x_target = (pair.noised(half, prior.schedule) for half in ("source", "target"))
        order = [NULLS[0], BEFORE, NULLS[1], AFTER]
        eps, before = full_pass(guidance, order, torch.cat([x_source, x_source, x_target, x_target]), pair.t)
    x_live = replace(pair, target=live).noised("target", prior.schedule)
    _, after = full_pass(guidance, order[2:], torch.cat([x_live, x_live]), pair.t)
    predictions = Predictions(
        dict(zip(order, eps.split(1), strict=True)),
        GuidanceScale.at(guidance.config, weights.time),
        {("source", 0): x_source, ("target", 0): x_target},
        (weights,),
    )
    direction = guidance.objective.direction(pair, predictions, weights)
    before, after = ([f[1:2] for f in features] for features in (before, after))  # under the prompts
    cut = cut_loss(before, after, None, guidance.config, guidance.selectors, generator)
    (pull(live, direction) + guidance.config.w_cut * cut).backward()
    assert live.grad is not None
    return live.grad


def full_pass(
    guidance: Guidance, branches: list[Branch], x_t: Latents, t: Tensor
) -> tuple[Latents, list[Features]]:  # fmt: skip
    """The network from one end to the other; features of all samples by way of the CPU, as published."""
    prior: Any = guidance.prior
    text = Conditioning.cat([guidance.conditioning[branch.prompt] for branch in branches])
    grid = (x_t.shape[-2] // prior.patch, x_t.shape[-1] // prior.patch)
    sides: dict[Any, tuple[int, int]] = {}
    features: list[Features] = []

    def note(spatial: Any, args: tuple[Tensor, ...]) -> None:
        sides[spatial] = (args[0].shape[-2], args[0].shape[-1])

    def keep(tap: Tap, output: Any) -> None:
        tokens = output[0] if isinstance(output, tuple) else output
        rows, columns = sides.get(tap.spatial, grid)
        tokens = tokens[:, -rows * columns :] if tap.text_first else tokens[:, : rows * columns]
        features.append(tokens.float().cpu().to(x_t).transpose(1, 2).unflatten(2, (rows, columns)))

    hooks = [tap.spatial.register_forward_pre_hook(note) for tap in prior._taps if tap.spatial is not None]
    hooks += [
        tap.attention.register_forward_hook(lambda _m, _a, output, tap=tap: keep(tap, output)) for tap in prior._taps
    ]
    try:
        output = prior.predict(x_t.to(prior.net.dtype), t.repeat(len(x_t)), text)
    finally:
        for hook in hooks:
            hook.remove()
    return prior.schedule.to_epsilon(output.detach().float(), x_t.detach(), t.repeat(len(x_t))), features


@contextmanager
def unfused(prior: Any) -> Iterator[None]:
    """Attention step by step, its matrix in memory."""
    if not hasattr(prior.net, "attn_processors") or not isinstance(prior, UNetPrior):
        with sdpa_kernel(SDPBackend.MATH):
            yield
        return
    before = dict(prior.net.attn_processors)
    prior.net.set_attn_processor(AttnProcessor())
    try:
        yield
    finally:
        prior.net.set_attn_processor(before)
