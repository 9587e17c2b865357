"""Edits inside nerfstudio, in this process, on scenes of a few pixels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("nerfstudio", exc_type=(ImportError, OSError))
pytest.importorskip("open3d", exc_type=(ImportError, OSError))  # wants libraries of the system
from conftest import OTHER_OPTIONS
from scenes import (
    TRAINING,
    guidance_gradients,
    same,
    saved_model,
    scene_state,
    train,
    with_guidance,
)

from cpds.config import Method
from cpds.priors.load import load_prior
from cpds.priors.options import PriorOptions
from cpds.selection.make import make_selector
from nerf_plugin.checkpoints import checkpoints, open_run
from nerf_plugin.controls import PromptField, hide


@pytest.mark.parametrize("kind", ["cpds", "cpds_splat"])
@pytest.mark.parametrize("method", get_args(Method))
def test_every_method_edits(
    kind: str, method: str, edit_scene: Callable[..., Any], base_scenes: dict[str, Path]
) -> None:
    """Its guidance reaches the scene's parameters, and nothing else is in a checkpoint."""
    guidance = with_guidance(kind, method=method, n_patches=4, patch_selector="random", t_min=0.2)
    trainer = edit_scene(kind, pipeline__guidance=guidance)
    before, after = saved_model(base_scenes[kind]), saved_model(trainer.base_dir)
    assert before.keys() == after.keys()  # the prior is no part of it
    assert all(bool(x.isfinite().all()) for x in after.values() if x.is_floating_point())
    gradients = guidance_gradients(trainer.pipeline, 3)
    assert all(bool(x.isfinite().all()) for x in gradients.values())
    trained = ("field.mlp_base", "field.mlp_head") if kind == "cpds" else ("gauss_params.means", "gauss_params.scales")
    for name in trained:
        assert any(bool(x.any()) for k, x in gradients.items() if k.startswith(name)), name
        assert any(not torch.equal(before[k], after[k]) for k in after if k.startswith(name)), name


@pytest.mark.parametrize("kind", ["cpds", "cpds_splat"])
def test_the_guidances_gradient_is_what_it_says_times_the_weight(kind: str, edit_scene: Callable[..., Any]) -> None:
    pipeline = edit_scene(kind).pipeline
    once = guidance_gradients(pipeline)
    pipeline.config.loss_weight = 0.25
    quarter = guidance_gradients(pipeline)
    assert max(float(x.abs().max()) for x in once.values()) > 0
    for k, x in once.items():
        assert torch.allclose(quarter[k], x / 4, rtol=1e-4, atol=1e-7 * float(x.abs().max())), k


@pytest.mark.parametrize("selector", ["learned", "svm", "knn", "forest"])
def test_every_selector_learns_and_chooses(selector: str, edit_scene: Callable[..., Any], tmp_path: Path) -> None:
    def edited(name: str) -> Any:
        changes: dict[str, Any] = {"patch_selector": name, "selector_every": 2, "n_patches": 4, "patch_size": (1,)}
        return edit_scene("cpds_splat", out=tmp_path / name, pipeline__guidance=with_guidance("cpds", **changes))

    trainer = edited(selector)
    state = trainer.pipeline.get_extra_state()["selector"]
    prior = trainer.pipeline.prior
    fresh = make_selector(selector, width=prior.feature_width, seed=42, device=prior.device).state()
    learnt = [k for k in state if k.startswith(("net.", "adam.", "fitted_"))]
    assert learnt
    assert all(k not in fresh or not torch.equal(state[k], fresh[k]) for k in learnt)
    assert not same(scene_state(trainer), scene_state(edited("random")))


def test_an_edit_leaves_views_comparisons_and_a_checkpoint(edited: dict[str, Any]) -> None:
    trainer = edited["cpds"]
    folder = trainer.base_dir
    assert sorted(f.name for f in (folder / "comparisons").iterdir()) == ["000002.png"]
    assert Image.open(folder / "comparisons" / "000002.png").size == (16 * 3 + 2 * 8, 16)
    names = sorted(f.name for f in (folder / "eval_outputs").glob("*.png"))
    assert names == [f"view_{i}.png" for i in TRAINING]
    image, pair, source = (
        np.asarray(Image.open(folder / name / "view_1.png")).astype(float)
        for name in ("eval_outputs", "eval_outputs/pairs", "source")
    )
    assert np.array_equal(pair[:, 24:], image)
    assert np.array_equal(pair[:, :16], source)
    assert not np.array_equal(source, image)
    first = open_run(trainer.base_run.folder).state()["step"] + 1
    assert list(checkpoints(trainer.checkpoint_dir)) == [first + 2]
    assert any(f.name.startswith("events.out.tfevents") for f in folder.iterdir())


@pytest.mark.parametrize("kind", ["cpds", "cpds_splat"])
def test_sources_can_be_the_datasets_images(kind: str, edit_scene: Callable[..., Any], edited: dict[str, Any]) -> None:
    trainer = edit_scene(kind, pipeline__source="image")
    assert not (trainer.base_dir / "source").exists()
    pipeline = trainer.pipeline
    with Image.open(trainer.config.pipeline.datamanager.data / "images" / "view_2.png") as file:
        wanted = torch.from_numpy(np.array(file.resize((16, 16), Image.Resampling.BICUBIC))).float() / 255
    assert (pipeline.source_image(2)[0].permute(1, 2, 0) - wanted).abs().max() < 0.02
    render = edited[kind].pipeline.source_image(2)  # of a scene that has hardly been trained
    assert (render - pipeline.source_image(2)).abs().max() > 0.1


def test_a_views_source_is_read_and_encoded_once(edit_scene: Callable[..., Any], monkeypatch: Any) -> None:
    pipeline, encoded = edit_scene("cpds_splat").pipeline, []
    for step in range(2 * len(TRAINING)):  # each view at least once
        guidance_gradients(pipeline, step)
    for file in (pipeline.run.folder / "source").iterdir():  # whatever reads one makes it anew
        file.unlink()
    encode = pipeline.prior.encode
    monkeypatch.setattr(pipeline.prior, "encode", lambda images: encoded.append(images.requires_grad) or encode(images))
    for step in range(len(TRAINING)):
        guidance_gradients(pipeline, step)
    assert encoded == [True] * len(TRAINING)  # the edits' alone
    assert not list((pipeline.run.folder / "source").iterdir())


@pytest.mark.parametrize("kind", ["cpds", "cpds_splat"])
def test_a_resumed_run_ends_where_an_unbroken_one_does(
    kind: str, edit_scene: Callable[..., Any], tmp_path: Path
) -> None:
    guidance = with_guidance(kind, patch_selector="learned", selector_every=2, n_patches=4, normalize_gradient=True)
    common = {"max_num_iterations": 4, "pipeline__guidance": guidance}
    unbroken = edit_scene(kind, out=tmp_path / "unbroken", **common)
    part = edit_scene(kind, out=tmp_path / "part", **common, steps_per_save=1, save_only_latest_checkpoint=False)
    first = min(checkpoints(part.checkpoint_dir))
    for step, file in checkpoints(part.checkpoint_dir).items():
        if step > first + 1:
            file.unlink()
    again = train(open_run(part.base_dir).config)  # ns-train --load-config
    assert list(checkpoints(again.checkpoint_dir)) == [first, first + 1, first + 2, first + 3]
    assert list(checkpoints(unbroken.checkpoint_dir)) == [first + 3]
    assert same(scene_state(unbroken), scene_state(again))
    ours, theirs = (t.pipeline.get_extra_state()["selector"] for t in (unbroken, again))
    assert same(ours, theirs)


def test_the_viewer_changes_prompts_and_guidance_scale(edit_scene: Callable[..., Any]) -> None:
    pipeline = edit_scene("cpds_splat").pipeline
    before = pipeline.guidance.conditioning["target"]["embeds"].clone()
    pipeline.target_field.default_value = "a pig"
    assert pipeline.scale_slider.value == pipeline.guidance.config.guidance_scale == 7.5  # as none was given
    pipeline.scale_slider.default_value = 3.0
    pipeline.apply_viewer_changes()
    wanted = pipeline.prior.embed(["a cat", "a pig", ""])["embeds"][1:2]
    assert torch.equal(pipeline.guidance.conditioning["target"]["embeds"], wanted)
    assert not torch.equal(before, wanted)
    assert pipeline.guidance.config.guidance_scale == 3.0
    pipeline.target_field.default_value = " "  # being typed
    pipeline.apply_viewer_changes()
    assert pipeline.prompts == ("a cat", "a pig")
    assert pipeline.get_extra_state()["target_prompt"] == "a pig"


class FakeGui:
    """As much of viser as the comparison needs."""

    def add_markdown(self, content: str, image_root: Path) -> Any:
        self.handle = type("Handle", (), {"content": content})()
        return self.handle


def test_the_viewer_shows_source_and_edit(edit_scene: Callable[..., Any]) -> None:
    pipeline = edit_scene("cpds_splat").pipeline
    server = type("Server", (), {"gui": FakeGui()})()
    pipeline.comparison_view.install(server)
    guidance_gradients(pipeline)
    assert server.gui.handle.content.startswith("![Source and edit](data:image/png;base64,")


def test_a_guidance_scale_that_is_not_read_is_not_shown(edit_scene: Callable[..., Any]) -> None:
    pipeline = edit_scene("cpds_splat", pipeline__prior_options=PriorOptions(few_step=True)).pipeline
    assert not pipeline.scale_slider.visible
    assert pipeline.target_field.visible


def test_a_control_is_hidden_when_the_viewer_is_there_already() -> None:
    field = PromptField("Prompt", "a cat")
    field.gui_handle = handle = type("Handle", (), {"visible": True, "value": "a dog"})()  # pyright: ignore
    hide(field)
    assert not handle.visible
    assert field.prompt == "a dog"


def test_what_the_viewer_changed_is_kept(edit_scene: Callable[..., Any]) -> None:
    part = edit_scene("cpds_splat", max_num_iterations=4, steps_per_save=1, save_only_latest_checkpoint=False)
    part.pipeline.target_field.value, part.pipeline.scale_slider.value = "a pig", 3.0
    last = max(checkpoints(part.checkpoint_dir))
    part.save_checkpoint(last - 1)
    checkpoints(part.checkpoint_dir)[last].unlink()
    again = train(open_run(part.base_dir).config).pipeline
    assert again.prompts == ("a cat", "a pig")
    assert again.guidance.config.guidance_scale == 3.0


REFINE = {"pipeline__denoising_steps": 4, "pipeline__update_every": 1}


@pytest.fixture(scope="session")
def unchanged() -> dict[str, Any]:
    """Scenes after runs without any changes, by method."""
    return {}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("cpds", {}),  # two runs of the same settings are equal, and so each difference below is the setting's
        ("cpds_splat", {}),
        ("cpds_splat_refine", {}),
        ("cpds", {"pipeline__view_every": 3}),
        ("cpds", {"pipeline__loss_weight": 0.001}),  # beside the model's own losses
        ("cpds", {"pipeline__prior_options": PriorOptions(torch_dtype="bf16")}),
        ("cpds_splat", {"pipeline__target_prompt": "a pig"}),
        ("cpds_splat", {"pipeline__resolution": 24}),
        ("cpds_splat", {"pipeline__region": (-0.2, 1.5, -0.1, 0.1, 1.8, 0.1)}),
        ("cpds_splat", {"pipeline__preset": "dds-splats"}),
        ("cpds_splat_refine", {"pipeline__guidance_scale": 2.0}),
        ("cpds_splat_refine", {"pipeline__negative_prompt": "a pig"}),
        ("cpds_splat_refine", {"pipeline__denoising_steps": 9}),
        ("cpds_splat_refine", {"pipeline__skip": (0.1, 0.1)}),
        ("cpds_splat_refine", {"pipeline__keep_unchanged": False}),
        ("cpds_splat_refine", {"pipeline__update_every": 2}),
    ],
)
def test_every_flag_is_read(
    name: str, changes: dict[str, Any], edit_scene: Callable[..., Any], unchanged: dict[str, Any], tmp_path: Path
) -> None:
    common = REFINE if "refine" in name else {}
    if name not in unchanged:
        unchanged[name] = scene_state(edit_scene(name, out=tmp_path / "plain", **common))
    assert same(unchanged[name], scene_state(edit_scene(name, **common | changes))) == (not changes)


def test_the_prior_gets_its_options(edit_scene: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[PriorOptions] = []

    def load(name: Any, *, device: str, options: PriorOptions) -> Any:
        given.append(options)
        return load_prior(name, device=device)

    monkeypatch.setattr("nerf_plugin.scene_pipeline.load_prior", load)
    """And those of a saved run are the same when it goes on."""
    options = PriorOptions(**OTHER_OPTIONS)
    trainer = edit_scene("cpds", pipeline__prior_options=options, max_num_iterations=1)
    assert given == [options]
    assert open_run(trainer.base_dir).config.pipeline.prior_options == options
