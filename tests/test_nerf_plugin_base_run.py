"""What an edit takes over from the scene that it begins from, and what must fit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nerfstudio", exc_type=(ImportError, OSError))
pytest.importorskip("open3d", exc_type=(ImportError, OSError))  # wants libraries of the system
from scenes import make_dataset


def test_a_scene_of_another_kind(edit_scene: Callable[..., Any], base_scenes: dict[str, Path], capsys: Any) -> None:
    with pytest.raises(SystemExit):
        edit_scene(load_dir=base_scenes["cpds_splat"])
    assert "was trained by splatfacto-cpu, but cpds edits those of nerfacto" in capsys.readouterr().err


def test_a_dataset_of_another_scene(edit_scene: Callable[..., Any], tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        edit_scene(data=make_dataset(tmp_path / "other", shift=0.4))
    assert "are not those that the scene in" in capsys.readouterr().err


def test_a_dataset_without_views(
    edit_scene: Callable[..., Any], scene_dataset: Path, tmp_path: Path, capsys: Any
) -> None:
    copied = shutil.copytree(scene_dataset, tmp_path / "empty")
    meta = json.loads((copied / "transforms.json").read_text())
    (copied / "transforms.json").write_text(json.dumps({**meta, "frames": []}))
    with pytest.raises(SystemExit):
        edit_scene(data=copied)
    assert "cannot be used" in capsys.readouterr().err


def test_a_run_without_data_is_named_like_the_base_scene(edit_scene: Callable[..., Any], tmp_path: Path) -> None:
    trainer = edit_scene("cpds_splat", data=None, experiment_name=None)
    assert trainer.base_dir == tmp_path / "out" / "scene" / "cpds-splat" / "now"
    assert not (tmp_path / "out" / "unnamed").exists()


def test_a_dataset_may_be_named_at_its_parser(
    edit_scene: Callable[..., Any], scene_dataset: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(scene_dataset, tmp_path / "moved")
    trainer = edit_scene("cpds_splat", data=None, pipeline__datamanager__dataparser__data=moved)
    assert trainer.pipeline.datamanager.train_dataset.image_filenames[0].is_relative_to(moved)
