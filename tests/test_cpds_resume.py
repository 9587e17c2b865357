"""Going on with runs: by the folder alone, to more steps, after signals, on another machine."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Recorder
from PIL import Image
from safetensors.torch import load_file
from tiny_priors import tiny_vae

from cpds.apps.cli.main import main, parse
from cpds.apps.cli.resuming import anew
from cpds.callbacks import Checkpoints, MetricsLog, StopBetweenSteps
from cpds.config import EditConfig, GuidanceConfig
from cpds.editor import run, start
from cpds.images import open_image
from cpds.priors.unet import UNetPrior
from cpds.stored import request
from representations.latent import LatentImage

Edit = Callable[..., int]
Pressed = Callable[[int], Any]


def result(folder: Path) -> bytes:
    return (folder / "result.png").read_bytes()


def records(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


# ---- by the folder alone


@pytest.mark.parametrize(
    "files",
    [
        {"prior": "prior", "transformer": "network.safetensors", "tiny_vae": "tiny"},
        {"prior": "network.safetensors", "prior_config": "prior"},
    ],
)
def test_the_folder_is_enough_from_everywhere(
    files: dict[str, str],
    edit: Edit,
    tmp_path: Path,
    tiny_folder: Path,
    pressed: Pressed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Everything was given relative to one folder and by flags that are not the defaults; it goes on from another."""
    Image.new("L", (40, 28), 200).save(tmp_path / "mask.png")
    shutil.copytree(tiny_folder, tmp_path / "prior")
    shutil.copy(tiny_folder / "unet/diffusion_pytorch_model.safetensors", tmp_path / "network.safetensors")
    tiny_vae(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    flags = {"img_path": "cat.png", "mask": "mask.png", "resolution": 48, "no-keep_unchanged": True, **files}
    flags |= {"preset": "pds", "optimizer": "adam", "seed": 7, "negative_prompt": "a pig", "group_lrs": ["latent", 0.1]}
    assert edit(save_path="whole", **flags) == 0
    with pressed(2):
        assert edit(save_path="out", **flags) == 130
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    shutil.move(tmp_path / "out", tmp_path / "moved")
    assert main(["image", "--resume", "../moved"]) == 0
    assert result(tmp_path / "moved") == result(tmp_path / "whole")


def test_a_source_that_moved_is_taken_and_another_is_not(
    edit: Edit, tmp_path: Path, image_file: Path, pressed: Pressed, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edit(save_path=tmp_path / "whole") == 0
    with pressed(2):
        assert edit() == 130
    image_file.rename(tmp_path / "moved.png")
    capsys.readouterr()
    assert edit(resume=True) == 2
    assert "cat.png does not exist" in told(capsys)
    Image.new("RGB", (40, 28), "red").save(tmp_path / "red.png")
    assert edit(resume=True, img_path=tmp_path / "red.png") == 2
    assert "source.image is another one" in told(capsys)
    assert edit(resume=True, img_path=tmp_path / "moved.png") == 0
    assert result(tmp_path / "out") == result(tmp_path / "whole")


def test_several_edits_keep_to_their_plan(
    edit: Edit, tmp_path: Path, image_file: Path, pressed: Pressed, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two images into two prompts, stopped in the second edit; an image that came later is not one of them."""
    album, out = tmp_path / "album", tmp_path / "out"
    album.mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(image_file, album / name)
    both = {"img_path": album, "trg_prompt": ["a dog", "a pig"]}
    assert edit(save_path=tmp_path / "whole", **both) == 0
    stopped, names = [], ["a-a-dog", "a-a-pig", "b-a-dog", "b-a-pig"]
    with pytest.MonkeyPatch.context() as patch:
        stepped = MetricsLog.stepped

        def stop(self: MetricsLog, state: Any, result: Any) -> None:
            stepped(self, state, result)
            stopped.append(self.run.path.name)
            if len(stopped) == 5:
                signal.raise_signal(signal.SIGINT)

        patch.setattr(MetricsLog, "stepped", stop)
        assert edit(**both) == 130
    assert f"go on with: cpds image --resume {out}" in told(capsys)
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == names[:2]
    shutil.copy(image_file, album / "late.png")
    assert edit(resume=True) == 0
    assert f"{out / 'a-a-dog'} is already finished" in told(capsys)
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == names
    assert all(result(out / name) == result(tmp_path / "whole" / name) for name in names)
    assert edit(resume=True, save_path=out / "b-a-pig") == 0  # each is a run of its own as well
    assert edit(resume=True, trg_prompt=["a dog"]) == 2
    assert "target_prompt was ['a dog', 'a pig'], is now ['a dog']" in told(capsys)


def test_several_edits_can_be_made_longer(edit: Edit, tmp_path: Path) -> None:
    both, long = {"trg_prompt": ["a dog", "a pig"]}, {"num_inference_steps": 5}
    assert edit(**both) == 0
    assert edit(resume=True, save_path=tmp_path / "out/cat-a-pig", num_inference_steps=7) == 0
    assert edit(resume=True, **long) == 0
    shutil.rmtree(tmp_path / "out/cat-a-dog")
    assert edit(resume=True) == 0  # anew, and of as many steps as the others
    assert edit(save_path=tmp_path / "long", **long) == 0
    assert [r["step"] for r in records(tmp_path / "out/cat-a-dog")] == [1, 2, 3, 4, 5]
    assert result(tmp_path / "out/cat-a-dog") == result(tmp_path / "long")
    assert len(records(tmp_path / "out/cat-a-pig")) == 7


def test_what_is_no_run_is_reported(edit: Edit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for place in ("nowhere", "empty", "cat.png"):
        assert edit(resume=True, save_path=tmp_path / place) == 2
        assert f"no run to resume in {tmp_path / place}: nothing of one was stored there" in told(capsys)
    assert not (tmp_path / "nowhere").exists()
    assert edit(num_inference_steps=1) == 0
    capsys.readouterr()
    assert main(["svg", "--resume", str(tmp_path / "out")]) == 2
    assert "holds a run of cpds image, not of cpds svg" in told(capsys)


@pytest.mark.skipif(os.name == "nt", reason="asks a POSIX shell")
def test_the_command_that_goes_on_is_quoted(
    edit: Edit, tmp_path: Path, pressed: Pressed, capsys: pytest.CaptureFixture[str]
) -> None:
    with pressed(1):
        assert edit(save_path=tmp_path / "my run's") == 130
    words = told(capsys).rsplit("go on with: ", 1)[1].strip()
    parts = subprocess.run(["sh", "-c", f'printf "%s\\n" {words}'], capture_output=True, text=True).stdout.splitlines()
    assert parts == ["cpds", "image", "--resume", str(tmp_path / "my run's")]
    assert main(parts[1:]) == 0


# ---- with other settings


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 9}, ["(seed was 0, is now 9)"]),
        ({"w_cut": 3, "lr": 3}, ["w_cut was", "lr was 20.0, is now 3.0"]),
        ({"method": "dds"}, ["(method was 'cpds', is now 'dds')"]),
        ({"prompt": "a bird"}, ["prompt was 'a cat', is now 'a bird'"]),
        ({"trg_prompt": "a pig"}, ["target_prompt was ['a dog'], is now ['a pig']"]),
        ({"torch_dtype": "bf16"}, ["prior was", "float32", "bfloat16"]),
        ({"num_inference_steps": 2}, ["num_inference_steps was 3, is now 2", "longer, not shorter"]),
        ({"preset": "dds"}, ["preset was 'cpds', is now 'dds'"]),
        ({"resolution": 40}, ["resolution was None, is now 40"]),
        ({"no_keep_unchanged": True}, ["keep_unchanged was True, is now False"]),
        ({"resume": "out", "save_path": "two"}, ["leave out save_path"]),
        ({"img_path": "other.png"}, ["source.image"]),
        ({"mask": "other.png"}, ["source.mask"]),
        ({"save_path": "elsewhere"}, ["no run to resume in elsewhere"]),
    ],
)
def test_resume_with_other_settings(
    edit: Edit, refused: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict, words: list
) -> None:
    Image.new("RGB", (40, 28), "teal").save(tmp_path / "other.png")
    assert edit() == 0
    capsys.readouterr()
    refused(*words, **{"resume": True} | changes)


# ---- more steps


PLAIN = {"num_inference_steps": 3, "no-normalize_gradient": True, "lr_decay": 1, "timesteps": "uniform"}


def test_a_longer_run_without_schedule_is_the_long_run(edit: Edit, tmp_path: Path) -> None:
    assert edit(**PLAIN) == 0
    first = result(tmp_path / "out")
    assert edit(resume=True, num_inference_steps=7) == 0
    assert edit(save_path=tmp_path / "long", **PLAIN | {"num_inference_steps": 7}) == 0
    assert result(tmp_path / "out") == result(tmp_path / "long") != first
    assert records(tmp_path / "out") == records(tmp_path / "long")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["edit"]["num_inference_steps"] == config["finished"] == 7
    assert config["extended"] == [{"after_step": 3, "num_inference_steps": 3}]


def test_a_longer_run_takes_the_long_runs_schedules(prior: UNetPrior, image_file: Path) -> None:
    """From the step where it goes on: lr_i = lr lr_decay^(i / (N - 1)); t_i in the i-th of N equal slices."""
    guidance = GuidanceConfig("dds", timesteps="non-increasing")
    notes = Recorder(lambda state, result: (state.optimizer.param_groups[0]["lr"], result.metrics["timestep"]))
    saved: dict[str, torch.Tensor] = {}
    for steps in (4, 10):
        config = EditConfig(guidance, steps, "sgd", 0.5, lr_decay=0.1)
        state = start(LatentImage(open_image(image_file), prior), prior, "a cat", "a dog", config)
        if saved:
            state.load(saved)
        saved = run(state, [notes]).tensors()
    for i, (lr, t) in enumerate(notes.notes):
        steps = 4 if i < 4 else 10
        assert lr == pytest.approx(0.5 * 0.1 ** (i / (steps - 1)))
        low, high = 50, 950
        assert high - (i + 1) * (high - low) / steps - 1 <= t <= high - i * (high - low) / steps + 1
    assert len(notes.notes) == 10


def test_old_results_stay_until_the_longer_run_is_whole(
    edit: Edit, tmp_path: Path, pressed: Pressed, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edit() == 0
    old = {
        name: (tmp_path / "out" / name).read_bytes() for name in ("result.png", "before_after.png", "trajectory.gif")
    }
    with pressed(5):
        assert edit(resume=True, num_inference_steps=8) == 130
    assert {name: (tmp_path / "out" / name).read_bytes() for name in old} == old
    assert "num_inference_steps" in (tmp_path / "out/config.json").read_text()
    assert edit(resume=True) == 0  # to the eighth step, without saying so again
    assert len(records(tmp_path / "out")) == 8
    assert not any((tmp_path / "out" / name).read_bytes() == data for name, data in old.items())
    capsys.readouterr()
    assert edit(resume=True, num_inference_steps=8) == 0
    assert "already finished" in told(capsys)


def test_a_kill_while_results_are_written_is_not_finished(
    edit: Edit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old result is there, the checkpoint is the longer run's last: the new result must still be made."""
    from cpds.callbacks import ImageOutputs

    assert edit(save_path=tmp_path / "whole") == 0
    assert edit(resume=True, save_path=tmp_path / "whole", num_inference_steps=6) == 0
    assert edit() == 0

    def killed(*_: object) -> None:
        raise SystemExit("killed")

    with monkeypatch.context() as patch:
        patch.setattr(ImageOutputs, "finished", killed)
        with pytest.raises(SystemExit):
            edit(resume=True, num_inference_steps=6, checkpoint_every=1)
    assert int(load_file(tmp_path / "out/checkpoint.safetensors")["step"]) == 6
    assert edit(resume=True) == 0
    assert result(tmp_path / "out") == result(tmp_path / "whole")


# ---- being stopped


@pytest.mark.parametrize(("what", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_run_between_two_steps(
    edit: Edit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    what: signal.Signals,
    code: int,
) -> None:
    """Sent within the fourth step: that step is done, stored and gone on from; the handlers are as before."""
    flags = {"num_inference_steps": 6, "checkpoint_every": 100}
    assert edit(save_path=tmp_path / "whole", **flags) == 0
    handlers = [signal.getsignal(s) for s in StopBetweenSteps.SIGNALS]
    denoise, calls = UNetPrior.denoise, []

    def sends(self: UNetPrior, *args: Any, **kwargs: Any) -> Any:
        calls.append(0)
        if len(calls) == 6 + 8:  # six for the map, then two calls a step
            signal.raise_signal(what)
            time.sleep(0.01)
            if what == signal.SIGTERM:  # a scheduler may say it to the process and to its group
                signal.raise_signal(what)
        return denoise(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(UNetPrior, "denoise", sends)
        assert edit(**flags) == code
    assert f"Stopped after step 4; go on with: cpds image --resume {tmp_path / 'out'}" in told(capsys)
    assert int(load_file(tmp_path / "out/checkpoint.safetensors")["step"]) == 4
    assert [signal.getsignal(s) for s in StopBetweenSteps.SIGNALS] == handlers
    assert edit(resume=True) == 0
    assert result(tmp_path / "out") == result(tmp_path / "whole")


def test_a_full_disk_while_stopping_is_reported(
    edit: Edit, tmp_path: Path, pressed: Pressed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save = Checkpoints.save

    def full(self: Checkpoints, state: Any) -> None:
        if state.step:
            raise OSError(28, "No space left on device", "checkpoint.safetensors")
        save(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", full)
        with pressed(2):
            assert edit() == 2
    last = told(capsys).splitlines()[-1]
    assert "checkpoint.safetensors cannot be written (No space left on device): make room and go on with: " in last
    assert edit(resume=True) == 0


def test_the_interval_of_checkpoints(edit: Edit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    save = Checkpoints.save

    def noted(self: Checkpoints, state: Any) -> None:
        seen.append(state.step)
        save(self, state)

    monkeypatch.setattr(Checkpoints, "save", noted)
    assert edit(num_inference_steps=7, checkpoint_every=3) == 0
    assert seen == [0, 3, 6, 7]  # at the start, every third step, at the end
    assert edit(resume=True, num_inference_steps=9, checkpoint_every=1) == 0
    assert seen[4:] == [7, 8, 9, 9]


# ---- another machine


def test_another_environment_is_told_once(
    edit: Edit, tmp_path: Path, pressed: Pressed, capsys: pytest.CaptureFixture[str]
) -> None:
    with pressed(2):
        assert edit() == 130
    config = tmp_path / "out/config.json"
    document = json.loads(config.read_text())
    here = document["environment"]
    assert here["threads"] == torch.get_num_threads()
    assert here["device"].startswith("cpu ")
    document["environment"] = here | {"torch": "1.0", "device": "cuda NVIDIA \x1b[31mX", "threads": 64}
    config.write_text(json.dumps(document))
    capsys.readouterr()
    assert edit(resume=True) == 0
    (warning,) = (line for line in told(capsys).splitlines() if line.startswith("cpds: warning"))
    for words in ("torch was '1.0', is now", "device was 'cuda NVIDIA", "threads was 64, is now", "pixels may differ"):
        assert words in warning
    assert "\x1b" not in warning
    assert "numpy" not in warning


def test_the_command_that_goes_on_names_what_was_given_anew(
    edit: Callable[..., int],
    image_file: Path,
    tmp_path: Path,
    pressed: Callable[[int], Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pressed(1):
        assert edit() == 130
    moved = tmp_path / "moved here.png"
    image_file.rename(moved)
    with pressed(2):
        assert edit(resume=True, img_path=moved, checkpoint_every=5, vae_slicing=True, few_step=False) == 130
    again = capsys.readouterr().err.splitlines()[-1].partition("go on with: cpds ")[2]
    args = parse(shlex.split(again))
    assert (args.img_path, args.checkpoint_every, args.vae_slicing, args.few_step) == (moved, 5, True, False)
    assert main(shlex.split(again)) == 0
    assert (tmp_path / "out/result.png").is_file()


@pytest.mark.parametrize(
    ("given", "changes"),
    [
        ("image --img_path x", {"vae_slicing": True, "few_step": True, "lora": ("a", "b:0.5"), "mask": Path("m n")}),
        ("image --img_path x --compile --lora a --tiny_vae t", {"compile": False, "lora": (), "tiny_vae": None}),
        ("splats x.ply --cameras c", {"scene": Path("y.ply"), "device": "cpu", "textual_inversion": ("a", "b")}),
    ],
)
def test_what_was_given_anew_is_read_back(given: str, changes: dict[str, Any], tmp_path: Path) -> None:
    command = given.split()[0]
    old = parse([*given.split(), "--prompt", "a", "--target_prompt", "b"])
    (tmp_path / "config.json").write_text(json.dumps(request(command, old)))
    again = parse([command, "--resume", str(tmp_path), *anew(old, replace(old, **changes))])
    assert {k: getattr(again, k) for k in changes} == changes
    assert anew(old, old) == []


def test_another_source_is_told_without_its_digests(
    edit: Callable[..., int], image_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edit() == 0
    with Image.open(image_file) as plain:
        plain.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(image_file)
    assert edit(resume=True, num_inference_steps=4) == 2
    message = capsys.readouterr().err
    assert "source.image is another one" in message
    assert not re.search("[0-9a-f]{64}", message)
