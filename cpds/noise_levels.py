"""The noise levels of an edit: which timesteps it draws, and what its objective may weigh with at each."""

import math
from dataclasses import dataclass, replace

import torch

from cpds.config import GuidanceConfig
from cpds.errors import InputError
from cpds.objectives.base import EditPair, Objective, Relevance, Weights
from cpds.relevance import changes
from cpds.schedule import NoiseSchedule
from cpds.types import Timesteps


@dataclass(frozen=True)
class NoiseLevels:
    """Of an edit of `steps` steps. Raises InputError where no timestep is left, or the objective cannot take one."""

    objective: Objective
    config: GuidanceConfig
    schedule: NoiseSchedule
    steps: int

    def __post_init__(self) -> None:
        config, objective, low, high, count = self.config, self.objective, self.low, self.high, len(self.schedule)
        if low > high:
            raise InputError(f"no timestep lies between t_min {config.t_min} and t_max {config.t_max}: widen the range")
        if (objective.posterior or objective.clean) and not bool(self.schedule.alpha[high] > 0):
            raise InputError(f"t_max {config.t_max} reaches pure noise, where {config.method} has no weights: lower it")
        offsets = self._offsets()
        if low + min(offsets) < 0 or high + max(offsets) >= count:
            raise InputError(
                f"{config.method} asks the prior at other timesteps too, from {min(objective.offsets):+g} to "
                f"{max(objective.offsets):+g} of the schedule: t_min {config.t_min} and t_max {config.t_max} "
                "leave no room for that"
            )
        if objective.posterior and low <= config.stride:
            raise InputError(
                f"stride {config.stride} reaches below timestep 1 from the lowest timestep {low}: "
                "raise t_min or lower the stride"
            )

    @property
    def low(self) -> int:
        """The lowest timestep."""
        return math.ceil(self.config.t_min * len(self.schedule))

    @property
    def high(self) -> int:
        """The highest timestep."""
        return math.floor(self.config.t_max * len(self.schedule))

    def draw(self, step: int, generator: torch.Generator) -> Timesteps:
        """One timestep for the batch."""
        return self.schedule.draw(self.config.timesteps, self.low, self.high, step, self.steps, generator)

    def moved(self, pair: EditPair) -> list[EditPair]:
        """The pair at each of the objective's noise levels."""
        return [replace(pair, t=pair.t + offset) for offset in self._offsets()]

    def weights(self, pair: EditPair, step: int, relevance: Relevance | None) -> tuple[Weights, ...]:
        """What the objective may weigh with, for each of its noise levels."""
        config, objective = self.config, self.objective
        stride = config.stride if objective.posterior else None
        shared = {
            "time": float(pair.t[0]) / len(self.schedule),
            "spacing": self._spacing(step),
            "share": 1 / self.steps,
            "coupling": objective.coupling_at(step / self.steps),
            "changes": changes(relevance).to(pair.target) if relevance is not None and config.localize else 1.0,
            "options": {**objective.options, **config.method_options},
        }
        return tuple(
            replace(Weights.at(moved.t, self.schedule, pair.target, config.w_identity, stride), **shared)
            for moved in self.moved(pair)
        )

    def _offsets(self) -> list[int]:
        return [round(offset * len(self.schedule)) for offset in self.objective.offsets]

    def _spacing(self, step: int) -> float:
        """How far the flow time falls until the next step, down to none after the last; drawn timesteps: the mean."""
        if self.config.timesteps != "descending":
            return float(self.schedule.flow_time[self.high]) / self.steps
        ends = (i for i in (step, step + 1) if i < self.steps)
        now, *after = (float(self.schedule.flow_time_at(self.draw(i, torch.Generator()))) for i in ends)
        return now - sum(after)
