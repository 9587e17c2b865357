"""Guidance by the prompt: how strong it is at a timestep, and how two predictions are mixed.

What a prior takes (`Prior.guidance`) decides: classifier-free guidance mixes predictions here; embedded guidance goes
into the network with the prompt, and what is mixed here is true guidance on top of it, if any is asked for.
"""

from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from torch import Tensor

from cpds.config import GuidanceConfig
from cpds.errors import InputError
from cpds.priors.base import Prior
from cpds.types import Latents

Config = TypeVar("Config", bound=GuidanceConfig)
Default = TypeVar("Default", bound=float | None)
# where guidance is not mixed here, by its kind: FlowEdit's for FLUX.1 dev (Kulikov 2024), and none
OWN_SCALES = {"embedded": {"target": 5.5, "source": 1.5}, "none": {"target": 1.0, "source": 1.0}}


@dataclass(frozen=True)
class GuidanceScale:
    """The weights omega of one step, for each half of a pair, and how what they give is normalized."""

    target: float
    source: float
    parallel: float = 1.0
    rescale: float = 0.0

    @classmethod
    def at(cls, config: GuidanceConfig, time: float) -> "GuidanceScale":
        """The weights at `time`, a fraction of the schedule's length, of settled settings."""
        target, source = config.guidance_scale, config.source_guidance_scale
        assert target is not None  # `settled`
        at_target, at_source = (scheduled(config, x, time) for x in (target, target if source is None else source))
        return cls(at_target, at_source, config.guidance_parallel, config.guidance_rescale)

    @classmethod
    def mixing(cls, config: GuidanceConfig, prior: Prior, time: float) -> "GuidanceScale":
        """What the predictions of `prior` are mixed with at `time`: true guidance unless classifier-free is its own."""
        if prior.guidance == "classifier-free":
            return cls.at(config, time)
        omega = config.true_guidance_scale
        return cls(omega, omega, config.guidance_parallel, config.guidance_rescale)

    def omega(self, half: Literal["source", "target"]) -> float:
        """A half's weight; 1 is no guidance."""
        return self.target if half == "target" else self.source

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


def chosen_scale(
    prior: Prior, half: Literal["source", "target"], given: float | None, default: Default
) -> float | Default:
    """A half's guidance: what is given, else `default` where it is classifier-free, else what its kind has."""
    return OWN_SCALES.get(prior.guidance, {}).get(half, default) if given is None else given


def settled(config: Config, prior: Prior) -> Config:
    """The same settings with those of guidance that were not given, by the prior's kind of guidance."""
    target, source = config.default_guidance
    schedule = config.default_schedule if prior.guidance == "classifier-free" else "constant"
    return replace(
        config,
        guidance_scale=chosen_scale(prior, "target", config.guidance_scale, target),
        source_guidance_scale=chosen_scale(prior, "source", config.source_guidance_scale, source),
        guidance_schedule=config.guidance_schedule or schedule,
    )


def guidance_note(config: GuidanceConfig, prior: Prior) -> str | None:
    """What a user should know of guidance that was not given, where the prior's kind decides it."""
    chosen = settled(config, prior)
    if prior.guidance == "classifier-free" or chosen == config:
        return None
    why = {"embedded": "whose network takes guidance as an input", "none": "of few steps"}[prior.guidance]
    names = ("guidance_scale", "source_guidance_scale", "guidance_schedule")
    return f"{', '.join(f'{name} {getattr(chosen, name)}' for name in names)}, for a prior {why}"


def require_scales(prior: Prior, *scales: float | None) -> None:
    """InputError for weights of guidance, None where none is given, that `prior` cannot follow."""
    given = {scale for scale in scales if scale is not None}
    if prior.guidance == "none" and given - {1.0}:
        raise InputError(
            f"prior {prior.fingerprint} was distilled to few steps and takes no guidance: set guidance_scale (and "
            f"source_guidance_scale) to 1, not {', '.join(f'{s:g}' for s in sorted(given))}"
        )


def require_guidance(prior: Prior, config: GuidanceConfig) -> None:
    """InputError for settings of guidance that `prior` cannot follow."""
    require_scales(prior, config.guidance_scale, config.source_guidance_scale)
    if prior.guidance != "embedded" and config.true_guidance_scale != 1:
        raise InputError(
            "true_guidance_scale is for priors that take guidance as an input, as FLUX.1 dev does, and this "
            "one does not: leave it at 1 and set guidance_scale"
        )
    require_negative_prompt(prior, config.negative_prompt, config.true_guidance_scale)


def require_negative_prompt(prior: Prior, negative_prompt: str, true_guidance_scale: float | None = None) -> None:
    """InputError for one that `prior` would not read; `true_guidance_scale` is None where there is no such setting."""
    if prior.guidance != "classifier-free" and true_guidance_scale in (None, 1) and negative_prompt:
        could = prior.guidance == "embedded" and true_guidance_scale == 1
        also = "set true_guidance_scale above 1 too, or " if could else ""
        raise InputError(
            f"negative_prompt {negative_prompt!r} would not be read, as prior {prior.fingerprint} is not guided "
            f"away from anything: {also}leave it out"
        )


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
    """The value at `time` on the straight lines through (time, value), which are in order; the end's beyond an end."""
    i = min(max(1, bisect_right([t for t, _ in table], time)), len(table) - 1)
    (t0, a), (t1, b) = table[i - 1], table[i]
    return a + (b - a) * min(max(0.0, (time - t0) / (t1 - t0)), 1.0)


def mixed(cond: Latents, uncond: Latents, omega: float) -> Latents:
    """eps_uncond + omega (eps_cond - eps_uncond)  (Ho & Salimans 2021)."""
    return uncond + omega * (cond - uncond)


def _power(x: Latents) -> Tensor:
    return x.square().sum((1, 2, 3), keepdim=True).clamp(min=1e-30)


def _std(x: Latents) -> Tensor:
    return x.std((1, 2, 3), keepdim=True).clamp(min=1e-30)
