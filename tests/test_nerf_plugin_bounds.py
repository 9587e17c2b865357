"""Where an edit may change a scene: masks of its views and regions of it, and what moves outside."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

pytest.importorskip("nerfstudio", exc_type=(ImportError, OSError))
pytest.importorskip("open3d", exc_type=(ImportError, OSError))  # wants libraries of the system
from scenes import TRAINING, guidance_gradients, same, saved_model, scene_state, train

from cpds.rendered import hold
from nerf_plugin.bounds import HOLD_AT, outside_psnr
from nerf_plugin.checkpoints import checkpoints, open_run
from nerf_plugin.region import Region
from nerf_plugin.rendering import pixel_rays


@pytest.mark.parametrize("kind", ["cpds", "cpds_splat"])
@pytest.mark.parametrize("shade", [0, 255])
def test_masks_bound_the_edit(kind: str, shade: int, edit_scene: Callable[..., Any], tmp_path: Path) -> None:
    """Black: no guidance arrives, and what has moved is pulled back. White: as without masks."""
    (tmp_path / "masks").mkdir()
    for i in TRAINING:
        Image.new("L", (20, 20), shade).save(tmp_path / "masks" / f"view_{i}.png")
    pipeline = edit_scene(kind, pipeline__masks=tmp_path / "masks").pipeline
    pipeline.train()

    def step() -> tuple[dict[str, float], torch.Tensor, torch.Tensor]:
        """Metrics of a step, how far its view has moved, and the gradient that reached it."""
        reached: list[torch.Tensor] = []
        pipeline.on_image_gradient = lambda view, done, image, gradient: reached.extend(
            [image - pipeline.source_image(view), gradient]
        )
        _, losses, metrics = pipeline.get_train_loss_dict(pipeline.run.first)
        torch.stack([x.sum() for x in losses.values()]).sum().backward()
        return metrics, reached[0], reached[1]

    metrics, moved, gradient = step()
    if shade == 0:
        assert metrics["outside_psnr"] == pytest.approx(float(-10 * moved.square().mean().log10()))
        assert torch.allclose(gradient / gradient.norm(), moved / moved.norm(), atol=1e-6)
    else:
        assert metrics["outside_psnr"] > 70
        pipeline.bounds.masks = None
        assert torch.allclose(gradient, step()[2], rtol=1e-2, atol=1e-3 * float(gradient.abs().max()))


def test_a_mask_is_missing(edit_scene: Callable[..., Any], tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "masks").mkdir()
    with pytest.raises(SystemExit):
        edit_scene(pipeline__masks=tmp_path / "masks")
    assert "there is no mask for the training image view_0" in capsys.readouterr().err


@pytest.fixture(scope="module")
def ball(base_scenes: dict[str, Path]) -> Region:
    """Holds some of the gaussians."""
    x, y, z = saved_model(base_scenes["cpds_splat"])["gauss_params.means"].mean(0).tolist()
    return Region((x, y, z, 0.15))


@pytest.mark.parametrize("kind", ["cpds", "cpds_splat"])
def test_views_may_change_where_they_see_the_region(
    kind: str, ball: Region, edit_scene: Callable[..., Any], capsys: Any
) -> None:
    """Only on rays that enter it, and of those on all that enter it before a surface of the base scene."""
    pipeline = edit_scene(kind, pipeline__region=ball.numbers).pipeline
    assert "the scene, in its own coordinates: " in capsys.readouterr().out
    for view in TRAINING:
        camera = pipeline.views.cameras[view]
        distance = ball.entered(*pixel_rays(camera))
        mask = pipeline.bounds.mask(view)[0, 0] > 0
        assert 0 < int(distance.isfinite().sum()) < distance.numel()
        with pipeline.base.restored():
            depth = pipeline.renderer.depth_eval(camera)
        assert torch.equal(mask, distance < depth)
        assert not bool((mask & ~distance.isfinite()).any())
    for file in (pipeline.run.folder / "region").iterdir():
        file.unlink()
    assert all(torch.equal(pipeline.bounds.mask(0), pipeline.bounds.mask(0)) for _ in range(2))  # no file is read
    assert not list((pipeline.run.folder / "region").iterdir())


def test_the_guidance_changes_a_field_in_the_region(ball: Region, edit_scene: Callable[..., Any]) -> None:
    gradients = guidance_gradients(edit_scene(pipeline__region=ball.numbers).pipeline)
    assert any(bool(x.any()) for k, x in gradients.items() if k.startswith("field."))


def test_gaussians_outside_of_the_region_stay(
    ball: Region, edit_scene: Callable[..., Any], base_scenes: dict[str, Path]
) -> None:
    trainer = edit_scene("cpds_splat", pipeline__region=ball.numbers)
    before, after = saved_model(base_scenes["cpds_splat"]), scene_state(trainer)
    inside = ball.contains(before["gauss_params.means"])
    assert 0 < int(inside.sum()) < len(inside)
    names = [k for k in before if k.startswith("gauss_params.")]
    assert len(names) == 6
    assert all(torch.equal(after[k][~inside], before[k][~inside]) for k in names)
    assert all(bool((after[k][inside] != before[k][inside]).any()) for k in names if "features_rest" not in k)


def test_a_resumed_edit_knows_which_gaussians_were_inside(ball: Region, edit_scene: Callable[..., Any]) -> None:
    """Though some may have moved out."""
    unbroken = edit_scene("cpds_splat", pipeline__region=ball.numbers)
    part = edit_scene(
        "cpds_splat",
        pipeline__region=ball.numbers,
        timestamp="part",
        steps_per_save=1,
        save_only_latest_checkpoint=False,
    )
    list(checkpoints(part.checkpoint_dir).values())[-1].unlink()
    assert same(scene_state(train(open_run(part.base_dir).config)), scene_state(unbroken))


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def pulled(image: torch.Tensor, source: torch.Tensor, mask: torch.Tensor, guidance: torch.Tensor) -> torch.Tensor:
    """The gradient that reaches a view."""
    image = image.clone().requires_grad_()
    (hold(image, source, mask, HOLD_AT) * guidance).sum().backward()
    assert image.grad is not None
    return image.grad


def test_a_pixel_that_moved_by_the_tolerance_is_pulled_back_as_the_guidance_pulls() -> None:
    source, guidance = noise(0, 1, 3, 8, 8), noise(1, 1, 3, 8, 8) - 0.5
    mask = (noise(2, 1, 1, 8, 8) > 0.7).float()
    found = pulled(source + HOLD_AT, source, mask, guidance)
    assert torch.equal(found[mask.expand_as(found) == 1], guidance[mask.expand_as(found) == 1])
    outside = found[mask.expand_as(found) == 0]
    assert torch.allclose(outside, guidance.square().mean().sqrt().expand_as(outside), rtol=1e-3)
    shown = hold(source + HOLD_AT, source, mask, HOLD_AT)
    assert torch.equal(shown, source + mask * (source + HOLD_AT - source))


@pytest.mark.parametrize("strength", [1e-20, 1.0, 1e25])
@pytest.mark.parametrize("times", [1, 4])
def test_the_pull_keeps_its_proportion(strength: float, times: int) -> None:
    """Whatever the strength of the guidance and the size of the view."""
    image, source, guidance, mask = (noise(i, 1, n, 8, 8).double() for i, n in enumerate((3, 3, 3, 1)))
    plain = pulled(image, source, mask.round(), guidance)
    larger = [x.repeat_interleave(times, 2).repeat_interleave(times, 3) for x in (image, source, mask.round())]
    great = guidance.repeat_interleave(times, 2).repeat_interleave(times, 3)
    found = pulled(*larger, strength * great)[..., ::times, ::times] / strength  # pyright: ignore[reportCallIssue]
    assert torch.allclose(found, plain, rtol=1e-5)


def test_a_view_that_may_not_change_at_all_is_pulled_back_too() -> None:
    source, guidance = noise(0, 1, 3, 8, 8), noise(1, 1, 3, 8, 8)
    found = pulled(source + 0.1, source, torch.zeros(1, 1, 8, 8), guidance)
    assert float(found.min()) > float(guidance.square().mean().sqrt())


def test_how_much_moved_outside() -> None:
    source, mask = torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4)
    mask[..., :1] = 1
    assert outside_psnr(source + 0.1 * mask, source, mask) == pytest.approx(20)
    assert outside_psnr(source + 0.1 * mask, source, 1 - mask) == pytest.approx(100)
