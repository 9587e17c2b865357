"""Priors that are not guided by mixing: what is asked of them, and settings that they refuse."""

from typing import Any

import pytest
import torch
from conftest import randn
from test_cpds_priors_flow import GaussianFlow
from torch import Tensor

from cpds.config import GuidanceConfig
from cpds.errors import InputError
from cpds.guidance import Guidance
from cpds.guidance_scale import guidance_note, require_negative_prompt, settled
from cpds.presets import PRESETS
from cpds.priors.base import Conditioning, Prediction
from cpds.sdedit import guided

SHAPE = (1, 4, 3, 5)


class Embedded(GaussianFlow):
    """One whose network takes the scale: it is in the prediction as it stands, and kept."""

    def __init__(self, guidance: str) -> None:
        super().__init__(guidance=guidance)
        self.scales: list[float] = []

    def denoise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning, *, tap: int = 0) -> Prediction:
        scale = conditioning.tensors.get("guidance")
        self.scales += [] if scale is None else scale.tolist()
        found = super().denoise(x_t, t, conditioning).eps
        return Prediction(found if scale is None else found * scale.view(-1, 1, 1, 1))


def step(prior: GaussianFlow, **settings: Any) -> tuple[Tensor, float]:
    guidance = Guidance(prior, "a cat", "a dog", GuidanceConfig(**{"method": "dds", **settings}), steps=2)
    result = guidance.step(randn(5, *SHAPE), randn(6, *SHAPE), 0, torch.Generator().manual_seed(0))
    return result.gradient, result.metrics["samples"]


USUAL: dict[str, tuple[dict[str, Any], tuple[float, float | None, str]]] = {
    "classifier-free": ({}, (5.0, 2.0, "rising")),
    "embedded": ({}, (5.5, 1.5, "constant")),
    "none": ({}, (1.0, 1.0, "constant")),
    "classifier-free, target given": ({"guidance_scale": 3.0}, (3.0, 2.0, "rising")),
    "embedded, target given": ({"guidance_scale": 3.0}, (3.0, 1.5, "constant")),
    "embedded, source given as none at all": ({"source_guidance_scale": 0.0}, (5.5, 0.0, "constant")),
    "embedded, schedule given": ({"guidance_schedule": "rising"}, (5.5, 1.5, "rising")),
}


@pytest.mark.parametrize("case", USUAL)
def test_guidance_is_what_is_given_or_usual_for_the_prior(case: str) -> None:
    given, expected = USUAL[case]
    prior = GaussianFlow(guidance=case.split(",")[0])
    config = GuidanceConfig(default_guidance=(5.0, 2.0), default_schedule="rising", **given)
    found = settled(config, prior)
    assert (found.guidance_scale, found.source_guidance_scale, found.guidance_schedule) == expected
    assert settled(found, prior) == found
    assert (guidance_note(config, prior) is None) == case.startswith("classifier-free")
    assert guidance_note(found, prior) is None


def test_every_preset_takes_the_guidance_that_a_prior_wants() -> None:
    """In steps, too: what the network was asked at."""
    for name, preset in PRESETS.items():
        for kind, scales in (("embedded", (5.5, 1.5)), ("none", (1.0, 1.0))):
            found = settled(preset.guidance, GaussianFlow(guidance=kind))
            assert (found.guidance_scale, found.source_guidance_scale) == scales, name
    prior = Embedded("embedded")
    step(prior, default_schedule="rising")
    assert sorted(prior.scales) == [1.5, 5.5]


def test_embedded_guidance_goes_into_the_network_and_halves_the_cost() -> None:
    prior = Embedded("embedded")
    got, samples = step(prior, guidance_scale=5.5, source_guidance_scale=1.5)
    assert (samples, sorted(prior.scales)) == (2, [1.5, 5.5])
    plain = Embedded("classifier-free")
    at_one, _ = step(plain, guidance_scale=1.0)
    assert not torch.allclose(got, at_one)


def test_true_guidance_comes_on_top() -> None:
    prior = Embedded("embedded")
    _, samples = step(prior, guidance_scale=5.5, source_guidance_scale=1.5, true_guidance_scale=2.0)
    assert (samples, sorted(prior.scales)) == (4, [1.5, 1.5, 5.5, 5.5])
    mixed = Embedded("classifier-free")  # with the same factor in the network: mixed by 2 on both sides
    torch.testing.assert_close(
        step(Embedded("embedded"), guidance_scale=1.0, source_guidance_scale=1.0, true_guidance_scale=2.0)[0],
        step(mixed, guidance_scale=2.0)[0],
    )


@pytest.mark.parametrize(("method", "samples"), [("dds", 2), ("pds", 2), ("csd", 3), ("flowalign", 3), ("sds", 1)])
def test_a_prior_of_few_steps_is_asked_without_a_null_prompt(method: str, samples: int) -> None:
    got, taken = step(Embedded("none"), method=method, guidance_scale=1.0)
    assert taken == samples
    at_one, _ = step(Embedded("classifier-free"), method=method, guidance_scale=1.0)
    torch.testing.assert_close(got, at_one, rtol=1e-4, atol=1e-4)


def test_a_sampler_gives_the_scale_to_the_network() -> None:
    prior = Embedded("embedded")
    text, null = prior.embed(["a dog"]), prior.embed([""])
    guided(prior, randn(1, 2, *SHAPE[1:]), torch.tensor(300), text, null, 3.5)
    assert prior.scales == [3.5, 3.5]


@pytest.mark.parametrize(
    ("kind", "settings", "omega"),
    [
        ("classifier-free", {"guidance_scale": 4.0}, 4.0),
        ("embedded", {"guidance_scale": 4.0}, 1.0),
        ("embedded", {"guidance_scale": 4.0, "true_guidance_scale": 2.0}, 2.0),
        ("none", {"guidance_scale": 1.0, "guidance_schedule": "table"}, 1.0),
    ],
)
def test_a_sampler_mixes_what_an_edit_mixes(kind: str, settings: dict[str, Any], omega: float) -> None:
    prior, x, t = Embedded(kind), randn(1, *SHAPE), torch.tensor(300)
    text, null = prior.embed(["a dog"]), prior.embed(["a cat"])
    found = guided(prior, x, t, text, null, GuidanceConfig(**settings))
    assert len(prior.scales) == (0 if kind != "embedded" else 1 if omega == 1 else 2)
    factor = 4.0 if kind == "embedded" else 1.0
    cond, uncond = (factor * GaussianFlow().denoise(x, t[None], prompt).eps for prompt in (text, null))
    torch.testing.assert_close(found, uncond + omega * (cond - uncond))


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("none", {"guidance_scale": 7.5}, r"few steps and takes no guidance: set guidance_scale .* to 1, not 1, 7.5"),
        ("none", {"guidance_scale": 1.0, "source_guidance_scale": 2.0}, r"to 1, not 1, 2"),
        ("none", {"guidance_scale": 1.0, "negative_prompt": "pig"}, r"'pig' would not be read.*anything: leave it out"),
        ("embedded", {"negative_prompt": "pig"}, r"set true_guidance_scale above 1 too, or leave it out"),
        ("classifier-free", {"true_guidance_scale": 2.0}, r"leave it at 1 and set guidance_scale"),
    ],
)
def test_guidance_that_a_prior_cannot_follow(kind: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        step(Embedded(kind), **settings)


@pytest.mark.parametrize("kind", ["none", "embedded"])
def test_a_negative_prompt_where_there_is_no_true_guidance(kind: str) -> None:
    require_negative_prompt(Embedded("classifier-free"), "pig")
    require_negative_prompt(Embedded(kind), "")
    with pytest.raises(InputError, match=r"'pig' would not be read.*anything: leave it out"):
        require_negative_prompt(Embedded(kind), "pig")
