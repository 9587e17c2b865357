"""What one row of benchmarks.gpu costs: seconds and memory of a CPDS step, its arithmetic, and the device's own peak.

    python -m benchmarks.gpu_step --model SD1.5 --dtype bf16 --targets 4 --compile

Prints JSON. A process of its own for each row: memory, compiled code and failures of one are not another's.
"""

import json
import resource
import statistics
import time
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_sizes import SIZES, SizeName, prior_of, weights
from benchmarks.steps import one_step
from cpds import PRESETS
from cpds.editor import start
from cpds.priors.load import DTYPES
from cpds.priors.options import PriorOptions
from cpds.state import EditState
from representations.latent import LatentImage

WARM_UP = 3  # steps: compilation, choice of kernels, the map of where the edit belongs
GIB = 2**30


@dataclass(frozen=True)
class Row:
    """One prior in one precision."""

    model: SizeName = "SD1.5"
    """Whose size: SD1.5, SDXL, SD3.5-medium or FLUX.1-dev."""
    dtype: Literal["fp32", "fp16", "bf16"] = "bf16"
    """Precision of the prior."""
    targets: int = 1
    """Edits at once."""
    compile: bool = False
    """torch.compile of the blocks that are not tapped."""
    device: str = "cuda"
    """Torch device."""
    toy: bool = False
    """A network of the same kind with few and narrow layers."""
    steps: int = 10
    """Timed steps."""


def measure(row: Row) -> dict[str, Any]:
    """The figures; {"left_out": why} where memory does not suffice."""
    device = torch.device(row.device)
    try:
        return asdict(row) | figures(row, device)
    except torch.OutOfMemoryError:
        return asdict(row) | {"left_out": "memory does not suffice for a step"}


def figures(row: Row, device: torch.device) -> dict[str, Any]:
    """Of the steps after the first ones."""
    options = PriorOptions(compile=row.compile, vae_tiling=True, vae_slicing=True)  # encoding is not what is measured
    prior = prior_of(SIZES[row.model], row.toy, device, DTYPES[row.dtype], options)
    side, n = prior.image_size, row.targets
    image = torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))
    settings = replace(PRESETS["cpds"], num_inference_steps=WARM_UP + row.steps + 1)
    state = start(LatentImage(image, prior), prior, ["a cat"] * n, ["a dog"] * n, settings)
    for _ in range(WARM_UP):
        one_step(state)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = statistics.median(one_step(state) for _ in range(row.steps))
    memory, work = peak_memory(device), operations(state)
    del state
    peak = matrix_rate(device, DTYPES[row.dtype])
    return {
        "px": side,
        "seconds": seconds,
        "memory_gib": memory / GIB,
        "weights_gib": weights(SIZES[row.model], row.toy, DTYPES[row.dtype].itemsize * 8) / GIB,
        "tflop": work / 1e12,
        "tflop_per_second": work / seconds / 1e12,
        "peak_tflop_per_second": peak / 1e12,
        "share_of_peak": work / seconds / peak,
    }


def peak_memory(device: torch.device) -> int:
    """Bytes at most: of tensors on a card since the counter was reset, else of this process from its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def operations(state: EditState) -> int:
    """Floating-point operations of a step's matrix products and convolutions (2 for a multiplication and addition)."""
    with FlopCounterMode(display=False) as counter, torch.compiler.set_stance("force_eager"):
        one_step(state)
    return counter.get_total_flops()


def matrix_rate(device: torch.device, dtype: torch.dtype, rounds: int = 10) -> float:
    """Operations a second of a large product of random matrices: the peak that can be had here."""
    n = 8192 if device.type == "cuda" else 512
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(rounds + 2):
        began = time.perf_counter()
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return 2 * n**3 / statistics.median(seconds[2:])


if __name__ == "__main__":
    print(json.dumps(measure(tyro.cli(Row))))
