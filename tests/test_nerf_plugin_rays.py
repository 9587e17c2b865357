"""Nerfacto scenes: deferred back-propagation, the near plane, and the appearance that all views share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("nerfstudio", exc_type=(ImportError, OSError))
pytest.importorskip("open3d", exc_type=(ImportError, OSError))  # wants libraries of the system
from scenes import SMALL, TRAINING, configured, gradients, saved_model, scene_state, train

from nerf_plugin.checkpoints import checkpoints
from nerf_plugin.outputs import trajectory
from nerf_plugin.rays import render_rays, share_appearance
from nerf_plugin.rendering import evaluating, seeded


def test_deferred_gradients_are_the_direct_ones(edited: dict[str, Any]) -> None:
    pipeline = edited["cpds"].pipeline
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
    with evaluating(pipeline.model), torch.no_grad():  # and the image does not depend on the chunks
        whole, parts = (render_rays(pipeline.model, pipeline.views.cameras[0], n)[0] for n in (256, 60))
    assert torch.allclose(whole, parts, atol=1e-6)


def test_source_and_edit_begin_at_the_near_plane(edit_scene: Callable[..., Any], monkeypatch: Any) -> None:
    pipeline, near = edit_scene(pipeline__model__near_plane=1.25).pipeline, []
    found = pipeline.model.get_outputs
    monkeypatch.setattr(pipeline.model, "get_outputs", lambda rays: near.append(rays.nears) or found(rays))
    pipeline.render_eval(0)
    pipeline.renderer.render_eval(trajectory(pipeline.views.cameras, 3)[1:2])  # of the video
    pipeline.renderer.depth_eval(pipeline.views.cameras[0])
    pipeline.train()
    pipeline.renderer.render(pipeline.views.cameras[0])
    assert len(near) > 3
    assert all(bool((n == 1.25).all()) for n in near)
    assert pipeline.model.collider.training


def test_deferred_rendering_holds_one_chunk(edited: dict[str, Any]) -> None:
    pipeline = edited["cpds"].pipeline
    pipeline.train()

    def stored(chunk: int, defer: bool) -> int:
        saved: dict[int, int] = {}

        def pack(x: torch.Tensor) -> torch.Tensor:
            saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            kept = render_rays(pipeline.model, pipeline.views.cameras[0], chunk, defer)
        del kept
        return sum(saved.values())

    assert stored(32, True) < 0.1 * stored(32, False)


@pytest.mark.parametrize("average", [True, False])
def test_every_view_gets_the_appearance_that_nerfstudio_evaluates_with(average: bool) -> None:
    from nerfstudio.field_components.embedding import Embedding

    model: Any = nn.Module()
    model.field = nn.Module()
    model.field.embedding_appearance, model.field.use_average_appearance_embedding = Embedding(5, 4), average
    weight = model.field.embedding_appearance.embedding.weight
    wanted = weight.detach().mean(0) if average else torch.zeros(4)
    for _ in range(2):  # a run that goes on does it again, and to the same bits
        share_appearance(model)
        assert torch.equal(weight, wanted.expand(5, 4))
    assert not weight.requires_grad
    model.field.embedding_appearance = None
    share_appearance(model)  # has none


@pytest.fixture(scope="module")
def default_base(scene_dataset: Path, tmp_path_factory: pytest.TempPathFactory, no_lpips: None) -> Path:
    """A nerfacto with nerfstudio's default appearance embedding, trained long enough for views to differ in it."""
    changes = {**SMALL, "max_num_iterations": 5, "steps_per_eval_image": 0}
    del changes["pipeline__model__use_appearance_embedding"]
    config = configured("nerfacto", scene_dataset, tmp_path_factory.mktemp("default"), **changes)
    config.pipeline.datamanager = configured("cpds", scene_dataset, Path()).pipeline.datamanager
    return train(config).checkpoint_dir


APPEARANCE = "field.embedding_appearance.embedding.weight"


def test_the_appearance_of_all_views_is_the_bases_mean(
    default_base: Path, edit_scene: Callable[..., Any], tmp_path: Path
) -> None:
    """In an edit, in an edit of that edit, and in its refinement; and nothing trains it."""
    before = saved_model(default_base)
    assert not torch.equal(before[APPEARANCE][0], before[APPEARANCE][1])
    wanted = before[APPEARANCE].mean(0).expand(len(TRAINING), -1)
    once = edit_scene(load_dir=default_base)
    twice = edit_scene(load_dir=once.checkpoint_dir, out=tmp_path / "twice", pipeline__target_prompt="a pig")
    refined = edit_scene("cpds_refine", load_dir=once.checkpoint_dir, pipeline__denoising_steps=2, max_num_iterations=1)
    for trainer in (once, twice, refined):
        after = scene_state(trainer)
        assert torch.allclose(after[APPEARANCE], wanted, atol=1e-6)
        assert any(not torch.equal(before[k], after[k]) for k in after if "mlp_head" in k)
    assert twice.pipeline.run.first == max(checkpoints(once.checkpoint_dir)) + 1
    for view in TRAINING:  # an edit begins from what the edit before it made, and ours looks at it as nerfstudio does
        assert (twice.pipeline.source_image(view) - once.pipeline.render_eval(view)).abs().max() < 1 / 254
    pipeline, camera = once.pipeline, once.pipeline.views.cameras[0]
    with torch.no_grad(), seeded(0, torch.device("cpu")):  # in training mode rays have their view's row
        pipeline.model.eval()
        evaluated = pipeline.renderer.render(camera)[0]
        pipeline.model.field.train()
        assert torch.allclose(pipeline.renderer.render(camera)[0], evaluated, atol=1e-6)
