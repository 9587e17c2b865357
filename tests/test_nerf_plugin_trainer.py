"""nerfstudio's trainer begun from a trained scene: what is refused, and what a refused run leaves behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("nerfstudio", exc_type=(ImportError, OSError))
pytest.importorskip("open3d", exc_type=(ImportError, OSError))  # wants libraries of the system
from scenes import train

from nerf_plugin.checkpoints import open_run
from nerf_plugin.pipeline import CpdsPipeline
from nerf_plugin.rays import RayRenderer
from nerf_plugin.trainer import CpdsTrainer

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no scene": ({"load_dir": None}, "there is no scene to begin from"),
    "missing folder": ({"load_dir": Path("nowhere")}, "load_dir nowhere is no folder"),
    "no prompt": ({"pipeline__prompt": " "}, "the prompt is empty"),
    "no target": ({"pipeline__target_prompt": ""}, "the target prompt is empty"),
    "alias that nothing reads": ({"prompt": "a cat"}, "prompt is not read"),
    "missing dataset": ({"data": Path("gone")}, "dataset gone does not exist"),
    "not a prior": ({"pipeline__prior": str(Path(__file__).parent)}, "has no model_index.json"),
    "missing masks": ({"pipeline__masks": Path("nowhere")}, "masks nowhere is no folder"),
    "mixed precision": ({"mixed_precision": True}, "leave them off"),
    "step that is not there": ({"load_step": 77}, "has no checkpoint of step 77"),
    "view_every": ({"pipeline__view_every": 0}, "view_every must be >= 1, got 0"),
    "rays_per_chunk": ({"pipeline__rays_per_chunk": 0}, "rays_per_chunk must be >= 1, got 0"),
    "loss_weight": ({"pipeline__loss_weight": 0.0}, "loss_weight must be > 0 and finite, got 0.0"),
    "model that does not fit": ({"pipeline__model__hidden_dim": 16}, "does not fit pipeline.model"),
    "no step": ({"max_num_iterations": 0}, "max_num_iterations must be >= 1, got 0"),
    "device that is not here": ({"machine__device_type": "mps"}, "machine.device_type mps is not usable here"),
    "two devices": ({"machine__num_devices": 2}, "an edit runs on one device, got 2"),
    "guidance device": (
        {"pipeline__guidance_device": "cuda:7"},
        "is not usable here: take auto, cpu",
    ),
    "preset": ({"pipeline__preset": "pds-paper"}, "there is no preset 'pds-paper' for cpds: take one of cpds-nerf, "),
    "flat region": ({"pipeline__region": (0.0, 0.0, 0.0, 0.0)}, "region must be x y z and a radius > 0"),
    "region behind": (
        {"pipeline__region": (0.0, 0.0, 500.0, 0.1)},
        "no view looks at the region, sphere 0 0 500 0.1: choose",
    ),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=list(BAD))
def test_bad_input(changes: dict[str, Any], message: str, edit_scene: Callable[..., Any], capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        edit_scene(**changes)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("ns-train: error:") == 1
    assert message in error


def test_a_refused_run_leaves_nothing(edit_scene: Callable[..., Any], tmp_path: Path) -> None:
    for changes in ({"load_dir": None}, {"pipeline__target_prompt": ""}, {"data": Path("gone")}):
        with pytest.raises(SystemExit):
            edit_scene(**changes)
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_refused_late_leaves_no_folder(edit_scene: Callable[..., Any], tmp_path: Path) -> None:
    """For what only the prior, the checkpoint or the views tell."""
    (tmp_path / "masks").mkdir()
    late: list[dict[str, Any]] = [
        {"pipeline__prior": str(Path(__file__).parent)},
        {"pipeline__masks": tmp_path / "masks"},
        {"pipeline__model__hidden_dim": 16},
        {"pipeline__region": (0.0, 0.0, 500.0, 0.1)},
    ]
    for changes in late:
        with pytest.raises(SystemExit):
            edit_scene(**changes)
        assert not list((tmp_path / "out").iterdir())
    kept = edit_scene("cpds_splat").base_dir
    with pytest.raises(SystemExit):
        edit_scene("cpds_splat", timestamp="later", **late[0])
    assert (kept / "config.yml").is_file()
    assert not (kept.parent / "later").exists()


def test_out_of_memory_names_the_settings(edit_scene: Callable[..., Any], monkeypatch: Any, capsys: Any) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(RayRenderer, "render", full)
    with pytest.raises(SystemExit) as stop:
        edit_scene(pipeline__source="image")
    assert stop.value.code == 2
    assert "pipeline.rays_per_chunk" in capsys.readouterr().err


@pytest.mark.parametrize("named", [{}, {"data": None, "experiment_name": None}])
def test_another_run_of_the_same_name_is_refused(
    named: dict[str, Any], edit_scene: Callable[..., Any], capsys: Any
) -> None:  # fmt: skip
    first = edit_scene("cpds_splat", **named)
    text = (first.base_dir / "config.yml").read_text()
    with pytest.raises(SystemExit):
        edit_scene("cpds_splat", pipeline__target_prompt="a pig", **named)
    assert "holds a run with other settings" in capsys.readouterr().err
    assert (first.base_dir / "config.yml").read_text() == text


def test_learning_rates_fall_over_the_run_or_as_long_as_asked(edit_scene: Callable[..., Any]) -> None:
    name = "optimizers__means__scheduler__max_steps"
    for changes, steps in (({}, 3), ({name: 7, "timestamp": "later"}, 7)):
        assert edit_scene("cpds_splat", **changes).config.optimizers["means"]["scheduler"].max_steps == steps


def test_the_viewer_waits_while_a_run_is_set_up(edit_scene: Callable[..., Any], monkeypatch: Any) -> None:
    locked, prepare = [], CpdsPipeline.prepare
    trainers, load = [], CpdsTrainer.setup_optimizers

    def remember(self: Any) -> Any:
        trainers.append(self)
        return load(self)

    monkeypatch.setattr(CpdsTrainer, "setup_optimizers", remember)
    monkeypatch.setattr(
        CpdsPipeline, "prepare", lambda self: locked.append(trainers[-1].train_lock.locked()) or prepare(self)
    )
    assert not edit_scene().train_lock.locked()
    assert locked == [True]


def test_a_finished_run_says_so(edit_scene: Callable[..., Any], capsys: Any) -> None:
    trainer = edit_scene()
    with pytest.raises(SystemExit):
        train(open_run(trainer.base_dir).config)
    assert "has all its steps: begin another from it" in capsys.readouterr().err
