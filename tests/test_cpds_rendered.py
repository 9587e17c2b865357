"""What all renderers share: encoding, sources, masks; and what is said of a renderer that breaks the contract."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jaxtyping
import pytest
import torch
from conftest import randn
from torch import Tensor

from cpds import EditConfig, GuidanceConfig, InputError, OwnParts, ParamGroup, Rendered, edit, fingerprint
from cpds.objectives.base import Objective
from cpds.objectives.table import OBJECTIVES
from cpds.priors.base import Prediction
from cpds.priors.unet import UNetPrior
from cpds.selection.rules import RandomPatches

PROMPTS = ("a cat", "a dog")
SIZE = (32, 32)


class Canvas:
    """Two views of an image of parameters: as it is, and mirrored."""

    preset = "cpds-render"

    def __init__(self) -> None:
        self.pixels = randn(0, 1, 3, *SIZE).sigmoid().requires_grad_()
        self.rendered = 0

    def sample_view(self, step: int, generator: torch.Generator) -> str:
        return ("plain", "mirrored")[step % 2]

    def render(self, view: str) -> Tensor:
        self.rendered += 1
        return self.pixels if view == "plain" else self.pixels.flip(3)

    def param_groups(self) -> list[ParamGroup]:
        return [ParamGroup("pixels", [self.pixels], 0.01)]

    def project(self) -> None:
        pass

    def preview(self) -> Tensor:
        return self.pixels.detach()

    def fingerprint(self) -> dict[str, str]:
        return fingerprint(pixels=self.pixels)


class HeldOutside(Canvas):
    """Masked on the left half; its parameters are held there by the pull of `hold`, or of themselves."""

    def __init__(self, hold_at: float | None) -> None:
        super().__init__()
        self.hold_at = hold_at

    def mask(self, view: str) -> Tensor:
        left = (torch.arange(SIZE[1]) < SIZE[1] // 2).float().expand(1, 1, *SIZE)
        return left if view == "plain" else left.flip(3)


def test_the_source_is_the_view_as_it_was(prior: UNetPrior) -> None:
    canvas = Canvas()
    before = canvas.pixels.detach().clone()
    rendered = Rendered(canvas, prior)
    with torch.no_grad():
        canvas.pixels.mul_(0.5)
        moved = canvas.pixels.clone()
    latents = rendered.latents("mirrored")
    for view, image in {"plain": before, "mirrored": before.flip(3)}.items():
        assert torch.equal(rendered.source_latents(view), prior.encode(image))
        assert not rendered.source_latents(view).requires_grad
    assert torch.equal(canvas.pixels, moved)
    latents.sum().backward()  # what was rendered before the source still has its graph
    assert canvas.pixels.grad is not None
    count = canvas.rendered
    rendered.source_latents("plain")
    assert canvas.rendered == count  # once for each view


def test_a_renderer_that_knows_its_source_is_asked_for_it(prior: UNetPrior) -> None:
    class Knows(Canvas):
        def render_source(self, view: str) -> Tensor:
            return torch.zeros(1, 3, *SIZE)

    assert torch.equal(Rendered(Knows(), prior).source_latents("plain"), prior.encode(torch.zeros(1, 3, *SIZE)))


def test_latents_outside_of_a_mask_are_the_sources(prior: UNetPrior) -> None:
    canvas = HeldOutside(None)
    rendered = Rendered(canvas, prior)
    with torch.no_grad():
        canvas.pixels.mul_(0.5)
    for view, outside in {"plain": slice(4, 8), "mirrored": slice(0, 4)}.items():
        moved = (rendered.latents(view) - rendered.source_latents(view)).detach()
        assert float(moved[..., outside].abs().max()) == 0
        assert float(moved.abs().max()) > 0.01


def test_what_changed_outside_of_a_mask_is_pulled_back(prior: UNetPrior) -> None:
    """An edit that is pushed everywhere: with a strong pull the outside ends nearer to the source than the inside."""
    config = EditConfig(GuidanceConfig("dds", guidance_scale=30.0, normalize_gradient=True), 12, "adam")
    far = {}
    for name, canvas in {"free": Canvas(), "held": HeldOutside(0.003)}.items():
        before = canvas.pixels.detach().clone()
        with torch.no_grad():
            canvas.pixels.add_(0.0)
        edit(canvas, prior, *PROMPTS, config)
        far[name] = float((canvas.pixels.detach() - before)[..., SIZE[1] // 2 :].abs().mean())
    assert far["held"] < 0.2 * far["free"]


def test_fingerprints_tell_contents_apart() -> None:
    one, two = torch.zeros(3), torch.tensor([0.0, 0.0, 1e-7])
    assert fingerprint(x=one) == fingerprint(x=one.clone()) != fingerprint(x=two)
    assert fingerprint(file=b"a") != fingerprint(file=b"b")
    settings = fingerprint(config=EditConfig(seed=3))
    assert settings["seed"] == "3"
    assert all(isinstance(value, str) for value in settings.values())
    assert fingerprint(mask=None) == {"mask": "None"}


class Broken(Canvas):
    """Does one thing otherwise."""

    def __init__(self, name: str, other: Callable[[Any], Any]) -> None:
        super().__init__()
        plain = getattr(self, name)
        setattr(self, name, lambda *args: other(plain(*args)))


@pytest.mark.parametrize(
    ("name", "other", "message"),
    [
        ("render", lambda x: x[0], r"render gave \(3, 32, 32\) of torch.float32: it must give floats"),
        ("render", lambda x: torch.cat([x, x[:, :1]], 1), r"render gave \(1, 4, 32, 32\)"),
        ("render", lambda x: 255 * x, "render gave colors from .* they must be in 0 ... 1"),
        ("render", lambda x: x.detach(), "has no gradient to the parameters"),
        ("render", lambda x: x[..., :30], "an image of 30x32 px cannot be encoded"),
        ("param_groups", lambda groups: groups * 2, "two parameter groups have one name, of pixels, pixels"),
        ("render", lambda x: x * torch.nan, r"step 1 gave NaN .* \(first in its direction loss\)"),
    ],
)
def test_renderers_that_break_the_contract(
    prior: UNetPrior, name: str, other: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises((InputError, RuntimeError), match=message):
        edit(Broken(name, other), prior, *PROMPTS, EditConfig(GuidanceConfig("dds"), 1))


def test_a_preset_that_there_is_not(prior: UNetPrior) -> None:
    canvas = Canvas()
    canvas.preset = "cpds-canvas"
    with pytest.raises(InputError, match="there is no preset 'cpds-canvas': name one of cpds, pds, cds"):
        edit(canvas, prior, *PROMPTS)


def test_a_mask_of_another_size(prior: UNetPrior) -> None:
    canvas: Any = HeldOutside(0.02)
    canvas.mask = lambda view: torch.ones(1, 1, 16, 16)
    with pytest.raises(InputError, match="the mask of a view is 16x16 px, its image 32x32: make them the same size"):
        edit(canvas, prior, *PROMPTS, EditConfig(GuidanceConfig("dds"), 1))


@pytest.fixture
def as_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the type checks that the suite runs under."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.usefixtures("as_a_user")
def test_what_lacks_a_part_of_the_contract(prior: UNetPrior) -> None:
    config = EditConfig(GuidanceConfig("cpds"), 1)
    nothing: Any = object()
    with pytest.raises(InputError, match="the representation, of type object, lacks fingerprint, param_groups, pre"):
        edit(nothing, prior, *PROMPTS, config)
    with pytest.raises(InputError, match="the prior, of type object, lacks decode, denoise, device, embed, encode, f"):
        edit(Canvas(), nothing, *PROMPTS, config)
    classes: Any = [RandomPatches]
    with pytest.raises(InputError, match="the patch selector is the class RandomPatches: give an object of it"):
        edit(Canvas(), prior, *PROMPTS, config, parts=OwnParts(selectors=classes))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda f: f.flatten(2), r"features are \(1, \d+, \d+\): they must be \(b, d, h, w\)"),
        (lambda f: f.repeat(1, 40, 1, 1), "with d up to its feature_width"),
        (lambda f: f.detach(), "the prior's features have no gradient to x_t"),
    ],
)
@pytest.mark.usefixtures("as_a_user")
def test_features_that_the_contrast_cannot_take(
    prior: UNetPrior, monkeypatch: pytest.MonkeyPatch, other: Callable[[Tensor], Tensor], message: str
) -> None:
    plain = prior.denoise

    def denoise(*args: Any, **kwargs: Any) -> Any:
        found = plain(*args, **kwargs)
        features: Any = tuple(map(other, found.features))
        return Prediction(found.eps, features)

    monkeypatch.setattr(prior, "denoise", denoise)
    with pytest.raises(InputError, match=message):
        edit(Canvas(), prior, *PROMPTS, EditConfig(GuidanceConfig("cds"), 1))


@pytest.mark.parametrize(
    ("direction", "message"),
    [
        (lambda *_: None, "direction is NoneType: it must be a tensor"),
        (lambda *_: torch.zeros(1, 2, 2), r"direction is \(1, 2, 2\): it must be a tensor \(1, 4, 8, 8\)"),
        (lambda pair, p, w: p["source", "target"], r"reads \('source', 'target'\), which is not among the branches"),
    ],
)
def test_directions_that_are_none(prior: UNetPrior, direction: Any, message: str) -> None:
    objective = replace(OBJECTIVES["dds"], direction=direction)
    assert isinstance(objective, Objective)
    with pytest.raises(InputError, match=message):
        edit(Canvas(), prior, *PROMPTS, EditConfig(GuidanceConfig("dds"), 1), parts=OwnParts(objective))
