"""What splatfacto-cpu starts from: the points of a sparse cloud, or random gaussians where they are asked for."""

import json
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import randn

pytest.importorskip("nerfstudio", exc_type=(ImportError, OSError))
pytest.importorskip("open3d", exc_type=(ImportError, OSError))  # wants libraries of the system
from scenes import configured, make_dataset

from nerf_plugin.base_run import parse_dataset


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
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "ns-train: error:" in line]
    return error


def test_a_dataset_without_points_is_refused_with_the_recipe(tmp_path: Path, capsys: Any) -> None:
    data = without_points(tmp_path / "scene")
    error = refused(configured("splatfacto_cpu", data, tmp_path / "out"), capsys)
    assert f"dataset {data} has no sparse point cloud to start from, and 50000 random gaussians" in error
    assert f"ns-export pointcloud --load-config outputs/.../config.yml --output-dir {data}" in error
    assert f"then python -m nerf_plugin.points {data};" in error


def test_the_recipe_names_flags_that_there_are(tmp_path: Path, capsys: Any) -> None:
    exporter = pytest.importorskip("nerfstudio.scripts.exporter", exc_type=(ImportError, OSError))
    config = configured("splatfacto_cpu", without_points(tmp_path / "scene"), tmp_path / "out")
    named = {flag.replace("-", "_") for flag in re.findall(r" --([a-z]+-[a-z-]+) ", refused(config, capsys))}
    assert named == {"load_config", "output_dir", "num_points", "normal_method", "save_world_frame"}
    assert named <= {f.name for f in fields(exporter.ExportPointCloud)}
    assert hasattr(config.pipeline.model, "random_init")


def test_a_reader_of_points_that_cannot_be_loaded_is_named(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    config = configured("splatfacto_cpu", make_dataset(tmp_path / "scene"), tmp_path / "out")
    assert "with open3d, which cannot be loaded" in refused(config, capsys)


def test_points_that_are_not_there_are_refused(tmp_path: Path, capsys: Any) -> None:
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
    config = configured("splatfacto_cpu", make_dataset(tmp_path / "scene"), tmp_path / "out")
    config.save_config()
    assert (config.get_base_dir() / "config.yml").is_file()


@pytest.mark.parametrize("applied", [None, [[0, 1, 0, 0.3], [1, 0, 0, 0], [0, 0, -1, 0.1]]])
def test_exported_points_come_back_to_where_they_were(applied: Any, tmp_path: Path, capsys: Any) -> None:
    """Points in the scene's axes, written by nerfstudio in those of the capture, are read again where they were."""
    import open3d

    from nerf_plugin import points as add_points

    data = without_points(tmp_path / "scene")
    meta = json.loads((data / "transforms.json").read_text()) | ({"applied_transform": applied} if applied else {})
    (data / "transforms.json").write_text(json.dumps(meta))
    config = configured("splatfacto_cpu", data, tmp_path / "out")
    scene, wanted = parse_dataset(config.pipeline.datamanager.dataparser, data), randn(0, 30, 3)
    poses = torch.cat([torch.eye(3).expand(30, 3, 3), wanted[..., None]], 2)
    cloud = open3d.geometry.PointCloud()  # as ns-export pointcloud --save-world-frame True does it
    world = scene.transform_poses_to_original_space(poses)[:, :, 3].double().numpy()
    cloud.points, cloud.colors = (open3d.utility.Vector3dVector(x) for x in (world, world * 0 + 0.4))
    assert open3d.io.write_point_cloud(str(data / "point_cloud.ply"), cloud)
    assert add_points.main([str(data)]) == 0
    found = parse_dataset(config.pipeline.datamanager.dataparser, data).metadata
    assert torch.allclose(found["points3D_xyz"], wanted, atol=1e-4)
    assert torch.allclose(found["points3D_rgb"].float(), torch.tensor(102.0), atol=1.0)
    before = (data / "transforms.json").read_bytes()
    assert json.loads(before) == meta | {"ply_file_path": "sparse_pc.ply"}
    assert add_points.main([str(data)]) == 2
    assert "names points already" in capsys.readouterr().err
    assert (data / "transforms.json").read_bytes() == before


def test_points_that_cannot_be_added(tmp_path: Path, capsys: Any) -> None:
    from nerf_plugin import points as add_points

    data = without_points(tmp_path / "scene")
    before = sorted(f.name for f in data.iterdir())
    for given, words in (([data], "point_cloud.ply holds no points"), ([tmp_path], "transforms.json cannot be used")):
        assert add_points.main([str(x) for x in given]) == 2
        assert words in capsys.readouterr().err
    assert sorted(f.name for f in data.iterdir()) == before
