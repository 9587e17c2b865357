"""All numbers of a document in one tensor: of thousands of shapes they are gathered at once, and so are gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


class Layout:
    """Where in a flat tensor the numbers of each key begin, and their shape.

    Those that are not `moving` (None: all are) have the same numbers in all Numbers of this layout.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], moving: Iterable[str] | None = None) -> None:
        self.moving = frozenset(shapes if moving is None else moving)
        self.places: dict[str, tuple[int, tuple[int, ...]]] = {}
        self.size = 0
        for key, shape in shapes.items():
            self.places[key] = self.size, shape
            self.size += prod(shape)

    def index(self, keys: Iterable[str]) -> Tensor:
        """Where all numbers of these keys stand, one key after the other."""
        parts = [np.arange(at, at + prod(shape)) for at, shape in map(self.places.__getitem__, keys)]
        return torch.from_numpy(np.concatenate(parts)) if parts else torch.zeros(0, dtype=torch.long)


class Numbers(Mapping[str, Tensor]):
    """A tensor for each key, all of them views into `flat`; those that do not move have no gradient."""

    def __init__(self, flat: Float[Tensor, " n"], layout: Layout) -> None:
        self.flat, self.layout = flat, layout

    def __getitem__(self, key: str) -> Tensor:
        at, shape = self.layout.places[key]
        flat = self.flat if key in self.layout.moving else self.flat.detach()
        return flat[at : at + prod(shape)].view(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout.places)

    def __len__(self) -> int:
        return len(self.layout.places)


class Keys:
    """Keys whose numbers are wanted together, again and again."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = list(keys)
        self._known: tuple[Layout, torch.device, Tensor] | None = None
        self._moving: tuple[Layout, bool] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def of(self, values: Mapping[str, Tensor]) -> Float[Tensor, " n"]:
        """All of their numbers, one key after the other."""
        if not isinstance(values, Numbers):
            return torch.cat([values[key].flatten() for key in self.keys])
        layout, flat = values.layout, values.flat.detach() if self.still(values) else values.flat
        if self._known is None or self._known[:2] != (layout, flat.device):
            self._known = layout, flat.device, layout.index(self.keys).to(flat.device)
        return flat.index_select(0, self._known[2])

    def still(self, values: Mapping[str, Tensor]) -> bool:
        """Whether none of them moves."""
        if not isinstance(values, Numbers):
            return False
        layout = values.layout
        if self._moving is None or self._moving[0] is not layout:
            self._moving = layout, not layout.moving.isdisjoint(self.keys)
        return not self._moving[1]
