"""Refinement: SDEdit on the views of a scene, one after the other."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("nerfstudio", exc_type=(ImportError, OSError))
pytest.importorskip("open3d", exc_type=(ImportError, OSError))  # wants libraries of the system
from scenes import TRAINING, same, saved_model, scene_state, train

from cpds.editor import edit
from cpds.images import open_image, resized
from cpds.priors.base import Prior
from cpds.priors.options import PriorOptions
from nerf_plugin.checkpoints import checkpoints, open_run
from nerf_plugin.outputs import save
from nerf_plugin.refinement import DELTA, VIEW_EDIT, RefinePipeline, RobustLoss, at_full_size
from representations.latent import LatentImage, LatentImageConfig, changed


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def training_images(trainer: Any, kind: str) -> list[Tensor]:
    """(H, W, 3) of each training view, as the scene trains on them."""
    manager = trainer.pipeline.datamanager
    if kind == "cpds":
        batch = manager.train_image_dataloader.cached_collated_batch
        return [batch["image"][batch["image_idx"].tolist().index(v)] for v in TRAINING]
    return [manager.cached_train[v]["image"] / 255 for v in TRAINING]


def image_file(folder: Path, view: int, made: int) -> Path:
    return folder / f"view_{view}-{made:06d}.png"


def source_and_image(trainer: Any, view: int, number: int) -> list[Tensor]:
    """A view before the run, and as a round redrew it."""
    folder = trainer.base_dir
    files = folder / "source" / f"view_{view}.png", image_file(folder / "images", view, number)
    return [open_image(file) for file in files]


@pytest.mark.parametrize("kind", ["cpds", "cpds_splat"])
def test_refinement_replaces_images_in_turn(
    kind: str, edit_scene: Callable[..., Any], edited: dict[str, Any]
) -> None:  # fmt: skip
    trainer = edit_scene(
        f"{kind}_refine", load_dir=edited[kind].checkpoint_dir, max_num_iterations=3, pipeline__update_every=1,
        pipeline__denoising_steps=4, pipeline__skip=(0.5, 0.5),
    )  # fmt: skip
    source, refined = trainer.base_dir / "source", trainer.base_dir / "images"
    assert sorted(f.name for f in refined.iterdir()) == [f"view_{i}-00000{i}.png" for i in range(3)]  # of four
    for view in range(3):
        a, b = (np.asarray(Image.open(f)) for f in (source / f"view_{view}.png", image_file(refined, view, view)))
        assert not np.array_equal(a, b)
    used = training_images(trainer, kind)
    for view in TRAINING:
        with Image.open(image_file(refined, view, view) if view < 3 else source / "view_3.png") as file:
            image = torch.from_numpy(np.array(file.resize((20, 20), Image.Resampling.BICUBIC))).float() / 255
        assert (used[view] - image).abs().mean() < 0.01
    assert not same(saved_model(edited[kind].base_dir), scene_state(trainer))


@pytest.mark.parametrize("kind", ["cpds", "cpds_splat"])
def test_views_are_edited_as_pictures_before_the_first_step(
    kind: str, edit_scene: Callable[..., Any], base_scenes: dict[str, Path], prior: Prior, capsys: Any
) -> None:  # fmt: skip
    short = replace(VIEW_EDIT, num_inference_steps=2, lr=1.0, polish=0.0)
    common = {"max_num_iterations": 1, "pipeline__redraw": "edit", "pipeline__edit": short, "machine__seed": 5}
    with pytest.raises(SystemExit):
        edit_scene(f"{kind}_refine", load_dir=base_scenes[kind], **common)
    assert "the prompt is empty" in capsys.readouterr().err
    seeded = common | {"pipeline__edit": replace(short, seed=3), "pipeline__prompt": "a cat"}
    with pytest.raises(SystemExit):
        edit_scene(f"{kind}_refine", load_dir=base_scenes[kind], **seeded)
    assert "edit.seed is not read, got 3" in capsys.readouterr().err
    trainer = edit_scene(f"{kind}_refine", load_dir=base_scenes[kind], pipeline__prompt="a cat", **common)
    for view, used in zip(TRAINING, training_images(trainer, kind), strict=True):
        before, after = source_and_image(trainer, view, 0)
        picture = LatentImage(before, prior, LatentImageConfig(resolution=16))
        edit(picture, prior, "a cat", "a dog", replace(short, seed=5))
        assert (after - picture.preview()).abs().max() < 0.01  # 8 bits
        assert (after - before).abs().max() > 0.02
        assert (resized(after, used.shape[:2])[0].permute(1, 2, 0) - used).abs().mean() < 0.01
    assert isinstance(getattr(trainer.pipeline.model, "rgb_loss", None), RobustLoss) == (kind == "cpds")
    assert not trainer.pipeline.target_field.visible  # there is no further round that would read them
    assert not trainer.pipeline.scale_slider.visible


def test_a_view_whose_edit_diverges_ends_the_run_in_a_sentence(
    edit_scene: Callable[..., Any], base_scenes: dict[str, Path], capsys: Any
) -> None:
    """Nothing is trained on what cannot be shown."""
    far = replace(VIEW_EDIT, num_inference_steps=1, lr=1e30, polish=0.0)
    changes = {"pipeline__redraw": "edit", "pipeline__edit": far, "pipeline__prompt": "a cat"}
    with pytest.raises(SystemExit):
        edit_scene("cpds_splat_refine", load_dir=base_scenes["cpds_splat"], **changes)
    assert "ns-train: error: step 1 left NaN or infinite values in what is shown" in capsys.readouterr().err


def test_the_loss_of_edits_is_the_squared_error_but_where_they_disagree() -> None:
    wanted = noise(0, 4, 3)
    close = wanted + DELTA * (noise(1, 4, 3) - 0.5)
    assert torch.allclose(RobustLoss()(close, wanted), (close - wanted).square().mean())
    half = torch.cat([wanted - 0.3, wanted, wanted]).requires_grad_()  # one view of three shows something else
    RobustLoss()(half.view(3, 4, 3), wanted.expand(3, 4, 3)).backward()
    assert half.grad is not None
    assert torch.allclose(half.grad[:4], torch.full((4, 3), -2 * DELTA / half.numel()))
    assert not half.grad[4:].any()


def test_a_further_round_edits_the_views_as_they_are_then(
    edit_scene: Callable[..., Any], base_scenes: dict[str, Path], prior: Prior, tmp_path: Path
) -> None:  # fmt: skip
    short = replace(VIEW_EDIT, num_inference_steps=2, lr=1.0, polish=0.0)
    common = {"load_dir": base_scenes["cpds_splat"], "pipeline__redraw": "edit", "pipeline__edit": short}
    common |= {"machine__seed": 5, "pipeline__prompt": "a cat"}
    first, both = (
        edit_scene("cpds_splat_refine", out=tmp_path / str(n), max_num_iterations=n, pipeline__rounds=n, **common)
        for n in (1, 2)
    )
    for view in TRAINING:  # `first` is as `both` was after its first round's one step
        before, found = source_and_image(both, view, 1)
        picture = LatentImage(first.pipeline.render_eval(view), prior, LatentImageConfig(resolution=16))
        edit(picture, prior, "a cat", "a dog", replace(short, seed=6))
        wanted = torch.lerp(before, picture.preview(), changed(before, picture.preview()))
        assert (found - wanted).abs().max() < 0.02
        assert (found - source_and_image(first, view, 0)[1]).abs().max() > 0.02


def test_a_further_round_reads_the_viewer_and_so_does_a_resumed_one(
    edit_scene: Callable[..., Any], base_scenes: dict[str, Path], prior: Prior
) -> None:
    short = replace(VIEW_EDIT, num_inference_steps=2, lr=1.0, polish=0.0)
    common = {"pipeline__redraw": "edit", "pipeline__edit": short, "pipeline__prompt": "a cat", "pipeline__rounds": 2}
    common |= {"max_num_iterations": 2, "steps_per_save": 1, "save_only_latest_checkpoint": False}
    part = edit_scene("cpds_splat_refine", load_dir=base_scenes["cpds_splat"], machine__seed=5, **common)
    target, scale = part.pipeline.target_field, part.pipeline.scale_slider
    assert target.visible
    assert scale.visible
    assert scale.value == VIEW_EDIT.guidance.default_guidance[0]
    target.value, scale.value = "a pig", 3.0
    first, last = checkpoints(part.checkpoint_dir)
    part.save_checkpoint(first)
    checkpoints(part.checkpoint_dir)[last].unlink()
    again = train(open_run(part.base_dir).config)
    typed = replace(short, seed=6, guidance=replace(short.guidance, guidance_scale=3.0))
    for view in TRAINING:  # the scene that it went on with is `part`'s
        before, found = source_and_image(again, view, 1)
        picture = LatentImage(part.pipeline.render_eval(view), prior, LatentImageConfig(resolution=16))
        edit(picture, prior, "a cat", "a pig", typed)
        wanted = torch.lerp(before, picture.preview(), changed(before, picture.preview()))
        assert (found - wanted).abs().max() < 0.02


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    ("kind", "changes", "writes"),
    [
        ("cpds", {}, 9),  # four views in turn: three were redrawn after the checkpoint of the sixth step
        ("cpds_splat", {}, 9),
        ("cpds_splat", {"pipeline__redraw": "edit", "pipeline__prompt": "a cat", "pipeline__rounds": 2}, 6),  # half
    ],
)
def test_a_killed_refinement_goes_on_with_the_images_of_its_checkpoint(
    kind: str, changes: dict[str, Any], writes: int, edit_scene: Callable[..., Any], tmp_path: Path, monkeypatch: Any
) -> None:
    seen: list[dict[int, list[Tensor]]] = []
    train_step, written = RefinePipeline.get_train_loss_dict, []

    def watched(self: RefinePipeline, step: int) -> Any:
        found = train_step(self, step)
        images = training_images(SimpleNamespace(pipeline=self), kind)
        seen[-1][step - self.run.first] = [image.clone() for image in images]
        return found

    def save_some(path: Path, data: bytes) -> None:
        save(path, data)
        written.append(path)
        if len(written) == writes:
            raise Killed

    short = replace(VIEW_EDIT, num_inference_steps=2, lr=1.0, polish=0.0)
    changes = {"max_num_iterations": 16, "steps_per_save": 5, "pipeline__edit": short} | changes
    monkeypatch.setattr(RefinePipeline, "get_train_loss_dict", watched)
    monkeypatch.setattr("nerf_plugin.refinement.save", save_some)
    seen.append({})
    with pytest.raises(Killed):
        edit_scene(f"{kind}_refine", pipeline__update_every=1, pipeline__denoising_steps=2, **changes)
    seen.append({})
    again = train(open_run(tmp_path / "out" / "scene" / f"{kind}_refine".replace("_", "-") / "now").config)
    part, rest = seen
    assert (max(part), min(rest), max(rest)) == (7, 6, 15)
    for ours, theirs in zip(rest[6], part[6], strict=True):
        assert (ours - theirs).abs().max() < 0.6 / 255  # files have 8 bits
    assert len(list((again.base_dir / "images").iterdir())) == len(TRAINING)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pipeline__guidance_scale": 7.5}, "few steps and takes no guidance: set guidance_scale"),
        ({"pipeline__negative_prompt": "a pig"}, "negative_prompt 'a pig' would not be read"),
    ],
)
def test_guidance_that_the_prior_cannot_follow(
    changes: dict[str, Any], message: str, edit_scene: Callable[..., Any], capsys: Any
) -> None:
    with pytest.raises(SystemExit):
        edit_scene("cpds_splat_refine", pipeline__prior_options=PriorOptions(few_step=True), **changes)
    assert message in capsys.readouterr().err


def test_refined_splats_train_over_the_background_of_their_images(
    edit_scene: Callable[..., Any], base_scenes: dict[str, Path]
) -> None:  # fmt: skip
    trainer = edit_scene("cpds_splat_refine", load_dir=base_scenes["cpds_splat"])
    model = trainer.pipeline.model
    assert model.config.background_color == "random"
    with torch.no_grad():
        found = model.train().get_outputs(trainer.pipeline.views.cameras[0])["background"]
    assert torch.equal(found, model.background_color)


def test_refined_views_keep_what_is_finer_than_the_prior_sees() -> None:
    base, image = noise(0, 1, 3, 64, 64), noise(1, 1, 3, 64, 64)
    small = resized(image, (16, 16))
    nothing, all_of_it = torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16)
    assert torch.allclose(at_full_size(small + 0.3, nothing, image, base), base, atol=1e-6)
    assert torch.allclose(at_full_size(small, all_of_it, image, base), image, atol=1e-6)
    flat = torch.full_like(small, 0.5)  # what SDEdit made anew; half of the grain would be clamped without room
    found = at_full_size(flat, all_of_it, 0.25 + image / 2, base)
    grain = (found - resized(resized(found, (16, 16)), (64, 64))).std()
    assert grain > 0.4 * image.std()
    assert (resized(found, (16, 16)) - 0.5).abs().mean() < 0.02


def test_and_at_the_priors_size_they_are_what_sdedit_made() -> None:
    base, image, edited, touched = (noise(i, 1, n, 16, 16) for i, n in enumerate((3, 3, 3, 1)))
    assert torch.allclose(at_full_size(edited, touched, image, base), base + touched * (edited - base), atol=1e-6)
