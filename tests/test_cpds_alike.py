"""Edits of one source ask the prior about it once, and are what they are alone."""

from typing import Any

import pytest
import torch
from conftest import randn
from torch import Tensor

from cpds.alike import alike
from cpds.config import GuidanceConfig
from cpds.guidance import Guidance
from cpds.priors.unet import UNetPrior

PROMPTS = ["a red bird", "a red bird", "a blue fish", "a red bird"]
TARGETS = ["a blue fish", "a green bird", "a red bird", "a cat"]
SOURCES = [0, 0, 0, 1]  # the first two edits begin alike; the third is told otherwise, the fourth sees another image


@pytest.mark.parametrize(
    ("rows", "marks", "kinds"),
    [
        ([5], "a", None),
        ([5, 6, 7], "aaa", None),  # all differ
        ([5, 6, 5, 6], "aaaa", ([0, 1], [0, 1, 0, 1])),
        ([5, 5, 5], "aba", ([0, 1], [0, 1, 0])),  # marks tell apart what looks alike
        ([0.0, -0.0], "aa", None),  # to the bit
    ],
)
def test_alike(rows: list[float], marks: str, kinds: tuple[list[int], list[int]] | None) -> None:
    x = torch.tensor(rows, dtype=torch.float32)[:, None]
    found = alike(x, marks)
    assert torch.equal(found.spread(found.distinct(x)), x)
    assert found.count(len(x)) == len(found.distinct(x))
    if kinds is None:
        assert found.first is None
    else:
        assert (found.first.tolist(), found.kind.tolist()) == kinds  # pyright: ignore[reportOptionalMemberAccess]


def latents(views: int) -> tuple[Tensor, Tensor]:
    """Of four edits: sources, and what became of them."""
    source = torch.cat([randn(10 + i, views, 4, 8, 8) for i in SOURCES])
    return source, source + 0.3 * randn(1, len(source), 4, 8, 8)


def gradient(
    prior: UNetPrior, config: GuidanceConfig, prompts: list[str], targets: list[str], source: Tensor, target: Tensor
) -> tuple[Tensor, float]:
    """A step's, and the samples that it reports."""
    guidance = Guidance(prior, prompts, targets, config, steps=10)
    result = guidance.step(source, target, 3, torch.Generator().manual_seed(0))
    return result.gradient, result.metrics["samples"]


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize(
    ("settings", "shared", "alone"),
    [
        # of four edits three sources differ: of 4 x 4 samples two are saved
        ({"method": "cpds"}, 14, 4),
        ({"method": "cpds", "patch_selector": "learned"}, 14, 4),
        ({"method": "cpds", "patch_selector": "relevance", "localize": True}, 14, 4),
        ({"method": "pds", "reestimate_noise": True}, 17, 5),
        ({"method": "pds", "source_guidance_scale": 1.0}, 11, 3),  # the source is not asked without its prompt
        ({"method": "flowalign"}, 11, 3),
        ({"method": "lusd"}, 8, 2),  # nothing is asked of the source
    ],
)
def test_edits_of_one_source_are_as_alone(
    prior: UNetPrior, settings: dict[str, Any], shared: int, alone: int, views: int
) -> None:
    config = GuidanceConfig(**{"n_patches": 20, "normalize_gradient": True} | settings)
    source, target = latents(views)
    together, samples = gradient(prior, config, PROMPTS, TARGETS, source, target)
    assert samples == shared * views
    for i, edit in enumerate(together.split(views)):
        rows = slice(i * views, (i + 1) * views)
        expected, samples = gradient(prior, config, PROMPTS[i : i + 1], TARGETS[i : i + 1], source[rows], target[rows])
        assert samples == alone * views
        torch.testing.assert_close(edit, expected, rtol=1e-4, atol=2e-4)


def test_other_prompts_are_other_sources(prior: UNetPrior) -> None:
    source, target = latents(1)
    guidance = Guidance(prior, PROMPTS, TARGETS, GuidanceConfig("pds"), steps=10)
    counts = []
    for prompts in (PROMPTS, ["a cat", "a dog", "a bird", "a fish"], ["a cat"] * 4):
        guidance.set_prompts(prompts, TARGETS)
        counts.append(guidance.step(source, target, 0, torch.Generator()).metrics["samples"])
    assert counts == [14, 16, 12]


def test_the_count_is_the_networks(prior: UNetPrior) -> None:
    seen: list[int] = []
    source, target = latents(2)
    hook = prior.unet.register_forward_pre_hook(lambda _m, args: seen.append(len(args[0])))
    try:
        _, samples = gradient(prior, GuidanceConfig("cpds"), PROMPTS, TARGETS, source, target)
    finally:
        hook.remove()
    assert sum(seen) == samples
