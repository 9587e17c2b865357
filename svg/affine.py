"""Affine maps of the plane, in the letters and the order in which SVG writes them."""

from __future__ import annotations

import math
from typing import NamedTuple, TypeVar

import numpy as np

Coordinate = TypeVar("Coordinate", float, np.ndarray)


class Affine2D(NamedTuple):
    """x' = a x + c y + e, y' = b x + d y + f  (SVG 2, section 8.5)."""

    a: float = 1.0
    b: float = 0.0
    c: float = 0.0
    d: float = 1.0
    e: float = 0.0
    f: float = 0.0

    @classmethod
    def translation(cls, x: float, y: float) -> Affine2D:
        """Moves the origin to x, y."""
        return cls(e=x, f=y)

    @classmethod
    def scaling(cls, x: float, y: float) -> Affine2D:
        """Stretches each axis."""
        return cls(a=x, d=y)

    @classmethod
    def rotation(cls, degrees: float) -> Affine2D:
        """From the x axis towards the y axis."""
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        return cls(cos, sin, -sin, cos)

    @classmethod
    def onto_box(cls, x: float, y: float, width: float, height: float) -> Affine2D:
        """From the unit square onto a box."""
        return cls(a=width, d=height, e=x, f=y)

    def __matmul__(self, other: Affine2D) -> Affine2D:
        """The map that applies `other`, then this one."""
        a, b, c, d, e, f = self
        p, q, r, s, t, u = other
        return Affine2D(
            a * p + c * q, b * p + d * q, a * r + c * s, b * r + d * s, a * t + c * u + e, b * t + d * u + f
        )

    @property
    def det(self) -> float:
        """By what areas grow; below 0 where the map mirrors."""
        return self.a * self.d - self.b * self.c

    @property
    def invertible(self) -> bool:
        """Whether anything can be seen through this map."""
        return abs(self.det) > 1e-18

    @property
    def scale(self) -> float:
        """The longer of the axes' images: by what the map stretches, at most about."""
        return max(math.hypot(self.a, self.b), math.hypot(self.c, self.d))

    def inverse(self) -> Affine2D:
        """The map that undoes this one, which must be invertible."""
        a, b, c, d, e, f = self
        det = self.det
        return Affine2D(d / det, -b / det, -c / det, a / det, (c * f - d * e) / det, (b * e - a * f) / det)

    def apply(self, x: Coordinate, y: Coordinate) -> tuple[Coordinate, Coordinate]:
        """The image of a point, or of each point where x and y are arrays."""
        a, b, c, d, e, f = self
        return a * x + c * y + e, b * x + d * y + f

    @property
    def rows(self) -> tuple[tuple[float, float, float], ...]:
        """The 3 x 3 matrix for column vectors."""
        a, b, c, d, e, f = self
        return (a, c, e), (b, d, f), (0.0, 0.0, 1.0)


IDENTITY = Affine2D()
