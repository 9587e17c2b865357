"""What splatfacto-cpu starts from: the points of a sparse cloud, or random gaussians where they are asked for."""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nerfstudio")
from scenes import configured, make_dataset


def without_points(folder: Path) -> Path:
    """A dataset whose transforms.json names no points."""
    make_dataset(folder)
    meta = json.loads((folder / "transforms.json").read_text())
    del meta["ply_file_path"]
    (folder / "transforms.json").write_text(json.dumps(meta))
    return folder


def refused(config: Any, capsys: Any) -> str:
    with pytest.raises(SystemExit) as stop:
        config.save_config()
    assert stop.value.code == 2
    assert not config.output_dir.exists()
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "ns-train: error:" in line]
    return said


def test_a_dataset_without_points_is_refused_with_the_recipe(tmp_path: Path, capsys: Any) -> None:
    data = without_points(tmp_path / "scene")
    said = refused(configured("splatfacto_cpu", data, tmp_path / "out"), capsys)
    assert f"dataset {data} has no sparse point cloud to start from, and 50000 random gaussians" in said
    assert f"ns-export pointcloud --load-config outputs/.../config.yml --output-dir {data}" in said
    assert f'"ply_file_path": "point_cloud.ply" to {data / "transforms.json"}' in said


def test_the_recipe_names_flags_that_there_are(tmp_path: Path, capsys: Any) -> None:
    exporter = pytest.importorskip("nerfstudio.scripts.exporter", exc_type=(ImportError, OSError))
    config = configured("splatfacto_cpu", without_points(tmp_path / "scene"), tmp_path / "out")
    named = {flag.replace("-", "_") for flag in re.findall(r" --([a-z]+-[a-z-]+) ", refused(config, capsys))}
    assert named == {"load_config", "output_dir", "num_points", "normal_method", "save_world_frame"}
    assert named <= {f.name for f in fields(exporter.ExportPointCloud)}
    assert hasattr(config.pipeline.model, "random_init")


def test_points_that_are_not_there_are_refused(tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("open3d", exc_type=(ImportError, OSError))
    data = make_dataset(tmp_path / "scene")
    (data / "points.ply").unlink()
    assert "has no sparse point cloud" in refused(configured("splatfacto_cpu", data, tmp_path / "out"), capsys)


def test_points_that_nobody_agrees_to_convert(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """nerfstudio asks before it converts those of an older dataset; a script has no answer."""

    def nobody(*_: Any, **__: Any) -> bool:
        raise EOFError

    monkeypatch.setattr("rich.prompt.Confirm.ask", nobody)
    data = without_points(tmp_path / "scene")
    (data / "colmap/sparse/0").mkdir(parents=True)
    assert "has no sparse point cloud" in refused(configured("splatfacto_cpu", data, tmp_path / "out"), capsys)


@pytest.mark.parametrize("changes", [{"pipeline__model__random_init": True}, {"load_dir": Path("nerfstudio_models")}])
def test_random_gaussians_and_trained_ones_need_no_points(changes: dict[str, Any], tmp_path: Path) -> None:
    config = configured("splatfacto_cpu", without_points(tmp_path / "scene"), tmp_path / "out", **changes)
    config.save_config()
    assert (config.get_base_dir() / "config.yml").is_file()


def test_points_are_what_training_starts_from(tmp_path: Path) -> None:
    pytest.importorskip("open3d", exc_type=(ImportError, OSError))
    config = configured("splatfacto_cpu", make_dataset(tmp_path / "scene"), tmp_path / "out")
    config.save_config()
    assert (config.get_base_dir() / "config.yml").is_file()
