"""Edits of nerfstudio's scenes on every device: they run, end alike, go on where they were, and follow the CPU's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from devices import CARD, Place, error

pytest.importorskip("nerfstudio", exc_type=(ImportError, OSError))
pytest.importorskip("open3d", exc_type=(ImportError, OSError))  # wants libraries of the system
from scenes import guidance_gradients, saved_model, scene_state, train
from torch import Tensor

from nerf_plugin.checkpoints import checkpoints, open_run

pytestmark = pytest.mark.parametrize("place", ["cpu", CARD], indirect=True)
kinds = pytest.mark.parametrize("kind", ["cpds", "cpds_splat"])
TOLERANCES = {"cpds": 1e-2, "cpds_splat": 5e-2}  # of gradients; gsplat's kernels, on a card, are not our rasterizer
Edit = Callable[..., Any]


def moved(trainer: Any, base: dict[str, Tensor]) -> Tensor:
    """How far an edit has moved each parameter, in one vector on the CPU."""
    now = scene_state(trainer)
    found = [(now[k].cpu() - x).flatten() for k, x in base.items() if x.is_floating_point() and k in now]
    return torch.cat(found)


@kinds
def test_an_edit_is_resumed_where_it_was(
    kind: str, place: Place, edit_scene: Edit, base_scenes: dict[str, Path], tmp_path: Path
) -> None:
    """An unbroken run and one that went on from its first checkpoint end alike."""
    base = saved_model(base_scenes[kind])
    common = {"machine__device_type": place.device.type, "max_num_iterations": 3}
    whole = edit_scene(kind, out=tmp_path / "whole", **common)
    part = edit_scene(kind, out=tmp_path / "part", **common, steps_per_save=1, save_only_latest_checkpoint=False)
    assert {x.device.type for x in part.pipeline.model.parameters()} == {place.device.type}
    first = min(checkpoints(part.checkpoint_dir))
    for step, file in checkpoints(part.checkpoint_dir).items():
        if step > first:
            file.unlink()
    again = train(open_run(part.base_dir).config)
    assert float(moved(whole, base).norm()) > 0
    place.assert_close(moved(again, base), moved(whole, base), 0.1)


@kinds
def test_the_first_gradient_is_the_cpus(
    kind: str, place: Place, edit_scene: Edit, base_scenes: dict[str, Path], tmp_path: Path
) -> None:
    """Of the guidance, with samples in the middle of their bins: a device draws its own random ones."""
    base, found = saved_model(base_scenes[kind]), []
    for i, device in enumerate(("cpu", place.device.type)):
        trainer = edit_scene(kind, out=tmp_path / str(i), machine__device_type=device, max_num_iterations=1)
        model = trainer.pipeline.model
        model.load_state_dict(base)
        for sampler in (m for m in model.modules() if hasattr(m, "train_stratified")):
            sampler.train_stratified = False
        found.append(guidance_gradients(trainer.pipeline))
    assert found[0].keys() == found[1].keys()
    one, two = (torch.cat([x.cpu().flatten() for x in gradients.values()]) for gradients in found)
    assert float(one.norm()) > 0
    assert error(two, one) <= (TOLERANCES[kind] if place.rounds else 1e-6)
