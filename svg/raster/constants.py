"""What of a document depends on no number: tables that are on each device once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Constants:
    """Tables by name, copied to a device when they are first wanted there."""

    def __init__(self, **tables: Tensor) -> None:
        self._tables = tables
        self._kept: dict[tuple[torch.device, torch.dtype], Mapping[str, Tensor]] = {}

    def like(self, x: Tensor) -> Mapping[str, Tensor]:
        """All of them where `x` is; numbers with a fraction in its type."""
        place = x.device, x.dtype
        if place not in self._kept:
            self._kept[place] = {
                name: table.to(x) if table.is_floating_point() else table.to(x.device)
                for name, table in self._tables.items()
            }
        return self._kept[place]
