"""Capture of self-attention outputs inside a UNet's up blocks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cpds.types import Features


def self_attentions(unet: Any) -> list[tuple[Any, Any]]:
    """(spatial transformer, its `attn1`) for every self-attention of the up blocks, in the order they run."""
    pairs = []
    for block in unet.up_blocks:
        for spatial in getattr(block, "attentions", []):
            pairs += [(spatial, layer.attn1) for layer in spatial.transformer_blocks]
    return pairs


@contextmanager
def capture(pairs: list[tuple[Any, Any]]) -> Iterator[list[Features]]:
    """Collect the outputs of `attn1` (after `to_out`) as (b, d, h, w) while the block runs.

    After the last one, gradients are switched off for what remains of the forward pass: no loss of ours looks there.
    """
    features: list[Features] = []
    sides: dict[nn.Module, tuple[int, int]] = {}
    enabled = torch.is_grad_enabled()

    def note_sides(spatial: nn.Module, args: tuple[Tensor, ...]) -> None:
        sides[spatial] = (args[0].shape[-2], args[0].shape[-1])

    def keep(spatial: nn.Module, output: Tensor) -> None:
        features.append(output.transpose(1, 2).unflatten(2, sides[spatial]))
        if len(features) == len(pairs):
            torch.set_grad_enabled(False)

    handles = [s.register_forward_pre_hook(note_sides) for s in dict.fromkeys(s for s, _ in pairs)]
    for spatial, attention in pairs:

        def hook(_module: nn.Module, _args: object, output: Tensor, spatial: nn.Module = spatial) -> None:
            keep(spatial, output)

        handles.append(attention.register_forward_hook(hook))
    torch.set_grad_enabled(enabled and bool(pairs))  # without taps no loss looks at all
    try:
        yield features
    finally:
        torch.set_grad_enabled(enabled)
        for handle in handles:
            handle.remove()
