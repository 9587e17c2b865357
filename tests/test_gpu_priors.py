"""Every family of priors on every device: a step is the CPU's, in half precision near it, and no switch changes it."""

from collections.abc import Callable
from dataclasses import replace
from functools import partialmethod
from typing import Any

import pytest
import torch
from conftest import randn
from devices import CARD, Place, error, everywhere
from diffusers import DiffusionPipeline
from tiny_priors import Family
from torch import Tensor, nn

from cpds.guidance import Guidance
from cpds.presets import PRESETS
from cpds.priors.base import Conditioning, Prior
from cpds.priors.options import PriorOptions

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
    """What a prior makes of two views under a prompt, and CPDS's gradient for them, with the same patches everywhere.

    They are no larger than a tile of the autoencoder: tiles change what they divide.
    """
    images = randn(0, 2, 3, 32, 32).sigmoid().to(prior.device)
    text = Conditioning({name: x.to(prior.device) for name, x in text.tensors.items()}).repeat(2)
    with torch.no_grad():
        z = prior.encode(images)
        found = prior.denoise(z, timestep(prior).expand(2), text.at_scale(2.0), tap=2)
        decoded = prior.decode(z)
    settings = replace(PRESETS["cpds"].guidance, patch_selector="random", n_patches=8)
    changed = z + 0.3 * randn(1, *z.shape).to(prior.device)
    guidance = Guidance(prior, "a cat", "a dog", settings, steps=1)
    gradient = guidance.step(z, changed, 0, torch.Generator().manual_seed(0)).gradient
    features = torch.cat([f.flatten() for f in found.features])
    return {"z": z, "decoded": decoded, "eps": found.eps, "features": features, "gradient": gradient}


def timestep(prior: Prior) -> Tensor:
    """A flow's is that of sigma = 1/2: its network gets 1000 sigma in its own precision, bfloat16's has 8 bits."""
    shift = prior.schedule.shift
    return torch.tensor([400.0 if shift is None else len(prior.schedule) / (shift + 1) - 1])


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
    "slices": {"vae_slicing": True},
    "attention": {"attention_backend": "native"},
    "compile": {"compile": True},
    "model": {"offload": "model"},
    "group": {"offload": "group"},
    "group, compiled": {"offload": "group", "compile": True},
    "low memory": {"low_memory": True},
}


@pytest.mark.parametrize("place", ["cpu", CARD], indirect=True)
@pytest.mark.parametrize("family", ["sd", "flux-dev"])
@pytest.mark.parametrize("switch", SWITCHES)
def test_switches_change_nothing(
    switch: str, family: str, place: Place, prior_at: PriorAt, families: Families, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond rounding. On the CPU blocks are traced, but run as they are, as its compiler takes minutes; and layers
    are offloaded from the CPU to the CPU, which only the prior's own class allows."""
    options, tiny = SWITCHES[switch], families(family)
    if place.kind == "cpu" and switch == "group, compiled" and family != "sd":
        pytest.skip("tracing through hooks takes long")
    if place.kind == "cpu" and switch == "model":
        pytest.skip("accelerate offloads models from a GPU alone")
    if place.kind == "cpu":
        monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
    if place.kind == "cpu" and "offload" in options:
        pipeline = DiffusionPipeline.from_pretrained(tiny.folder, local_files_only=True)
        prior = type(tiny.prior)(pipeline, place.device, "offloaded", options=PriorOptions(**options))
    else:
        prior = prior_at(family, **options)
    text = tiny.prior.embed(["a cat"])
    assert_near(outcome(prior, text), outcome(tiny.prior, text))
