"""Milliseconds of our splat rasterizer: random gaussians in a box, spherical harmonics of degree 3, one camera.

    OMP_NUM_THREADS=1 python -m benchmarks.splats
    OMP_NUM_THREADS=1 python -m benchmarks.splats --scenes 2000 64 --rounds 50

A scene is a number of gaussians and a side of the square image in px. The table has medians and the fastest pass: the
scenes take turns, so that a noisy machine slows all of them alike, and on such a machine the fastest says more.
"""

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
import tyro

from representations.splats.rasterize import rasterization


@dataclass(frozen=True)
class Config:
    """What to time."""

    scenes: tuple[tuple[int, int], ...] = ((2_000, 64), (2_000, 128), (20_000, 128), (20_000, 256), (20_000, 512))
    """Gaussians, and px of the image's side."""
    scale: float = 0.05
    """Median standard deviation of 2000 gaussians in a box of side 2; more of them are smaller, as dense."""
    degree: int = 3
    """Of the spherical harmonics."""
    rounds: int = 15
    """Timed passes of each scene, after one that warms up."""
    threads: int = 1
    """Threads."""
    device: str = "cpu"
    """cpu, cuda or mps."""


def scene(count: int, side: int, config: Config) -> dict[str, Any]:
    """What `rasterization` takes: a box of side 2 before a camera 4 away, opacities from 0.05 to 1."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    spread = config.scale * (2000 / count) ** (1 / 3)
    gaussians = {
        "means": uniform(count, 3) * 2 - 1,
        "quats": torch.randn(count, 4, generator=generator),
        "scales": spread * (0.5 * torch.randn(count, 3, generator=generator)).exp(),
        "opacities": 0.05 + 0.95 * uniform(count),
        "colors": 0.3 * torch.randn(count, (config.degree + 1) ** 2, 3, generator=generator),
    }
    view, focal = torch.eye(4), 1.2 * side
    view[2, 3] = 4
    k = torch.tensor([[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1]])
    leaves = {name: x.to(config.device).requires_grad_() for name, x in gaussians.items()}
    camera = {"viewmats": view[None].to(config.device), "Ks": k[None].to(config.device)}
    return {**leaves, **camera, "width": side, "height": side, "sh_degree": config.degree}


def clock(device: str) -> float:
    """Seconds, once the device has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(inputs: dict[str, Any], device: str) -> tuple[float, float]:
    """ms forward and backward."""
    began = clock(device)
    render, alphas, _ = rasterization(**inputs)
    rendered = clock(device)
    (render.square().mean() + alphas.mean()).backward()
    return 1e3 * (rendered - began), 1e3 * (clock(device) - rendered)


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    inputs = {row: scene(*row, config) for row in config.scenes}
    passes: dict[tuple[int, int], list[tuple[float, float]]] = {row: [] for row in inputs}
    for number in range(config.rounds + 1):
        for row, own in inputs.items():
            passes[row] += [timed(own, config.device)] * (number > 0)
    print(f"{config.threads} threads, {config.device}, {config.rounds} passes, degree {config.degree}\n")
    print("| gaussians | image | forward ms | backward ms | both, median | both, fastest |\n|---|---|---|---|---|---|")
    for (count, side), each in passes.items():
        forward, backward = (statistics.median(p) for p in zip(*each, strict=True))
        both = sorted(a + b for a, b in each)
        numbers = " | ".join(f"{x:.1f}" for x in (forward, backward, statistics.median(both), both[0]))
        print(f"| {count} | {side} x {side} | {numbers} |")


if __name__ == "__main__":
    main(tyro.cli(Config))
