"""Affine maps against matrices of numpy."""

import math

import numpy as np
import pytest

from svg.affine import IDENTITY, Affine2D
from svg.parse.transforms import transform

SKEWED = Affine2D(0.8, 0.3, -0.2, 0.9, 2.1, 1.2)
MAPS = [SKEWED, Affine2D.translation(3.0, -4.0), Affine2D.scaling(2.0, -0.5), Affine2D.rotation(30.0), IDENTITY]


@pytest.mark.parametrize("n", MAPS)
@pytest.mark.parametrize("m", MAPS)
def test_products_and_inverses_are_those_of_matrices(m: Affine2D, n: Affine2D) -> None:
    np.testing.assert_allclose((m @ n).rows, np.array(m.rows) @ np.array(n.rows), atol=1e-15)
    np.testing.assert_allclose(m.inverse().rows, np.linalg.inv(m.rows), atol=1e-15)
    assert m.det == pytest.approx(np.linalg.det(m.rows))


def test_points_are_mapped_one_by_one_and_in_arrays_alike() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 5))
    found = np.stack([*SKEWED.apply(x, y), np.ones(5)])
    np.testing.assert_allclose(found, np.array(SKEWED.rows) @ np.stack([x, y, np.ones(5)]))
    assert SKEWED.apply(float(x[0]), float(y[0])) == tuple(found[:2, 0])


def test_a_box_is_the_image_of_the_unit_square() -> None:
    to_box = Affine2D.onto_box(2.0, 3.0, 10.0, 20.0)
    assert to_box.apply(0.0, 0.0) == (2.0, 3.0)
    assert to_box.apply(1.0, 1.0) == (12.0, 23.0)


def test_scale_and_invertible() -> None:
    assert Affine2D.rotation(20.0).scale == pytest.approx(1)
    assert Affine2D.scaling(2.0, -3.0).scale == 3
    assert not Affine2D.scaling(0.0, 1.0).invertible
    assert SKEWED.invertible


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("translate(3,-4)", Affine2D.translation(3.0, -4.0)),
        ("rotate(30 2 5)", Affine2D.translation(2.0, 5.0) @ Affine2D.rotation(30.0) @ Affine2D.translation(-2.0, -5.0)),
        ("scale(2) translate(1px, 1in)", Affine2D(2.0, 0.0, 0.0, 2.0, 2.0, 192.0)),  # as in CSS
        ("skewX(45deg)", Affine2D(c=1.0)),
        ("skewY(100grad) ", Affine2D(b=math.tan(math.radians(90)))),
        ("matrix(1 2 3 4 5 6)", Affine2D(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)),
        ("none", IDENTITY),
    ],
)
def test_transform_lists(text: str, want: Affine2D) -> None:
    np.testing.assert_allclose(transform(text), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("text", ["scale(2) foo(3)", "rotate(1 2)", "translate(1deg)", "matrix(1 2 3)", "scale(2"])
def test_wrong_transform_lists_are_none(text: str) -> None:
    assert transform(text) is None
