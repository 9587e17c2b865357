"""Edits of images on a GPU, as far as a labelled device shows them: nothing is mixed, and how often the host waits."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Recorder, randn
from labelled_device import DEVICE, Kind, labelled_device
from safetensors.torch import load, save
from torch import Tensor

from cpds.callbacks import MetricsLog
from cpds.config import EditConfig, GuidanceConfig
from cpds.editor import run, start
from cpds.presets import PRESETS
from cpds.priors.unet import UNetPrior
from cpds.runs import RunFolder
from cpds.session import edit_in_folder
from cpds.state import EditState
from representations.latent import LatentImage, LatentImageConfig

GUIDANCE = GuidanceConfig("cpds", n_patches=8, selector_every=1)
CONFIG = EditConfig(GUIDANCE, 2, "sgd", 0.05)
MASK = torch.ones(1, 1, 20, 24)
MASK[..., :8] = 0


def images(count: int = 1) -> Tensor:
    return randn(0, count, 3, 20, 24).sigmoid()


def begin(prior: UNetPrior, config: EditConfig, count: int = 1, mask: Tensor | None = None) -> EditState:
    return start(LatentImage(images(count), prior, None, mask), prior, ["a cat"] * count, ["a dog"] * count, config)


@pytest.mark.parametrize(
    ("guidance", "settings", "count", "mask"),
    [
        *(({"method": method}, {}, 1, None) for method in ("sds", "dds", "cds", "pds", "cpds")),
        *(({"patch_selector": name}, {}, 1, None) for name in ("learned", "svm", "knn", "forest")),
        ({"w_proximity": 0.5, "normalize_gradient": True}, {}, 1, None),
        ({"timesteps": "non-increasing", "negative_prompt": "blurry"}, {"lr_scaling": "area"}, 1, None),
        ({}, {"optimizer": "adam"}, 1, MASK),
        ({"patch_selector": "learned", "normalize_gradient": True}, {"optimizer": "adamw"}, 2, MASK),  # two edits
    ],
)
def test_an_edit_mixes_no_devices_and_is_the_cpus(
    prior: UNetPrior,
    device_prior: UNetPrior,
    guidance: dict[str, Any],
    settings: dict[str, Any],
    count: int,
    mask: Tensor | None,
) -> None:
    if guidance.get("patch_selector") in ("svm", "knn", "forest"):
        pytest.importorskip("sklearn")
    config = replace(CONFIG, guidance=replace(GUIDANCE, **guidance), **settings)
    wanted = run(begin(prior, config, count, mask)).representation.preview()
    with labelled_device() as record:
        state = run(begin(device_prior, config, count, mask))
        edited = state.representation.preview()
        (z,) = state.representation.param_groups()[0].tensors
        assert z.grad is not None
        assert {z.device, z.grad.device, edited.device} == {DEVICE}
    assert record.faults() == ""
    torch.testing.assert_close(edited, wanted)


def test_edits_of_one_image_share_its_samples_on_the_device_too(prior: UNetPrior, device_prior: UNetPrior) -> None:
    config, found = replace(CONFIG, guidance=replace(GUIDANCE, patch_selector="relevance")), []
    for each in (prior, device_prior):
        with labelled_device() as record:
            image = LatentImage(images().repeat(3, 1, 1, 1), each)
            state = start(image, each, ["a cat"] * 3, ["a dog", "a bird", "a fish"], config)
            samples = Recorder(lambda _, result: result.metrics["samples"])
            found.append(run(state, [samples]).representation.preview())
        assert record.faults() == ""
        assert samples.notes == [2 + 3 * 2] * 2  # eight of what would be twelve
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("keep_unchanged", [False, True])
def test_a_preview_waits_for_nothing(device_prior: UNetPrior, keep_unchanged: bool) -> None:
    with labelled_device() as record:
        image = LatentImage(images(), device_prior, LatentImageConfig(keep_unchanged=keep_unchanged), MASK)
        record.clear()
        assert image.preview().device == image.render().device == DEVICE
    assert not record.counts(), str(record)


@pytest.mark.parametrize(("selector", "optimizer"), [("random", "sgd"), ("learned", "adam"), ("knn", "sgd")])
def test_a_resumed_edit_goes_on_where_it_was(device_prior: UNetPrior, selector: Any, optimizer: Any) -> None:
    if selector == "knn":
        pytest.importorskip("sklearn")
    config = replace(CONFIG, optimizer=optimizer, guidance=replace(GUIDANCE, patch_selector=selector))
    with labelled_device() as record:
        longer = begin(device_prior, replace(config, num_inference_steps=3))
        again = begin(device_prior, longer.config)
        again.load(load(save(run(begin(device_prior, config)).tensors())))
        places = {name: x.device.type for name, x in again.tensors().items()}
        host = {name for name in places if name.endswith(("step", "generator"))}  # numbers for the host
        assert host == {name for name, place in places.items() if place == "cpu"}
        ends = [run(state).representation.param_groups()[0].tensors[0] for state in (longer, again)]
    assert record.faults() == ""
    assert torch.equal(*ends)


def test_a_run_in_a_folder_is_resumed_on_the_device(
    device_prior: UNetPrior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"the GPU at {device}")  # config.json has it
    with labelled_device() as record:
        for folder, steps in (("run", 2), ("run", 3), ("whole", 3)):
            image = LatentImage(images(), device_prior, None, MASK)
            config = replace(CONFIG, num_inference_steps=steps)
            edit_in_folder(image, device_prior, "a cat", "a dog", tmp_path / folder, config, resume=True)
    assert record.faults() == ""
    assert (tmp_path / "run/result.png").read_bytes() == (tmp_path / "whole/result.png").read_bytes()


# ---- how often the host waits

ORDINARY = {"synchronization": 1, "copy": 2}  # the step's numbers; its noise, and the patches that are drawn
LEARNED = {"synchronization": 1, "copy": 10}  # and for each of 8 maps which of its patches are noted
UPDATE = {"synchronization": 2, "copy": 15}  # and what has been learned, in 5 orders; its metrics


@pytest.mark.parametrize(
    ("preset", "changed", "ordinary", "update"),
    [
        *((preset, {}, ORDINARY, ORDINARY) for preset in ("sds", "dds", "pds", "cds", "cpds")),
        ("cds", {"patch_loss": "hdce", "w_proximity": 0.5, "normalize_gradient": True}, ORDINARY, ORDINARY),
        ("cds", {"patch_selector": "learned"}, LEARNED, UPDATE),
    ],
)
def test_how_often_a_step_waits(
    device_prior: UNetPrior,
    tmp_path: Path,
    preset: str,
    changed: dict[str, Any],
    ordinary: dict[Kind, int],
    update: dict[Kind, int],
) -> None:
    """For a prior with 4 tapped layers, with the log that a run keeps."""
    every = 4
    guidance = replace(PRESETS[preset].guidance, selector_every=every, **changed)
    config = replace(PRESETS[preset], guidance=guidance, num_inference_steps=2 * every)
    with labelled_device() as record:
        state = begin(device_prior, config)
        state.guidance.relevance(state.rendered.source_latents(None))
        record.clear()

        def note(state: EditState, _result: object) -> None:
            most = ordinary if state.step % every else update
            found = {kind: n for kind, n in record.counts().items() if n > most.get(kind, 0)}
            assert not found, f"step {state.step}:\n{record}"
            record.clear()

        run(state, [MetricsLog(RunFolder(tmp_path)), Recorder(note)])
