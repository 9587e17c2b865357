"""Editing and refining scenes inside nerfstudio, in this process, on scenes of a few pixels."""

import json
import shutil
import socket
from collections.abc import Callable
from fractions import Fraction
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("nerfstudio", exc_type=(ImportError, OSError))
pytest.importorskip("open3d", exc_type=(ImportError, OSError))  # wants libraries of the system
import scenes
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.utils.eval_utils import eval_setup
from scenes import SMALL, VIEWS, configured, make_dataset, train

from cpds.config import Method, SelectorName
from cpds.images import open_image
from nerf_plugin.checkpoints import checkpoints, open_run
from nerf_plugin.pipeline import CpdsPipeline
from nerf_plugin.records import around
from nerf_plugin.region import Region
from nerf_plugin.rendering import camera_at, evaluating, lines, render_rays, render_splats, seeded
from nerf_plugin.trainer import CpdsTrainer
from representations.cameras import Frame, read_cameras
from representations.splats.ply import SplatFile
from representations.splats.rasterise import rasterization

TRAINING = range(VIEWS - 1)


@pytest.fixture(autouse=True, scope="module")
def offline() -> Any:
    """No AlexNet from the network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", scenes.NoLpips)
        yield


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "scene")


@pytest.fixture(scope="module")
def bases(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Trained scenes by the method that edits them: their folders of checkpoints."""
    out = tmp_path_factory.mktemp("bases")
    field = configured("nerfacto", dataset, out, max_num_iterations=5, steps_per_eval_image=0, **SMALL)
    field.pipeline.datamanager = configured("cpds", dataset, out).pipeline.datamanager
    field.pipeline.datamanager.data = dataset
    splats = configured("splatfacto_cpu", dataset, out, max_num_iterations=5)
    return {"cpds": train(field).checkpoint_dir, "cpds_splat": train(splats).checkpoint_dir}


@pytest.fixture
def edit(bases: dict[str, Path], dataset: Path, tiny_folder: Path, tmp_path: Path) -> Callable[..., Any]:
    """Run a short edit; the trainer."""

    def go(name: str = "cpds", **changes: Any) -> Any:
        kind = "cpds_splat" if "splat" in name else "cpds"
        plain = {
            "load_dir": bases[kind],
            "max_num_iterations": 3,
            "pipeline__trg_prompt": "a dog",
            "pipeline__prior": str(tiny_folder),
            "pipeline__resolution": 16,
            "pipeline__rays_per_chunk": 100,
            "pipeline__turntable_frames": 0,
        }
        if "refine" not in name:
            plain |= {"pipeline__prompt": "a cat", "pipeline__log_every": 2}
        where = changes.pop("out", tmp_path / "out")
        return train(configured(name, changes.pop("data", dataset), where, **plain | changes))

    return go


def with_guidance(trainer_config: Any, **changes: Any) -> Any:
    from dataclasses import replace

    return replace(trainer_config.pipeline.guidance, **changes)


def scene_state(trainer: Any) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in trainer.pipeline.model.state_dict().items()}


def saved_model(folder: Path) -> dict[str, torch.Tensor]:
    state = open_run(folder).state()["pipeline"]
    return {k.removeprefix("_model."): v for k, v in state.items() if k.startswith("_model.")}


def test_methods_are_registered() -> None:
    names = entry_points(group="nerfstudio.method_configs").names
    assert {"cpds", "cpds-refine", "cpds-splat", "cpds-splat-refine", "splatfacto-cpu"} <= names


@pytest.mark.parametrize("kind", ["cpds", "cpds_splat"])
@pytest.mark.parametrize("method", get_args(Method))
def test_every_method_edits(kind: str, method: str, edit: Callable[..., Any], bases: dict[str, Path]) -> None:
    guidance = with_guidance(configured(kind, None, Path()), method=method, n_patches=4, patch_selector="random")
    trainer = edit(kind, pipeline__guidance=guidance)
    before, after = saved_model(bases[kind]), scene_state(trainer)
    assert before.keys() == after.keys()  # and so the prior is no part of them
    moved = [k for k in after if after[k].is_floating_point() and not torch.equal(before[k], after[k])]
    assert any("field." in k or "gauss_params" in k for k in moved)
    assert all(torch.isfinite(after[k]).all() for k in moved)


@pytest.mark.parametrize("selector", get_args(SelectorName))
def test_every_selector_edits(selector: str, edit: Callable[..., Any]) -> None:
    guidance = with_guidance(
        configured("cpds", None, Path()), patch_selector=selector, selector_every=2, n_patches=4, patch_size=(1,)
    )
    trainer = edit("cpds_splat", pipeline__guidance=guidance)
    state = trainer.pipeline.get_extra_state()["selector"]
    assert bool(state) == (selector != "random")


def test_an_edit_leaves_views_strips_and_a_checkpoint(edit: Callable[..., Any]) -> None:
    trainer = edit(pipeline__log_every=2)
    folder = trainer.base_dir
    assert sorted(f.name for f in (folder / "strips").iterdir()) == ["000002.png"]
    assert Image.open(folder / "strips" / "000002.png").size == (16 * 3 + 2 * 8, 16)
    names = sorted(f.name for f in (folder / "eval_outputs").glob("*.png"))
    assert names == [f"view_{i}.png" for i in TRAINING]
    edited = np.asarray(Image.open(folder / "eval_outputs" / "view_1.png")).astype(float)
    pair = np.asarray(Image.open(folder / "eval_outputs" / "pairs" / "view_1.png")).astype(float)
    assert np.array_equal(pair[:, 24:], edited)
    source = np.asarray(Image.open(folder / "source" / "view_1.png")).astype(float)
    assert np.array_equal(pair[:, :16], source)
    assert not np.array_equal(source, edited)
    first = open_run(trainer.origin.folder).state()["step"] + 1
    assert list(checkpoints(trainer.checkpoint_dir)) == [first + 2]
    assert any(f.name.startswith("events.out.tfevents") for f in folder.iterdir())


@pytest.mark.parametrize("kind", ["cpds", "cpds_splat"])
def test_source_pictures_can_be_the_datasets(kind: str, edit: Callable[..., Any]) -> None:
    trainer = edit(kind, pipeline__source="picture")
    assert not (trainer.base_dir / "source").exists()
    pipeline = trainer.pipeline
    with Image.open(trainer.config.pipeline.datamanager.data / "images" / "view_2.png") as file:
        shown = torch.from_numpy(np.array(file.resize((16, 16), Image.Resampling.BICUBIC))).float() / 255
    assert (pipeline.before(2)[0].permute(1, 2, 0) - shown).abs().max() < 0.02
    render = edit(kind, out=trainer.config.output_dir / "other").pipeline
    assert (render.before(2) - pipeline.before(2)).abs().max() > 0.1  # of a scene that has hardly been trained


@pytest.mark.parametrize("kind", ["cpds", "cpds_splat"])
def test_a_resumed_run_ends_where_an_unbroken_one_does(kind: str, edit: Callable[..., Any], tmp_path: Path) -> None:
    guidance = with_guidance(
        configured(kind, None, Path()), patch_selector="learned", selector_every=2, n_patches=4, normalize_gradient=True
    )
    whole = edit(kind, out=tmp_path / "whole", max_num_iterations=4, pipeline__guidance=guidance)
    part = edit(
        kind,
        out=tmp_path / "part",
        max_num_iterations=4,
        steps_per_save=1,
        pipeline__guidance=guidance,
        save_only_latest_checkpoint=False,
    )
    first = min(checkpoints(part.checkpoint_dir))
    for step, file in checkpoints(part.checkpoint_dir).items():
        if step > first + 1:
            file.unlink()
    again = train(open_run(part.base_dir).config)  # ns-train --load-config
    assert list(checkpoints(again.checkpoint_dir)) == [first, first + 1, first + 2, first + 3]
    assert list(checkpoints(whole.checkpoint_dir)) == [first + 3]
    a, b = scene_state(whole), scene_state(again)
    assert all(torch.equal(a[k], b[k]) for k in a)
    ours, theirs = (t.pipeline.get_extra_state()["selector"] for t in (whole, again))
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("kind", ["cpds", "cpds_splat"])
@pytest.mark.parametrize("shade", [0, 255])
def test_masks_say_where_the_edit_may_be(kind: str, shade: int, edit: Callable[..., Any], tmp_path: Path) -> None:
    """Black: the guidance has no say, and what has moved is pulled back. White: as without masks."""
    (tmp_path / "masks").mkdir()
    for i in TRAINING:
        Image.new("L", (20, 20), shade).save(tmp_path / "masks" / f"view_{i}.png")
    masked = edit(kind, pipeline__masks=tmp_path / "masks").pipeline
    masked.train()

    def seen() -> tuple[dict[str, float], torch.Tensor, torch.Tensor]:
        """Metrics of a step, how far its view has moved, and the gradient that reached it."""
        reached: list[torch.Tensor] = []
        masked.seen = lambda view, done, image, gradient: reached.extend([image - masked.before(view), gradient])
        _, losses, metrics = masked.get_train_loss_dict(masked.run.first)
        torch.stack([x.sum() for x in losses.values()]).sum().backward()
        return metrics, reached[0], reached[1]

    metrics, moved, gradient = seen()
    outside = -10 * moved.square().mean().log10()
    assert metrics["outside_psnr"] == pytest.approx(float(outside)) if shade == 0 else metrics["outside_psnr"] > 70
    if shade == 0:
        assert torch.allclose(gradient / gradient.norm(), moved / moved.norm(), atol=1e-6)
    else:
        masked.masks = None
        assert torch.allclose(gradient, seen()[2], rtol=1e-2, atol=1e-3 * float(gradient.abs().max()))


def test_masks_follow_pictures_that_are_undistorted(edit: Callable[..., Any], dataset: Path, tmp_path: Path) -> None:
    """A mask that is its picture in grey still is when nerfstudio has straightened the picture."""
    bent, masks = shutil.copytree(dataset, tmp_path / "bent"), tmp_path / "masks"
    meta = json.loads((bent / "transforms.json").read_text()) | {"k1": 0.4, "k2": 0.1}
    (bent / "transforms.json").write_text(json.dumps(meta))
    masks.mkdir()
    for view in TRAINING:
        grey = open_image(bent / "images" / f"view_{view}.png").mean(1)[0]
        Image.fromarray((grey * 255).round().byte().numpy()).save(masks / f"view_{view}.png")
    views = edit("cpds_splat", data=bent, pipeline__source="picture").pipeline.views
    for view, mask in enumerate(views.masks(masks)):
        shown = views.picture(view).mean(1, keepdim=True)
        assert (mask - shown).abs().max() < 0.01
        plain = views.fitted(open_image(masks / f"view_{view}.png").mean(1, keepdim=True), view)
        assert (plain - shown).abs().max() > 0.05


def test_the_viewer_changes_what_is_asked_for(edit: Callable[..., Any]) -> None:
    pipeline = edit().pipeline
    texts = pipeline.guidance.target_text.embeds.clone()
    pipeline.target_field.default_value = "a pig"
    pipeline.scale_slider.default_value = 3.0
    pipeline.listen()
    assert not torch.equal(pipeline.guidance.target_text.embeds, texts)
    assert pipeline.guidance.config.guidance_scale == 3.0
    pipeline.target_field.default_value = " "  # being typed
    pipeline.listen()
    assert pipeline.said[1] == "a pig"
    assert pipeline.get_extra_state()["trg_prompt"] == "a pig"


class FakeGui:
    """As much of viser as the picture needs."""

    def add_markdown(self, content: str, image_root: Path) -> Any:
        self.handle = type("Handle", (), {"content": content})()
        return self.handle


def test_the_viewer_shows_source_and_edit(edit: Callable[..., Any]) -> None:
    pipeline = edit().pipeline
    server = type("Server", (), {"gui": FakeGui()})()
    pipeline.now_and_then.install(server)
    pipeline.train()
    step = pipeline.run.first
    sum(pipeline.get_train_loss_dict(step)[1].values()).backward()
    assert server.gui.handle.content.startswith("![Source and edit](data:image/png;base64,")


@pytest.mark.parametrize("kind", ["cpds", "cpds_splat"])
def test_nerfstudios_own_commands_load_the_result(kind: str, edit: Callable[..., Any]) -> None:
    trainer = edit(kind)
    _, pipeline, _, step = eval_setup(trainer.base_dir / "config.yml")
    assert step == max(checkpoints(trainer.checkpoint_dir))
    assert not hasattr(pipeline, "prior")
    a, b = scene_state(trainer), pipeline.model.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    figures = pipeline.get_average_eval_image_metrics()
    assert 0 < figures["psnr"] < 100


@pytest.mark.parametrize("kind", ["cpds", "cpds_splat"])
def test_nerfstudio_renders_the_result(kind: str, edit: Callable[..., Any], tmp_path: Path) -> None:
    from nerfstudio.scripts.render import DatasetRender

    trainer = edit(kind)
    config, there = trainer.base_dir / "config.yml", tmp_path / "renders"
    DatasetRender(config, there, split="train", rendered_output_names=["rgb"], image_format="png").main()
    for view in TRAINING:
        camera = trainer.pipeline.datamanager.train_dataset.cameras[view : view + 1]
        with evaluating(trainer.pipeline.model):
            shown = trainer.pipeline.model.get_outputs_for_camera(camera)["rgb"].permute(2, 0, 1)
        assert (open_image(there / "train" / "rgb" / f"view_{view}.png")[0] - shown).abs().max() < 1 / 254


def test_nerfstudio_exports_the_result(edit: Callable[..., Any], tmp_path: Path) -> None:
    """A .ply that we read again: the gaussians of the edited scene."""
    exporter = pytest.importorskip("nerfstudio.scripts.exporter", exc_type=(ImportError, OSError))
    trainer = edit("cpds_splat")
    exporter.ExportGaussianSplat(trainer.base_dir / "config.yml", tmp_path / "out").main()
    written, scene = SplatFile.read(tmp_path / "out" / "splat.ply").gaussians, trainer.pipeline.model
    for ours, theirs in ((written.means, scene.means), (written.dc, scene.features_dc), (written.scales, scene.scales)):
        assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("kind", ["cpds", "cpds_splat"])
def test_refinement_replaces_pictures_in_turn(kind: str, edit: Callable[..., Any]) -> None:
    edited = edit(kind)
    trainer = edit(
        f"{kind}_refine", load_dir=edited.checkpoint_dir, max_num_iterations=3, pipeline__update_every=1,
        pipeline__denoising_steps=4, pipeline__skip=(0.5, 0.5),
    )  # fmt: skip
    source, pictures = trainer.base_dir / "source", trainer.base_dir / "pictures"
    assert sorted(f.name for f in pictures.iterdir()) == ["view_0.png", "view_1.png", "view_2.png"]  # three of four
    for view in range(3):
        a, b = (np.asarray(Image.open(place / f"view_{view}.png")) for place in (source, pictures))
        assert not np.array_equal(a, b)
    manager = trainer.pipeline.datamanager
    if kind == "cpds":
        batch = manager.train_image_dataloader.cached_collated_batch
        held = [batch["image"][batch["image_idx"].tolist().index(v)] for v in TRAINING]
    else:
        held = [manager.cached_train[v]["image"] / 255 for v in TRAINING]
    for view in TRAINING:
        with Image.open((pictures if view < 3 else source) / f"view_{view}.png") as file:
            shown = torch.from_numpy(np.array(file.resize((20, 20), Image.Resampling.BICUBIC))).float() / 255
        assert (held[view] - shown).abs().mean() < 0.01
    a, b = saved_model(edited.base_dir), scene_state(trainer)
    assert any(not torch.equal(a[k], b[k]) for k in a)


def test_refinement_goes_on(edit: Callable[..., Any], tmp_path: Path) -> None:
    edited = edit("cpds_splat")
    common = {"load_dir": edited.checkpoint_dir, "pipeline__update_every": 1, "pipeline__denoising_steps": 2}
    common |= {"max_num_iterations": 4, "steps_per_save": 1, "save_only_latest_checkpoint": False}
    part = edit("cpds_splat_refine", out=tmp_path / "part", **common)
    last = max(checkpoints(part.checkpoint_dir))
    checkpoints(part.checkpoint_dir)[last].unlink()
    kept = (part.base_dir / "pictures" / "view_2.png").read_bytes()
    again = train(open_run(part.base_dir).config)
    assert max(checkpoints(again.checkpoint_dir)) == last
    assert (again.base_dir / "pictures" / "view_2.png").read_bytes() == kept
    assert (again.base_dir / "source" / "view_2.png").is_file()


def gradients(model: Any, image: torch.Tensor, losses: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    weights = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    total = (image * weights).sum() + sum(losses.values())
    model.zero_grad()
    total.backward()  # the only way to gradients behind a reentrant checkpoint
    return [p.grad.clone() for p in model.parameters() if p.grad is not None and p.numel()]


def test_deferred_gradients_are_the_direct_ones(edit: Callable[..., Any]) -> None:
    pipeline = edit().pipeline
    pipeline.train()
    found = []
    for defer in (True, False):
        with seeded(3, torch.device("cpu")):
            image, losses = render_rays(pipeline.model, pipeline.views.cameras[0], 100, defer)
        found.append((image, losses, gradients(pipeline.model, image, losses)))
    (a, la, ga), (b, lb, gb) = found
    assert la.keys() == lb.keys() == {"interlevel_loss", "distortion_loss"}
    assert torch.equal(a, b)
    assert len(ga) == len(gb) > 4
    assert all(torch.allclose(x, y, rtol=1e-5, atol=1e-8) for x, y in zip(ga, gb, strict=True))
    with evaluating(pipeline.model), torch.no_grad():  # and the picture does not depend on the chunks
        whole, parts = (render_rays(pipeline.model, pipeline.views.cameras[0], n)[0] for n in (256, 60))
    assert torch.allclose(whole, parts, atol=1e-6)


def test_source_and_edit_begin_at_the_near_plane(edit: Callable[..., Any], monkeypatch: Any) -> None:
    pipeline, near = edit(pipeline__model__near_plane=1.25).pipeline, []
    found = pipeline.model.get_outputs
    monkeypatch.setattr(pipeline.model, "get_outputs", lambda rays: near.append(rays.nears) or found(rays))
    pipeline.look(0)
    pipeline.frame(around(pipeline.views.cameras, 3)[1:2])  # of the video
    pipeline.depth(pipeline.views.cameras[0])
    pipeline.train()
    pipeline.render(pipeline.views.cameras[0])
    assert len(near) > 3
    assert all(bool((n == 1.25).all()) for n in near)
    assert pipeline.model.collider.training


def test_deferred_rendering_holds_one_chunk(edit: Callable[..., Any]) -> None:
    pipeline = edit().pipeline
    pipeline.train()

    def held(chunk: int, defer: bool) -> int:
        saved: dict[int, int] = {}

        def pack(x: torch.Tensor) -> torch.Tensor:
            saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            kept = render_rays(pipeline.model, pipeline.views.cameras[0], chunk, defer)
        del kept
        return sum(saved.values())

    assert held(32, True) < 0.1 * held(32, False)


def test_deferred_splats_are_the_direct_ones(edit: Callable[..., Any]) -> None:
    pipeline = edit("cpds_splat").pipeline
    pipeline.train()
    found = []
    for defer in (True, False):
        image = render_splats(pipeline.model, pipeline.views.cameras[1], defer)
        found.append([image, *gradients(pipeline.model, image, {})])
    assert len(found[0]) == 7
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert pipeline.model.training


def test_resized_cameras_see_the_same(edit: Callable[..., Any]) -> None:
    pipeline = edit().pipeline
    camera = pipeline.datamanager.train_dataset.cameras[:1]
    small = camera_at(camera, 10, 5)
    wide = camera.generate_rays(camera_indices=0, keep_shape=True).directions
    rays = small.generate_rays(camera_indices=0, keep_shape=True).directions
    assert rays.shape == (10, 5, 3)
    centre = torch.nn.functional.normalize(wide[4:6, 4:8].mean((0, 1)), dim=0)  # of the 2 x 4 px that it covers
    assert torch.allclose(rays[2, 1], centre, atol=2e-3)


def test_splatfacto_draws_what_our_rasteriser_draws(edit: Callable[..., Any], dataset: Path) -> None:
    trainer = edit("cpds_splat")
    model = trainer.pipeline.model.eval()
    camera = trainer.pipeline.datamanager.train_dataset.cameras[1:2]
    shown = model.get_outputs_for_camera(camera)
    frame = Frame.read(trainer.base_dir / "dataparser_transforms.json")
    ours = read_cameras(dataset, frame)[1]
    p = {k: v.detach() for k, v in model.gauss_params.items()}
    drawn, alpha, _ = rasterization(
        p["means"], p["quats"], p["scales"].exp(), p["opacities"][:, 0].sigmoid(),
        torch.cat([p["features_dc"][:, None], p["features_rest"]], 1), ours.viewmat[None], ours.k[None],
        ours.width, ours.height, sh_degree=3,
    )  # fmt: skip
    wanted = (drawn[0] + (1 - alpha[0]) * model.background_color).clamp(0, 1)
    assert torch.allclose(shown["rgb"], wanted, atol=1e-4)
    assert torch.allclose(shown["accumulation"], alpha[0], atol=1e-4)


def test_nothing_is_added_or_removed(edit: Callable[..., Any], bases: dict[str, Path]) -> None:
    before = saved_model(bases["cpds_splat"])["gauss_params.means"]
    assert scene_state(edit("cpds_splat"))["gauss_params.means"].shape == before.shape == (40, 3)


@pytest.mark.parametrize(("ground", "level"), [("white", 1.0), ("black", 0.0), ("last_sample", 0.0)])
def test_transparent_pictures_lie_over_the_ground(
    ground: str, level: float, tmp_path: Path, edit: Callable[..., Any]
) -> None:
    clear = make_dataset(tmp_path / "rgba", channels=4)
    changes = {"pipeline__source": "picture", "pipeline__model__background_color": ground}
    pipeline = edit("cpds", data=clear, **changes).pipeline
    opaque = edit("cpds", out=tmp_path / "rgb", **changes).pipeline
    assert torch.allclose(pipeline.before(0)[..., 9:], opaque.before(0)[..., 9:], atol=0.02)  # the right half
    assert torch.allclose(pipeline.before(0)[..., :7], torch.tensor(level), atol=0.02)


def damaged(bases: Path, tmp_path: Path) -> Path:
    copied = shutil.copytree(bases.parent, tmp_path / "damaged")
    file = next((copied / bases.name).glob("*.ckpt"))
    file.write_bytes(file.read_bytes()[:1000])
    return copied / bases.name


def with_a_type_of_its_own(bases: Path, tmp_path: Path) -> Path:
    copied = shutil.copytree(bases.parent, tmp_path / "odd")
    file = next((copied / bases.name).glob("*.ckpt"))
    torch.save({**open_run(copied).state(), "metadata": Fraction(1, 2)}, file)
    return copied / bases.name


def of_another_implementation(bases: Path, tmp_path: Path) -> Path:
    """tiny-cuda-nn's networks have names of their own."""
    copied = shutil.copytree(bases.parent, tmp_path / "tcnn")
    file, state = next((copied / bases.name).glob("*.ckpt")), open_run(copied).state()
    state["pipeline"] = {k.replace("mlp_base.", "mlp_base.tcnn."): v for k, v in state["pipeline"].items()}
    torch.save(state, file)
    return copied / bases.name


def no_checkpoint(bases: Path, tmp_path: Path) -> Path:
    copied = shutil.copytree(bases.parent, tmp_path / "bare")
    next((copied / bases.name).glob("*.ckpt")).unlink()
    return copied / bases.name


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no scene": ({"load_dir": None}, "there is no scene to begin from"),
    "missing folder": ({"load_dir": Path("nowhere")}, "--load-dir nowhere is no folder"),
    "no prompt": ({"pipeline__prompt": " "}, "the prompt is empty"),
    "no target": ({"pipeline__trg_prompt": ""}, "the target prompt is empty"),
    "alias that nothing reads": ({"prompt": "a cat"}, "--prompt is not read"),
    "missing dataset": ({"data": Path("gone")}, "dataset gone does not exist"),
    "not a prior": ({"pipeline__prior": str(Path(__file__).parent)}, "has no model_index.json"),
    "missing masks": ({"pipeline__masks": Path("nowhere")}, "masks nowhere is no folder"),
    "mixed precision": ({"mixed_precision": True}, "leave them off"),
    "step that is not there": ({"load_step": 77}, "has no checkpoint of step 77"),
    "view_every": ({"pipeline__view_every": 0}, "view_every must be >= 1, got 0"),
    "rays_per_chunk": ({"pipeline__rays_per_chunk": 0}, "rays_per_chunk must be >= 1, got 0"),
    "loss_weight": ({"pipeline__loss_weight": 0.0}, "loss_weight must be > 0 and finite, got 0.0"),
    "model that does not fit": ({"pipeline__model__hidden_dim": 16}, "does not fit --pipeline.model"),
    "no step": ({"max_num_iterations": 0}, "max_num_iterations must be >= 1, got 0"),
    "device that is not here": ({"machine__device_type": "mps"}, "--machine.device-type mps is not usable here"),
    "two devices": ({"machine__num_devices": 2}, "an edit runs on one device, got 2"),
    "guidance device": (
        {"pipeline__guidance_device": "cuda:7"},
        "is not usable here: take auto, cpu",
    ),
    "preset": ({"pipeline__preset": "pds-paper"}, "there is no preset 'pds-paper' for cpds: take one of cpds-nerf, "),
    "flat region": ({"pipeline__region": Region(sphere=(0.0, 0.0, 0.0, 0.0))}, "the sphere must be x y z r with r > 0"),
    "region behind": (
        {"pipeline__region": Region(sphere=(0.0, 0.0, 500.0, 0.1))},
        "no view looks at the region, sphere 0 0 500 0.1: choose",
    ),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=list(BAD))
def test_bad_input(changes: dict[str, Any], message: str, edit: Callable[..., Any], capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        edit(**changes)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.count("ns-train: error:") == 1
    assert message in said


def test_a_refused_run_leaves_nothing(edit: Callable[..., Any], tmp_path: Path) -> None:
    for changes in ({"load_dir": None}, {"pipeline__trg_prompt": ""}, {"data": Path("gone")}):
        with pytest.raises(SystemExit):
            edit(**changes)
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_refused_late_leaves_no_folder(edit: Callable[..., Any], tmp_path: Path) -> None:
    """For what only the prior, the checkpoint or the views tell."""
    (tmp_path / "masks").mkdir()
    late: list[dict[str, Any]] = [
        {"pipeline__prior": str(Path(__file__).parent)},
        {"pipeline__masks": tmp_path / "masks"},
        {"pipeline__model__hidden_dim": 16},
        {"pipeline__region": Region(sphere=(0.0, 0.0, 500.0, 0.1))},
    ]
    for changes in late:
        with pytest.raises(SystemExit):
            edit(**changes)
        assert not list((tmp_path / "out").iterdir())
    kept = edit("cpds_splat").base_dir
    with pytest.raises(SystemExit):
        edit("cpds_splat", timestamp="later", **late[0])
    assert (kept / "config.yml").is_file()
    assert not (kept.parent / "later").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damaged, "is damaged"),
        (of_another_implementation, "does not fit --pipeline.model (field.mlp_base."),
        (with_a_type_of_its_own, "holds fractions.Fraction, which torch does not load unasked"),
        (no_checkpoint, "holds no checkpoint"),
    ],
)
def test_bad_scenes(
    spoil: Callable[[Path, Path], Path], message: str, edit: Callable[..., Any], bases: dict[str, Path],
    tmp_path: Path, capsys: Any
) -> None:  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        edit(load_dir=spoil(bases["cpds"], tmp_path))
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_scene_of_another_kind(edit: Callable[..., Any], bases: dict[str, Path], capsys: Any) -> None:
    with pytest.raises(SystemExit):
        edit(load_dir=bases["cpds_splat"])
    assert "was trained by splatfacto-cpu, but cpds edits those of nerfacto" in capsys.readouterr().err


def test_a_dataset_of_another_scene(edit: Callable[..., Any], tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        edit(data=make_dataset(tmp_path / "other", turn=0.4))
    assert "are not those that the scene in" in capsys.readouterr().err


def test_a_dataset_without_views(edit: Callable[..., Any], dataset: Path, tmp_path: Path, capsys: Any) -> None:
    copied = shutil.copytree(dataset, tmp_path / "empty")
    meta = json.loads((copied / "transforms.json").read_text())
    (copied / "transforms.json").write_text(json.dumps({**meta, "frames": []}))
    with pytest.raises(SystemExit):
        edit(data=copied)
    assert "cannot be used" in capsys.readouterr().err


def test_a_mask_is_missing(edit: Callable[..., Any], tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "masks").mkdir()
    with pytest.raises(SystemExit):
        edit(pipeline__masks=tmp_path / "masks")
    assert "there is no mask for the training picture view_0" in capsys.readouterr().err


def test_out_of_memory_names_the_settings(edit: Callable[..., Any], monkeypatch: Any, capsys: Any) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("nerf_plugin.pipeline.render_rays", full)
    with pytest.raises(SystemExit) as stop:
        edit(pipeline__source="picture")
    assert stop.value.code == 2
    assert "--pipeline.rays-per-chunk" in capsys.readouterr().err


def test_a_run_without_data_is_named_like_the_base_scene(edit: Callable[..., Any], tmp_path: Path) -> None:
    trainer = edit("cpds_splat", data=None, experiment_name=None)
    assert trainer.base_dir == tmp_path / "out" / "scene" / "cpds-splat" / "now"
    assert not (tmp_path / "out" / "unnamed").exists()


def test_a_dataset_may_be_named_at_its_parser(edit: Callable[..., Any], dataset: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(dataset, tmp_path / "moved")
    trainer = edit("cpds_splat", data=None, pipeline__datamanager__dataparser__data=moved)
    assert trainer.pipeline.datamanager.train_dataset.image_filenames[0].is_relative_to(moved)


@pytest.mark.parametrize("named", [{}, {"data": None, "experiment_name": None}])
def test_another_run_of_the_same_name_is_refused(
    named: dict[str, Any], edit: Callable[..., Any], capsys: Any
) -> None:  # fmt: skip
    first = edit("cpds_splat", **named)
    text = (first.base_dir / "config.yml").read_text()
    with pytest.raises(SystemExit):
        edit("cpds_splat", pipeline__trg_prompt="a pig", **named)
    assert "holds a run with other settings" in capsys.readouterr().err
    assert (first.base_dir / "config.yml").read_text() == text


def test_step_sizes_fall_over_the_run_or_as_long_as_asked(edit: Callable[..., Any]) -> None:
    name = "optimizers__means__scheduler__max_steps"
    for changes, steps in (({}, 3), ({name: 7, "timestamp": "later"}, 7)):
        assert edit("cpds_splat", **changes).config.optimizers["means"]["scheduler"].max_steps == steps


def test_the_viewer_does_not_look_while_sources_are_rendered(edit: Callable[..., Any], monkeypatch: Any) -> None:
    held, plain = [], CpdsTrainer._load
    monkeypatch.setattr(CpdsTrainer, "_load", lambda self: held.append(self.train_lock.locked()) or plain(self))
    assert not edit().train_lock.locked()
    assert held == [True]


def test_exporters_see_every_view(edit: Callable[..., Any]) -> None:
    _, pipeline, _, _ = eval_setup(edit().base_dir / "config.yml")
    seen = {int(i) for _ in range(30) for i in pipeline.datamanager.next_train(0)[1]["indices"][:, 0]}
    assert seen == set(TRAINING)


def test_refined_splats_train_before_the_ground_of_their_pictures(
    edit: Callable[..., Any], bases: dict[str, Path]
) -> None:  # fmt: skip
    model = edit("cpds_splat_refine", load_dir=bases["cpds_splat"]).pipeline.model
    assert model.config.background_color == "random"
    model.train()
    assert torch.equal(model._get_background_color(), model.background_color)


def test_videos_have_even_sides(edit: Callable[..., Any]) -> None:
    cameras = [camera_at(c, 17, 21) for c in edit("cpds_splat").pipeline.views.cameras]
    for some in (cameras, cameras[:1]):
        way = around(some, 3)
        assert {(int(c.height), int(c.width)) for c in way} == {(16, 20)}
    assert int(cameras[0].height) == 17


def test_an_edited_scene_can_be_edited_again(edit: Callable[..., Any], tmp_path: Path) -> None:
    """From what it is now, with other prompts, and steps that are counted on."""
    once = edit("cpds_splat")
    twice = edit("cpds_splat", out=tmp_path / "twice", load_dir=once.checkpoint_dir, pipeline__trg_prompt="a pig")
    assert twice.pipeline.run.first == max(checkpoints(once.checkpoint_dir)) + 1
    for view in TRAINING:
        assert (twice.pipeline.before(view) - once.pipeline.look(view)).abs().max() < 1 / 254


def test_what_the_viewer_changed_is_kept(edit: Callable[..., Any]) -> None:
    part = edit("cpds_splat", max_num_iterations=4, steps_per_save=1, save_only_latest_checkpoint=False)
    part.pipeline.target_field.value, part.pipeline.scale_slider.value = "a pig", 3.0
    last = max(checkpoints(part.checkpoint_dir))
    part.save_checkpoint(last - 1)
    checkpoints(part.checkpoint_dir)[last].unlink()
    again = train(open_run(part.base_dir).config).pipeline
    assert again.said == ("a cat", "a pig")
    assert again.guidance.config.guidance_scale == 3.0


def test_the_viewers_crop_and_ground_stay_out_of_the_edit(edit: Callable[..., Any]) -> None:
    pipeline = edit("cpds_splat").pipeline
    plain = pipeline.look(0)
    pipeline.model.set_background(torch.tensor([1.0, 0.0, 1.0]))
    pipeline.model.set_crop(OrientedBox(torch.eye(3), torch.full((3,), 50.0), torch.ones(3)))  # holds nothing
    assert torch.equal(pipeline.look(0), plain)


def test_a_moved_camera_is_rendered_where_training_moved_it(edit: Callable[..., Any], bases: dict[str, Path]) -> None:
    pipeline = edit("cpds", pipeline__model__camera_optimizer=CameraOptimizerConfig(mode="SO3xR3")).pipeline
    moved = pipeline.model.camera_optimizer.pose_adjustment
    assert moved.shape == (len(TRAINING), 6)
    assert not moved.requires_grad
    raw = pipeline.datamanager.train_dataset.cameras.camera_to_worlds
    for view in TRAINING:
        wanted = raw[view, :, 3] + moved[view, :3].detach()
        assert torch.allclose(pipeline.views.cameras[view].camera_to_worlds[0, :, 3], wanted, atol=1e-6)


def test_video_and_viewer(edit: Callable[..., Any]) -> None:
    """With nerfstudio's viewer running, and its controls in it."""
    trainer = edit(
        "cpds_splat", vis="viewer", viewer__quit_on_train_completion=True, pipeline__turntable_frames=5,
        viewer__websocket_port=free_port(), max_num_iterations=12,
    )  # fmt: skip
    assert trainer.pipeline.now_and_then.gui_handle.content.startswith("![Source and edit](data:image/png;base64,")
    trainer.viewer_state.viser_server.stop()
    video = trainer.base_dir / "eval_outputs" / "turntable.mp4"
    assert video.is_file() == (shutil.which("ffmpeg") is not None)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        return found.getsockname()[1]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("cpds", {"pipeline__view_every": 3}),
        ("cpds", {"pipeline__loss_weight": 0.001}),  # beside the model's own losses
        ("cpds", {"pipeline__torch_dtype": "bf16"}),
        ("cpds_splat", {"pipeline__resolution": 24}),
        ("cpds_splat", {"pipeline__region": Region(box=(-0.2, 1.5, -0.1, 0.1, 1.8, 0.1))}),
        ("cpds_splat", {"pipeline__preset": "dds-splats"}),
        ("cpds_splat_refine", {"pipeline__guidance_scale": 2.0}),
        ("cpds_splat_refine", {"pipeline__negative_prompt": "a pig"}),
        ("cpds_splat_refine", {"pipeline__denoising_steps": 9}),
        ("cpds_splat_refine", {"pipeline__skip": (0.1, 0.1)}),
        ("cpds_splat_refine", {"pipeline__keep_unchanged": False}),
        ("cpds_splat_refine", {"pipeline__update_every": 2}),
    ],
)
def test_every_flag_is_read(name: str, changes: dict[str, Any], edit: Callable[..., Any], tmp_path: Path) -> None:
    common = {"pipeline__denoising_steps": 4, "pipeline__update_every": 1} if "refine" in name else {}
    plain, other = (edit(name, out=tmp_path / str(i), **common | c).pipeline for i, c in enumerate([{}, changes]))
    a, b = plain.model.state_dict(), other.model.state_dict()
    assert any(not torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def default_base(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nerfacto with nerfstudio's default appearance embedding, trained long enough for views to differ in it."""
    changes = {**SMALL, "max_num_iterations": 5, "steps_per_eval_image": 0}
    del changes["pipeline__model__use_appearance_embedding"]
    config = configured("nerfacto", dataset, tmp_path_factory.mktemp("default"), **changes)
    config.pipeline.datamanager = configured("cpds", dataset, Path()).pipeline.datamanager
    config.pipeline.datamanager.data = dataset
    return train(config).checkpoint_dir


APPEARANCE = "field.embedding_appearance.embedding.weight"


def test_the_appearance_of_all_views_is_the_bases_mean(
    default_base: Path, edit: Callable[..., Any], tmp_path: Path
) -> None:
    """In an edit, in an edit of that edit, and in its refinement; and nothing trains it."""
    before = saved_model(default_base)
    assert not torch.equal(before[APPEARANCE][0], before[APPEARANCE][1])
    wanted = before[APPEARANCE].mean(0).expand(len(TRAINING), -1)
    once = edit(load_dir=default_base)
    twice = edit(load_dir=once.checkpoint_dir, out=tmp_path / "twice", pipeline__trg_prompt="a pig")
    refined = edit("cpds_refine", load_dir=once.checkpoint_dir, pipeline__denoising_steps=2, max_num_iterations=1)
    for trainer in (once, twice, refined):
        after = scene_state(trainer)
        assert torch.allclose(after[APPEARANCE], wanted, atol=1e-6)
        assert any(not torch.equal(before[k], after[k]) for k in after if "mlp_head" in k)
    assert twice.pipeline.run.first == max(checkpoints(once.checkpoint_dir)) + 1
    for view in TRAINING:  # an edit begins from what the edit before it made, and ours looks at it as nerfstudio does
        assert (twice.pipeline.before(view) - once.pipeline.look(view)).abs().max() < 1 / 254
    pipeline, camera = once.pipeline, once.pipeline.views.cameras[0]
    with torch.no_grad(), seeded(0, torch.device("cpu")):  # in training mode rays have their view's row
        pipeline.model.eval()
        evaluated = pipeline.render(camera)[0]
        pipeline.model.field.train()
        assert torch.allclose(pipeline.render(camera)[0], evaluated, atol=1e-6)


@pytest.mark.parametrize("kind", ["cpds", "cpds_splat"])
def test_sources_are_rendered_from_the_base_scene_when_first_needed(
    kind: str, edit: Callable[..., Any], bases: dict[str, Path], monkeypatch: Any, tmp_path: Path
) -> None:  # fmt: skip
    found: list[list[str]] = []
    step = CpdsPipeline.get_train_loss_dict

    def after(self: Any, **number: int) -> Any:
        result = step(self, **number)
        found.append(sorted(f.stem for f in (self.run.folder / "source").glob("*.png")))
        return result

    monkeypatch.setattr(CpdsPipeline, "get_train_loss_dict", after)
    trainer = edit(kind, max_num_iterations=3)
    assert [len(names) for names in found] == [1, 2, 3]
    eager = edit(kind, max_num_iterations=1, out=tmp_path / "fresh")
    monkeypatch.undo()
    with eager.pipeline.base.shown():
        looks = [eager.pipeline.look(view) for view in TRAINING]
    for view in TRAINING:  # of the third view too, which two steps had passed
        assert (trainer.pipeline.before(view) - looks[view]).abs().max() < 1 / 254
        assert (trainer.pipeline.look(view) - looks[view]).abs().max() > 1 / 254  # and the steps did something


def test_a_run_whose_sources_are_gone_goes_on_from_the_base_scene(
    edit: Callable[..., Any], bases: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:  # fmt: skip
    base = shutil.copytree(bases["cpds_splat"].parent, tmp_path / "base") / bases["cpds_splat"].name
    whole = edit("cpds_splat", load_dir=base, out=tmp_path / "whole", max_num_iterations=4)
    common = {"max_num_iterations": 4, "steps_per_save": 1, "save_only_latest_checkpoint": False}
    part = edit("cpds_splat", load_dir=base, out=tmp_path / "part", **common)
    first, *_, last = checkpoints(part.checkpoint_dir)
    for step, file in checkpoints(part.checkpoint_dir).items():
        if step > first:
            file.unlink()
    shutil.rmtree(part.base_dir / "source")
    again = train(open_run(part.base_dir).config)
    a, b = scene_state(whole), scene_state(again)
    assert all(torch.equal(a[k], b[k]) for k in a)
    checkpoints(part.checkpoint_dir)[last].unlink()
    shutil.rmtree(part.base_dir / "source")
    shutil.rmtree(base)
    with pytest.raises(SystemExit):
        train(open_run(part.base_dir).config)
    assert "is gone, and the run needs views of it" in capsys.readouterr().err


def test_long_renders_tell_how_far_they_are(edit: Callable[..., Any], capsys: Any) -> None:
    edited = edit("cpds_splat")
    assert f"rendering the views: 100%|{'█' * 10}| {len(TRAINING)}/{len(TRAINING)} [" in capsys.readouterr().err
    edit("cpds_splat_refine", load_dir=edited.checkpoint_dir, max_num_iterations=1, pipeline__denoising_steps=2)
    assert "rendering the views to refine: 100%" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["cpds", "cpds_splat"])
def test_a_region_says_where_the_edit_may_be(
    kind: str, edit: Callable[..., Any], bases: dict[str, Path], capsys: Any
) -> None:  # fmt: skip
    x, y, z = saved_model(bases["cpds_splat"])["gauss_params.means"].mean(0).tolist()
    ball = Region(sphere=(x, y, z, 0.15))
    trainer = edit(kind, pipeline__region=ball)
    pipeline = trainer.pipeline
    assert "the scene, in its own coordinates: " in capsys.readouterr().out
    for view in TRAINING:
        met = ball.entered(*lines(pipeline.views.cameras[view])).isfinite()
        mask = pipeline.mask(view)[0, 0] > 0
        assert 0 < int(met.sum()) < met.numel()
        assert not bool((mask & ~met).any())  # only rays that meet it, and of those all before a surface
        with pipeline.base.shown():
            depth = pipeline.depth(pipeline.views.cameras[view])
        assert torch.equal(mask, ball.entered(*lines(pipeline.views.cameras[view])) < depth)
    before, after = saved_model(bases[kind]), scene_state(trainer)
    if kind == "cpds":
        assert any(not torch.equal(before[k], after[k]) for k in after)
        return
    inside = ball.contains(before["gauss_params.means"])
    assert 0 < int(inside.sum()) < len(inside)
    for name in ("means", "features_dc", "features_rest", "opacities", "scales", "quats"):
        a, b = before[f"gauss_params.{name}"], after[f"gauss_params.{name}"]
        assert torch.equal(a[~inside], b[~inside])
    assert bool((a[inside] != b[inside]).any())
    part = edit(kind, pipeline__region=ball, timestamp="part", steps_per_save=1, save_only_latest_checkpoint=False)
    file = list(checkpoints(part.checkpoint_dir).values())[-1]
    file.unlink()
    again = scene_state(train(open_run(part.base_dir).config))  # the same gaussians, though some may have moved out
    assert all(torch.equal(again[k], after[k]) for k in after)


def test_a_step_whose_gradients_overflow_is_skipped(edit: Callable[..., Any], monkeypatch: Any, capsys: Any) -> None:
    """As those of networks in half precision do, of a picture's gradient that was finite."""
    spoilt, begin = [True, False, False], CpdsPipeline.begin

    def and_spoil(self: Any, start: Any) -> None:
        begin(self, start)
        first = next(iter(self.model.gauss_params.values()))
        first.register_hook(lambda gradient: gradient * torch.inf if spoilt.pop(0) else gradient)

    monkeypatch.setattr(CpdsPipeline, "begin", and_spoil)
    trainer = edit("cpds_splat")
    assert spoilt == []
    assert all(bool(x.isfinite().all()) for x in scene_state(trainer).values())
    assert capsys.readouterr().err.count("step skipped: the gradients of ") == 1


def test_a_finished_run_says_so(edit: Callable[..., Any], capsys: Any) -> None:
    trainer = edit()
    with pytest.raises(SystemExit):
        train(open_run(trainer.base_dir).config)
    assert "has all its steps: begin another from it" in capsys.readouterr().err
