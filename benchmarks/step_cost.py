"""One step of ours beside the published one: seconds, memory and samples through the network, with the same weights.

    python -m benchmarks.step_cost embedded
    python -m benchmarks.step_cost 100M
    python -m benchmarks.step_cost embedded --targets 4                   # four edits of one source at once
    python -m benchmarks.step_cost SD1.5 --dtype bf16 --rounds 1          # minutes on a CPU; SDXL and SD3.5-medium too
    python -m benchmarks.step_cost SDXL --dtype bf16 --rounds 1 --side 32 # of smaller latents, which need less memory

The plain step is what the published code of CDS and CPDS computes: the pair's four samples without gradient, then the
edited latents once more, with and without the prompt, with gradient through both and to the network's weights, and
attention whose n x n matrix is written to memory. Both steps take the same draws, and their gradients are compared.
They take turns; what counts is the median of the rounds' ratios, of CPU time where that is the device: other processes
disturb it less than time on the clock. Memory is the peak of a process of its own, of a single step.
"""

import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import tyro

from benchmarks.gpu_sizes import SIZES, prior_of
from benchmarks.gpu_step import GIB, peak_memory
from benchmarks.plain_step import plain_step, unfused
from cpds import PRESETS, load_prior
from cpds.config import require
from cpds.editor import step_generator
from cpds.guidance import Guidance
from cpds.priors.load import DTYPES
from cpds.priors.options import PLAIN, PriorOptions
from cpds.types import Latents
from scripts.program import run_program

PROMPT, TARGETS = "a cat face", [f"a {animal} face" for animal in ("dog", "pig", "fox", "bear", "rabbit", "koala")]
CONFIG = replace(PRESETS["cpds-reference"].guidance, stride=2)
MIDDLE = replace(  # a UNet of Stable Diffusion's kind with 104 million parameters, of latents of 32 x 32
    SIZES["SD1.5"],
    toy={"block_out_channels": (128, 256, 512), "layers_per_block": 2, "sample_size": 32}
    | {"down_block_types": ("CrossAttnDownBlock2D",) * 3, "up_block_types": ("CrossAttnUpBlock2D",) * 3},
    toy_text=SIZES["SD1.5"].text,
)
Which = Literal["plain", "ours"]


@dataclass(frozen=True)
class Config:
    """Which step."""

    size: tyro.conf.Positional[Literal["embedded", "100M", "SD1.5", "SDXL", "SD3.5-medium", "toy"]] = "embedded"
    """The embedded prior, or random weights of a size; toy: a few narrow layers."""
    dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Precision of the prior."""
    targets: int = 1
    """Edits of one source at once; the plain step does one at a time."""
    side: int | None = None
    """Height and width of the latents. Default: the size's own."""
    rounds: int = 5
    """Pairs of steps that are timed; of several, after one that is not."""
    device: str = "cpu"
    """Torch device."""
    only: Which | None = None
    """Take one step of this kind alone and print its samples and peak memory as JSON."""

    def __post_init__(self) -> None:
        require(1 <= self.targets <= len(TARGETS), f"targets must be in 1 ... {len(TARGETS)}, got {self.targets}")
        require(self.side is None or self.side in range(8, 257, 8), f"side must be 8, 16 ... 256, got {self.side}")
        require(self.rounds >= 1, f"rounds must be >= 1, got {self.rounds}")


class Steps:
    """Both kinds of step at the same latents."""

    def __init__(self, config: Config) -> None:
        device = torch.device(config.device)
        if config.size == "embedded":
            prior: Any = load_prior(device=config.device, options=PriorOptions(torch_dtype=config.dtype))
        else:
            smaller = {"toy": SIZES["SD1.5"], "100M": MIDDLE}
            size = smaller.get(config.size) or SIZES[config.size]  # pyright: ignore[reportArgumentType]
            prior = prior_of(size, config.size in smaller, device, DTYPES[config.dtype], PLAIN)
        self.prior, self.edits = prior, config.targets
        side, channels = config.side or prior.net.config.sample_size, prior.net.config.in_channels
        z, drift = torch.randn(2, 1, channels, side, side, generator=torch.Generator().manual_seed(0)).to(device)
        self.source, self.target = (x.repeat(self.edits, 1, 1, 1) for x in (z, z + 0.3 * drift))
        alone, together = (TARGETS[:n] for n in (1, self.edits))
        self.one = Guidance(prior, PROMPT, alone[0], CONFIG, steps=100)
        self.all = Guidance(prior, [PROMPT] * self.edits, together, CONFIG, steps=100)

    def ours(self, step: int) -> Latents:
        """The first edit's gradient, of a step of all edits."""
        result = self.all.step(self.source, self.target, step, step_generator(0, step))
        return result.gradient[:1]

    def plain(self, step: int) -> Latents:
        """The first edit's gradient."""
        self.prior.net.requires_grad_(True)
        try:
            with unfused(self.prior):
                return plain_step(self.one, self.source[:1], self.target[:1], step, step_generator(0, step))
        finally:
            self.prior.net.requires_grad_(False)
            self.prior.net.zero_grad(set_to_none=True)


def timed(steps: Steps, which: Which, step: int) -> tuple[float, Latents]:
    """Seconds of a step, and its gradient."""
    cuda = steps.source.is_cuda
    clock = time.perf_counter if cuda else time.process_time
    began = clock()
    gradient = getattr(steps, which)(step)
    if cuda:
        torch.cuda.synchronize(steps.source.device)
    return clock() - began, gradient


def alone(config: Config, which: Which) -> dict[str, float]:
    """Samples and memory of a step, of a process of its own."""
    flags = [f"--{name}={getattr(config, name)}" for name in ("dtype", "targets", "side", "device")]
    command = [sys.executable, "-m", "benchmarks.step_cost", config.size, f"--only={which}", *flags]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def one_alone(config: Config, which: Which) -> dict[str, float]:
    """What `alone` reads."""
    steps, counts = Steps(config), list[int]()
    first = next(x for x in steps.prior.net.modules() if isinstance(x, torch.nn.Conv2d))  # sees every sample
    hook = first.register_forward_pre_hook(lambda _m, args: counts.append(len(args[0])))
    timed(steps, which, 0)
    hook.remove()
    return {"samples": sum(counts), "gib": peak_memory(steps.source.device) / GIB}


def main(config: Config) -> None:
    if config.only is not None:
        print(json.dumps(one_alone(config, config.only)))
        return
    memory = {which: alone(config, which) for which in ("plain", "ours")}
    steps = Steps(config)
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    apart, warm_up = 0.0, int(config.rounds > 1)
    for step in range(config.rounds + warm_up):
        (plain, expected), (ours, found) = timed(steps, "plain", step), timed(steps, "ours", step)
        apart = max(apart, float((found - expected).norm() / expected.norm()))
        if step >= warm_up:
            seconds["plain"].append(plain)
            seconds["ours"].append(ours / config.targets)
    ratio = statistics.median(a / b for a, b in zip(seconds["plain"], seconds["ours"], strict=True))
    million, median = steps.prior.parameters / 1e6, {which: statistics.median(x) for which, x in seconds.items()}
    print(
        "| size | parameters | precision | targets | plain, s an edit | ours | ratio | samples an edit | GiB | apart |"
    )
    print("|" + "---|" * 10)
    cells = [config.size, f"{million:.0f} M", config.dtype, config.targets, f"{median['plain']:.3g}"]
    cells += [f"{median['ours']:.3g}", f"{ratio:.2f}"]
    cells.append(f"{memory['plain']['samples']}; {memory['ours']['samples'] / config.targets:g}")
    cells += ["; ".join(f"{memory[which]['gib']:.2f}" for which in memory), f"{apart:.1e}"]
    print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    sys.exit(run_program(main, Config, __doc__))
