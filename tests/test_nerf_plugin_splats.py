"""Splatfacto scenes: rendered as our own rasterizer renders, whatever the viewer does."""

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("nerfstudio", exc_type=(ImportError, OSError))
pytest.importorskip("open3d", exc_type=(ImportError, OSError))  # wants libraries of the system
from nerfstudio.data.scene_box import OrientedBox
from scenes import gradients, saved_model, scene_state

from nerf_plugin.splats import render_splats
from representations.cameras import Frame, read_cameras
from representations.splats.rasterize import rasterization


def test_deferred_splats_are_the_direct_ones(edited: dict[str, Any]) -> None:
    pipeline = edited["cpds_splat"].pipeline
    pipeline.train()
    found = []
    for defer in (True, False):
        image = render_splats(pipeline.model, pipeline.views.cameras[1], defer)
        found.append([image, *gradients(pipeline.model, image, {})])
    assert len(found[0]) == 7
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert pipeline.model.training


def test_splatfacto_renders_what_our_rasterizer_renders(edited: dict[str, Any], scene_dataset: Path) -> None:
    trainer = edited["cpds_splat"]
    model = trainer.pipeline.model.eval()
    camera = trainer.pipeline.datamanager.train_dataset.cameras[1:2]
    found = model.get_outputs_for_camera(camera)
    frame = Frame.read(trainer.base_dir / "dataparser_transforms.json")
    ours = read_cameras(scene_dataset, frame)[1]
    p = {k: v.detach() for k, v in model.gauss_params.items()}
    rendered, alpha, _ = rasterization(
        p["means"], p["quats"], p["scales"].exp(), p["opacities"][:, 0].sigmoid(),
        torch.cat([p["features_dc"][:, None], p["features_rest"]], 1), ours.viewmat[None], ours.k[None],
        ours.width, ours.height, sh_degree=3,
    )  # fmt: skip
    wanted = (rendered[0] + (1 - alpha[0]) * model.background_color).clamp(0, 1)
    assert torch.allclose(found["rgb"], wanted, atol=1e-4)
    assert torch.allclose(found["accumulation"], alpha[0], atol=1e-4)


def test_nothing_is_added_or_removed(edited: dict[str, Any], base_scenes: dict[str, Path]) -> None:
    before = saved_model(base_scenes["cpds_splat"])["gauss_params.means"]
    assert scene_state(edited["cpds_splat"])["gauss_params.means"].shape == before.shape == (40, 3)


def test_the_viewers_crop_and_background_stay_out_of_the_edit(edited: dict[str, Any]) -> None:
    pipeline = edited["cpds_splat"].pipeline
    plain = pipeline.render_eval(0)
    pipeline.model.set_background(torch.tensor([1.0, 0.0, 1.0]))
    pipeline.model.set_crop(OrientedBox(torch.eye(3), torch.full((3,), 50.0), torch.ones(3)))  # holds nothing
    assert torch.equal(pipeline.render_eval(0), plain)
