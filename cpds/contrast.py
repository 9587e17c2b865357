"""Contrastive structure loss on self-attention features (PatchNCE of CUT, Park 2020; on a UNet in CDS, Nam 2024)."""

from collections.abc import Sequence

import torch
from torch.nn.functional import avg_pool2d, cross_entropy, normalize

from cpds.errors import InputError
from cpds.selectors import PatchSelector
from cpds.types import Features, Patches, Scalar


def patches(features: Features, size: int) -> list[Patches]:
    """Unit-length patch features of each image: the mean over size x size cells, row by row."""
    cells = avg_pool2d(features, size) if size > 1 else features
    return list(normalize(cells.flatten(2).transpose(1, 2), dim=-1))


def patch_nce(source: Patches, target: Patches, temperature: float) -> Scalar:
    """InfoNCE (van den Oord 2018): row i's positive is <src_i, tgt_i>, its negatives the other <src_i, tgt_j>."""
    logits = source @ target.T / temperature
    return cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def cut_loss(
    source: Sequence[Features],
    target: Sequence[Features],
    *,
    sizes: Sequence[int],
    n_patches: int,
    temperature: float,
    selector: PatchSelector,
    generator: torch.Generator,
) -> Scalar:
    """PatchNCE on the patches that `selector` picks; a mean over patches, summed over layers, patch sizes and images.

    Images of a batch are thus edited independently of each other, as they are by `pull`. Layers smaller than a patch
    are skipped. Gradients reach `target` alone.
    """
    if max(min(f.shape[-2:]) for f in source) < min(sizes):
        raise InputError(f"patch_size {tuple(sizes)} is larger than every feature map: take smaller patches")
    total = target[0].new_zeros(())
    for before, after in zip(source, target, strict=True):
        for size in sizes:
            if min(before.shape[-2:]) < size:
                continue
            for src, tgt in zip(patches(before.detach(), size), patches(after, size), strict=True):
                chosen = selector.select(src, n_patches, generator)
                selector.observe(src, tgt.detach())
                total = total + patch_nce(src[chosen], tgt[chosen], temperature)
    return total
