"""Capture of self-attention outputs while a network runs: of image tokens alone, laid out as images."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from cpds.types import Features

TAPS = 8  # of a transformer


class Tap(NamedTuple):
    """One self-attention, whose output (b, n, d), or the first of several, holds the image's tokens row by row.

    `spatial` is the module whose input (b, c, h, w) has the features' sides; none: they are `capture`'s grid, and the
    image's tokens come after the text's if `text_first`, else before text or padding.
    """

    attention: Any
    spatial: Any = None
    text_first: bool = False


def self_attentions(unet: Any) -> list[Tap]:
    """The last `attn1` of every spatial transformer of the up blocks, in the order they run.

    Stable Diffusion 1.x and 2.x have one layer in each, which makes all 9; SDXL, with 36 in six of them, gives 6.
    """
    spatials = [s for block in unet.up_blocks for s in getattr(block, "attentions", [])]
    return [Tap(spatial.transformer_blocks[-1].attn1, spatial) for spatial in spatials]


def middle(taps: Sequence[Tap]) -> list[Tap]:
    """At most TAPS of a transformer's blocks, evenly spaced over the middle half of its depth.

    Structure is laid down there (what comes first is near the noise, what comes last near the output), and no gradient
    has to pass the last quarter.
    """
    skip = len(taps) // 4
    inner = taps[skip : len(taps) - skip]
    count = min(TAPS, len(inner))
    return [inner[round(i * (len(inner) - 1) / max(1, count - 1))] for i in range(count)]


@contextmanager
def capture(
    taps: Sequence[Tap], grid: tuple[int, int] = (0, 0), *, samples: int | None = None, weights_move: bool = False
) -> Iterator[list[Features]]:
    """Collect the tapped outputs of the first `samples` (none: of all) as (b, d, h, w) float32 while the block runs.
    `grid`: rows and columns of the image's tokens.

    After the last one, gradients are switched off for what remains of the forward pass: no loss of ours looks there.
    `weights_move`: they leave the device after each layer (group offload); what the backward pass needs of them stays.
    """
    features: list[Features] = []
    sides: dict[nn.Module, tuple[int, int]] = {}
    enabled = torch.is_grad_enabled()

    def note_sides(spatial: nn.Module, args: tuple[Tensor, ...]) -> None:
        sides[spatial] = (args[0].shape[-2], args[0].shape[-1])

    def keep(tap: Tap) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: object, output: Any) -> None:
            tokens = output[0] if isinstance(output, tuple) else output
            rows, columns = sides[tap.spatial] if tap.spatial is not None else grid
            count = rows * columns
            tokens = tokens[:, -count:] if tap.text_first else tokens[:, :count]
            kept = tokens.transpose(1, 2).unflatten(2, (rows, columns))[:samples]
            part = len(kept) < len(tokens)  # copied, or it would hold the memory of all
            features.append(kept.to(torch.float32, copy=part))
            if len(features) == len(taps):
                torch.set_grad_enabled(False)

        return hook

    spatials = dict.fromkeys(tap.spatial for tap in taps if tap.spatial is not None)
    handles = [spatial.register_forward_pre_hook(note_sides) for spatial in spatials]
    handles += [tap.attention.register_forward_hook(keep(tap)) for tap in taps]
    torch.set_grad_enabled(enabled and bool(taps))  # without taps no loss looks at all
    try:
        with ExitStack() as stack:
            if weights_move and torch.is_grad_enabled():  # a detached tensor keeps the storage that it was made of
                stack.enter_context(saved_tensors_hooks(Tensor.detach, lambda x: x))
            yield features
    finally:
        torch.set_grad_enabled(enabled)
        for handle in handles:
            handle.remove()
