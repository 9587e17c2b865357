"""Edits that leave things as they are: pixels outside of a mask, appearances, and weights before spoilt gradients."""

from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("nerfstudio", exc_type=(ImportError, OSError))
pytest.importorskip("open3d", exc_type=(ImportError, OSError))  # wants libraries of the system
from nerfstudio.engine.optimizers import AdamOptimizerConfig

from cpds.errors import InputError
from cpds.images import resized
from nerf_plugin.holding import HELD, held, outside_psnr, share_appearance
from nerf_plugin.optimizers import IN_A_ROW, FiniteOptimizers
from nerf_plugin.refinement import sharpened


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def pulled(image: torch.Tensor, source: torch.Tensor, mask: torch.Tensor, guidance: torch.Tensor) -> torch.Tensor:
    """The gradient that reaches a view."""
    image = image.clone().requires_grad_()
    (held(image, source, mask) * guidance).sum().backward()
    assert image.grad is not None
    return image.grad


def test_a_pixel_that_moved_by_the_tolerance_is_pulled_back_as_the_guidance_pulls() -> None:
    source, guidance = noise(0, 1, 3, 8, 8), noise(1, 1, 3, 8, 8) - 0.5
    mask = (noise(2, 1, 1, 8, 8) > 0.7).float()
    found = pulled(source + HELD, source, mask, guidance)
    assert torch.equal(found[mask.expand_as(found) == 1], guidance[mask.expand_as(found) == 1])
    outside = found[mask.expand_as(found) == 0]
    assert torch.allclose(outside, guidance.square().mean().sqrt().expand_as(outside), rtol=1e-3)
    shown = held(source + HELD, source, mask)
    assert torch.equal(shown, source + mask * (source + HELD - source))


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
    share_appearance(nn.Module())  # has none


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
    optimizers, _, _ = stepped([*[float("inf")] * (IN_A_ROW - 1), 1.0, *[float("inf")] * (IN_A_ROW - 1)])
    assert optimizers.skipped == 2 * (IN_A_ROW - 1)
    with pytest.raises(InputError) as stop:
        stepped([float("inf")] * IN_A_ROW)
    assert f"{IN_A_ROW} steps in a row" in str(stop.value)
    assert "lower loss_weight" in str(stop.value)


def test_refined_pictures_keep_what_is_finer_than_the_prior_sees() -> None:
    base, shown = noise(0, 1, 3, 64, 64), noise(1, 1, 3, 64, 64)
    small = resized(shown, (16, 16))
    nothing, all_of_it = torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16)
    assert torch.allclose(sharpened(small + 0.3, nothing, shown, base), base, atol=1e-6)
    assert torch.allclose(sharpened(small, all_of_it, shown, base), shown, atol=1e-6)
    flat = torch.full_like(small, 0.5)  # what SDEdit made anew; half of the grain would be clamped without room
    found = sharpened(flat, all_of_it, 0.25 + shown / 2, base)
    grain = (found - resized(resized(found, (16, 16)), (64, 64))).std()
    assert grain > 0.4 * shown.std()
    assert (resized(found, (16, 16)) - 0.5).abs().mean() < 0.02


def test_and_at_the_priors_size_they_are_what_sdedit_made() -> None:
    base, shown, edited, touched = (noise(i, 1, n, 16, 16) for i, n in enumerate((3, 3, 3, 1)))
    assert torch.allclose(sharpened(edited, touched, shown, base), base + touched * (edited - base), atol=1e-6)
