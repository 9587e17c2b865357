"""What a view of a nerfacto costs to render with its gradient: the hash encoding in torch beside that in C.

    python -m benchmarks.scene_step                          # nerfacto-cpu's size, a view of 128 px at once
    python -m benchmarks.scene_step --standard --side 32     # nerfacto's own size
    python -m benchmarks.scene_step --rays-per-chunk 4096    # in chunks, each rendered twice

The two alternate in one process; seconds are of the CPU, all threads together. The model is untrained; losses are
those of an edit, with a fixed gradient in the place of the prior's.
"""

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import tyro
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.field_components.encodings import HashEncoding
from nerfstudio.models.nerfacto import NerfactoModelConfig

from nerf_plugin.hash_encoding import encode_in_c
from nerf_plugin.nerfacto import CpdsNerfactoModelConfig
from nerf_plugin.rays import render_rays
from nerf_plugin.rendering import seeded


@dataclass(frozen=True)
class Config:
    """One row."""

    side: int = 128
    """px of the view."""
    standard: bool = False
    """nerfacto's own size instead of nerfacto-cpu's."""
    rays_per_chunk: int = 16384
    """Rays with gradient at a time."""
    rounds: int = 5
    """Pairs of steps that are measured, after one that is not."""


def step(model: Any, camera: Any, chunk: int) -> float:
    """CPU seconds of a view and its gradients."""
    model.zero_grad()
    began = time.process_time()
    with seeded(0, torch.device("cpu")):
        image, losses = render_rays(model, camera, chunk)
    weights = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    ((image * weights).sum() + sum(losses.values())).backward()
    return time.process_time() - began


def main(config: Config) -> None:
    box = SceneBox(torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
    standard = NerfactoModelConfig(implementation="torch", use_appearance_embedding=False)
    settings = standard if config.standard else CpdsNerfactoModelConfig()
    model: Any = settings.setup(scene_box=box, num_train_data=1, metadata={}, device="cpu").train()
    model.proposal_sampler.update_sched = lambda step: -1
    pose, half = torch.tensor([[[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1.5]]]), config.side / 2
    camera = Cameras(pose, 1.2 * config.side, 1.2 * config.side, half, half, config.side, config.side)
    found: dict[str, list[float]] = {"torch": [], "C": []}
    for _ in range(config.rounds + 1):
        for x in model.modules():
            if isinstance(x, HashEncoding):
                vars(x).pop("pytorch_fwd", None)
        found["torch"].append(step(model, camera, config.rays_per_chunk))
        encode_in_c(model)
        found["C"].append(step(model, camera, config.rays_per_chunk))
    ratios = [a / b for a, b in zip(found["torch"][1:], found["C"][1:], strict=True)]
    seconds = " | ".join(f"{median(x[1:]):.2f}" for x in found.values())
    kind = "standard" if config.standard else "nerfacto-cpu"
    print("| nerfacto | px | rays at a time | torch, s | C, s | ratio: median, range |\n|---|---|---|---|---|---|")
    print(
        f"| {kind} | {config.side} | {config.rays_per_chunk} | {seconds} "
        f"| {median(ratios):.1f}, {min(ratios):.1f} ... {max(ratios):.1f} |"
    )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
