"""What an edit leaves behind for people."""

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("nerfstudio", exc_type=(ImportError, OSError))
pytest.importorskip("open3d", exc_type=(ImportError, OSError))  # wants libraries of the system
from scenes import TRAINING

from nerf_plugin.outputs import trajectory
from nerf_plugin.rendering import camera_at


def test_videos_have_even_sides(edited: dict[str, Any]) -> None:
    cameras = [camera_at(c, 17, 21) for c in edited["cpds_splat"].pipeline.views.cameras]
    for some in (cameras, cameras[:1]):
        cameras_past = trajectory(some, 3)
        assert {(int(c.height), int(c.width)) for c in cameras_past} == {(16, 20)}
    assert int(cameras[0].height) == 17


def test_long_renders_tell_how_far_they_are(edit_scene: Callable[..., Any], capsys: Any) -> None:
    trainer = edit_scene("cpds_splat")
    assert f"rendering the views: 100%|{'█' * 10}| {len(TRAINING)}/{len(TRAINING)} [" in capsys.readouterr().err
    edit_scene("cpds_splat_refine", load_dir=trainer.checkpoint_dir, max_num_iterations=1, pipeline__denoising_steps=2)
    assert "rendering the views to refine: 100%" in capsys.readouterr().err
