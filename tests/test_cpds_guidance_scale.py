"""Guidance over time, and how predictions are mixed."""

from typing import Any

import pytest
import torch
from conftest import randn

from cpds.config import GuidanceConfig
from cpds.errors import InputError
from cpds.guidance_scale import GuidanceScale, interpolated, mixed, scheduled

SIGMA = torch.full((2, 1, 1, 1), 0.8)
COND, UNCOND, X_T = (randn(seed, 2, 4, 3, 5) for seed in range(3))
TABLE = ((0.0, 0.5), (0.4, 1.0), (1.0, 4.0))


@pytest.mark.parametrize(
    ("settings", "time", "omega"),
    [
        ({}, 0.1, 7.0),
        ({"guidance_schedule": "rising"}, 0.05, 1.6),  # 1 + 6 * 0.1
        ({"guidance_schedule": "rising"}, 0.5, 7.0),
        ({"guidance_schedule": "rising"}, 0.95, 12.4),
        ({"guidance_schedule": "interval"}, 0.24, 1.0),  # no guidance outside
        ({"guidance_schedule": "interval"}, 0.25, 7.0),
        ({"guidance_schedule": "interval", "guidance_interval": (0.1, 0.2)}, 0.5, 1.0),
        ({"guidance_schedule": "table", "guidance_table": TABLE}, 0.2, 7 * 0.75),
        ({"guidance_schedule": "table", "guidance_table": TABLE}, 0.7, 7 * 2.5),
    ],
)
def test_scale_over_time(settings: dict[str, Any], time: float, omega: float) -> None:
    config = GuidanceConfig(guidance_scale=7.0, **settings)
    assert scheduled(config, 7.0, time) == pytest.approx(omega)
    both = GuidanceScale.at(config, time)
    assert both.source == both.target == pytest.approx(omega)


def test_the_sources_own_scale_follows_the_same_schedule() -> None:
    config = GuidanceConfig(guidance_scale=7.0, source_guidance_scale=3.0, guidance_schedule="rising")
    assert GuidanceScale.at(config, 0.25) == GuidanceScale(target=4.0, source=2.0)


@pytest.mark.parametrize("table", [TABLE, ((0.4, 0.1), (0.95, 2.0))])
@pytest.mark.parametrize("time", [0.0, 0.1, 0.4, 0.400001, 0.9, 1.0])
def test_tables_are_straight_lines_and_level_beyond_their_ends(
    table: tuple[tuple[float, float], ...], time: float
) -> None:
    from numpy import interp

    assert interpolated(table, time) == pytest.approx(interp(time, *zip(*table, strict=True)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance_table": ()}, "needs two or more pairs of a time and a factor"),
        ({"guidance_table": ((0.0, 1.0), (0.0, 2.0))}, "times rising"),
        ({"guidance_table": ((0.1, 1.0), (1.0, 2.0))}, "reaches from 0.1 to 1.0, but t_min is 0.05 and t_max 0.95"),
        ({"guidance_table": ((0.0, 1.0), (0.9, 2.0))}, "add pairs for the rest"),
        ({"guidance_table": ((0.0, 1.0), (1.0, -2.0))}, "factors must be >= 0"),
    ],
)
def test_tables_that_cannot_be_used(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GuidanceConfig(guidance_schedule="table", **settings)
    GuidanceConfig(**settings)  # it is not read then


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance_interval": (0.7, 0.3)}, "two times in 0 ... 1, in order, got 0.7 0.3"),
        ({"guidance_interval": (0.7, 1.3)}, "got 0.7 1.3"),
        ({"guidance_parallel": 1.5}, "guidance_parallel must be in 0 ... 1, got 1.5"),
        ({"guidance_rescale": -0.1}, "guidance_rescale must be in 0 ... 1, got -0.1"),
        ({"source_guidance_scale": -1.0}, "source_guidance_scale must be >= 0"),
        ({"method_options": {"zeta": float("nan")}}, "method_options zeta must be finite"),
        ({"min_direction": -1.0}, "min_direction must be >= 0"),
    ],
)
def test_numbers_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GuidanceConfig(**settings)


def test_projection_leaves_of_guidance_what_is_orthogonal_to_the_clean_latents() -> None:
    clean = X_T - SIGMA * COND
    for parallel in (0.0, 0.3, 0.999999):
        guided = GuidanceScale(7.0, 7.0, parallel=parallel).mix(7.0, COND, UNCOND, X_T, SIGMA)
        added, difference = guided - COND, 6 * (COND - UNCOND)
        for one, whole, axis in zip(added, difference, clean, strict=True):
            unit = axis / axis.norm()
            torch.testing.assert_close((one * unit).sum(), parallel * (whole * unit).sum(), rtol=1e-4, atol=1e-3)
            across = one - (one * unit).sum() * unit
            torch.testing.assert_close(across, whole - (whole * unit).sum() * unit, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(guided, mixed(COND, UNCOND, 7.0), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_rescaling_brings_back_the_conditional_spread(share: float) -> None:
    plain = mixed(COND, UNCOND, 7.0)
    found = GuidanceScale(7.0, 7.0, rescale=share).mix(7.0, COND, UNCOND, X_T, SIGMA)
    for one, was, cond in zip(found, plain, COND, strict=True):
        torch.testing.assert_close(one.std(), share * cond.std() + (1 - share) * was.std())
        torch.testing.assert_close(one / one.std(), was / was.std())


def test_without_guidance_nothing_is_normalized() -> None:
    found = GuidanceScale(1.0, 1.0, parallel=0.0, rescale=1.0).mix(1.0, COND, UNCOND, X_T, SIGMA)
    torch.testing.assert_close(found, COND)
