"""Distances between outlines, against closed forms."""

import math

import pytest
import torch
from svg_oracles import svg

from svg.document import Document
from svg.outline_distance import chamfer, outline_distance, points_along

PAGE = 'viewBox="0 0 100 100" width="100" height="100"'


def document(body: str, attributes: str = PAGE) -> Document:
    return Document.parse(svg(body, attributes))


def disc(r: float, more: str = "") -> str:
    return f'<circle cx="50" cy="50" r="{r}" {more}/>'


def naive(a: torch.Tensor, b: torch.Tensor) -> float:
    there = [min(math.dist(p, q) for q in b.tolist()) for p in a.tolist()]
    back = [min(math.dist(p, q) for q in a.tolist()) for p in b.tolist()]
    return (sum(there) / len(there) + sum(back) / len(back)) / 2


def test_chamfer_is_the_mean_of_both_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(30, 2, generator=generator), torch.rand(17, 2, generator=generator)
    assert chamfer(a, b) == pytest.approx(naive(a, b))
    assert chamfer(a, a) == 0
    assert chamfer(a, b[:0]) == math.inf


def test_points_lie_evenly_by_arc_length() -> None:
    corner = torch.tensor([[[0.0, 0.0], [3.0, 0.0]], [[3.0, 0.0], [3.0, 0.0]], [[3.0, 0.0], [3.0, 1.0]]])  # length 4
    points = points_along(corner.double(), 8)
    want = [[0.25 + 0.5 * k, 0.0] for k in range(6)] + [[3.0, 0.25], [3.0, 0.75]]
    assert torch.allclose(points, torch.tensor(want, dtype=torch.float64))
    assert len(points_along(corner[1:2], 8)) == 0


@pytest.mark.parametrize(
    ("a", "b", "want"),
    [
        (disc(20), disc(20), 0.0),
        (disc(20), disc(30), 0.1),  # of concentric circles: the difference of their radii
        (disc(20), disc(30, 'fill="none" stroke="red" stroke-width="9"'), 0.1),  # a stroke runs along its outline
        (disc(20), disc(20) + disc(30), 0.03),  # there: 0; back: 0.1 on 3/5 of the length
        (disc(20), disc(20) + disc(40, 'fill="none" stroke="red" stroke-width="0"'), 0.0),
        (disc(20), disc(20) + disc(40, 'opacity="0"'), 0.0),  # what is not visible does not count
        (disc(20), f'{disc(20)}<g opacity="0">{disc(40)}</g>', 0.0),
        (disc(20), disc(20) + disc(40, 'fill="none"'), 0.0),
        (disc(20), disc(20) + disc(40, 'fill-opacity="0"'), 0.0),
        (disc(20), disc(20, 'fill="red"'), 0.0),  # colors do not either
    ],
)
def test_distance_of_circles(a: str, b: str, want: float) -> None:
    found = outline_distance(document(a), document(b))
    assert found == pytest.approx(want, abs=2e-3)
    assert outline_distance(document(b), document(a)) == pytest.approx(found)


@pytest.mark.parametrize(
    "attributes",
    [
        'viewBox="0 0 100 100" width="640" height="640"',  # larger px
        'viewBox="0 0 200 200" width="64" height="64"',  # drawn at half the size, in its quarter
    ],
)
def test_distance_is_in_shares_of_the_canvas(attributes: str) -> None:
    scale = 0.5 if "200" in attributes else 1.0
    found = outline_distance(document(disc(20), attributes), document(disc(30), attributes))
    assert found == pytest.approx(0.1 * scale, abs=2e-3)


def test_a_path_is_where_its_shape_is() -> None:
    """A square as a rectangle, and as a path under a transform."""
    rect = '<rect x="20" y="20" width="40" height="40"/>'
    path = '<g transform="translate(20 20) scale(4)"><path d="M0 0H10V10H0Z"/></g>'
    assert outline_distance(document(rect), document(path)) < 2e-3
