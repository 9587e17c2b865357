"""Steps by shape size: parts of a drawing and their neighbors, and what is taken of a step."""

import numpy as np
import pytest
import torch
from conftest import randn
from torch import Tensor

from svg.config import SvgConfig
from svg.details import Details
from svg.document import Document
from svg.flat import FlatParameters
from svg.parts import CANVAS, REACH, SMALL, Parts, connected, neighbors
from svg.selection import chosen
from svg.simple_outlines import Polylines

HEAD = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 512 512">'
FACE = f"""{HEAD}<path d="M20 20H490V490H20Z"/>
<g transform="matrix(0 1 -1 0 400 100)"><path d="M0 0L40 0L40 40L0 40Z"/><circle cx="20" cy="22" r="10"/></g>
<path d="M100 300H160V304H100ZM100 400H110V410H100ZM102 402V408H108V402Z"/></svg>"""


def made(svg: str, full_size: float) -> tuple[Parts, Details, Tensor]:
    document, config = Document.parse(svg.encode()), SvgConfig(optimize=("points",))
    numbers = FlatParameters(document, chosen(document, config), torch.device("cpu"))
    parts, flat = Parts(numbers.outlines(), numbers.unit, numbers.device), numbers.start["points"]
    return parts, Details(parts, Polylines(parts), flat, full_size), flat


def test_parts_and_neighbors_of_a_face() -> None:
    parts, details, _ = made(FACE, 0.5)
    assert len(parts) == 5  # head, eye, pupil, whisker, and a ring that is part of the whisker's path
    np.testing.assert_allclose(parts.size * 512, [470, 40, 20, 60, 10], rtol=1e-5)
    pairs = dict(zip(zip(parts.of.tolist(), parts.near.tolist(), strict=True), parts.weight.tolist(), strict=True))
    assert set(pairs) == {(0, 0), (1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (4, 4)}
    assert pairs[2, 1] == pytest.approx(1600 / 2000)
    thickness = [470, 40, 20, 4 * 240 / 128, 4 * 64 / 64]  # the ring: 100 - 36, 40 + 24; a circle's size
    np.testing.assert_allclose(details.thin, np.clip(np.array(thickness) / 256, None, 1), rtol=1e-5)


def test_a_part_of_full_size_takes_its_step_and_the_whole_page_one_translation() -> None:
    parts, details, flat = made(FACE, 1e-9)
    step = randn(0, len(flat))
    torch.testing.assert_close(details.damped(flat, flat + step), flat + step, atol=1e-4, rtol=0)
    parts, details, flat = made(FACE, 0.5)
    u = torch.tensor([3.0, -4.0]).expand(len(parts.point), 2)
    after = flat.clone()
    parts.put(after, u)  # in the directions of the page, whatever the shapes' own
    moved = parts.on_page(details.damped(flat, after)) - parts.on_page(flat)
    share = torch.tensor([1.0, *[40 / 256] * 2, 60 / 256, 10 / 256]).sqrt()[parts.part, None]
    torch.testing.assert_close(moved, share * u, atol=1e-4, rtol=0)


@pytest.mark.parametrize("bend", [True, False])
def test_a_step_is_split_as_it_is_said(bend: bool) -> None:
    """Against the same in loops, with numpy's least squares for the linear map (its ridge as further rows)."""
    parts, details, flat = made(FACE, 0.5)
    step = 5 * randn(1, len(flat))
    found = details.damped(flat, flat + step, bend)
    x = parts.on_page(flat).double().numpy()
    u = (parts.on_page(flat + step) - parts.on_page(flat)).double().numpy()
    want, part = np.zeros_like(u), parts.part.numpy()
    size = parts.size.double().numpy()
    maps = []
    for p in range(len(parts)):
        y, v = x[part == p] - x[part == p].mean(0), u[part == p] - u[part == p].mean(0)
        ridge = np.sqrt(len(y) / 12) * 0.02 * 512 * np.eye(2)
        maps.append(np.linalg.lstsq(np.concatenate([y, ridge]), np.concatenate([v, np.zeros((2, 2))]), rcond=None)[0])
    for p in range(len(parts)):
        mates, weights, largest = {1: ([1, 2], [0.8, 0.2], 1), 2: ([1, 2], [0.8, 0.2], 1)}.get(p, ([p], [1.0], p))
        whole = sum(w * u[part == q].mean(0) for w, q in zip(weights, mates, strict=True))
        own = min(1, size[p] / 0.5)
        y, v = x[part == p] - x[part == p].mean(0), u[part == p] - u[part == p].mean(0)
        A = sum(w * maps[q] for w, q in zip(weights, mates, strict=True))
        linear, thin = y @ A, float(details.thin[p]) * bend
        share = np.sqrt(min(1, size[largest] / 0.5))
        want[part == p] = share * whole + own * (u[part == p].mean(0) - whole + linear) + thin * (v - linear)
    np.testing.assert_allclose(parts.on_page(found).numpy() - x, want, atol=1e-3)
    radius = int(parts.number)
    torch.testing.assert_close((found - flat)[radius], step[radius] * 20 / 256, atol=1e-4, rtol=1e-3)


def test_boxes_hang_together_through_others() -> None:
    boxes = np.array([[[0, 0], [4, 4]], [[20, 20], [24, 24]], [[3, 3], [21, 21]], [[50, 0], [60, 9]]], dtype=float)
    label = connected(boxes, 0.0)
    assert label[0] == label[1] == label[2] != label[3]
    assert len(set(connected(boxes, 0.5))) == 4  # the overlaps are a sixteenth of the small ones


def test_neighbors_count_by_gap_and_area() -> None:
    """Three bars 10 px apart and one far away, on a plate that is too large to be a neighbor."""
    bars = [[[0, y], [100, y + 4]] for y in (0, 14, 200)]
    boxes = np.array([*bars, [[0, 0], [400, 400]]], dtype=float)
    of, near, weight = neighbors(boxes)
    w = np.exp(-((10 / (0.05 * 512)) ** 2) / 2)
    found = {(a, b): c for a, b, c in zip(of.tolist(), near.tolist(), weight.tolist(), strict=True)}
    want = {(0, 0): 1 / (1 + w), (0, 1): w / (1 + w), (1, 0): w / (1 + w), (1, 1): 1 / (1 + w), (2, 2): 1, (3, 3): 1}
    assert found == pytest.approx(want)


@pytest.mark.parametrize("most", [256, 3])
def test_neighbors_are_those_of_all_pairs(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svg.parts.NEIGHBORS", most)
    generator = np.random.default_rng(0)
    low = generator.uniform(0, CANVAS, (60, 2))
    side = generator.exponential(0.1 * CANVAS, (60, 2))
    found = neighbors(np.stack([low, low + side], 1))
    want = []
    for i in range(60):
        weights = {}
        for j in range(60):
            gap = [max(low[j, k] - low[i, k] - side[i, k], low[i, k] - low[j, k] - side[j, k], 0) for k in (0, 1)]
            near = np.exp(-np.dot(gap, gap) / (2 * (REACH * CANVAS) ** 2))
            alone = max(*side[i], *side[j]) >= SMALL * CANVAS
            if i == j or (near > 0.1 and not alone):
                weights[j] = near * np.maximum(side[j], 1).prod()
        others = [w for j, w in weights.items() if j != i]
        weights = {j: w for j, w in weights.items() if j == i or sum(w < other for other in others) < most - 1}
        want += [(i, j, w / sum(weights.values())) for j, w in weights.items()]
    of, near, weight = zip(*want, strict=True)
    assert (found[0].tolist(), found[1].tolist()) == (list(of), list(near))
    np.testing.assert_allclose(found[2], weight, rtol=1e-12)
