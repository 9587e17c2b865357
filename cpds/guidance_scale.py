"""Classifier-free guidance: how strong it is at a timestep, and how two predictions are mixed."""

from bisect import bisect_right
from dataclasses import dataclass

from torch import Tensor

from cpds.config import GuidanceConfig
from cpds.types import Latents


@dataclass(frozen=True)
class GuidanceScale:
    """The weights omega of one step, for each half of a pair, and how what they give is normalized."""

    target: float
    source: float
    parallel: float = 1.0
    rescale: float = 0.0

    @classmethod
    def at(cls, config: GuidanceConfig, time: float) -> "GuidanceScale":
        """The weights at `time`, a fraction of the schedule's length."""
        source = config.guidance_scale if config.source_guidance_scale is None else config.source_guidance_scale
        at_target, at_source = (scheduled(config, omega, time) for omega in (config.guidance_scale, source))
        return cls(at_target, at_source, config.guidance_parallel, config.guidance_rescale)

    def mix(self, omega: float, cond: Latents, uncond: Latents, x_t: Latents, sigma: Tensor) -> Latents:
        """eps_uncond + omega (eps_cond - eps_uncond)  (Ho & Salimans 2021), normalized if asked for.

        Of the difference's part along the latents that `cond` leaves clean only the share `parallel` stays (Sadat
        2024, adaptive projected guidance, without its momentum and threshold); `rescale` of the way the result gets
        the standard deviation of `cond` (Lin 2023, Eq. 15 and 16).
        """
        if self.parallel == 1 and not self.rescale:
            return mixed(cond, uncond, omega)
        difference, clean = cond - uncond, x_t - sigma * cond
        along = (difference * clean).sum((1, 2, 3), keepdim=True) / _power(clean) * clean
        guided = cond + (omega - 1) * (difference - (1 - self.parallel) * along)
        return guided * (1 + self.rescale * (_std(cond) / _std(guided) - 1))


def scheduled(config: GuidanceConfig, omega: float, time: float) -> float:
    """The weight omega as the schedule has it at `time`. 1 is no guidance."""
    if config.guidance_schedule == "rising":
        return 1 + (omega - 1) * 2 * time
    if config.guidance_schedule == "interval":
        low, high = config.guidance_interval
        return omega if low <= time <= high else 1.0
    if config.guidance_schedule == "table":
        return omega * interpolated(config.guidance_table, time)
    return omega


def interpolated(table: tuple[tuple[float, float], ...], time: float) -> float:
    """The value at `time` on the straight lines through (time, value), which are in order and reach past it."""
    i = min(max(1, bisect_right([t for t, _ in table], time)), len(table) - 1)
    (t0, a), (t1, b) = table[i - 1], table[i]
    return a + (b - a) * (time - t0) / (t1 - t0)


def mixed(cond: Latents, uncond: Latents, omega: float) -> Latents:
    """eps_uncond + omega (eps_cond - eps_uncond)  (Ho & Salimans 2021)."""
    return uncond + omega * (cond - uncond)


def _power(x: Latents) -> Tensor:
    return x.square().sum((1, 2, 3), keepdim=True).clamp(min=1e-30)


def _std(x: Latents) -> Tensor:
    return x.std((1, 2, 3), keepdim=True).clamp(min=1e-30)
