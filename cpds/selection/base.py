"""What a patch selector sees and offers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cpds.types import Patches

PerCell = Float[Tensor, " n"]
Indices = Int[Tensor, " m"]


@dataclass(frozen=True)
class Cells:
    """One image's patches of one size at one layer, row by row of the grid; none of it carries a gradient."""

    source: Patches
    """Unit-length features before the edit."""
    target: Patches
    """Unit-length features as they are now."""
    grid: tuple[int, int]
    """Rows and columns; n of the features is their product."""
    relevance: PerCell | None = None
    """How strongly the prior wants to change each cell, 0 to about 1: |eps(S, target) - eps(S, source)| at the unedited
    latents, over the mean of the map's top tenth; on the CPU. None where no selector needs it."""

    def __len__(self) -> int:
        return len(self.source)

    @property
    def change(self) -> PerCell:
        """`relevance`, which must be there."""
        if self.relevance is None:
            raise ValueError("there is no relevance map: a selector that reads it must say needs_relevance = True")
        return self.relevance


@runtime_checkable
class PatchSelector(Protocol):
    """Chooses patches, and may learn from what became of them."""

    needs_relevance: bool
    """Whether it reads `Cells.relevance`, which costs a few samples through the network before the first step."""

    def select(self, cells: Cells, n: int, generator: torch.Generator) -> Indices:
        """Indices of at most `n` of the cells, none twice; of two of them at least, where there are two.

        They may lie where the cells do, or on the CPU, from where those of a step are copied together.
        """
        ...

    def observe(self, cells: Cells) -> None:
        """Note one layer's patches before and after."""
        ...

    def update(self) -> Mapping[str, float]:
        """Learn from what was observed since the last update; metrics to log (may be empty)."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        ...


class OneByOne:
    """What the selectors of a batch do, one for each image, here one after the other.

    A kind that defines these itself does for many at once what each does alone, up to rounding.
    """

    @staticmethod
    def select_all(
        selectors: Sequence[Any], cells: Sequence[Cells], n: int, generators: Sequence[torch.Generator]
    ) -> list[Indices]:
        """`select` for the cells of each image, all of one layer and patch size."""
        return [one.select(seen, n, draws) for one, seen, draws in zip(selectors, cells, generators, strict=True)]

    @staticmethod
    def observe_all(selectors: Sequence[Any], cells: Sequence[Cells]) -> None:
        """`observe` for the cells of each image, all of one layer and patch size."""
        for one, seen in zip(selectors, cells, strict=True):
            one.observe(seen)

    @staticmethod
    def update_all(selectors: Sequence[Any]) -> list[Mapping[str, float]]:
        """`update` of each; no two of them are the same."""
        return [one.update() for one in selectors]


def jointly(selectors: Sequence[PatchSelector]) -> type[OneByOne]:
    """What does for all of them at once what each does: their own kind, if all are of one that can."""
    kind: type = type(selectors[0])
    if any(type(one) is not kind for one in selectors) or "select_all" not in vars(kind):
        return OneByOne  # nor does a subclass that may choose in another way
    return kind


class WithoutLearning:
    """What selectors share that learn nothing from an edit."""

    needs_relevance = False

    def observe(self, cells: Cells) -> None:
        pass

    def update(self) -> Mapping[str, float]:
        return {}

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        pass


def by_chance(cells: int, n: int, generator: torch.Generator) -> Indices:
    """At most `n` of `cells` indices, uniformly without replacement; on the CPU."""
    return torch.randperm(cells, generator=generator)[:n]


def by_score(scores: PerCell, n: int, generator: torch.Generator, noise: float = 1.0) -> Indices:
    """At most `n` indices of high scores, with variety: the top n of score + noise x Gumbel noise.

    That is a draw without replacement from softmax(scores / noise)  (Kool 2019). A plain top n picks look-alikes.
    """
    uniform = torch.rand(len(scores), generator=generator)
    gumbel = -(-uniform.log()).log()
    return (scores + noise * gumbel.to(scores)).topk(min(n, len(scores))).indices


def attention(source: Patches, temperature: float = 0.07) -> Float[Tensor, "n n"]:
    """Softmax over all cells of their similarity to each cell: F F^T / temperature, row by row."""
    return (source @ source.T / temperature).softmax(-1)


def entropy(attention: Float[Tensor, "*b n n"]) -> Float[Tensor, "*b n"]:
    """Of each row of `attention`, in nats."""
    return torch.special.entr(attention).sum(-1)
