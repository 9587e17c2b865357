"""Edits that diverge, or find too little memory: nothing bad is saved, and the good is kept."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import snapshot
from safetensors.torch import load_file

from cpds.priors.unet import UNetPrior

Edit = Callable[..., int]


def finite(checkpoint: Path) -> bool:
    return all(bool(x.isfinite().all()) for x in load_file(checkpoint).values())


@pytest.mark.parametrize(
    "flags",
    [
        {"lr": "1e30"},  # the next step's network overflows
        {"lr": "1e31", "guidance_scale": "1e12"},  # the latent itself does
        {"guidance_scale": "1e30", "optimizer": "adam", "no-normalize_gradient": True},  # the optimizer's moments do
        {"w_cut": "1e300"},  # the loss does
        {"guidance_scale": "1e300"},  # so does a gradient that is to be brought to unit size
    ],
)
def test_divergence_is_told_and_nothing_bad_is_saved(
    edit: Edit, tmp_path: Path, sentence: Callable[[], str], flags: dict
) -> None:
    assert edit(num_inference_steps=20, **flags) == 2
    message = sentence()
    assert "NaN" in message
    assert "lower lr" in message
    assert finite(tmp_path / "out/checkpoint.safetensors")
    assert not (tmp_path / "out/result.png").exists()
    log = tmp_path / "out/metrics.jsonl"
    for line in log.read_text().splitlines() if log.exists() else []:
        json.loads(line, parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
    assert edit(num_inference_steps=20, resume=True, **flags) == 2  # it says so again instead of breaking
    assert "NaN" in sentence()


@pytest.mark.parametrize("polish", [0, 0.5])
def test_a_last_step_after_which_nothing_can_be_shown(
    edit: Edit, tmp_path: Path, sentence: Callable[[], str], polish: float
) -> None:
    """Its latent is finite, and what the prior makes of that is not."""
    assert edit(num_inference_steps=1, lr="1e30", polish=polish) == 2
    message = sentence()
    assert "NaN or infinite values" in message
    assert f"the state after step 0 is kept in {tmp_path / 'out'}" in message
    assert finite(tmp_path / "out/checkpoint.safetensors")
    assert not (tmp_path / "out/result.png").exists()


def test_a_run_that_met_nan_goes_on_where_it_was_good(
    edit: Edit, tmp_path: Path, sentence: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {"patch_selector": "learned", "selector_every": 2, "num_inference_steps": 14}
    denoise, calls = UNetPrior.denoise, []

    def breaks(self: UNetPrior, *args: Any, **kwargs: Any) -> Any:
        calls.append(0)
        prediction = denoise(self, *args, **kwargs)
        if len(calls) > 24:  # two calls a step: the thirteenth
            prediction.eps.fill_(float("nan"))
        return prediction

    with monkeypatch.context() as patch:
        patch.setattr(UNetPrior, "denoise", breaks)
        assert edit(**flags) == 2
    assert "step 13 gave NaN or infinite values" in (message := sentence())
    assert "and was not applied" in message
    assert "the state after step 10 is kept" in message
    state = load_file(tmp_path / "out/checkpoint.safetensors")
    assert int(state["step"]) == 10
    assert finite(tmp_path / "out/checkpoint.safetensors")
    assert edit(resume=True, **flags) == 0
    assert edit(save_path=tmp_path / "whole", **flags) == 0
    assert (tmp_path / "out/result.png").read_bytes() == (tmp_path / "whole/result.png").read_bytes()


def test_out_of_memory_is_one_sentence(
    edit: Edit, sentence: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(UNetPrior, "denoise", full)
        assert edit() == 2
    assert "lower --resolution" in sentence()
    assert edit() == 0  # the folder is still free


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"patch_size": 999}, "patch_size (999,) is larger than every feature map"),  # the first step says so
        ({"trg_prompt": ["a dog", "a pig"], "patch_size": 999}, "larger than every feature map"),
        ({"checkpoint_every": 0}, "checkpoint_every must be >= 1, got 0"),
    ],
)
def test_a_refused_setting_leaves_the_folder_free(
    edit: Edit, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: dict, words: str
) -> None:
    before = snapshot(tmp_path)
    assert edit(save_path=tmp_path / "deep/er", **flags) == 2
    assert words in capsys.readouterr().err
    assert snapshot(tmp_path) == before
    good = {k: v for k, v in flags.items() if k == "trg_prompt"}
    assert edit(save_path=tmp_path / "deep/er", num_inference_steps=1, **good) == 0
