"""Fills in levels against painting them one after the other, and drawings of many shapes in chunks against whole."""

import random
from itertools import accumulate

import pytest
import torch
from torch import Tensor

from benchmarks.rasterizers import document
from svg.config import Choice, SvgConfig
from svg.document import Document
from svg.flat import FlatParameters
from svg.raster import compose, coverage, edges, outlines, page, steps
from svg.raster.page import Raster
from svg.raster.steps import Begin, Fill, Step, Together, in_levels
from svg.selection import chosen

BLOCK = 600  # pixels


def boxes(count: int, seed: int, most: int) -> list[Fill]:
    chance, found = random.Random(seed), []
    for i in range(count):
        w, h = chance.randint(1, most), chance.randint(1, most)
        found.append(Fill(i, (chance.randint(0, 40 - w), chance.randint(0, 30 - h), w, h)))
    return found


def meet(a: Fill, b: Fill) -> bool:
    (ax, ay, aw, ah), (bx, by, bw, bh) = a.box, b.box
    return ax < bx + bw and bx < ax + aw and ay < by + bh and by < ay + ah


@pytest.mark.parametrize(("most", "small"), [(3, 100), (20, 100), (20, 0)])
def test_what_overlaps_keeps_its_order_and_what_is_painted_together_does_not_meet(
    most: int, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "SMALL", small)
    fills = boxes(120, 0, most)
    tape: list[Step] = [*fills[:60], Begin(), *fills[60:]]
    found, blocks = in_levels(tape, (30, 40), BLOCK)
    ends = [[0, *accumulate(fill.area for fill in block)] for block in blocks]
    for block, own in zip(blocks, ends, strict=True):
        levels = sum(isinstance(step, Together) and blocks[step.block] is block for step in found)
        assert own[-1] <= BLOCK or levels == 1
    painted: list[list[Fill]] = []
    for step in found:
        if isinstance(step, Together):
            own = zip(blocks[step.block], ends[step.block], strict=False)
            painted.append([f for f, at in own if step.begin <= at < step.end])
        elif isinstance(step, Fill):
            painted.append([step])
        else:
            assert {f.shape for own in painted for f in own} == set(range(60))  # nothing passes a layer's beginning
    at = {fill.shape: i for i, own in enumerate(painted) for fill in own}
    assert sorted(at) == list(range(120))
    assert any(len(own) > 1 for own in painted) == (small > 0)
    for a in fills:
        for b in fills[a.shape + 1 :]:
            if meet(a, b) and (a.shape < 60) == (b.shape < 60):
                assert at[a.shape] < at[b.shape]


def test_outlines_that_do_not_move_are_covered_once_and_look_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    read, calls = Document.parse(document(40)), []

    def counted(*args: object) -> Tensor:
        calls.append(args)
        return coverage.coverage(*args)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(page, "coverage", counted)
    raster = Raster(read.root, read.width, read.height)
    choices: list[tuple[tuple[Choice, ...], int]] = [(("colors",), 1), (("colors", "widths"), 2), (("points",), 2)]
    for groups, passes in choices:
        numbers = FlatParameters(read, chosen(read, SvgConfig(optimize=groups)), torch.device("cpu"))
        calls.clear()
        for _ in range(2):
            for x in numbers.tensors.values():
                x.data = (x.data - 0.1).clamp(min=0)
            found = raster.render(numbers.values(), 48, 48)
        assert len(calls) == passes
        plain = Raster(read.root, read.width, read.height).render(dict(numbers.values()), 48, 48)
        torch.testing.assert_close(found, plain)
        ours, theirs = (
            torch.autograd.grad(image.square().sum(), [x for x in numbers.tensors.values() if len(x)])
            for image in (found, plain)
        )
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b)


def drawn(read: Document) -> tuple[Tensor, dict[str, Tensor]]:
    """A page's image and the gradients of a weighed sum of it, its numbers a little moved."""
    numbers = FlatParameters(read, chosen(read, SvgConfig(optimize=("all",))), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    for x in numbers.tensors.values():
        x.data += 0.02 * torch.randn(x.shape, generator=generator)
    numbers.project()
    image = Raster(read.root, read.width, read.height).render(numbers.values(), 64, 64)
    (image * torch.randn(image.shape, generator=generator)).sum().backward()
    return image.detach(), {g: x.grad for g, x in numbers.tensors.items() if x.grad is not None and len(x)}


@pytest.mark.parametrize("what", ["each fill by itself", "a few edges at once"])
def test_a_drawing_of_many_shapes_is_what_it_is_shape_by_shape(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    faded = (
        b'<g opacity=".6"><circle cx="50" cy="50" r="30" opacity=".5"/><path d="M0 0H9V9z" clip-path="url(#c)"/></g>'
    )
    clip = b'<clipPath id="c"><circle cx="5" cy="5" r="3"/></clipPath>'
    read = Document.parse(document(160).replace(b"</defs>", clip + b"</defs>").replace(b"</svg>", faded + b"</svg>"))
    image, gradients = drawn(read)
    if what == "each fill by itself":
        monkeypatch.setattr(steps, "SMALL", 0)
    else:
        monkeypatch.setattr(coverage, "CHUNK", {"cpu": 50})
        monkeypatch.setattr(edges, "AT_ONCE", 50)
        monkeypatch.setattr(outlines, "AT_ONCE", 50)
        monkeypatch.setattr(compose, "BLOCK", {"cpu": 50})
    plain, expected = drawn(read)
    assert gradients.keys() == {"points", "fills", "strokes", "widths", "opacities", "gradients"}
    if what == "each fill by itself":
        assert torch.equal(image, plain)  # the same arithmetic at every pixel
    torch.testing.assert_close(image, plain, atol=1e-6, rtol=0)
    for group, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[group], atol=1e-5, rtol=1e-4)
