"""Which images of a batch are one and the same, so that a network is asked about each only once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cpds.types import Latents


@dataclass(frozen=True)
class Alike:
    """The rows of a batch that are equal: `first` (m) are the rows unlike any before, `kind` (b) says which of those
    each row is like. None of both: all differ."""

    first: Tensor | None = None
    kind: Tensor | None = None

    def count(self, batch: int) -> int:
        """How many of a batch's rows differ."""
        return batch if self.first is None else len(self.first)

    def distinct(self, rows: Tensor) -> Tensor:
        """(b, ...) -> (m, ...): what is alike only once."""
        return rows if self.first is None else rows[self.first]

    def spread(self, found: Tensor) -> Tensor:
        """(m, ...) -> (b, ...): what was found for one of those that are alike, for each of them."""
        return found if self.kind is None else found[self.kind]


DIFFERENT = Alike()  # all of them


def alike(x: Tensor, marks: Sequence[object] = ()) -> Alike:
    """The rows of `x` (b, ...) that are equal to the bit and have equal marks, if there are marks."""
    if len(x) == 1:
        return DIFFERENT
    rows = zip((row.tobytes() for row in x.detach().float().cpu().numpy()), marks or [None] * len(x), strict=True)
    found: dict[object, int] = {}
    kind = [found.setdefault(row, len(found)) for row in rows]
    if len(found) == len(x):
        return DIFFERENT
    first = [kind.index(i) for i in range(len(found))]
    return Alike(torch.tensor(first, device=x.device), torch.tensor(kind, device=x.device))


def alike_views(source: Latents, prompts: Sequence[str]) -> Alike:
    """The views that the prior sees alike, of sources with a prompt for each of some edits, one edit's after another's.

    They have the same latents, prompt and place among their edit's views, which decides their noise.
    """
    views = len(source) // len(prompts)
    if len(prompts) == 1:
        return DIFFERENT
    return alike(source, [(prompt, view) for prompt in prompts for view in range(views)])
