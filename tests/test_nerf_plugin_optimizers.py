"""Steps whose gradients overflow."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("nerfstudio", exc_type=(ImportError, OSError))
pytest.importorskip("open3d", exc_type=(ImportError, OSError))  # wants libraries of the system
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from scenes import scene_state

from cpds.errors import InputError
from nerf_plugin.optimizers import MAX_SKIPPED, FiniteOptimizers
from nerf_plugin.pipeline import CpdsPipeline


def stepped(gradients: list[float]) -> tuple[FiniteOptimizers, torch.Tensor, Any]:
    """A parameter after steps with these gradients, beside one whose gradient is always 1."""
    x, y = (nn.Parameter(torch.zeros(2)) for _ in range(2))
    config = {name: {"optimizer": AdamOptimizerConfig(lr=0.1), "scheduler": None} for name in "ab"}
    optimizers = FiniteOptimizers(config, {"a": [x], "b": [y]})
    for gradient in gradients:
        x.grad, y.grad = torch.tensor([1.0, gradient]), torch.ones(2)
        optimizers.optimizer_scaler_step_some(torch.amp.GradScaler("cpu", enabled=False), ["a", "b"])
    return optimizers, torch.stack([x.detach(), y.detach()]), None


def test_steps_with_overflowing_gradients_are_skipped_and_counted(capsys: Any) -> None:
    optimizers, found, _ = stepped([1.0, float("inf"), float("nan"), 1.0])
    _, wanted, _ = stepped([1.0, 1.0])
    assert torch.equal(found, wanted)  # none of the groups moved
    assert optimizers.skipped == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "step skipped: the gradients of a have NaN or infinite values (2 so far)"


def test_too_many_skipped_steps_end_the_run() -> None:
    optimizers, _, _ = stepped([*[float("inf")] * (MAX_SKIPPED - 1), 1.0, *[float("inf")] * (MAX_SKIPPED - 1)])
    assert optimizers.skipped == 2 * (MAX_SKIPPED - 1)
    with pytest.raises(InputError) as stop:
        stepped([float("inf")] * MAX_SKIPPED)
    assert f"{MAX_SKIPPED} steps in a row" in str(stop.value)
    assert "lower pipeline.loss_weight" in str(stop.value)


def test_a_step_whose_gradients_overflow_is_skipped(
    edit_scene: Callable[..., Any], monkeypatch: Any, capsys: Any
) -> None:
    """As those of networks in half precision do, of an image's gradient that was finite."""
    overflows, setup = [True, False, False], CpdsPipeline.setup

    def and_overflow(self: Any, start: Any) -> None:
        setup(self, start)
        first = next(iter(self.model.gauss_params.values()))
        first.register_hook(lambda gradient: gradient * torch.inf if overflows.pop(0) else gradient)

    monkeypatch.setattr(CpdsPipeline, "setup", and_overflow)
    trainer = edit_scene("cpds_splat")
    assert overflows == []
    assert all(bool(x.isfinite().all()) for x in scene_state(trainer).values())
    assert capsys.readouterr().err.count("step skipped: the gradients of ") == 1
