"""Outlines while their points move: closed ones stay closed, smoothing solves its equation, smooth joints stay so."""

import torch
from conftest import randn
from torch import Tensor

from svg.constraints import OutlineConstraints, contours
from svg.model import Geometry


def test_contours_of_a_path() -> None:
    assert contours("MLCZ") == [([0, 1, 2, 3, 4], True)]
    assert contours("MLMQ") == [([0, 1], False), ([2, 3, 4], False)]
    assert contours("MLZL") == [([0, 1], True), ([0, 2], False)]  # goes on from the first point


def outline(commands: str, points: Tensor) -> tuple[OutlineConstraints, Tensor]:
    return OutlineConstraints(
        [(Geometry("path", "d", commands), 0, points)], torch.device("cpu")
    ), points.flatten().float()


def test_ends_that_coincide_stay_together() -> None:
    made, flat = outline("MLLLZ", torch.tensor([[0.0, 0], [4, 0], [4, 4], [0, 0]]))
    flat += torch.arange(8.0)
    start = torch.tensor([0.0, 0, 4, 0, 4, 4, 0, 0])
    made.close(flat, start)
    assert torch.equal(flat[:2], flat[6:])
    assert torch.equal(flat[:2], torch.tensor([3.0, 4.0]))
    nearly, start = outline("MLLL", torch.tensor([[0.0, 0], [4, 0], [4, 4], [0, 1e-9]]))  # relative commands leave dust
    flat = start + torch.arange(8.0)
    nearly.close(flat, start)
    torch.testing.assert_close(flat[:2], flat[6:])


def test_smoothing_keeps_a_common_translation_and_bends_large_outlines_alone() -> None:
    """A detail (points 2 px apart) moves as a whole; where points are 200 px apart, each moves by itself."""
    for side, alike in ((2.0, True), (200.0, False)):
        made, start = outline("MLLLZ", side * torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]]))
        together = start + torch.tensor([1.0, 2.0]).repeat(4)
        torch.testing.assert_close(made.smooth(start, together, 16.0), together)
        lone = start.clone()
        lone[2] += 8
        moved = (made.smooth(start, lone, 16.0) - start).view(4, 2)
        torch.testing.assert_close(moved[:, 1], torch.zeros(4))
        torch.testing.assert_close(moved[:, 0].mean(), torch.tensor(2.0), rtol=0.1, atol=0)
        assert (float(moved[:, 0].max() - moved[:, 0].min()) < 1) == alike


def test_smoothing_solves_its_equation() -> None:
    """(1 + sum w) u - sum w u_neighbour = d, against a dense solve; an open outline with a closed one after it."""
    points = 10 * torch.tensor([[0.0, 0], [3, 1], [5, 5], [9, 5], [0, 8], [4, 9], [2, 12]])
    made, start = outline("MLLLMLLZ", points)
    d = randn(0, 7, 2)
    found = made.smooth(start, (start.view(7, 2) + d).flatten(), 16.0, passes=2000)
    matrix = torch.eye(7)
    for a, b in ((0, 1), (1, 2), (2, 3), (4, 5), (5, 6), (6, 4)):
        w = 16.0**2 / float((points[a] - points[b]).square().sum())
        matrix[a, a] += w
        matrix[b, b] += w
        matrix[a, b] -= w
        matrix[b, a] -= w
    want = torch.linalg.solve(matrix, d)
    torch.testing.assert_close((found - start).view(7, 2), want, atol=1e-3, rtol=1e-3)


def test_smooth_joints_stay_smooth_and_corners_are_free() -> None:
    """A cubic, a cubic that goes on smoothly, a corner, and a line that a cubic leaves in its direction."""
    points = torch.tensor(
        [[0.0, 0], [0, 10], [10, 20], [20, 20], [40, 20], [50, 9], [50, 0], [90, 40], [95, 45], [99, 60], [90, 70]]
    )
    made, start = outline("MCCLC", points)
    assert made.joints.tolist() == [[4, 6, 8], [12, 14, 16]]
    moved = start + 3 * randn(1, len(start))
    flat = moved.clone()
    made.keep_joints(start, flat)
    p, was = flat.view(-1, 2), moved.view(-1, 2)
    for before, anchor, after in ((2, 3, 4), (6, 7, 8)):
        into, out = p[anchor] - p[before], p[after] - p[anchor]
        torch.testing.assert_close(torch.dot(into, out), into.norm() * out.norm())
        assert torch.equal(p[anchor], was[anchor])
    for k, anchor in ((2, 3), (4, 3), (8, 7)):
        torch.testing.assert_close((p[k] - p[anchor]).norm(), (was[k] - was[anchor]).norm())
    made.keep_joints(flat, again := flat.clone())
    assert torch.equal(again, flat)
    rest = [0, 1, 5, 6, 7, 9, 10]  # the end of a line is no handle
    assert torch.equal(p[rest], was[rest])
