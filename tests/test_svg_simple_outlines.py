"""Outlines that stay simple: crossings, spikes and slivers, counted by a naive loop over all pairs of segments."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from svg.affine import Affine2D
from svg.config import SvgConfig
from svg.document import Document
from svg.flat import FlatParameters
from svg.model import Draw, Geometry, Solid
from svg.parts import CURVE, Outline, Parts
from svg.point_steps import PointSteps
from svg.selection import chosen
from svg.simple_outlines import Polylines, SimpleOutlines

HEAD = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 512 512">'
BLOB = "M100 100C150 40 260 40 300 100S420 200 400 300S300 420 200 400S60 300 100 100Z"


def drawn(commands: str, points: list[tuple[float, float]], matrix: Affine2D = Affine2D()) -> tuple[Parts, Tensor]:  # noqa: B008
    numbers = torch.tensor(points, dtype=torch.float64).flatten()
    draw = Draw(Geometry("path", "0:d", commands), matrix, Solid("0:fill"))
    return Parts([Outline(draw, 0, numbers)], 1.0, torch.device("cpu")), numbers.float()


def flattened(commands: str, p: Tensor) -> list[list[tuple[Tensor, Tensor]]]:
    """Each contour's segments, by de Casteljau."""

    def at(points: list[Tensor], t: float) -> Tensor:
        while len(points) > 1:
            points = [a + t * (b - a) for a, b in itertools.pairwise(points)]
        return points[0]

    found: list[list[tuple[Tensor, Tensor]]] = []
    rest = iter(p)
    pen = first = p[0]
    for c in commands:
        if c == "M":
            pen = first = next(rest)
            found.append([])
            continue
        points = [pen, *(next(rest) for _ in range({"L": 1, "Q": 2, "C": 3, "Z": 0}[c]))] + (
            [first] if c == "Z" else []
        )
        parts = 1 if c in "LZ" else CURVE
        stops = [at(points, k / parts) for k in range(parts + 1)]
        found[-1] += [(a, b) for a, b in itertools.pairwise(stops) if float((a - b).norm()) > 1e-3]
        pen = points[-1]
    return found


def naive_crossings(contours: list[list[tuple[Tensor, Tensor]]]) -> int:
    """Pairs of segments with one inner point in common, by solving for it."""
    segments = [s for contour in contours for s in contour]
    count = 0
    for (a, b), (c, d) in itertools.combinations(segments, 2):
        M = torch.stack([b - a, c - d], 1).double()
        if abs(float(torch.linalg.det(M))) > 1e-9:
            s, t = torch.linalg.solve(M, (c - a).double()).tolist()
            count += 1e-5 < s < 1 - 1e-5 and 1e-5 < t < 1 - 1e-5
    return count


def naive_spikes(contours: list[list[tuple[Tensor, Tensor]]]) -> int:
    count = 0
    for contour in contours:
        for (a, b), (c, d) in itertools.pairwise([*contour, contour[0]]):
            u, v = (b - a) / (b - a).norm(), (d - c) / (d - c).norm()
            count += math.degrees(math.acos(max(-1.0, min(1.0, float(u @ v))))) > 180 - 25.84
    return count


@pytest.mark.parametrize("seed", range(6))
def test_what_is_counted(seed: int) -> None:
    """Random closed outlines of lines, quadratics and cubics, one with a hole, under a mirrored page."""
    generator = torch.Generator().manual_seed(seed)
    commands = ("MCCLQCZ", "MLLLLLZMCCZ", "MQQQZ")[seed % 3]
    count = sum({"M": 1, "L": 1, "Q": 2, "C": 3, "Z": 0}[c] for c in commands)
    points = (torch.rand(count, 2, generator=generator) * 300).tolist()
    parts, flat = drawn(commands, points, Affine2D(a=-1, d=1, e=400))
    found = Polylines(parts).shapeliness(flat)
    contours = flattened(commands, torch.tensor(points))
    if len(parts) == 1:  # else contours that lie apart count apart
        assert int(found.crossings) == naive_crossings(contours)
    assert int(found.spikes.sum()) == naive_spikes(contours)


def test_area_and_perimeter_of_a_ring() -> None:
    square = [(0.0, 0.0), (40.0, 0.0), (40.0, 40.0), (0.0, 40.0)]
    hole = [(10.0, 10.0), (10.0, 30.0), (30.0, 30.0), (30.0, 10.0)]
    parts, flat = drawn("MLLLZMLLLZ", square + hole)
    area, perimeter = Polylines(parts).area_perimeter(flat)
    torch.testing.assert_close(area, torch.tensor([1200.0]))
    torch.testing.assert_close(perimeter, torch.tensor([240.0]))


def test_a_step_is_shortened_only_as_far_as_it_must() -> None:
    square = [(0.0, 0.0), (100.0, 0.0), (100.0, 100.0), (0.0, 100.0)]
    parts, flat = drawn("MLLLZ", square)
    polylines = Polylines(parts)
    simple = SimpleOutlines(parts, polylines, flat)
    harmless = flat + torch.tensor([5.0, 0, 0, 3, 0, 0, 0, 0])
    assert torch.equal(simple.shortened(flat, harmless), harmless)
    bow = flat + torch.tensor([70.0, 0, -70, 0, 0, 0, 0, 0])  # two corners pass each other
    assert int(polylines.shapeliness(bow).crossings) == 1
    found = simple.shortened(flat, bow)
    assert int(polylines.shapeliness(found).crossings) == 0
    assert not torch.equal(found, flat)
    flatter = flat * torch.tensor([1.0, 0.01]).repeat(4)  # a sliver
    assert float(polylines.shapeliness(simple.shortened(flat, flatter)).compactness) >= float(simple.least)


@pytest.mark.parametrize("simple", [True, False])
def test_random_steps_never_tangle_an_outline(simple: bool) -> None:
    """Forty large random steps, as the editor takes them; without the setting they do tangle it."""
    document = Document.parse(f'{HEAD}<path d="{BLOB}"/></svg>'.encode())
    config = SvgConfig(optimize=("points",), simple=simple, smoothness=0.0)
    numbers = FlatParameters(document, chosen(document, config), torch.device("cpu"))
    steps, x = PointSteps(numbers, config), numbers.tensors["points"].detach().clone()
    generator = torch.Generator().manual_seed(0)
    commands = next(o.geometry.commands for o in numbers.outlines())
    for step in range(40):
        x = steps.taken(x, x + 12 * torch.randn(x.shape, generator=generator), step)
    contours = flattened(commands, x.view(-1, 2))
    assert (naive_crossings(contours) + naive_spikes(contours) == 0) == simple
