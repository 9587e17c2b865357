"""The rasterizer against resvg, against naive composition, and its gradients against finite differences."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from svg_oracles import DATA, drawn_by_resvg, psnr
from torch import Tensor, nn

from svg.document import Document
from svg.model import IDENTITY, Affine2D, Clip, Draw, Geometry, Gradient, Group, Solid, StaticPart, Stop, Stroke
from svg.raster import steps
from svg.raster.compose import Inputs, compose
from svg.raster.coverage import boxes_of, coverage
from svg.raster.outlines import Outlines
from svg.raster.page import Raster, over, render
from svg.raster.steps import Begin, End, Fill, Paste

pytest.importorskip("resvg_py")

BLOB = "M8 8C30 -10 60 40 58 55Q20 70 30 30L8 50"
POINTS = torch.tensor(
    [[8, 8], [30, -10], [60, 40], [58, 55], [20, 70], [30, 30], [8, 50]], dtype=torch.float64
)  # the numbers of BLOB, commands MCQL


def number(*x: float) -> Tensor:
    return torch.tensor(x[0] if len(x) == 1 else x, dtype=torch.float64)


def resvg(body: str, side: int = 128, defs: str = "") -> np.ndarray:
    """(side, side, 3) on white of a 64-px page."""
    text = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64">{defs}{body}</svg>'
    return drawn_by_resvg(text.encode(), side, "#ffffff")[..., :3]


def ours(root: Group, values: dict[str, Tensor], side: int = 128) -> np.ndarray:
    image = over(Raster(root, 64.0, 64.0).render(values, side, side)[None], torch.ones(3, 1, 1))[0]
    return image.permute(1, 2, 0).numpy()


def values(**more: Tensor) -> dict[str, Tensor]:
    plain = {"d": POINTS, "f": number(0.2, 0.5, 0.9), "s": number(0.9, 0.1, 0.2), "fo": number(0.7), "so": number(0.8)}
    return plain | {"w": number(4.0)} | more


FILL = 'fill="rgb(20%,50%,90%)" fill-opacity="0.7"'
STROKE = 'stroke="rgb(90%,10%,20%)" stroke-opacity="0.8"'
PATH = Geometry("path", "d", "MCQL")


def draw(**changes: object) -> Draw:
    return replace(Draw(PATH, IDENTITY, Solid("f"), "fo"), **changes)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("rule", ["nonzero", "evenodd"])
@pytest.mark.parametrize(
    ("matrix", "text"),
    [
        (IDENTITY, ""),
        (Affine2D(0.5, 0.3, -0.2, 0.9, 10.0, -3.0), "matrix(.5 .3 -.2 .9 10 -3)"),  # skewed
        (Affine2D(-1.0, 0.0, 0.0, 1.0, 64.0, 0.0), "matrix(-1 0 0 1 64 0)"),  # mirrored: the winding turns round
        (Affine2D(4.0, 0.0, 0.0, 4.0, -100.0, -60.0), "matrix(4 0 0 4 -100 -60)"),  # mostly off the page
    ],
)
def test_fills_look_as_resvg_draws_them(rule: str, matrix: Affine2D, text: str) -> None:
    again = "M30 12C52 -6 82 44 80 59Q42 74 52 34L30 54"
    body = f'<path d="{BLOB}Z{again}" fill-rule="{rule}" transform="{text}" {FILL}/>'
    twice = torch.cat([POINTS, POINTS + number(22, 4)])
    geometry = Geometry("path", "d", "MCQLZMCQL")
    found = ours(Group((draw(geometry=geometry, fill_rule=rule, matrix=matrix),)), values(d=twice))
    assert psnr(found, resvg(body)) > 36


@pytest.mark.parametrize("width", [0.4, 4.0, 14.0])
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize(
    ("cap", "join"), [("butt", "miter"), ("round", "round"), ("butt", "bevel"), ("round", "miter")]
)
def test_strokes_look_as_resvg_draws_them(cap: str, join: str, closed: bool, width: float) -> None:
    stroke = Stroke(Solid("s"), "so", "w", cap, join)  # pyright: ignore[reportArgumentType]
    geometry = Geometry("path", "d", "MCQLZ" if closed else "MCQL")
    matrix = Affine2D(0.8, 0.1, -0.3, 0.6, 12.0, 5.0)
    body = (
        f'<path d="{BLOB}{"Z" * closed}" {FILL} {STROKE} stroke-width="{width}" stroke-linecap="{cap}" '
        f'stroke-linejoin="{join}" transform="matrix(.8 .1 -.3 .6 12 5)"/>'
    )
    found = ours(Group((draw(geometry=geometry, stroke=stroke, matrix=matrix),)), values(w=number(width)))
    assert psnr(found, resvg(body)) > 37


@pytest.mark.parametrize("cap", ["butt", "round"])
def test_dashes_look_as_resvg_draws_them(cap: str) -> None:
    stroke = Stroke(Solid("s"), "so", "w", cap, dashes=(7.0, 6.0, 2.0, 6.0), dash_offset=3.0)  # pyright: ignore[reportArgumentType]
    body = (
        f'<path d="{BLOB}Z" fill="none" {STROKE} stroke-width="4" stroke-linecap="{cap}" '
        'stroke-dasharray="7 6 2 6" stroke-dashoffset="3"/>'
    )
    found = ours(Group((draw(geometry=Geometry("path", "d", "MCQLZ"), fill=None, stroke=stroke),)), values())
    assert psnr(found, resvg(body)) > 32


def test_a_dot_is_drawn_where_caps_reach_beyond_nothing() -> None:
    stroke = Stroke(Solid("s"), "so", "w", "round")
    found = ours(
        Group((draw(geometry=Geometry("path", "d", "ML"), fill=None, stroke=stroke),)),
        values(d=number(30, 30, 30, 30).view(2, 2), w=number(20.0)),
    )
    assert psnr(found, resvg(f'<path d="M30 30L30 30" {STROKE} stroke-width="20" stroke-linecap="round"/>')) > 38
    nothing = replace(stroke, cap="butt")
    plain = Group((draw(geometry=Geometry("path", "d", "ML"), fill=None, stroke=nothing),))
    assert ours(plain, values(d=number(30, 30, 30, 30).view(2, 2))).min() == 1


@pytest.mark.parametrize(
    ("geometry", "numbers", "body"),
    [
        (Geometry("rect", "d"), (8.3, 9.1, 40, 30.7, 0, 0), '<rect x="8.3" y="9.1" width="40" height="30.7"'),
        (Geometry("rect", "d"), (8, 9, 40, 30, 12, 6), '<rect x="8" y="9" width="40" height="30" rx="12" ry="6"'),
        (Geometry("rect", "d"), (8, 9, 40, 30, 50, 50), '<rect x="8" y="9" width="40" height="30" rx="50"'),  # clamped
        (Geometry("circle", "d"), (30, 28, 20.5), '<circle cx="30" cy="28" r="20.5"'),
        (Geometry("ellipse", "d"), (30, 28, 20.5, 9), '<ellipse cx="30" cy="28" rx="20.5" ry="9"'),
        (Geometry("line", "d"), (5, 6, 50, 40), '<line x1="5" y1="6" x2="50" y2="40"'),
    ],
)
def test_basic_shapes_look_as_resvg_draws_them(geometry: Geometry, numbers: tuple[float, ...], body: str) -> None:
    stroke = Stroke(Solid("s"), "so", "w")
    found = ours(Group((draw(geometry=geometry, stroke=stroke),)), values(d=number(*numbers)))
    assert psnr(found, resvg(f'{body} {FILL} {STROKE} stroke-width="4"/>')) > 38


STOPS = (Stop("o0", "c0", "a0"), Stop("o1", "c1", "a1"), Stop("o2", "c2", "a2"))
STOP_TEXT = (
    '<stop offset=".1" stop-color="rgb(100%,0%,0%)"/><stop offset=".5" stop-color="rgb(0%,80%,0%)" stop-opacity=".4"/>'
    '<stop offset=".9" stop-color="rgb(0%,20%,100%)"/>'
)


def stops() -> dict[str, Tensor]:
    colors = {"c0": number(1, 0, 0), "c1": number(0, 0.8, 0), "c2": number(0, 0.2, 1)}
    offsets = {"o0": number(0.1), "o1": number(0.5), "o2": number(0.9)}
    return colors | offsets | {"a0": number(1.0), "a1": number(0.4), "a2": number(1.0)}


@pytest.mark.parametrize("spread", ["pad", "reflect", "repeat"])
@pytest.mark.parametrize(
    ("kind", "numbers", "units", "text"),
    [
        ("linear", (0.1, 0.2, 0.7, 0.6), "objectBoundingBox", 'x1=".1" y1=".2" x2=".7" y2=".6"'),
        ("linear", (10, 10, 40, 30), "userSpaceOnUse", 'x1="10" y1="10" x2="40" y2="30"'),
        ("radial", (0.5, 0.5, 0.4, 0.5, 0.5, 0), "objectBoundingBox", 'r=".4"'),
        ("radial", (30, 30, 20, 24, 34, 0), "userSpaceOnUse", 'cx="30" cy="30" r="20" fx="24" fy="34"'),
    ],
)
def test_gradients_look_as_resvg_draws_them(
    kind: str, numbers: tuple[float, ...], units: str, text: str, spread: str
) -> None:
    gradient = Gradient(kind, "g", STOPS, units, Affine2D(0.9, 0.2, -0.1, 0.8, 0.05, 0.02), spread)  # pyright: ignore[reportArgumentType]
    defs = (
        f'<{kind}Gradient id="g" gradientUnits="{units}" {text} spreadMethod="{spread}" '
        f'gradientTransform="matrix(.9 .2 -.1 .8 .05 .02)">{STOP_TEXT}</{kind}Gradient>'
    )
    body = f'<path d="{BLOB}" fill="url(#g)" fill-opacity=".7" transform="rotate(10)"/>'
    c, s = math.cos(math.radians(10)), math.sin(math.radians(10))
    root = Group((draw(fill=gradient, matrix=Affine2D(c, s, -s, c, 0.0, 0.0)),))
    assert psnr(ours(root, values(g=number(*numbers)) | stops()), resvg(body, defs=defs)) > 37


def test_a_group_fades_and_is_clipped_as_a_whole() -> None:
    circle = Draw(Geometry("circle", "k"), IDENTITY, Solid("f"))
    hole = Draw(Geometry("rect", "r"), IDENTITY, Solid("f"))
    inner = Group(
        (draw(fill_opacity=None), replace(circle, fill=Solid("s"))), "half", Clip(((circle, None), (hole, None)))
    )
    numbers = values(k=number(30, 30, 18), r=number(2, 2, 12, 50, 0, 0), half=number(0.5))
    body = (
        '<clipPath id="c"><circle cx="30" cy="30" r="18"/><rect x="2" y="2" width="12" height="50"/></clipPath>'
        f'<rect width="64" height="20" fill="rgb(90%,10%,20%)"/>'
        f'<g opacity=".5" clip-path="url(#c)"><path d="{BLOB}" fill="rgb(20%,50%,90%)"/>'
        '<circle cx="30" cy="30" r="18" fill="rgb(90%,10%,20%)"/></g>'
    )
    band = Draw(Geometry("rect", "b"), IDENTITY, Solid("s"))
    root = Group((band, inner))
    assert psnr(ours(root, numbers | {"b": number(0, 0, 64, 20, 0, 0)}), resvg(body)) > 38


def test_an_empty_clip_hides_all_and_an_empty_page_is_transparent() -> None:
    assert ours(Group((Group((draw(),), clip=Clip(())),)), values()).min() == 1
    image = Raster(Group(()), 64.0, 64.0).render({}, 8, 9)
    assert image.shape == (4, 8, 9)
    assert not image.any()


def test_a_fixed_part_is_drawn_in_its_place() -> None:
    page = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64" preserveAspectRatio="none">'
    svg = page + b'<rect width="32" height="64" fill="red"/></svg>'
    over_it = Draw(Geometry("rect", "r"), IDENTITY, Solid("f"))
    found = ours(Group((StaticPart(svg, "image"), over_it)), values(r=number(0, 0, 64, 32, 0, 0)), 64)
    np.testing.assert_allclose(found[40, 10], (1, 0, 0), atol=1e-3)
    np.testing.assert_allclose(found[10, 10], (0.2, 0.5, 0.9), atol=1e-3)
    np.testing.assert_allclose(found[40, 50], (1, 1, 1), atol=1e-3)


def test_several_pages_at_once_are_what_each_is_alone() -> None:
    one = Raster(Group((draw(),)), 64.0, 64.0)
    other = Raster(Group((Draw(Geometry("circle", "k"), IDENTITY, Solid("s")), draw())), 32.0, 64.0)
    own = [values(), values(k=number(20, 20, 9))]
    both = render([one, other], own, 40, 48)
    for page, numbers, found in zip([one, other], own, both, strict=True):
        torch.testing.assert_close(page.render(numbers, 40, 48), found, atol=1e-6, rtol=0)


def every_feature() -> tuple[Group, dict[str, Tensor]]:
    """Every differentiable feature on one page."""
    generator = torch.Generator().manual_seed(3)
    linear = Gradient("linear", "lin", STOPS, "userSpaceOnUse")
    radial = Gradient("radial", "rad", STOPS, "userSpaceOnUse")
    stroke = Stroke(radial, "so", "w", "round", "round")
    sharp = Stroke(Solid("s"), "so", "w2", "square", "miter")
    turned = Affine2D(0.8, 0.3, -0.2, 0.9, 2.0, 1.0)
    root = Group(
        (
            draw(fill=linear, stroke=stroke, matrix=turned),
            Group((Draw(Geometry("rect", "r"), IDENTITY, Solid("f"), stroke=sharp), draw(fill=Solid("s"))), "half"),
            Group((Draw(Geometry("ellipse", "e"), turned, Solid("f"), "fo"),), "half", Clip(((draw(), None),))),
        )
    )
    numbers = stops() | {"lin": number(10, 10, 40, 30), "rad": number(30, 30, 40, 24, 34, 2.0)}
    numbers |= values(w2=number(3.0), r=number(9.3, 12.2, 30.1, 21.7, 6.0, 4.0), e=number(30.2, 28.1, 20.3, 15.1))
    shaken = {k: v + 0.01 * torch.randn(v.shape, generator=generator, dtype=v.dtype) for k, v in numbers.items()}
    return root, shaken | {"half": number(0.6)}


def numeric(f: Callable[[], Tensor], x: Tensor, step: float) -> Tensor:
    """Central differences of f in the entries of x."""
    found = torch.zeros_like(x)
    with torch.no_grad():
        for i in range(x.numel()):
            x.view(-1)[i] += step
            high = f()
            x.view(-1)[i] -= 2 * step
            found.view(-1)[i] = (high - f()) / (2 * step)
            x.view(-1)[i] += step
    return found


def test_gradients_are_those_of_finite_differences() -> None:
    root, numbers = every_feature()
    page = Raster(root, 64.0, 64.0)
    ramp = torch.linspace(0, 1, 40, dtype=torch.float64)  # smooth, so that edges crossing pixels make no jumps
    weight = torch.stack([torch.sin((k + 2) * ramp)[:, None] * torch.cos((k + 1.5) * ramp)[None] for k in range(4)])
    leaves = {k: v.clone().requires_grad_() for k, v in numbers.items()}

    def f() -> Tensor:
        return (page.render(leaves, 40, 40).double() * weight).sum()

    f().backward()
    for key, x in leaves.items():
        assert x.grad is not None, key
        if key == "d":
            continue  # a clip's outline, a constant by the model, is made of it as well
        want = numeric(f, x, 1e-2 if key in ("lin", "rad", "r", "e", "w", "w2") else 1e-3)
        scale = float(want.norm())
        assert scale > 1e-3, key
        assert float((x.grad - want).norm()) < 0.03 * scale, (key, x.grad, want)


@pytest.mark.parametrize("rule", [False, True])
def test_coverage_is_the_area_inside(rule: bool) -> None:
    """Against counting sub-pixel samples of a self-crossing star (winding numbers 0, 1, 2), partly off the canvas."""
    angle = torch.arange(5, dtype=torch.float64) * 4 * math.pi / 5
    star = torch.stack([9 + 8 * angle.cos(), 7 + 9 * angle.sin()], 1).requires_grad_()
    edges = torch.stack([star, star.roll(-1, 0)], 1)
    owner = torch.zeros(5, dtype=torch.long)
    boxes = boxes_of(edges, owner, 1, 14, 12)
    flat = coverage(edges, owner, boxes, torch.tensor([rule]))
    height, width = int(boxes.height), int(boxes.width)
    found = torch.zeros(12, 14, dtype=torch.float64)
    top, left = int(boxes.top), int(boxes.left)
    found[top : top + height, left : left + width] = flat.detach().view(height, width + 1)[:, :width]
    n = 40
    y, x = torch.meshgrid((torch.arange(12 * n) + 0.5) / n, (torch.arange(14 * n) + 0.5) / n, indexing="ij")
    winding = torch.zeros_like(x)
    for (x0, y0), (x1, y1) in edges.detach().tolist():
        crosses = (y >= min(y0, y1)) & (y < max(y0, y1)) & (x > x0 + (y - y0) / (y1 - y0) * (x1 - x0))
        winding += crosses * math.copysign(1, y1 - y0)
    inside = (winding % 2 != 0) if rule else (winding != 0)
    want = inside.view(12, n, 14, n).double().mean((1, 3))
    simple = (winding.abs().view(12, n, 14, n).amax((1, 3)) <= 1) | (winding.abs().view(12, n, 14, n).amin((1, 3)) == 2)
    assert simple.sum() > 130  # where several parts share a pixel, their areas are added: not exact there
    torch.testing.assert_close(found[simple], want[simple], atol=0.02, rtol=0)


def test_an_edge_that_is_upright_but_for_rounding_covers_all_of_its_rows() -> None:
    """A side a hair beside a pixel border: were part of it lost, its rows would be filled to the canvas's end."""
    for hair in (1e-14, 3e-14, -3e-14, 6e-14):
        square = number(20, 3.4, 158 + hair, 3.4, 158 - hair, 31.7, 20, 31.7).view(4, 2)
        edges = torch.stack([square, square.roll(-1, 0)], 1)
        owner = torch.zeros(4, dtype=torch.long)
        boxes = boxes_of(edges, owner, 1, 256, 64)
        rows = coverage(edges, owner, boxes, torch.tensor([False])).view(int(boxes.height), -1)
        torch.testing.assert_close(rows.sum(), number(138 * 28.3), rtol=1e-9, atol=0)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("rule", [False, True])
def test_an_edge_on_a_pixel_border_still_pulls_the_right_way(turned: bool, rule: bool) -> None:
    """The area of a square of whole pixels grows by a side's length for each px that the side moves out."""
    square = number(2, 2, 6, 2, 6, 6, 2, 6).view(4, 2)
    square = (square.flip(0) if turned else square).requires_grad_()
    edges = torch.stack([square, square.roll(-1, 0)], 1)
    owner = torch.zeros(4, dtype=torch.long)
    coverage(edges, owner, boxes_of(edges, owner, 1, 9, 9), torch.tensor([rule])).sum().backward()
    outward = (square.detach() - 4).sign() * 2  # half of a side for each of its ends
    assert square.grad is not None
    torch.testing.assert_close(square.grad, outward)


@pytest.mark.parametrize("small", [0, steps.SMALL])
def test_composition_and_its_gradient_are_those_of_plain_operations(
    small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fills each by itself, and together."""
    monkeypatch.setattr(steps, "SMALL", small)
    generator = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    cells, colors, opacities = some(2 * 20 + 12), some(3, 4), some(2)
    clip, fixed = some(5, 6).detach(), some(5, 6, 4).detach()
    rows = [(0, 5), (20, 5), (40, 4)]
    box, inner, beside = (1, 0, 4, 4), (2, 1, 3, 3), (0, 1, 1, 2)
    tape = [
        Fill(0, box),
        Begin(),
        Fill(1, box, clip=clip),
        Fill(2, beside),
        Paste(fixed, clip),
        Fill(2, inner, opacity=0),
        Fill(1, beside, map=0, clip=clip, opacity=0),
        End(1, clip),
        Fill(2, inner, map=2),
        Fill(0, beside),
    ]
    maps = some(2 + 9, 4)
    found = compose((5, 6), tape, rows, Inputs(cells, colors, opacities, maps))

    def placed(shape: int, where: tuple[int, int, int, int]) -> Tensor:
        x, y, w, h = where
        start, stride = rows[shape]
        part = cells[start : start + stride * h].view(h, stride)[:, :w]
        return torch.nn.functional.pad(part, (x, 6 - x - w, y, 5 - y - h))[..., None]

    def on(below: Tensor, source: Tensor) -> Tensor:
        return source + below * (1 - source[..., 3:])

    def solid(shape: int, where: tuple[int, int, int, int], factor: Tensor) -> Tensor:
        alpha = placed(shape, where) * colors[shape, 3] * factor
        return torch.cat([alpha * colors[shape, :3], alpha], -1)

    one, shown = torch.ones(1, dtype=torch.float64), clip[..., None]

    def mapped(shape: int, where: tuple[int, int, int, int], own: Tensor, factor: Tensor) -> Tensor:
        x, y, w, h = where
        own = torch.nn.functional.pad(own, (0, 0, x, 6 - x - w, y, 5 - y - h))
        alpha = placed(shape, where) * own[..., 3:] * colors[shape, 3] * factor
        return torch.cat([alpha * own[..., :3], alpha], -1)

    page = solid(0, box, one)
    layer = on(solid(1, box, shown), solid(2, beside, one))
    layer = on(on(layer, fixed * shown), solid(2, inner, opacities[0]))
    layer = on(layer, mapped(1, beside, maps[:2].view(2, 1, 4), shown * opacities[0]))
    page = on(page, layer * opacities[1] * shown)
    page = on(page, mapped(2, inner, maps[2:].view(3, 3, 4), one))
    want = on(page, solid(0, beside, one))
    torch.testing.assert_close(found, want)
    weight = torch.randn(5, 6, 4, generator=generator, dtype=torch.float64)
    inputs = [cells, colors, opacities, maps]
    ours_grads = torch.autograd.grad((found * weight).sum(), inputs)
    for a, b in zip(ours_grads, torch.autograd.grad((want * weight).sum(), inputs), strict=True):
        torch.testing.assert_close(a, b)


def test_flattened_curves_stay_within_a_fraction_of_a_pixel() -> None:
    segments = Outlines([Geometry("path", "d", "MC")]).flatten({"d": POINTS[:4]}, number(8.0).view(1))
    t = torch.linspace(0, 1, 4001, dtype=torch.float64)[:, None]
    p = POINTS[:4]
    curve = (1 - t) ** 3 * p[0] + 3 * t * (1 - t) ** 2 * p[1] + 3 * t**2 * (1 - t) * p[2] + t**3 * p[3]
    a, along = segments.start, segments.end - segments.start
    u = (((curve[:, None] - a) * along).sum(-1) / (along * along).sum(-1)).clamp(0, 1)
    far = (a + u[..., None] * along - curve[:, None]).norm(dim=-1).amin(1) * 8
    assert float(far.max()) < 0.05
    assert torch.equal(segments.end[:-1], segments.start[1:])
    assert torch.equal(segments.start[0], p[0])
    assert torch.equal(segments.end[-1], p[3])


def outlines(*parts: Tensor) -> Tensor:
    """The edges of closed polygons."""
    return torch.cat([torch.stack([p, p.roll(-1, 0)], 1) for p in parts])


def whole(edges: Tensor, rule: bool, side: int = 12) -> Tensor:
    """The coverage of one shape on a canvas."""
    owner = torch.zeros(len(edges), dtype=torch.long)
    boxes = boxes_of(edges, owner, 1, side, side)
    h, w, y, x = (int(v) for v in (boxes.height, boxes.width, boxes.top, boxes.left))
    flat = coverage(edges, owner, boxes, torch.tensor([rule]))
    return nn.functional.pad(flat.view(h, w + 1)[:, :w], (x, side - x - w, y, side - y - h))


LEFT = number(2.3, 2.2, 6.4, 1.8, 5.7, 7.6, 2.3, 7.7).view(4, 2)
RIGHT = number(6.4, 1.8, 9.1, 2.2, 9.6, 8.1, 5.7, 7.6).view(4, 2)  # shares a side with LEFT


@pytest.mark.parametrize("rule", [False, True])
@pytest.mark.parametrize("axes", [(0, 1), (1, 0)])
def test_neighbours_that_wind_opposite_ways_leave_no_gap(axes: tuple[int, int], rule: bool) -> None:
    both = whole(outlines(LEFT[:, axes], RIGHT.flip(0)[:, axes]), rule)
    same = whole(outlines(LEFT[:, axes], RIGHT[:, axes]), rule)  # of one winding: exact areas
    torch.testing.assert_close(both, same, atol=1 / 16, rtol=0)
    torch.testing.assert_close(both.sum(), same.sum(), atol=0.2, rtol=0)


def test_outlines_that_cross_a_pixel_many_times_cover_it_once() -> None:
    """Hairlines through one point: against counting sub-pixel samples."""
    angle = torch.arange(40, dtype=torch.float64) * math.pi / 40 + 0.01
    along, side = torch.stack([angle.cos(), angle.sin()], 1), torch.stack([-angle.sin(), angle.cos()], 1) * 0.05
    lines = [6 + torch.stack([-5 * a - s, 5 * a - s, 5 * a + s, -5 * a + s]) for a, s in zip(along, side, strict=True)]
    n = 64
    y, x = torch.meshgrid((torch.arange(12 * n) + 0.5) / n, (torch.arange(12 * n) + 0.5) / n, indexing="ij")
    grid = torch.stack([x, y], -1).double() - 6
    inside = torch.zeros(12 * n, 12 * n, dtype=torch.bool)
    for a, s in zip(along, side, strict=True):
        inside |= ((grid @ a).abs() < 5) & ((grid @ s).abs() < float(s @ s))
    want = inside.view(12, n, 12, n).double().mean((1, 3))
    torch.testing.assert_close(whole(outlines(*lines), False), want, atol=0.12, rtol=0)


@pytest.mark.parametrize("rule", [False, True])
@pytest.mark.parametrize("apart", [-0.6, 0.4])
def test_gradients_of_opposite_windings_are_those_of_the_area_inside(apart: float, rule: bool) -> None:
    """Parts that overlap (their windings cancel there) or leave a gap narrower than a pixel, against counting."""
    n = 50
    ramp = torch.linspace(0, 1, 12, dtype=torch.float64)
    weight = torch.sin(2 * ramp)[:, None] * torch.cos(1.5 * ramp)[None]
    fine = weight.repeat_interleave(n, 0).repeat_interleave(n, 1) / n**2
    y, x = torch.meshgrid((torch.arange(12 * n) + 0.5) / n, (torch.arange(12 * n) + 0.5) / n, indexing="ij")
    points = torch.cat([LEFT, RIGHT.flip(0) + number(apart, 0.0)]).requires_grad_()

    def counted() -> Tensor:
        winding = torch.zeros_like(x)
        for (x0, y0), (x1, y1) in outlines(points[:4], points[4:]).tolist():
            crosses = (y >= min(y0, y1)) & (y < max(y0, y1)) & (x > x0 + (y - y0) / (y1 - y0) * (x1 - x0))
            winding += crosses * math.copysign(1, y1 - y0)
        return (((winding % 2 != 0) if rule else (winding != 0)) * fine).sum()

    (whole(outlines(points[:4], points[4:]), rule) * weight).sum().backward()
    want = numeric(counted, points, 0.1)
    assert points.grad is not None
    assert float((points.grad - want).norm()) < 0.08 * float(want.norm()), (points.grad, want)


def test_a_side_that_two_windings_share_does_not_pull_either_of_them() -> None:
    points = torch.cat([LEFT, RIGHT.flip(0)]).requires_grad_()
    whole(outlines(points[:4], points[4:]), False).sum().backward()
    assert points.grad is not None
    alone = LEFT.clone().requires_grad_()
    whole(outlines(alone), False).sum().backward()
    assert alone.grad is not None
    torch.testing.assert_close(points.grad[[0, 3]], alone.grad[[0, 3]], atol=0.25, rtol=0)
    shared = points.grad[[1, 2]] - alone.grad[[1, 2]]  # what is left of their pull along x: the level sides'
    assert float((alone.grad[1:3, 0]).abs().sum()) > 5
    assert float(points.grad[1:3, 0].abs().sum()) < 0.5, shared


PAGES = sorted((DATA / "pages").glob("*.svg"))


@pytest.mark.parametrize("page", [1.0, 1.4 / 64, 300.7 / 64])
@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.stem)
def test_documents_look_as_resvg_draws_them(file: Path, page: float) -> None:
    """On pages of whole pixels, and on those that resvg rounds to whole pixels before it scales them."""
    text = file.read_text()
    sized = text.replace("<svg ", f'<svg width="{64 * page}" height="{64 * page}" ', 1)
    document = Document.parse(sized.encode())
    numbers = {k: torch.from_numpy(p.value) for k, p in document.parameters.items()}
    found = Raster(document.root, document.width, document.height).render(numbers, 128, 128)
    found = over(found[None], torch.ones(3, 1, 1))[0].permute(1, 2, 0).numpy()
    want = drawn_by_resvg(text.encode(), background="#ffffff")[..., :3]
    assert psnr(found, want) > 35
    assert float(np.abs(found - want).max()) < 0.35  # no line is missing


def test_groups_may_nest_deeper_than_calls_do() -> None:
    node = Group((draw(), draw()), "half")
    for _ in range(3000):
        node = Group((node, draw(fill=None)), "one")
    numbers = values(half=number(0.5), one=number(1.0))
    plain = Group((Group((draw(), draw()), "half"),))
    found, want = (Raster(root, 64.0, 64.0).render(numbers, 8, 8) for root in (node, plain))
    torch.testing.assert_close(found, want)


def test_points_of_a_patterned_shape_feel_the_pattern() -> None:
    document = Document.parse(
        b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><pattern id="p" width="8" height="8" '
        b'patternUnits="userSpaceOnUse"><rect width="8" height="8" fill="red"/></pattern>'
        b'<path d="M10 10H40V50H10Z" fill="url(#p)"/></svg>'
    )
    numbers = {k: torch.from_numpy(p.value).requires_grad_() for k, p in document.parameters.items()}
    Raster(document.root, 64.0, 64.0).render(numbers, 64, 64)[3].sum().backward()
    outward = numbers["1:d"].grad
    assert outward is not None  # the area grows by half of a side's length for each px of an end
    torch.testing.assert_close(outward, number(-20, -15, 20, -15, 20, 15, -20, 15).view(4, 2), atol=0.5, rtol=0)
