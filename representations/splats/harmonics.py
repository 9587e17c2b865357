"""Real spherical harmonics up to degree 3, in the order and with the signs of 3D Gaussian splatting (Kerbl 2023)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cpds.errors import InputError

DEGREES = (0, 1, 2, 3)
C0 = math.sqrt(1 / (4 * math.pi))  # the constant harmonic: a color is 0.5 + C0 f_dc where there is nothing else


def num_bases(degree: int) -> int:
    """How many functions there are up to a degree."""
    if degree not in DEGREES:
        raise InputError(f"the degree of spherical harmonics must be 0, 1, 2 or 3, got {degree}")
    return (degree + 1) ** 2


def sh_bases(degree: int, dirs: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n k"]:
    """Y_lm at unit vectors, by l and within it by m = -l … l; orthonormal, odd m with the sign of (-1)^m."""
    num_bases(degree)
    x, y, z = dirs.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    bases = [torch.full_like(x, C0)]
    if degree >= 1:
        a = math.sqrt(3 / (4 * math.pi))
        bases += [-a * y, a * z, -a * x]
    if degree >= 2:
        a, b = math.sqrt(15 / (4 * math.pi)), math.sqrt(5 / (16 * math.pi))
        bases += [a * x * y, -a * y * z, b * (2 * zz - xx - yy), -a * x * z, a / 2 * (xx - yy)]
    if degree >= 3:
        a, b = math.sqrt(35 / (32 * math.pi)), math.sqrt(105 / (4 * math.pi))
        c, d = math.sqrt(21 / (32 * math.pi)), math.sqrt(7 / (16 * math.pi))
        bases += [-a * y * (3 * xx - yy), b * x * y * z, -c * y * (4 * zz - xx - yy)]
        bases += [d * z * (2 * zz - 3 * xx - 3 * yy)]
        bases += [-c * x * (4 * zz - xx - yy), b / 2 * z * (xx - yy), -a * x * (xx - 3 * yy)]
    return torch.stack(bases, -1)


def sh_colors(degree: int, coeffs: Float[Tensor, "*#n _k 3"], dirs: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    """RGB >= 0 along `dirs` (from camera to gaussian, of any length); bands above `degree` are not used."""
    bases = sh_bases(degree, torch.nn.functional.normalize(dirs, dim=-1))
    used = coeffs[..., : bases.shape[-1], :]
    return ((bases[..., None] * used).sum(-2) + 0.5).clamp(min=0)
