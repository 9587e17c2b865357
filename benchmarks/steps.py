"""Seconds per edit step on the embedded prior, and what the patch selectors cost.

    OMP_NUM_THREADS=2 python -m benchmarks.steps            # medians over 60 steps each

Methods and selectors take turns step by step, so that a noisy machine slows all of them alike.
"""

import resource
import statistics
import time
from dataclasses import dataclass, replace

import torch
import tyro

from cpds import PRESETS, load_prior
from cpds.editor import start, step_generator
from cpds.state import EditState
from representations.latent import LatentImage

ROWS = {
    "sds": ("sds", "random"),
    "dds": ("dds", "random"),
    "pds": ("pds", "random"),
    "cds, random patches": ("cds", "random"),
    "cpds, random patches": ("cpds", "random"),
    "cpds, learned patches": ("cpds", "learned"),
    "cpds, SVM": ("cpds", "svm"),
    "cpds, k-NN": ("cpds", "knn"),
    "cpds, random forest": ("cpds", "forest"),
}


@dataclass(frozen=True)
class Config:
    """What to time."""

    prior: str | None = None
    """Prior; default: the embedded one."""
    steps: int = 60
    """Timed steps of each row, a multiple of ten so that every selector learns equally often."""
    device: str = "cpu"
    """Torch device."""


def one_step(state: EditState) -> float:
    """Seconds of guidance, backward pass and update."""
    began = time.perf_counter()
    z, source = state.rendered.latents(None), state.rendered.source_latents(None)
    result = state.guidance.step(source, z, state.step, step_generator(0, state.step))
    state.optimizer.zero_grad()
    z.backward(result.gradient)
    state.optimizer.step()
    state.step += 1
    if state.prior.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main(config: Config) -> None:
    prior = load_prior(config.prior, device=config.device)
    image = torch.rand(1, 3, prior.image_size, prior.image_size, generator=torch.Generator().manual_seed(0))
    states = {}
    for row, (preset, selector) in ROWS.items():
        settings = PRESETS[preset]
        settings = replace(settings, guidance=replace(settings.guidance, patch_selector=selector))
        states[row] = start(LatentImage(image, prior), prior, "a cat face", "a dog face", settings)
    seconds = {row: [one_step(state) for _ in range(10)][:0] for row, state in states.items()}  # warm-up
    for _ in range(config.steps):
        for row, state in states.items():
            seconds[row].append(one_step(state))
    base = sum(seconds["cpds, random patches"])
    print(f"{torch.get_num_threads()} threads, {config.steps} steps each, side {prior.image_size} px")
    for row, times in seconds.items():
        extra = (
            f"{100 * (sum(times) / base - 1):+6.1f} % of cpds with random patches" if row.startswith("cpds,") else ""
        )
        print(f"{row:24} median {statistics.median(times):.4f} s  mean {statistics.mean(times):.4f} s  {extra}")
    print(f"peak resident memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main(tyro.cli(Config))
