"""How many CPU threads a command computes with. For commands alone: a library leaves its program's threads as they are.

torch takes as many threads as there are cores, and these spin while they wait for each other. With a small prior two
threads are hardly faster than one on idle cores, and many times slower as soon as another program runs too. With a
large one all cores pay off, and if threads sleep while they wait, another program does no harm.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from cpds.terminal import print_status

if TYPE_CHECKING:
    from cpds.priors.base import Prior

LARGE = 100_000_000  # parameters of a denoising network that all cores work on
COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # by which users choose a number
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # and how threads wait
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # a container's share of the processor: "200000 100000" are two cores


def wait_passively() -> None:
    """Have threads sleep while they wait, unless the user has set how; to be called before torch is imported."""
    if not any(os.environ.get(name) for name in COUNTS + WAITING):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def one_thread() -> None:
    """Compute with one thread, unless the user has chosen a number: for programs whose work is small."""
    import torch

    if not any(os.environ.get(name) for name in COUNTS):
        torch.set_num_threads(1)


def choose_threads(prior: Prior) -> int:
    """Set torch's number of CPU threads by the prior's size, print it on standard error, and return it.

    One for a small prior, every core for a large one. Nothing changes where the prior is not on the CPU, or where
    OMP_NUM_THREADS or MKL_NUM_THREADS is set. The number decides the last bits of the result.
    """
    import torch

    cores = available()
    if prior.device.type == "cpu" and not any(os.environ.get(name) for name in COUNTS):
        small = prior.parameters < LARGE
        torch.set_num_threads(1 if small else cores)
        chosen = "1 CPU thread, enough for a small prior" if small else f"{cores} CPU threads"
        print_status(f"Computing with {chosen} (OMP_NUM_THREADS sets another number)")
    return torch.get_num_threads()


@cache
def available() -> int:
    """Cores for this process: torch's own count (physical ones that it may run on), within its container's quota."""
    import torch

    cores = torch.get_num_threads()  # at the first call, before anything was set
    try:
        limit, period = QUOTA.read_text().split()
        return cores if limit == "max" else max(1, min(cores, int(limit) // int(period)))
    except (OSError, ValueError):  # no container, or not on Linux
        return cores
