"""nerfacto-cpu: nerfstudio's nerfacto, trained with the hash encoding in C, and taken by cpds as any other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("nerfstudio", exc_type=(ImportError, OSError))
pytest.importorskip("open3d", exc_type=(ImportError, OSError))  # wants libraries of the system
from nerfstudio.field_components.encodings import HashEncoding
from scenes import SMALL, configured, train

from nerf_plugin.hash_encoding import library
from nerf_plugin.rendering import evaluating


def trained(name: str, dataset: Path, out: Path, **changes: Any) -> Any:
    """Three steps of a method; the trainer."""
    config = configured(name, dataset, out, max_num_iterations=3, steps_per_eval_image=0, **SMALL, **changes)
    config.pipeline.datamanager = configured("nerfacto_cpu", dataset, out).pipeline.datamanager
    return train(config)


def in_c(trainer: Any) -> set[bool]:
    """Whether its encodings are computed in C."""
    return {"pytorch_fwd" in vars(x) for x in trainer.pipeline.model.modules() if isinstance(x, HashEncoding)}


def test_it_trains_what_nerfacto_does(
    scene_dataset: Path, no_lpips: None, edit_scene: Callable[..., Any], tmp_path: Path
) -> None:
    ours = trained("nerfacto_cpu", scene_dataset, tmp_path / "ours")
    assert in_c(ours) == {library() is not None}
    changes = {"pipeline__model__average_init_density": 0.01, "mixed_precision": False}
    theirs = trained("nerfacto", scene_dataset, tmp_path / "theirs", **changes, pipeline__model__max_res=256)
    images = []
    for trainer in (ours, theirs):
        model = trainer.pipeline.model
        with evaluating(model), torch.no_grad():
            camera = trainer.pipeline.datamanager.train_dataset.cameras[:1]
            images.append(model.get_outputs_for_camera(camera)["rgb"])
    assert torch.allclose(*images, atol=5e-3)
    assert edit_scene(load_dir=ours.checkpoint_dir, max_num_iterations=1).pipeline.run.first == 3


def test_with_optimized_cameras_it_encodes_in_torch(scene_dataset: Path, no_lpips: None, tmp_path: Path) -> None:
    trainer = trained("nerfacto_cpu", scene_dataset, tmp_path, pipeline__model__camera_optimizer__mode="SO3xR3")
    assert in_c(trainer) == {False}
    assert trainer.pipeline.model.camera_optimizer.pose_adjustment.abs().max() > 0
