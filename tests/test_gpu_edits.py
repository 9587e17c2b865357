"""Edits of images, documents and splat scenes on every device: finite, repeatable, the CPU's, resumed, together."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import randn
from devices import CARD, Place, error, everywhere
from safetensors.torch import load, save
from splat_scenes import scene
from svg_oracles import DATA
from tiny_priors import Family
from torch import Tensor

from cpds.config import EditConfig
from cpds.editor import run, start
from cpds.presets import PRESETS
from cpds.priors.base import Prior
from cpds.session import edit_in_folder
from cpds.state import EditState
from representations.latent import LatentImage, LatentImageConfig
from representations.splats.rasterize import rasterization
from representations.splats.scene import SplatScene
from svg.document import Document
from svg.image import SvgImage

PriorAt = Callable[..., Prior]
Families = Callable[[str], Family]
Make = Callable[[Prior], Any]

STEPS = 2


def images(count: int = 1) -> Tensor:
    return randn(0, count, 3, 32, 48).sigmoid()


def image(prior: Prior) -> LatentImage:
    return latents(prior, images())


def latents(prior: Prior, sources: Tensor) -> LatentImage:
    return LatentImage(sources, prior, LatentImageConfig(resolution=32))  # FLUX's tiny prior says 512


def svg(prior: Prior) -> SvgImage:
    return SvgImage(Document.parse((DATA / "face.svg").read_bytes()), prior)


def splats(prior: Prior) -> SplatScene:
    """Drawn by our rasterizer on a card, too: test_gpu_splats.py compares it with gsplat's, whose rules are others."""
    shown = scene(prior)
    shown.rasterizer = rasterization
    return shown


# how to make one, and how far another machine's rounding may move the gradient of its parameters: renderers have
# thresholds. `scene` is drawn by gsplat's kernels on a card, if they are there
BACKENDS: dict[str, tuple[Make, float]] = {
    "image": (image, 1e-3),
    "svg": (svg, 1e-2),
    "splats": (splats, 1e-2),
    "gsplat": (scene, 5e-2),
}
SAME_RULES = ["image", "svg", "splats"]


def config(name: str, **changes: Any) -> EditConfig:
    """A preset in a few steps, with patches for images of a few cells."""
    preset = PRESETS[name]
    guidance = replace(preset.guidance, n_patches=8, selector_every=1)
    return replace(preset, **{"num_inference_steps": STEPS, "guidance": guidance} | changes)


def begin(backend: str, prior: Prior, **changes: Any) -> EditState:
    shown = BACKENDS[backend][0](prior)
    return start(shown, prior, "a cat", "a dog", config(shown.preset, **changes))


def parameters(state: EditState) -> Tensor:
    """All of them in one vector."""
    groups = state.representation.param_groups()
    return torch.cat([x.detach().flatten() for group in groups for x in group.tensors])


def gradients(state: EditState) -> Tensor:
    """Of the last step."""
    found = [x.grad for group in state.representation.param_groups() for x in group.tensors]
    return torch.cat([g.flatten() for g in found if g is not None])


@everywhere("backend", BACKENDS, labelled=["image"])
def test_an_edit_is_repeatable_and_resumed(backend: str, place: Place, prior_at: PriorAt) -> None:
    """The second one goes on from the state of a shorter run, as a file has it; another seed gives another edit."""
    prior = prior_at()
    whole, again = begin(backend, prior), begin(backend, prior)
    before = parameters(whole)
    assert before.device == place.device
    stopped = begin(backend, prior, polish=0.0)
    stopped.config = replace(stopped.config, num_inference_steps=STEPS - 1)
    again.load(load(save(run(stopped).tensors())))
    assert again.step == STEPS - 1
    images = [run(state).representation.preview() for state in (whole, again, begin(backend, prior, seed=1))]
    place.assert_close(parameters(again) - before, parameters(whole) - before, BACKENDS[backend][1])
    assert error(images[2], images[0]) > 1e-3


@everywhere("backend", SAME_RULES, labelled=SAME_RULES)
def test_its_first_steps_are_the_cpus(backend: str, place: Place, prior_at: PriorAt, families: Families) -> None:
    """The first gradient of each parameter; and the edit as a whole, whose optimizer may magnify small differences."""
    tolerance, priors = BACKENDS[backend][1], (prior_at(), families("sd").prior)
    found, wanted = (run(begin(backend, prior, num_inference_steps=1, polish=0.0)) for prior in priors)
    assert float(gradients(wanted).norm()) > 0
    place.assert_close(gradients(found), gradients(wanted), tolerance)
    before = begin(backend, priors[1]).representation.preview()
    found, wanted = (run(begin(backend, prior)).representation.preview().cpu() for prior in priors)
    place.assert_close(found - before, wanted - before, 4 * tolerance)


@pytest.mark.parametrize("place", ["cpu", CARD], indirect=True)
def test_a_run_in_a_folder_is_resumed(place: Place, prior_at: PriorAt, tmp_path: Path) -> None:
    prior, ends = prior_at(), []
    for folder, steps in (("run", STEPS - 1), ("run", STEPS), ("whole", STEPS)):
        # falling rates and timesteps spread over a run are a longer run's own
        settings = config("cpds-long", num_inference_steps=steps, lr_decay=1.0)
        ends.append(edit_in_folder(image(prior), prior, "a cat", "a dog", tmp_path / folder, settings, resume=True))
    assert (tmp_path / "run/result.png").is_file()
    before = parameters(begin("image", prior))
    place.assert_close(parameters(ends[1]) - before, parameters(ends[2]) - before, BACKENDS["image"][1])


@everywhere("family", ["sd", "sdxl", "sd3", "flux-dev"], labelled=["sd"])
def test_several_targets_at_once_are_each_alone(family: str, place: Place, prior_at: PriorAt) -> None:
    prior, sources, targets = prior_at(family), images(2), ["a dog", "a fox"]
    settings = config("cpds", num_inference_steps=1, polish=0.0)
    prompts = ["a cat"] * 2
    before = latents(prior, sources).z.detach()
    together = parameters(run(start(latents(prior, sources), prior, prompts, targets, settings)))
    for i, one in enumerate(together.view_as(before)):
        alone = run(start(latents(prior, sources[i : i + 1]), prior, "a cat", targets[i], settings))
        wanted = parameters(alone).view_as(one) - before[i]
        assert error(one - before[i], wanted) <= (1e-2 if place.rounds else 1e-3)  # batches are summed in another order
