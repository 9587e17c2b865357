"""Real spherical harmonics up to degree 3, in the order and with the signs of 3D Gaussian splatting (Kerbl 2023)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cpds.errors import InputError

DEGREES = (0, 1, 2, 3)
C0 = math.sqrt(1 / (4 * math.pi))  # the constant harmonic: a colour is 0.5 + C0 f_dc where there is nothing else


def bases(degree: int) -> int:
    """How many functions there are up to a degree."""
    if degree not in DEGREES:
        raise InputError(f"the degree of spherical harmonics must be 0, 1, 2 or 3, got {degree}")
    return (degree + 1) ** 2


def basis(degree: int, directions: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n k"]:
    """Y_lm at unit vectors, by l and within it by m = -l … l; orthonormal, odd m with the sign of (-1)^m."""
    count = bases(degree)
    x, y, z = directions.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    found = [torch.full_like(x, C0)]
    if degree >= 1:
        a = math.sqrt(3 / (4 * math.pi))
        found += [-a * y, a * z, -a * x]
    if degree >= 2:
        a, b = math.sqrt(15 / (4 * math.pi)), math.sqrt(5 / (16 * math.pi))
        found += [a * x * y, -a * y * z, b * (2 * zz - xx - yy), -a * x * z, a / 2 * (xx - yy)]
    if degree >= 3:
        a, b = math.sqrt(35 / (32 * math.pi)), math.sqrt(105 / (4 * math.pi))
        c, d = math.sqrt(21 / (32 * math.pi)), math.sqrt(7 / (16 * math.pi))
        found += [-a * y * (3 * xx - yy), b * x * y * z, -c * y * (4 * zz - xx - yy)]
        found += [d * z * (2 * zz - 3 * xx - 3 * yy)]
        found += [-c * x * (4 * zz - xx - yy), b / 2 * z * (xx - yy), -a * x * (xx - 3 * yy)]
    return torch.stack(found[:count], -1)


def colours(
    degree: int, coefficients: Float[Tensor, "*#n _k 3"], offsets: Float[Tensor, "*n 3"]
) -> Float[Tensor, "*n 3"]:
    """RGB >= 0 as seen along `offsets` (from camera to gaussian, any length); bands above `degree` stay out."""
    directions = torch.nn.functional.normalize(offsets, dim=-1)
    weights = basis(degree, directions)
    used = coefficients[..., : weights.shape[-1], :]
    return ((weights[..., None] * used).sum(-2) + 0.5).clamp(min=0)
