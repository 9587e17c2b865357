"""nerfstudio's own commands and viewer, on what our methods made."""

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("nerfstudio", exc_type=(ImportError, OSError))
pytest.importorskip("open3d", exc_type=(ImportError, OSError))  # wants libraries of the system
from nerfstudio.utils.eval_utils import eval_setup
from scenes import TRAINING, scene_state

from cpds.images import open_image
from nerf_plugin.checkpoints import checkpoints
from nerf_plugin.rendering import evaluating
from representations.splats.ply import SplatFile


@pytest.mark.parametrize("kind", ["cpds", "cpds_splat"])
def test_nerfstudios_own_commands_load_the_result(kind: str, edited: dict[str, Any]) -> None:
    trainer = edited[kind]
    _, pipeline, _, step = eval_setup(trainer.base_dir / "config.yml")
    assert step == max(checkpoints(trainer.checkpoint_dir))
    assert not hasattr(pipeline, "prior")
    a, b = scene_state(trainer), pipeline.model.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    metrics = pipeline.get_average_eval_image_metrics()
    assert 0 < metrics["psnr"] < 100


@pytest.mark.parametrize("kind", ["cpds", "cpds_splat"])
def test_nerfstudio_renders_the_result(kind: str, edited: dict[str, Any], tmp_path: Path) -> None:
    from nerfstudio.scripts.render import DatasetRender

    trainer = edited[kind]
    config, renders = trainer.base_dir / "config.yml", tmp_path / "renders"
    DatasetRender(config, renders, split="train", rendered_output_names=["rgb"], image_format="png").main()
    for view in TRAINING:
        camera = trainer.pipeline.datamanager.train_dataset.cameras[view : view + 1]
        with evaluating(trainer.pipeline.model):
            shown = trainer.pipeline.model.get_outputs_for_camera(camera)["rgb"].permute(2, 0, 1)
        assert (open_image(renders / "train" / "rgb" / f"view_{view}.png")[0] - shown).abs().max() < 1 / 254


def test_nerfstudio_exports_the_result(edited: dict[str, Any], tmp_path: Path) -> None:
    """A .ply that we read again: the gaussians of the edited scene."""
    exporter = pytest.importorskip("nerfstudio.scripts.exporter", exc_type=(ImportError, OSError))
    trainer = edited["cpds_splat"]
    exporter.ExportGaussianSplat(trainer.base_dir / "config.yml", tmp_path / "out").main()
    written, scene = SplatFile.read(tmp_path / "out" / "splat.ply").gaussians, trainer.pipeline.model
    for ours, theirs in ((written.means, scene.means), (written.dc, scene.features_dc), (written.scales, scene.scales)):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_exporters_see_every_view(edited: dict[str, Any]) -> None:
    _, pipeline, _, _ = eval_setup(edited["cpds"].base_dir / "config.yml")
    views = {int(i) for _ in range(30) for i in pipeline.datamanager.next_train(0)[1]["indices"][:, 0]}
    assert views == set(TRAINING)


def test_video_and_viewer(edit_scene: Callable[..., Any]) -> None:
    """With nerfstudio's viewer running, and its controls in it."""
    trainer = edit_scene(
        "cpds_splat", vis="viewer", viewer__quit_on_train_completion=True, pipeline__turntable_frames=5,
        viewer__websocket_port=free_port(), max_num_iterations=12,
    )  # fmt: skip
    assert trainer.pipeline.comparison_view.gui_handle.content.startswith("![Source and edit](data:image/png;base64,")
    trainer.viewer_state.viser_server.stop()
    video = trainer.base_dir / "eval_outputs" / "turntable.mp4"
    assert video.is_file() == (shutil.which("ffmpeg") is not None)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        return found.getsockname()[1]
