"""Contrastive structure loss on self-attention features (PatchNCE of CUT, Park 2020; on a UNet in CDS, Nam 2024)."""

import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, cross_entropy, kl_div, normalize

from cpds.config import GuidanceConfig
from cpds.errors import InputError
from cpds.selection.base import Cells, PatchSelector, jointly
from cpds.types import Features, Patches, Scalar

Square = Float[Tensor, "n n"]
Chosen = Float[Tensor, "_n d"]  # of one image


def pooled(features: Features, size: int) -> Features:
    """Means over size x size cells; what does not fill a cell is left out."""
    return avg_pool2d(features, size) if size > 1 else features


def patches(features: Features, size: int) -> list[Patches]:
    """Unit-length patch features of each image: the mean over size x size cells, row by row."""
    return list(normalize(pooled(features, size).flatten(2).transpose(1, 2), dim=-1))


def patch_nce(source: Patches, target: Patches, temperature: float) -> Scalar:
    """InfoNCE (van den Oord 2018): row i's positive is <src_i, tgt_i>, its negatives the other <src_i, tgt_j>."""
    logits = source @ target.T / temperature
    return cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def hdce(source: Patches, target: Patches, temperature: float, hardness: float = 1.0, relation: float = 0.5) -> Scalar:
    """Hard-negative decoupled InfoNCE and semantic relation consistency (Jung 2022): mean_i L_i + relation x SRC.

    L_i = -log(exp(s_ii) / sum_{j != i} w_ij exp(s_ij)), s = src tgt^T / temperature: the positive is no part of the
    sum. Negatives weigh as if drawn from a von Mises-Fisher distribution around src_i: w_ij is exp(hardness
    <src_i, src_j>) over its mean over j != i. (The published code multiplies s by such weights, at a hardness of 1/50
    to 1/10.) `relation` is SRC's published weight for horse to zebra, relative to the other. Needs two patches.
    """
    logits = source @ target.T / temperature
    diagonal = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    hard = (hardness * source @ source.T).masked_fill(diagonal, -torch.inf).log_softmax(1) + math.log(len(logits) - 1)
    loss = (logits + hard.detach()).logsumexp(1) - logits.diagonal()
    return loss.mean() + relation * relation_consistency(source, target)


def relation_consistency(source: Patches, target: Patches) -> Scalar:
    """SRC (Jung 2022): sum_i JSD(P_i, Q_i), P = softmax(src src^T), Q = softmax(tgt tgt^T), in nats."""
    p, q = ((x @ x.T).log_softmax(1) for x in (source, target))
    m = torch.logaddexp(p, q) - math.log(2)
    return (kl_div(m, p, reduction="sum", log_target=True) + kl_div(m, q, reduction="sum", log_target=True)) / 2


def monce(source: Patches, target: Patches, temperature: float, eps: float = 1.0) -> Scalar:
    """InfoNCE with negatives weighted by optimal transport (MoNCE, Zhan 2022): the more, the likelier each is taken.

    L_i = -log(exp(s_ii) / (exp(s_ii) + (n - 1) sum_{j != i} w_ij exp(s_ij))), s = src tgt^T / temperature, and w is the
    plan of `transport` for src tgt^T: the published hard weighting, with its eps. Weights carry no gradient. Needs two
    patches.
    """
    similarity = source @ target.T
    diagonal = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    weights = ((len(similarity) - 1) * transport(similarity.detach(), eps)).masked_fill(diagonal, 1)
    logits = similarity / temperature + weights.log()
    return cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def transport(similarity: Square, eps: float, iterations: int = 50) -> Square:
    """Entropic transport plan that favours what is alike, nothing to oneself; rows and columns sum to 1 (Sinkhorn)."""
    diagonal = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    kernel = (similarity / eps).exp().masked_fill(diagonal, 0)
    v = torch.ones_like(kernel[0])
    for _ in range(iterations):
        u = 1 / (kernel @ v)
        v = 1 / (kernel.T @ u)
    return u[:, None] * kernel * v  # pyright: ignore[reportPossiblyUnbound]


LOSSES = {"infonce": patch_nce, "hdce": hdce, "monce": monce}


def cells(
    source: Features, target: Features, relevance: Float[Tensor, "b 1 H W"] | None, size: int
) -> Iterator[tuple[Cells, Patches]]:
    """What a selector sees of each image at one layer, and the target's patches with their gradient."""
    sides = source.shape[-2], source.shape[-1]
    grid = sides[0] // size, sides[1] // size
    maps = [None] * len(source)
    if relevance is not None:
        maps = list(pooled(adaptive_avg_pool2d(relevance, sides), size).flatten(1))
    for src, tgt, change in zip(patches(source.detach(), size), patches(target, size), maps, strict=True):
        yield Cells(src, tgt.detach(), grid, change), tgt


def patch_count(cells: int, config: GuidanceConfig) -> int:
    """How many of the cells are chosen: their share, at least two and at most n_patches."""
    return min(config.n_patches, max(2, round(config.patch_share * cells)))


def cut_loss(
    source: Sequence[Features],
    target: Sequence[Features],
    relevance: Float[Tensor, "b 1 H W"] | None,
    config: GuidanceConfig,
    selectors: Sequence[PatchSelector],
    generator: torch.Generator,
) -> Scalar:
    """The contrastive loss on the patches that are selected; summed over layers, patch sizes and images.

    The images are the views of as many edits as there are `selectors`, one edit's after another's; each edit draws its
    patches from a copy of `generator`, as if it were alone. So images of a batch are edited independently of each
    other, as they are by `pull`. Layers smaller than a patch are skipped. `relevance` is that of the images' latents,
    if a selector needs it. Gradients reach `target` alone.
    """
    if max(min(f.shape[-2:]) for f in source) < min(config.patch_size):
        raise InputError(f"patch_size {config.patch_size} is larger than every feature map: take smaller patches")
    views = len(source[0]) // len(selectors)
    each = [selector for selector in selectors for _ in range(views)]
    draws = [own for own in (generator.clone_state() for _ in selectors) for _ in range(views)]
    batch = jointly(selectors)
    groups, picked = list[list[tuple[Patches, Patches]]](), list[Tensor]()
    for before, after in zip(source, target, strict=True):
        for size in config.patch_size:
            if min(before.shape[-2:]) < size:
                continue
            seen, moved = zip(*cells(before, after, relevance, size), strict=True)
            picked += batch.select_all(each, seen, patch_count(len(seen[0]), config), draws)
            batch.observe_all(each, seen)
            groups.append([(one.source, tgt) for one, tgt in zip(seen, moved, strict=True)])
    total = target[0].new_zeros(())
    chosen = iter(together(picked, total.device))
    for group in groups:
        total = total + summed_loss([(src[i], tgt[i]) for (src, tgt), i in zip(group, chosen, strict=False)], config)
    return total


def summed_loss(pairs: Sequence[tuple[Chosen, Chosen]], config: GuidanceConfig) -> Scalar:
    """The sum of the images' losses; those of one kind and size as one, as many small products take long."""
    alike: dict[int, list[tuple[Chosen, Chosen]]] = {}
    for pair in pairs:
        alike.setdefault(len(pair[0]), []).append(pair)
    losses = []
    for n, some in alike.items():
        # of one patch, InfoNCE is 0 and the others are not defined
        loss = LOSSES[config.patch_loss] if n > 1 else patch_nce
        if loss is patch_nce and len(some) > 1:
            source, target = (torch.stack(each) for each in zip(*some, strict=True))
            logits = (source @ target.mT / config.temperature).flatten(0, 1)
            right = torch.arange(n, device=logits.device).repeat(len(some))
            losses.append(cross_entropy(logits, right, reduction="sum") / n)
        else:
            losses += [loss(source, target, config.temperature) for source, target in some]
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum()


def together(picked: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Indices (of any number each) on `device`, in one copy for all that are elsewhere."""
    away = [i for i, chosen in enumerate(picked) if chosen.device != device]
    found = list(picked)
    if away:
        moved = torch.cat([picked[i] for i in away]).to(device).split([len(picked[i]) for i in away])
        for i, chosen in zip(away, moved, strict=True):
            found[i] = chosen
    return found
