"""diffvg against our rasterizer, where somebody has built it; what is told where it is missing or cannot draw."""

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor

from cpds.errors import InputError, MissingExtra
from svg.model import (
    IDENTITY,
    Affine2D,
    Clip,
    Draw,
    Geometry,
    Gradient,
    Group,
    Solid,
    StaticPart,
    Stop,
    Stroke,
    Texture,
)
from svg.raster.diffvg import DiffvgRaster
from svg.raster.diffvg_limits import MOST_OVERLAPS
from svg.raster.page import Raster


def number(*x: float) -> Tensor:
    return torch.tensor(x[0] if len(x) == 1 else x, dtype=torch.float64)


SKEWED = Affine2D(0.8, 0.3, -0.2, 0.9, 2.1, 1.2)
TURNED = Affine2D(0.8, 0.3, -0.3, 0.8, 12.1, 1.2)  # circles stay circles
STOPS = (Stop("o0", "c0", "a0"), Stop("o1", "c1", "a1"), Stop("o2", "c2", "a2"))
VALUES = {
    "d": number(8, 8, 30, -10, 60, 40, 58, 55, 20, 70, 30, 30, 8, 50).view(7, 2),  # MCQL
    "back": number(8, 30, 10, -10, 50, 0, 50, 30, 50, 60, 20, 50, 8, 30).view(7, 2),  # MCC, ends where it began
    "star": number(30, 4, 48, 58, 3, 22, 58, 24, 12, 57).view(5, 2),
    "blue": number(0.2, 0.5, 0.9),
    "red": number(0.9, 0.1, 0.2),
    "most": number(0.8),
    "half": number(0.6),
    "w": number(4.0),
    "round": number(9.3, 12.2, 30.1, 21.7, 6.0, 4.0),
    "sharp": number(28.3, 3.2, 25.1, 20.4, 0, 0),
    "e": number(40.2, 28.1, 20.3, 15.1),
    "k": number(20.1, 40.3, 15.0),
    "linear": number(10, 10, 40, 30),
    "fitted": number(0.1, 0.2, 0.7, 0.6),
    "radial": number(30, 30, 30, 30, 30, 0),
    **{"c0": number(1, 0, 0), "c1": number(0, 0.8, 0), "c2": number(0, 0.2, 1)},
    **{"o0": number(0.1), "o1": number(0.5), "o2": number(0.7)},
    **{"a0": number(1.0), "a1": number(0.4), "a2": number(0.9)},
}
OPEN, SHUT = Geometry("path", "d", "MCQL"), Geometry("path", "d", "MCQLZ")
CIRCLE = Geometry("circle", "k")
BLUE, RED = Solid("blue"), Solid("red")
ROUND = Stroke(RED, "most", "w", "round", "round")
LINEAR = Gradient("linear", "linear", STOPS, "userSpaceOnUse", Affine2D(0.9, 0.2, -0.1, 0.8, 0.05, 0.02))
FITTED = Gradient("linear", "fitted", STOPS, "objectBoundingBox", Affine2D(0.9, 0.2, -0.1, 0.8, 0.05, 0.02))
RADIAL = Gradient("radial", "radial", STOPS, "userSpaceOnUse", Affine2D(1.0, 0.0, 0.0, 0.6, 0.0, 9.0))

PAGES = {
    "fill": [Draw(OPEN, SKEWED, BLUE, "half")],
    "even-odd": [Draw(Geometry("path", "star", "MLLLL"), SKEWED, BLUE, "half", "evenodd")],
    "nonzero": [Draw(Geometry("path", "star", "MLLLLZ"), SKEWED, BLUE, "half")],
    "two contours": [Draw(Geometry("path", "d", "MLLZMLLL"), IDENTITY, BLUE)],
    "its own last point": [Draw(Geometry("path", "back", "MCCZ"), SKEWED, BLUE)],
    "stroke": [Draw(OPEN, TURNED, stroke=ROUND)],
    "fill and stroke": [Draw(SHUT, TURNED, BLUE, "half", stroke=ROUND)],
    "stroke first": [Draw(CIRCLE, TURNED, BLUE, "half", stroke=Stroke(RED, "most", "w"), stroke_first=True)],
    "line": [Draw(Geometry("line", "e"), IDENTITY, stroke=ROUND)],
    "rects": [Draw(Geometry("rect", "round"), SKEWED, BLUE), Draw(Geometry("rect", "sharp"), SKEWED, RED, "half")],
    "ellipses": [Draw(Geometry("ellipse", "e"), SKEWED, BLUE), Draw(CIRCLE, IDENTITY, RED, "half")],
    "group opacity": [Draw(CIRCLE, IDENTITY, BLUE), Group((Group((Draw(SHUT, IDENTITY, RED, "most"),)),), "half")],
    "linear": [Draw(SHUT, SKEWED, LINEAR, "half")],
    "linear, fitted": [Draw(SHUT, SKEWED, FITTED, "half")],
    "radial": [Draw(SHUT, IDENTITY, RADIAL, "half")],
    "radial, turned": [Draw(SHUT, TURNED, replace(RADIAL, matrix=IDENTITY))],
}
MATTERS = {"d", "back", "star", "round", "sharp", "e", "k", "blue", "red", "half", "most", "linear", "fitted", "radial"}
SIDE = 96


def group(*children: Group | Draw | StaticPart) -> Group:
    return Group(children)


def looked_at(raster: Raster | DiffvgRaster) -> tuple[Tensor, dict[str, Tensor]]:
    """A image, and the gradients of a smooth measure of it."""
    leaves = {k: v.clone().requires_grad_() for k, v in VALUES.items()}
    image = raster.render(leaves, SIDE, SIDE)
    ramp = torch.linspace(0, 3, SIDE)
    weight = torch.stack([torch.sin((k + 2) * ramp)[:, None] * torch.cos((k + 1.5) * ramp)[None] for k in range(4)])
    (image * weight).sum().backward()
    return image.detach(), {k: v.grad for k, v in leaves.items() if v.grad is not None}


@pytest.fixture
def built() -> None:
    pytest.importorskip("pydiffvg", exc_type=ImportError)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A library that draws nothing."""
    module = ModuleType("pydiffvg")
    monkeypatch.setitem(sys.modules, "pydiffvg", module)
    return module


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("name", PAGES)
def test_the_image_and_its_gradients_are_those_of_our_rasterizer(name: str) -> None:
    root = group(*PAGES[name])
    ours, want = looked_at(Raster(root, 64.0, 64.0))
    theirs, found = looked_at(DiffvgRaster(root, 64.0, 64.0, samples=6))
    assert theirs.shape == ours.shape
    assert -10 * math.log10(float(((ours - theirs) ** 2).mean())) > 45
    assert set(found) == set(want)
    for key in set(want) & MATTERS:
        a, b = want[key].flatten(), found[key].flatten()
        if key == "radial":  # theirs shares the center's pull with the focus
            a, b = (torch.cat([x[:2] + x[3:5], x[2:3]]) for x in (a, b))
        # their strokes' gradient knows neither caps nor joins nor that an outline's outer side is the longer one
        stroked = "stroke" in name or name == "line"
        assert float(torch.cosine_similarity(a, b, 0)) > (0.9 if stroked else 0.99), (key, a, b)
        low, high = (0.7, 1.4) if stroked else (0.95, 1.05)
        assert low < float(b.norm() / a.norm()) < high, (key, a, b)
    for key in set(want) - MATTERS:  # widths and stops
        assert float((want[key] * found[key]).sum()) > 0, (key, want[key], found[key])


@pytest.mark.usefixtures("built")
def test_an_edge_between_two_pixels_counts_once() -> None:
    """The area of a rectangle of whole pixels grows by its other side."""
    numbers = {k: v.clone().requires_grad_() for k, v in (VALUES | {"sharp": number(20, 3, 30, 24, 0, 0)}).items()}
    page = DiffvgRaster(group(Draw(Geometry("rect", "sharp"), IDENTITY, BLUE, "half")), 64.0, 64.0)
    image = page.render(numbers, 64, 64)
    assert float(image[3].detach().sum()) == pytest.approx(0.6 * 30 * 24, rel=0.01)
    image[3].sum().backward()
    assert numbers["sharp"].grad is not None
    torch.testing.assert_close(numbers["sharp"].grad, 0.6 * number(0, 0, 24, 30, 0, 0), atol=1.5, rtol=0)


@pytest.mark.usefixtures("built")
def test_samples_and_seed() -> None:
    root = group(*PAGES["fill"])
    exact = Raster(root, 64.0, 64.0).render(VALUES, SIDE, SIDE)
    few, many = (DiffvgRaster(root, 64.0, 64.0, samples=n).render(VALUES, SIDE, SIDE) for n in (1, 4))
    assert float((many - exact).norm()) < 0.3 * float((few - exact).norm())
    again, other = (DiffvgRaster(root, 64.0, 64.0, samples=4).render(VALUES, SIDE, SIDE, seed=n) for n in (0, 1))
    torch.testing.assert_close(again, many)
    assert float((other - many).abs().max()) > 0.01


@pytest.mark.usefixtures("built")
def test_what_has_no_length_is_left_out() -> None:
    nothing = {"d": number(9, 9, 9, 9, 9, 9, 9, 9).view(4, 2), "blue": number(0, 0, 1), "k": number(5, 5, 3)}
    speck = Draw(Geometry("path", "d", "MCZ"), IDENTITY, BLUE)
    assert not DiffvgRaster(group(speck), 64.0, 64.0).render(nothing, 8, 9).any()
    assert not DiffvgRaster(group(), 64.0, 64.0).render({}, 8, 9).any()
    both = DiffvgRaster(group(speck, Draw(CIRCLE, IDENTITY, BLUE)), 64.0, 64.0).render(nothing, 64, 64)
    assert float(both[3, 5, 5]) == pytest.approx(1, abs=1e-3)
    assert float(both[:, 20, 20].abs().max()) < 1e-3


@pytest.mark.usefixtures("built")
def test_a_crowd_is_refused_before_it_ends_the_process() -> None:
    circles = [Draw(CIRCLE, IDENTITY, BLUE, "half")] * (MOST_OVERLAPS + 1)
    DiffvgRaster(group(*circles[1:]), 64.0, 64.0).render(VALUES, 16, 16)
    with pytest.raises(InputError, match="256 shapes that overlap"):
        DiffvgRaster(group(*circles), 64.0, 64.0).render(VALUES, 16, 16)
    apart = replace(circles[0], matrix=Affine2D(0.2, 0.0, 0.0, 0.2, 50.0, 50.0))
    DiffvgRaster(group(*circles[1:], apart), 64.0, 64.0).render(VALUES, 16, 16)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("children", "limits"),
    [
        ([Group((Draw(OPEN, IDENTITY, BLUE),), clip=Clip(()))], ["clip paths"]),
        ([Group((Draw(SHUT, IDENTITY, BLUE, stroke=ROUND),), "half")], ["group opacity over several shapes"]),
        ([StaticPart(b"", "<text>")], ["<text> (drawn by resvg)"]),
        ([Draw(Geometry("circle", "k"), IDENTITY, Texture(b""))], ["patterns (drawn by resvg)"]),
        ([Draw(SHUT, IDENTITY, stroke=replace(ROUND, dashes=(3.0, 2.0)))], ["dashes"]),
        ([Draw(SHUT, IDENTITY, stroke=replace(ROUND, join="miter"))], ["miter line joins"]),
        ([Draw(SHUT, IDENTITY, stroke=replace(ROUND, join="bevel", cap="butt"))], ["bevel line joins"]),
        ([Draw(OPEN, IDENTITY, stroke=replace(ROUND, cap="butt"))], ["butt line caps"]),
        ([Draw(Geometry("line", "e"), IDENTITY, stroke=Stroke(RED, "most", "w", "square"))], ["square line caps"]),
        ([Draw(CIRCLE, SKEWED, stroke=ROUND)], ["strokes that a transform stretches"]),
        ([Draw(CIRCLE, Affine2D(2.0, 0.0, 0.0, 1.0, 0.0, 0.0), stroke=ROUND)], ["strokes that a transform stretches"]),
        ([Draw(CIRCLE, IDENTITY, stroke=replace(ROUND, paint=LINEAR))], ["strokes with a gradient"]),
        ([Draw(CIRCLE, IDENTITY, replace(LINEAR, spread="reflect"))], ["gradients with spreadMethod reflect"]),
        ([Draw(CIRCLE, SKEWED, RADIAL)], ["slanted radial gradients"]),
        ([Draw(CIRCLE, TURNED, replace(RADIAL, units="objectBoundingBox"))], ["slanted radial gradients"]),
        (  # all of it, each once
            [
                Group((Draw(OPEN, IDENTITY, BLUE),), clip=Clip(())),
                *[Draw(SHUT, IDENTITY, stroke=replace(ROUND, join="bevel", dashes=(1.0, 1.0)))] * 2,
            ],
            ["clip paths", "dashes", "bevel line joins"],
        ),
    ],
)
def test_what_diffvg_cannot_draw_is_named_before_work_starts(
    children: list[Group | Draw | StaticPart], limits: Sequence[str]
) -> None:
    with pytest.raises(InputError) as caught:
        DiffvgRaster(group(*children), 64.0, 64.0)
    assert str(caught.value) == f"diffvg cannot draw {', '.join(limits)}: leave rasterizer at torch"


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    "children",
    [
        [Group((Draw(OPEN, IDENTITY, BLUE), Draw(CIRCLE, IDENTITY)), "half")],  # one of them draws nothing
        [Draw(CIRCLE, IDENTITY, stroke=Stroke(RED, "most", "w"))],  # neither ends nor corners
        [Draw(CIRCLE, Affine2D(0.0, 2.0, 2.0, 0.0, 0.0, 0.0), stroke=ROUND)],  # mirrored
        [Draw(CIRCLE, SKEWED, LINEAR)],
        [Draw(CIRCLE, Affine2D(0.0, 2.0, 3.0, 0.0, 0.0, 0.0), replace(RADIAL, units="objectBoundingBox"))],
    ],
)
def test_what_diffvg_can_draw_is_not_refused(children: list[Group | Draw | StaticPart]) -> None:
    assert DiffvgRaster(group(*children), 64.0, 64.0).shapes


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("numbers", [(30, 30, 30, 34, 30, 0), (30, 30, 30, 30, 30, 2)])
def test_a_focal_point_is_refused_by_its_numbers(numbers: tuple[float, ...]) -> None:
    page = DiffvgRaster(group(*PAGES["radial"]), 64.0, 64.0)
    with pytest.raises(InputError, match="focal point or circle: leave rasterizer at torch"):
        page.render(VALUES | {"radial": number(*numbers)}, 8, 8)


def test_without_diffvg_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydiffvg", None)
    with pytest.raises(MissingExtra, match=r"build it from its source \(https.*leave rasterizer at torch"):
        DiffvgRaster(group(), 64.0, 64.0)


def test_a_build_without_cuda_says_so(stand_in: ModuleType) -> None:
    def fails(*_: object) -> Tensor:
        raise RuntimeError("diffvg not compiled with GPU")

    stand_in.RenderFunction = SimpleNamespace(serialize_scene=lambda *_: [], apply=fails)  # pyright: ignore[reportAttributeAccessIssue]
    stand_in.Path = stand_in.ShapeGroup = lambda *a, **k: SimpleNamespace(shape_ids=torch.zeros(1, dtype=torch.int32))  # pyright: ignore[reportAttributeAccessIssue]
    stand_in.set_device = lambda _: None  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(InputError, match="without CUDA: set device to cpu"):
        DiffvgRaster(group(*PAGES["fill"]), 64.0, 64.0).render(VALUES, 8, 8)
