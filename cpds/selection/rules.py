"""Rules that choose patches and learn nothing: by chance, from the literature, or where the prior wants no change."""

import torch

from cpds.selection.base import Cells, Indices, WithoutLearning, attention, by_chance, by_score, entropy

CALM = 0.32  # cells below this relevance stay: right of 92 % of those that stay, and not of 88 % of those that change


class RandomPatches(WithoutLearning):
    """Uniform choice without replacement, as CDS does."""

    def select(self, cells: Cells, n: int, generator: torch.Generator) -> Indices:
        return by_chance(len(cells), n, generator)


class LowEntropyPatches(WithoutLearning):
    """Patches that few others resemble: lowest entropy of their attention to all  (QS-Attn, Hu 2022).

    The published rule takes the n lowest of softmax(F F^T), F not normalized; here F has unit length, with a
    temperature, and Gumbel noise of a quarter of the entropies' standard deviation keeps variety.
    """

    NOISE = 0.25

    def select(self, cells: Cells, n: int, generator: torch.Generator) -> Indices:
        found = entropy(attention(cells.source.float()))
        scale = found.std(correction=0).clamp(min=1e-6)
        return by_score(-found / scale, n, generator, self.NOISE)


class DiscriminativePatches(WithoutLearning):
    """Half of them look least like the target: the lowest scores of 4n random ones; half by chance  (EnCo, Cai 2024).

    The published score is the discriminator's of the translated image at the patch: low where it does not look like the
    target domain. Without a discriminator the prior says so: the score is minus the relevance. The published random
    half may repeat patches of the other; here it does not.
    """

    needs_relevance = True
    OVERSAMPLING = 4

    def select(self, cells: Cells, n: int, generator: torch.Generator) -> Indices:
        half, change = min(n, len(cells)) // 2, cells.change
        drawn = by_chance(len(cells), self.OVERSAMPLING * n, generator)
        lowest = drawn[change[drawn].topk(half).indices]
        order = torch.rand(len(cells), generator=generator)
        order[lowest] = 2.0  # after all others
        rest = order.topk(min(n, len(cells)) - half, largest=False).indices
        return torch.cat([lowest, rest])


class CalmPatches(WithoutLearning):
    """By chance among those that the prior wants to leave as they are: relevance below CALM."""

    needs_relevance = True

    def select(self, cells: Cells, n: int, generator: torch.Generator) -> Indices:
        calm = (cells.change < CALM).nonzero()[:, 0]
        if len(calm) < 2:
            chosen = cells.change.topk(min(2, len(cells)), largest=False).indices
        else:
            chosen = calm[by_chance(len(calm), n, generator)]
        return chosen
