"""Runs on disk that cannot be used."""

import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("nerfstudio", exc_type=(ImportError, OSError))
pytest.importorskip("open3d", exc_type=(ImportError, OSError))  # wants libraries of the system
from nerf_plugin.checkpoints import open_run


def truncated(base_scenes: Path, tmp_path: Path) -> Path:
    copied = shutil.copytree(base_scenes.parent, tmp_path / "damaged")
    file = next((copied / base_scenes.name).glob("*.ckpt"))
    file.write_bytes(file.read_bytes()[:1000])
    return copied / base_scenes.name


def with_a_type_of_its_own(base_scenes: Path, tmp_path: Path) -> Path:
    copied = shutil.copytree(base_scenes.parent, tmp_path / "odd")
    file = next((copied / base_scenes.name).glob("*.ckpt"))
    torch.save({**open_run(copied).state(), "metadata": Fraction(1, 2)}, file)
    return copied / base_scenes.name


def of_another_implementation(base_scenes: Path, tmp_path: Path) -> Path:
    """tiny-cuda-nn's networks have names of their own."""
    copied = shutil.copytree(base_scenes.parent, tmp_path / "tcnn")
    file, state = next((copied / base_scenes.name).glob("*.ckpt")), open_run(copied).state()
    state["pipeline"] = {k.replace("mlp_base.", "mlp_base.tcnn."): v for k, v in state["pipeline"].items()}
    torch.save(state, file)
    return copied / base_scenes.name


def no_checkpoint(base_scenes: Path, tmp_path: Path) -> Path:
    copied = shutil.copytree(base_scenes.parent, tmp_path / "bare")
    next((copied / base_scenes.name).glob("*.ckpt")).unlink()
    return copied / base_scenes.name


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "is damaged"),
        (of_another_implementation, "does not fit pipeline.model (field.mlp_base."),
        (with_a_type_of_its_own, "holds fractions.Fraction, which torch does not load by default"),
        (no_checkpoint, "holds no checkpoint"),
    ],
)
def test_bad_scenes(
    damage: Callable[[Path, Path], Path], message: str, edit_scene: Callable[..., Any], base_scenes: dict[str, Path],
    tmp_path: Path, capsys: Any
) -> None:  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        edit_scene(load_dir=damage(base_scenes["cpds"], tmp_path))
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
