"""Training views: their images, masks and cameras."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

pytest.importorskip("nerfstudio", exc_type=(ImportError, OSError))
pytest.importorskip("open3d", exc_type=(ImportError, OSError))  # wants libraries of the system
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from scenes import TRAINING, make_dataset

from cpds.images import open_image
from nerf_plugin.views import as_pixels


def test_masks_are_undistorted_as_images_are(
    edit_scene: Callable[..., Any], scene_dataset: Path, tmp_path: Path
) -> None:
    """A mask that is its image in grey still is when nerfstudio has undistorted the image."""
    bent, masks = shutil.copytree(scene_dataset, tmp_path / "bent"), tmp_path / "masks"
    meta = json.loads((bent / "transforms.json").read_text()) | {"k1": 0.4, "k2": 0.1}
    (bent / "transforms.json").write_text(json.dumps(meta))
    masks.mkdir()
    for view in TRAINING:
        grey = open_image(bent / "images" / f"view_{view}.png").mean(1)[0]
        Image.fromarray((grey * 255).round().byte().numpy()).save(masks / f"view_{view}.png")
    views = edit_scene("cpds_splat", data=bent, pipeline__source="image").pipeline.views
    for view, mask in enumerate(views.masks(masks)):
        image = views.image(view).mean(1, keepdim=True)
        assert (mask - image).abs().max() < 0.01
        plain = views.fitted(open_image(masks / f"view_{view}.png").mean(1, keepdim=True), view)
        assert (plain - image).abs().max() > 0.05


@pytest.mark.parametrize(("background", "level"), [("white", 1.0), ("black", 0.0), ("last_sample", 0.0)])
def test_transparent_images_lie_over_the_background(
    background: str, level: float, tmp_path: Path, edit_scene: Callable[..., Any]
) -> None:
    clear = make_dataset(tmp_path / "rgba", channels=4)
    changes = {"pipeline__source": "image", "pipeline__model__background_color": background}
    pipeline = edit_scene("cpds", data=clear, **changes).pipeline
    opaque = edit_scene("cpds", out=tmp_path / "rgb", **changes).pipeline
    assert torch.allclose(
        pipeline.source_image(0)[..., 9:], opaque.source_image(0)[..., 9:], atol=0.02
    )  # the right half
    assert torch.allclose(pipeline.source_image(0)[..., :7], torch.tensor(level), atol=0.02)


def test_a_moved_camera_is_rendered_where_training_moved_it(edit_scene: Callable[..., Any]) -> None:
    pipeline = edit_scene("cpds", pipeline__model__camera_optimizer=CameraOptimizerConfig(mode="SO3xR3")).pipeline
    moved = pipeline.model.camera_optimizer.pose_adjustment
    assert moved.shape == (len(TRAINING), 6)
    assert not moved.requires_grad
    raw = pipeline.datamanager.train_dataset.cameras.camera_to_worlds
    for view in TRAINING:
        wanted = raw[view, :, 3] + moved[view, :3].detach()
        assert torch.allclose(pipeline.views.cameras[view].camera_to_worlds[0, :, 3], wanted, atol=1e-6)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_replaced_images_keep_size_and_type(channels: int, dtype: torch.dtype) -> None:
    image = torch.rand(1, 3, 6, 4, generator=torch.Generator().manual_seed(0))
    like = torch.zeros(6, 4, channels, dtype=dtype)
    found = as_pixels(image, like)
    assert (found.shape, found.dtype) == (like.shape, dtype)
    top = 255 if dtype == torch.uint8 else 1
    assert torch.allclose(found[..., :3].float() / top, image[0].permute(1, 2, 0), atol=0.6 / 255)
    assert bool((found[..., 3:] == top).all())
