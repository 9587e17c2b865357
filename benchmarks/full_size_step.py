"""One step of CPDS on the CPU with a prior at its own size: seconds and memory. Its weights are random.

    python -m benchmarks.full_size_step SDXL
    python -m benchmarks.full_size_step SD3.5-medium --dtype bf16

What counts is whether a step fits the memory, so patches are chosen by chance: the map of where the edit belongs, for
which the preset asks the prior 12 times before the first step, needs no more memory and only takes its time. Weights
are made in the precision that they are used in, and text encoders, which are gone before a step, are left out.
"""

import sys
import time
from dataclasses import dataclass, replace
from typing import Literal

import torch
import tyro

from benchmarks.gpu_sizes import SIZES, SizeName, prior_of
from benchmarks.gpu_step import GIB, peak_memory
from benchmarks.steps import one_step
from cpds import PRESETS
from cpds.editor import start
from cpds.priors.load import DTYPES
from cpds.priors.options import PLAIN
from representations.latent import LatentImage
from scripts.program import run_program


@dataclass(frozen=True)
class Config:
    """Which prior."""

    family: tyro.conf.Positional[SizeName]
    """Whose size."""
    dtype: Literal["fp32", "bf16"] = "bf16"
    """Precision of the prior."""
    toy: bool = False
    """A network of the same kind with few and narrow layers."""


def main(config: Config) -> None:
    began = time.perf_counter()
    device = torch.device("cpu")
    prior = prior_of(SIZES[config.family], config.toy, device, DTYPES[config.dtype], PLAIN)
    image = torch.rand(1, 3, prior.image_size, prior.image_size, generator=torch.Generator().manual_seed(0))
    guidance = replace(PRESETS["cpds"].guidance, patch_selector="random")
    state = start(LatentImage(image, prior), prior, "a cat", "a dog", replace(PRESETS["cpds"], guidance=guidance))
    made = time.perf_counter() - began
    print(f"{config.family}, {config.dtype}: {prior.parameters / 1e9:.2f} billion parameters, {prior.image_size} px")
    print(f"weights and the image's latents after {made:.0f} s, {peak_memory(device) / GIB:.1f} GiB", flush=True)
    before = state.rendered.latents(None).detach().clone()
    seconds = one_step(state)
    moved = (state.rendered.latents(None).detach() - before).square().mean().sqrt()
    print(f"one step in {seconds:.0f} s; peak resident memory {peak_memory(device) / GIB:.1f} GiB; moved {moved:.3f}")


if __name__ == "__main__":
    sys.exit(run_program(main, Config, __doc__))
