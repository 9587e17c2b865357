"""The parameters found while a document is read: one for each element and property, however often it is drawn."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from svg.model import GroupName, Parameter
from svg.parse.xml import Tree

Numbers = np.ndarray | float | Sequence[float]


class ParameterTable:
    """Collects parameters by key; numbers that differ from drawing to drawing become constants."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.parameters: dict[str, Parameter] = {}
        self.scales: dict[str, float] = {}  # page px for a unit of the parameter, at most
        self.partners: dict[str, set[str]] = defaultdict(set)  # a color with alpha and the opacities that hold it
        self._conflicting: set[str] = set()
        self._copies: dict[tuple[str, bytes], str] = {}
        self._free = 0

    def add(self, owner: Any, name: str, value: Numbers, group: GroupName | None, scale: float = 1.0) -> str:
        """Note a parameter and return its key; `group` None if the drawing at hand cannot edit it."""
        key = f"{self.tree.path[owner]}:{name}"
        array = np.array(value, dtype=np.float64)
        old = self.parameters.get(key)
        if old is None:
            self.parameters[key] = Parameter(key, array, owner, name, group)
        elif array.shape != old.value.shape or not np.array_equal(array, old.value):
            # one number in the file, several in the drawing (percentages, currentColor): nobody may change it
            self.freeze(key)
            return self._copy(key, array, owner, name)
        elif old.group is None and group is not None and key not in self._conflicting:
            self.parameters[key] = replace(old, group=group)
        self.scales[key] = max(self.scales.get(key, 0.0), scale)
        return key

    def freeze(self, key: str) -> None:
        """Make a parameter a constant for good."""
        self.parameters[key] = replace(self.parameters[key], group=None)
        self._conflicting.add(key)

    def freeze_owned_by(self, elements: Collection[Any]) -> None:
        """Make every parameter of these elements a constant."""
        for key in [key for key, parameter in self.parameters.items() if parameter.owner in elements]:
            self.freeze(key)

    def link(self, color: str, opacity: str) -> None:
        """Say that a color's alpha is part of an opacity: either is only written together with the other."""
        self.partners[color].add(opacity)
        self.partners[opacity].add(color)

    def used(self, keys: Collection[str]) -> dict[str, Parameter]:
        """The parameters with these keys, those that the drawing uses; partners of a constant become constants."""
        constants = [key for key in self.partners if self.parameters[key].group is None or key not in keys]
        while constants:
            for partner in self.partners[constants.pop()]:
                if self.parameters[partner].group is not None:
                    self.parameters[partner] = replace(self.parameters[partner], group=None)
                    constants.append(partner)
        return {key: parameter for key, parameter in self.parameters.items() if key in keys}

    def _copy(self, key: str, array: np.ndarray, owner: Any, name: str) -> str:
        """The key of another value of a parameter, a constant."""
        place = (key, array.tobytes())
        if place not in self._copies:
            self._free += 1
            self._copies[place] = f"{key}#{self._free}"
            self.parameters[self._copies[place]] = Parameter(self._copies[place], array, owner, name, None)
        return self._copies[place]
