"""Path data: arcs against their ellipse, and reading up to an error."""

import numpy as np
import pytest

from svg.model import POINTS
from svg.parse.arcs import arc
from svg.parse.paths import read_path


@pytest.mark.parametrize("sweep", [0, 1])
@pytest.mark.parametrize("large", [0, 1])
def test_arcs_stay_on_their_ellipse(large: int, sweep: int) -> None:
    start, end, rx, ry, degrees = (1.0, 2.0), (4.0, 3.0), 3.0, 2.0, 30.0
    at, points = np.array(start), [np.array(start)]
    for cubic in arc(start, (rx, ry), degrees, bool(large), bool(sweep), end):
        p = np.array([*at, *cubic]).reshape(4, 2)
        t = np.linspace(0, 1, 20)[:, None]
        points += list((1 - t) ** 3 * p[0] + 3 * (1 - t) ** 2 * t * p[1] + 3 * (1 - t) * t**2 * p[2] + t**3 * p[3])
        at = p[3]
    np.testing.assert_allclose(at, end)
    angle = np.radians(degrees)
    unit = np.array(points) @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / [rx, ry]
    # three points give the center, all others must lie on the unit circle around it
    a, b, c = unit[0], unit[len(unit) // 3], unit[-1]
    center = np.linalg.solve(2 * np.array([b - a, c - a]), [b @ b - a @ a, c @ c - a @ a])
    np.testing.assert_allclose(np.linalg.norm(unit - center, axis=1), 1, atol=3e-3)
    angles = np.unwrap(np.arctan2(*(unit - center).T[::-1]))
    assert (abs(angles[-1] - angles[0]) > np.pi) == bool(large)
    assert (angles[-1] > angles[0]) == bool(sweep)


def test_paths_are_read_up_to_their_error_in_absolute_commands() -> None:
    commands, points = read_path("m1 1 2 0v3Hz")
    assert commands == "MLL"
    assert points.tolist() == [[1, 1], [3, 1], [3, 4]]
    assert len(points) == sum(POINTS[c] for c in commands)
