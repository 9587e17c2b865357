"""The last denoising of an edited image, with priors whose predictions are known in closed form."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Plain
from PIL import Image as PILImage
from safetensors.torch import load_file
from test_cpds_guidance_family import NULL, SOURCE, TARGET, Points
from torch import Tensor

from cpds.config import EditConfig, GuidanceConfig
from cpds.editor import edit, run, start
from cpds.errors import EditDiverged, InputError
from cpds.images import to_tensor
from cpds.polish import changed
from cpds.priors.unet import UNetPrior
from cpds.session import RunOptions, edit_in_folder
from representations.latent import LatentImage

STEPS = EditConfig(GuidanceConfig("dds", guidance_scale=1.0), 2, "sgd", lr=0.05, polish=0.3)


class Writable(Plain):
    """Plain latents, without anything to decode them."""

    def preview(self) -> Tensor:
        return torch.zeros(1, 3, 8, 8)


class Renderer:
    """What has no latents of its own."""

    preset = "cpds"

    def __init__(self) -> None:
        plain = Plain(SOURCE)
        for name in ("sample_view", "render", "param_groups", "project", "preview", "fingerprint"):
            setattr(self, name, getattr(plain, name))


def polished(config: EditConfig, prior: Points | None = None, source: Tensor = SOURCE) -> tuple[Tensor, Tensor]:
    """The latents without and with the last touch."""
    ends = []
    for one in (replace(config, polish=0.0), config):
        shown = Writable(source)
        edit(shown, prior or Points(), "source", "target", one)
        ends.append(shown.latents().detach())
    return ends[0], ends[1]


def test_what_has_moved_becomes_what_the_prior_knows() -> None:
    config = replace(STEPS, lr=3.0)
    before, after = polished(config)
    share = changed(SOURCE, before)
    assert float(share.min()) == 1
    torch.testing.assert_close(after, TARGET, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(before, TARGET, atol=0.1)


def test_what_has_not_moved_stays() -> None:
    target = SOURCE.clone()
    target[..., 0] += 2  # the edit's only column
    before, after = polished(STEPS, Points(clean={"source": SOURCE, "target": target, "": NULL}))
    share = changed(SOURCE, before)
    assert float(share[..., :2].min()) > 0.1 > 1e-3 > float(share[..., 2:].max())
    torch.testing.assert_close(after, before + share * (target - before), rtol=1e-3, atol=1e-3)


def test_where_the_edit_does_not_belong_nothing_is_polished() -> None:
    target = SOURCE.clone()
    target[..., :2] += 3
    prior = Points(clean={"source": SOURCE, "target": target, "": SOURCE + NULL})
    guidance = GuidanceConfig("sds", guidance_scale=2.0, localize=True, t_min=0.5, t_max=0.5)
    shown = Writable(SOURCE)
    shown.parts["latent"].data += 1.0  # moved everywhere
    state = start(shown, prior, "source", "target", replace(STEPS, guidance=guidance, num_inference_steps=1, lr=1e-9))
    run(state)
    end = shown.latents().detach()
    torch.testing.assert_close(end[..., 2:], SOURCE[..., 2:] + 1, rtol=1e-4, atol=1e-4)
    assert float((end - SOURCE - 1)[..., :2].abs().mean()) > 0.5


@pytest.mark.parametrize(("polish", "timesteps"), [(0.3, [300, 250, 200, 150, 100, 50]), (0.02, [20])])
def test_it_walks_down_from_the_noise_level(polish: float, timesteps: list[int]) -> None:
    prior = Points()
    edit(Writable(SOURCE), prior, "source", "target", replace(STEPS, polish=polish))
    asked = [(t, name) for t, name, _ in prior.asked[2 * 2 :]]  # after the edit's two steps
    assert asked == [(t, "target") for t in timesteps]  # at guidance 1 the null prompt is never asked


def test_guidance_is_the_edits_own_at_each_time() -> None:
    """Of points the denoised latents are c_null + omega (c_tgt - c_null) of the last step, at t 0.05."""
    guidance = GuidanceConfig("dds", guidance_scale=5.0, guidance_schedule="rising")
    before, after = polished(replace(STEPS, guidance=guidance, lr=3.0))
    assert float(changed(SOURCE, before).min()) == 1
    omega = 1 + 4 * 2 * 0.05
    torch.testing.assert_close(after, NULL + omega * (TARGET - NULL), rtol=1e-3, atol=1e-3)


def test_guidance_is_normalized_as_the_edits_own() -> None:
    """What guidance adds to c_tgt, (omega - 1) (c_tgt - c_null), keeps nothing along c_tgt."""
    guidance = GuidanceConfig("dds", guidance_scale=5.0, guidance_parallel=0.0)
    before, after = polished(replace(STEPS, guidance=guidance, lr=3.0))
    assert float(changed(SOURCE, before).min()) == 1
    added = 4 * (TARGET - NULL)
    along = (added * TARGET).sum() / TARGET.square().sum() * TARGET
    assert float(along.abs().max()) > 0.5
    torch.testing.assert_close(after, TARGET + added - along, rtol=1e-3, atol=1e-3)


def test_each_edit_of_a_batch_is_polished_as_if_it_were_alone() -> None:
    alone = [polished(STEPS, source=source)[1] for source in (SOURCE, NULL)]
    together = Writable(torch.cat([SOURCE, NULL]))
    edit(together, Points(), ["source"] * 2, ["target"] * 2, STEPS)
    torch.testing.assert_close(together.latents().detach(), torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_a_run_folder_holds_what_the_last_step_left_and_resumes_to_the_polished_edit(tmp_path: Path) -> None:
    prior: Any = Points()

    def ended(name: str, steps: int, resume: bool) -> tuple[Tensor, Tensor]:
        """The latents that are shown, and those in the checkpoint."""
        shown = Writable(SOURCE)
        config = replace(STEPS, num_inference_steps=steps)
        edit_in_folder(shown, prior, "source", "target", tmp_path / name, config, resume=resume)
        return shown.latents().detach(), load_file(tmp_path / name / "checkpoint.safetensors")["param.latent.0"]

    whole = ended("a", 2, resume=False)
    assert not torch.allclose(*whole)
    for found, expected in zip(ended("a", 2, resume=True), whole, strict=True):  # finished: loaded
        assert torch.equal(found, expected)
    longer = ended("a", 3, resume=True)
    for found, expected in zip(longer, ended("b", 3, resume=False), strict=True):
        assert torch.equal(found, expected)  # the polish of two steps left no trace


def test_the_result_is_the_polished_edit_although_the_last_step_has_a_frame(
    prior: UNetPrior, image_file: Path, tmp_path: Path
) -> None:
    config = EditConfig(GuidanceConfig("dds", normalize_gradient=True), 2, "sgd", lr=1.0, polish=0.5)
    image = LatentImage.open(image_file, prior)
    edit_in_folder(image, prior, "a cat", "a dog", tmp_path / "run", config, options=RunOptions(frames=2))
    result = to_tensor(PILImage.open(tmp_path / "run/result.png"))
    torch.testing.assert_close(result, image.preview(), atol=1 / 255, rtol=0)
    assert not torch.allclose(result, to_tensor(PILImage.open(tmp_path / "run/frames/000002.png")), atol=2 / 255)


@pytest.mark.parametrize("polish", [-0.1, 1.0, float("nan")])
def test_noise_levels_out_of_range(polish: float) -> None:
    with pytest.raises(InputError, match="polish must be at least 0 and below 1"):
        EditConfig(polish=polish)


def test_renderers_are_refused_before_anything_is_done() -> None:
    prior = Points()
    with pytest.raises(InputError, match="polish is for what is edited as latents, which Renderer is not"):
        edit(Renderer(), prior, "source", "target", STEPS)
    assert not prior.asked


def test_a_polish_that_gives_nan_is_not_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    before, _ = polished(STEPS)
    monkeypatch.setattr("cpds.polish.redrawn", lambda _state, latents, *_: latents * float("nan"))
    shown = Writable(SOURCE)
    with pytest.raises(EditDiverged, match=r"polish 0\.3 gave NaN or infinite values and was not applied: lower"):
        edit(shown, Points(), "source", "target", STEPS)
    assert torch.equal(shown.latents().detach(), before)
