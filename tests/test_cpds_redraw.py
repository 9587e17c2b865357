"""Edits led by an edited image: what is compared, what is followed, and what goes on after a stop."""

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Plain, randn
from torch import Tensor

from cpds.config import EditConfig, GuidanceConfig
from cpds.editor import edit, run, start
from cpds.errors import EditDiverged, InputError
from cpds.priors.unet import UNetPrior
from cpds.redraw import distance, image_edit
from cpds.representation import ParamGroup
from cpds.runs import RunFolder
from cpds.session import EditStopped, RunOptions, edit_in_folder
from representations.latent import LatentImage

CONFIG = EditConfig(GuidanceConfig("cpds", n_patches=8), 40, "adam", 0.05, lr_decay=0.1, redraw_steps=3)
PROMPTS = ("a cat", "a dog")


class Pixels:
    """An image whose parameters are its pixels."""

    preset = "cpds-svg"

    def __init__(self, image: Tensor) -> None:
        self.source, self.x = image, image.clone().requires_grad_()
        self.seen: list[Tensor] = []

    def sample_view(self, step: int, generator: torch.Generator) -> None:
        return None

    def render(self, view: None) -> Tensor:
        return self.x

    def param_groups(self) -> list[ParamGroup]:
        return [ParamGroup("pixels", [self.x], 0.05)]

    def project(self) -> None:
        pass

    def preview(self) -> Tensor:
        return self.x.detach()

    def fingerprint(self) -> dict[str, str]:
        return {}

    def as_image(self, prior: Any) -> LatentImage:
        return LatentImage(self.source, prior)

    def follow(self, image: Tensor, step: int, moving: Collection[str]) -> Tensor:
        self.moving = moving
        return image

    def revise(self, step: int, steps: int, propose: Callable[[Any], Tensor]) -> None:
        self.seen.append(propose(None))


class Led:
    """Notes the steps of the image that is followed."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def started(self, state: Any) -> None: ...

    def finished(self, state: Any) -> None: ...

    def stepped(self, state: Any, result: Any) -> None: ...

    def led(self, state: Any) -> None:
        self.steps.append(state.lead.step)


@pytest.fixture
def page(prior: UNetPrior) -> Tensor:
    side = prior.image_size
    return torch.linspace(0, 1, side)[:, None].expand(1, 3, side, side).contiguous()


def test_the_distance_is_the_mean_square_at_three_sizes() -> None:
    a, b = randn(0, 1, 3, 8, 12), randn(1, 1, 3, 8, 12)
    total = 0.0
    for side in (1, 2, 4):
        blocks = (a - b).view(3, 8 // side, side, 12 // side, side).mean((2, 4))
        total += float(blocks.square().mean())
    assert float(distance(a, b)) == pytest.approx(total, rel=1e-5)
    assert float(distance(a, a)) == 0


def test_what_is_followed_knows_the_groups_that_move(prior: UNetPrior, page: Tensor) -> None:
    moving = []
    for rates in ({}, {"pixels": 0.0}):
        shown = Pixels(page)
        edit(shown, prior, *PROMPTS, replace(CONFIG, num_inference_steps=1, group_lrs=rates))
        moving.append(shown.moving)
    assert moving == [{"pixels"}, set()]


def test_an_edit_that_has_reached_what_it_follows_takes_no_step(
    prior: UNetPrior, page: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def follow(self: Pixels, image: Tensor, step: int, moving: Collection[str]) -> Tensor:
        with torch.no_grad():
            self.x.copy_(image)
        return image.clone()

    monkeypatch.setattr(Pixels, "follow", follow)
    state = edit_in_folder(Pixels(page), prior, *PROMPTS, tmp_path / "out", CONFIG)
    assert state.step == 0
    assert not torch.equal(state.representation.preview(), page)
    assert (tmp_path / "out/result.png").is_file()
    assert (tmp_path / "out/before_after.png").is_file()
    again = edit_in_folder(Pixels(page), prior, *PROMPTS, tmp_path / "out", CONFIG, resume=True)
    assert torch.equal(again.representation.preview(), state.representation.preview())


def test_an_image_that_cannot_be_shown_is_not_followed(
    prior: UNetPrior, page: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is edited would take its colors at once."""

    def follow(self: Pixels, image: Tensor, step: int, moving: Collection[str]) -> Tensor:
        self.x.data.copy_(image)
        return image.clone()

    monkeypatch.setattr(Pixels, "follow", follow)
    monkeypatch.setattr(LatentImage, "preview", lambda self: self.image * float("nan"))
    shown = Pixels(page)
    with pytest.raises(EditDiverged, match="step 3 left NaN or infinite values in what is shown"):
        edit(shown, prior, *PROMPTS, CONFIG)
    assert torch.equal(shown.x, page)


def test_what_is_edited_becomes_the_edited_image(prior: UNetPrior, page: Tensor) -> None:
    shown = Pixels(page)
    state = edit(shown, prior, *PROMPTS, CONFIG)
    alone = LatentImage(page, prior)
    edit(alone, prior, *PROMPTS, image_edit(CONFIG))
    wanted = alone.preview()
    assert state.lead is not None
    assert torch.equal(state.lead.representation.preview(), wanted)
    assert len(shown.seen) == 40
    assert all(torch.equal(one, wanted) for one in shown.seen)
    began, left = (float((x - wanted).square().mean()) for x in (page, shown.x.detach()))
    assert began > 1e-4
    assert left < 0.05 * began


def test_the_same_prompt_moves_nothing(prior: UNetPrior, page: Tensor) -> None:
    shown = Pixels(page)
    edit(shown, prior, "a cat", "a cat", replace(CONFIG, guidance=replace(CONFIG.guidance, min_direction=1e-3)))
    assert torch.equal(shown.x, page)


def test_the_image_is_edited_with_the_same_guidance_and_seed() -> None:
    found = image_edit(replace(CONFIG, seed=7))
    assert (found.guidance, found.seed, found.num_inference_steps, found.redraw_steps) == (CONFIG.guidance, 7, 3, 0)
    unit = image_edit(replace(CONFIG, guidance=replace(CONFIG.guidance, normalize_gradient=True)))
    assert unit.lr_decay < found.lr_decay == 1  # steps of their own size are taken as they are
    assert unit.lr == found.lr == CONFIG.redraw_lr


def test_its_learning_rate_counts(prior: UNetPrior, page: Tensor) -> None:
    ends = []
    for rate in (0.1, 0.4):
        state = start(Pixels(page), prior, *PROMPTS, replace(CONFIG, redraw_lr=rate))
        assert state.lead is not None
        before = state.lead.rendered.latents(None).detach().clone()
        run(state)
        ends.append((state.lead.rendered.latents(None).detach() - before).norm())
    assert ends[0] < ends[1]


def test_its_steps_count(prior: UNetPrior, page: Tensor) -> None:
    ends = []
    for steps in (0, 1, 2):
        shown = Pixels(page)
        edit(shown, prior, *PROMPTS, replace(CONFIG, num_inference_steps=2, redraw_steps=steps))
        ends.append(shown.x.detach())
    assert not torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[1], ends[2])


@pytest.mark.parametrize("stop", [0, 2])  # before and after the first step, which the image comes before
def test_a_resumed_run_follows_the_same_image(prior: UNetPrior, page: Tensor, tmp_path: Path, stop: int) -> None:
    config = replace(CONFIG, num_inference_steps=4)

    class Stop:
        def started(self, state: Any) -> None:
            self.stepped(state, None)

        def finished(self, state: Any) -> None: ...

        def stepped(self, state: Any, result: Any) -> None:
            if state.step == stop:
                raise KeyboardInterrupt

    whole, parts = Pixels(page), Pixels(page)
    edit_in_folder(whole, prior, *PROMPTS, tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        edit_in_folder(Pixels(page), prior, *PROMPTS, tmp_path / "parts", config, callbacks=[Stop()])
    edit_in_folder(parts, prior, *PROMPTS, tmp_path / "parts", config, resume=True)
    assert torch.equal(whole.x, parts.x)


def test_a_run_may_be_stopped_while_its_image_is_edited(prior: UNetPrior, page: Tensor, tmp_path: Path) -> None:
    config, led = replace(CONFIG, num_inference_steps=2), Led()
    whole, parts = Pixels(page), Pixels(page)
    edit_in_folder(whole, prior, *PROMPTS, tmp_path / "whole", config)
    options = RunOptions(stop=lambda: led.steps == [1])
    with pytest.raises(EditStopped):
        edit_in_folder(Pixels(page), prior, *PROMPTS, tmp_path / "parts", config, options=options, callbacks=[led])
    edit_in_folder(parts, prior, *PROMPTS, tmp_path / "parts", config, resume=True, callbacks=[led])
    assert led.steps == [1, 2, 3]
    assert torch.equal(whole.x, parts.x)


@pytest.mark.parametrize(
    ("owner", "name", "steps"),
    [
        (UNetPrior, "denoise", [1, 2, 3]),  # in the image's first step: nothing is there to keep
        (Pixels, "render", []),  # in the first drawn one
    ],
)
def test_a_run_that_breaks_keeps_its_edited_image(
    prior: UNetPrior,
    page: Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
    steps: list[int],
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    config, whole, parts = replace(CONFIG, num_inference_steps=2), Pixels(page), Pixels(page)
    edit_in_folder(whole, prior, *PROMPTS, tmp_path / "whole", config)
    out, often = tmp_path / "parts", RunOptions(checkpoint_every=1)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full)
        with pytest.raises(torch.OutOfMemoryError):
            edit_in_folder(Pixels(page), prior, *PROMPTS, out, config, options=often)
    assert RunFolder(out).exists != bool(steps)
    edit_in_folder(parts, prior, *PROMPTS, out, config, resume=True, callbacks=[led := Led()])
    assert led.steps == steps
    assert torch.equal(whole.x, parts.x)


def test_an_image_that_diverges_is_kept_as_it_was_before(
    prior: UNetPrior, page: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoise, options, led = UNetPrior.denoise, RunOptions(checkpoint_every=1), Led()

    def breaks(self: UNetPrior, *args: Any, **kwargs: Any) -> Any:
        prediction = denoise(self, *args, **kwargs)
        if len(led.steps) == 2:
            prediction.eps.fill_(float("nan"))
        return prediction

    words = r"step 3 gave NaN .*; the state after step 2 of 3 of the image that is followed is kept in"
    with monkeypatch.context() as patch:
        patch.setattr(UNetPrior, "denoise", breaks)
        with pytest.raises(InputError, match=words):
            edit_in_folder(Pixels(page), prior, *PROMPTS, tmp_path, CONFIG, options=options, callbacks=[led])
    edit_in_folder(Pixels(page), prior, *PROMPTS, tmp_path, CONFIG, resume=True, callbacks=[rest := Led()])
    assert rest.steps == [3]


def test_an_image_is_not_edited_again(prior: UNetPrior, page: Tensor) -> None:
    state = start(Pixels(page), prior, *PROMPTS, CONFIG)
    assert state.lead is not None
    run(state)
    again = start(Pixels(page), prior, *PROMPTS, CONFIG)
    again.load(state.tensors())
    assert again.lead is not None
    assert again.lead.step == 3
    assert again.tensors().keys() == state.tensors().keys()


def test_only_drawings_follow_images(prior: UNetPrior) -> None:
    with pytest.raises(InputError, match="redraw_steps is for drawings, and what is edited is none"):
        start(Plain(randn(0, 1, 4, 8, 8)), prior, *PROMPTS, CONFIG)
