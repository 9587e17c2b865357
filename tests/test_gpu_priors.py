"""Every family of priors on every device: a step is the CPU's, in half precision near it, and no switch changes it."""

from collections.abc import Callable
from functools import partialmethod
from typing import Any

import pytest
import torch
from conftest import randn
from devices import CARD, Place, error, everywhere
from tiny_priors import Family
from torch import Tensor, nn

from cpds.guidance import Guidance
from cpds.presets import PRESETS
from cpds.priors.base import Conditioning, Prior

PriorAt = Callable[..., Prior]
Families = Callable[[str], Family]

FAMILIES = ["sd", "sdxl", "sd3", "flux-dev", "flux2", "pixart", "z-image"]
HALVES = [  # fp16 overflows in networks of flows, of full size
    *(f"fp16 {name}" for name in ("sd", "sdxl", "pixart")),
    *(f"bf16 {name}" for name in FAMILIES),
]
# of what passes through a network once, and of a step's gradient: guidance takes differences of predictions, times 7.5
TOLERANCES = {"fp32": (1e-4, 1e-3), "fp16": (1e-2, 8e-2), "bf16": (8e-2, 0.4)}


def outcome(prior: Prior, text: Conditioning) -> dict[str, Tensor]:
    """What a prior makes of one image under a prompt, and CPDS's gradient for an edit of it."""
    image = randn(0, 1, 3, 32, 48).sigmoid().to(prior.device)
    text = Conditioning({name: x.to(prior.device) for name, x in text.tensors.items()})
    with torch.no_grad():
        z = prior.encode(image)
        found = prior.denoise(z, torch.tensor([400]), text.at_scale(2.0), tap=True)
        decoded = prior.decode(z)
    guidance = Guidance(prior, "a cat", "a dog", PRESETS["cpds"].guidance, steps=1)
    changed = z + 0.3 * randn(1, *z.shape).to(prior.device)
    gradient = guidance.step(z, changed, 0, torch.Generator().manual_seed(0)).gradient
    features = torch.cat([f.flatten() for f in found.features])
    return {"z": z, "decoded": decoded, "eps": found.eps, "features": features, "gradient": gradient}


def assert_near(found: dict[str, Tensor], wanted: dict[str, Tensor], dtype: str = "fp32") -> None:
    for name, x in found.items():
        assert bool(torch.isfinite(x).all()), name
        assert error(x, wanted[name]) <= TOLERANCES[dtype][name == "gradient"], name


@everywhere("family", FAMILIES, labelled=["sd", "flux-dev"])
def test_a_step_is_the_cpus(family: str, place: Place, prior_at: PriorAt, families: Families) -> None:
    prior, plain = prior_at(family), families(family).prior
    assert prior.device == place.device
    text = plain.embed(["a cat"])
    for name, x in prior.embed(["a cat"]).tensors.items():
        assert error(x, text[name]) <= 1e-4, name
    assert_near(outcome(prior, text), outcome(plain, text))


@everywhere("half", HALVES)
def test_half_precision_is_near(half: str, place: Place, prior_at: PriorAt, families: Families) -> None:
    dtype, family = half.split()
    plain = families(family).prior
    text = plain.embed(["a cat"])
    assert_near(outcome(prior_at(family, torch_dtype=dtype), text), outcome(plain, text), dtype)


SWITCHES: dict[str, dict[str, Any]] = {
    "tiles": {"vae_tiling": True, "vae_slicing": True},
    "attention": {"attention_backend": "native"},
    "compile": {"compile": True},
    "model": {"offload": "model"},
    "group": {"offload": "group"},
    "low memory": {"low_memory": True},
    "few": {"low_memory": True, "compile": True},
}


@pytest.mark.parametrize("place", ["cpu", CARD], indirect=True)
@pytest.mark.parametrize("family", ["sd", "sd3", "flux-dev"])
@pytest.mark.parametrize("switch", SWITCHES)
def test_switches_change_nothing(
    switch: str, family: str, place: Place, prior_at: PriorAt, families: Families, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond rounding. On the CPU blocks are traced, but run as they are: its compiler takes minutes."""
    settings = SWITCHES[switch]
    if place.kind == "cpu":
        if "offload" in settings:
            pytest.skip("offload moves weights between a GPU and the CPU")
        monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
    prior, plain = prior_at(family, **settings), families(family).prior
    text = plain.embed(["a cat"])
    assert_near(outcome(prior, text), outcome(plain, text))
