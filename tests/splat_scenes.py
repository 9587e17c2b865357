"""Random gaussians before cameras: in float64 for the tests of the rasterizer, and small scenes to edit."""

import math
from dataclasses import fields
from typing import Any

import torch
from conftest import randn
from torch import Tensor

from cpds.representation import ImageSpec
from representations.cameras import Camera
from representations.splats.config import SplatConfig
from representations.splats.ply import Gaussians, SplatFile
from representations.splats.scene import SplatScene


def gaussians(n: int = 60, scale: float = 0.1, k: int | None = None, seed: int = 0) -> dict[str, Tensor]:
    """What `rasterization` takes: n in a box of side 2 about the origin; colors as they are, or k coefficients."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    return {
        "means": uniform(n, 3) * 2 - 1,
        "quats": uniform(n, 4) * 2 - 1,
        "scales": scale * 4 ** (uniform(n, 3) * 2 - 1),
        "opacities": uniform(n),
        "colors": uniform(n, 3) if k is None else uniform(n, k, 3) * 2 - 1,
    }


def cameras(width: int, height: int, count: int = 1) -> dict[str, Tensor]:
    """Cameras on a circle of radius 3 about the y axis, which look at the origin a little beside their centres."""
    viewmats = []
    for i in range(count):
        c, s = math.cos(0.9 * i), math.sin(0.9 * i)
        viewmats.append([[c, 0, s, 0], [0, 1, 0, 0.1], [-s, 0, c, 3], [0, 0, 0, 1]])
    f = 1.1 * width
    Ks = [[[f, 0, width / 2 + 1.3], [0, 1.2 * f, height / 2 - 0.7], [0, 0, 1]]] * count
    return {k: torch.tensor(v, dtype=torch.float64) for k, v in (("viewmats", viewmats), ("Ks", Ks))}


def needles(n: int = 60) -> dict[str, Tensor]:
    """Two hundred times as long as thick."""
    return {**gaussians(n), "scales": torch.tensor([[1.0, 0.005, 0.005]], dtype=torch.float64).repeat(n, 1)}


def flat(n: int = 60) -> dict[str, Tensor]:
    """Ten thousand times as wide as thick."""
    made = gaussians(n)
    return {**made, "scales": made["scales"] * torch.tensor([1, 1, 1e-4], dtype=torch.float64)}


def assert_close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    """Within `tolerance` of the largest entry, or of 1."""
    found, wanted = found.detach().double(), wanted.detach()
    assert torch.isfinite(found).all()
    assert (found - wanted).abs().max() <= tolerance * max(1.0, float(wanted.abs().max()))


# ---- scenes to edit, float32


def ball(n: int = 40, degree: int = 1) -> Gaussians:
    """Gaussians near the origin; quaternions as optimizers leave them, not of unit length."""
    k = (degree + 1) ** 2 - 1
    spread = torch.full((n, 3), math.log(0.2)) + 0.3 * randn(2, n, 3)
    return Gaussians(
        0.4 * randn(0, n, 3), 2 * randn(1, n, 4), spread, randn(3, n, 1), randn(4, n, 3), 0.1 * randn(5, n, k, 3)
    )


def ring(count: int = 6, width: int = 60, height: int = 40, radius: float = 3.0) -> list[Camera]:
    """Cameras on a circle about the y axis that look at the origin."""
    found = []
    for i in range(count):
        c, s = math.cos(2 * math.pi * i / count), math.sin(2 * math.pi * i / count)
        view = torch.tensor([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, radius], [0, 0, 0, 1]])
        k = torch.tensor([[50.0, 0, width / 2], [0, 50.0, height / 2], [0, 0, 1]])
        found.append(Camera(f"{i}.png", view, k, width, height))
    return found


def scene(spec: ImageSpec, count: int = 6, **settings: Any) -> SplatScene:
    """`ball` before `ring`."""
    return SplatScene(SplatFile.of(ball()), ring(count), spec, SplatConfig(**settings))


def same(a: Gaussians, b: Gaussians) -> bool:
    """Equal to the last bit."""
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Gaussians))
