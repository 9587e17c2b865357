"""Random gaussians before cameras, for the tests of the splat rasterizer; float64."""

import math

import torch
from torch import Tensor


def gaussians(n: int = 60, scale: float = 0.1, k: int | None = None, seed: int = 0) -> dict[str, Tensor]:
    """What `rasterization` takes: n in a box of side 2 about the origin; colours as they are, or k coefficients."""
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
