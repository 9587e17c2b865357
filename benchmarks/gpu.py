"""Seconds and memory of a CPDS step on a GPU, at the sizes of priors that people use (random weights).

    python -m benchmarks.gpu                    # on CUDA: writes benchmarks/gpu.md and gpu.json
    python -m benchmarks.gpu --device cpu --toy --minutes 2 --out gpu-toy.md      # the same code, anywhere

A row is a prior in one precision, one or several edits at once, compiled or not. Each has a process of its own and a
time limit. What departs least from the usual (one edit in the family's own half precision) comes first; rows that do
not fit, fail, or are not reached in time are listed with the reason. The table is written after every row.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.gpu_sizes import SIZES, SizeName, weights
from benchmarks.gpu_step import GIB, Row
from benchmarks.gpu_table import markdown
from cpds.config import require
from cpds.errors import InputError
from cpds.priors.load import DTYPES
from cpds.runs import write_atomic
from scripts.cuda_device import problem
from scripts.program import run_program

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks/gpu.md"
SHORTEST = 5.0  # s: less is not worth the start of a process


@dataclass(frozen=True)
class GpuConfig:
    """What to measure, and for how long."""

    device: str = "cuda"
    """Torch device."""
    toy: bool = False
    """Networks of the same kinds with few and narrow layers, to try the code."""
    out: Path | None = None
    """Where the table goes (.md; .json beside it). Default: benchmarks/gpu.md, for full sizes on CUDA alone."""
    models: tuple[SizeName, ...] = tuple(SIZES)
    """Whose sizes."""
    dtypes: tuple[Literal["fp32", "fp16", "bf16"], ...] = ("fp32", "fp16", "bf16")
    """Precisions of the prior."""
    targets: tuple[int, ...] = (1, 4)
    """Numbers of edits at once."""
    compile: tuple[bool, ...] = (False, True)
    """Whether blocks are compiled."""
    steps: int = 10
    """Timed steps of a row."""
    minutes: float = 20.0
    """For all rows together."""
    row_minutes: float = 4.0
    """For one row."""
    since: float | None = None
    """When the minutes began, in seconds since 1970; default: now."""

    def __post_init__(self) -> None:
        for name in ("models", "dtypes", "targets", "compile"):
            require(bool(getattr(self, name)), f"{name} is empty: name at least one")
        require(min(self.targets) >= 1, f"targets must be >= 1, got {min(self.targets)}")
        require(self.steps >= 1, f"steps must be >= 1, got {self.steps}")
        require(self.minutes > 0 and self.row_minutes > 0, "minutes and row_minutes must be > 0")
        full = self.device.startswith("cuda") and not self.toy
        require(full or self.out is not None, f"only full sizes on CUDA belong in {OUT.name}: set out to another file")
        require(self.out is None or self.out.suffix == ".md", f"out must be a name with .md, got {self.out}")


def rows(config: GpuConfig) -> list[Row]:
    """All of them, those first that depart least from one edit in the family's half precision, not compiled."""
    shared: dict[str, Any] = {"device": config.device, "toy": config.toy, "steps": config.steps}
    grid = product(config.models, config.dtypes, config.targets, config.compile)
    found = [Row(model, dtype, count, compiled, **shared) for model, dtype, count, compiled in grid]
    return sorted(found, key=departures)


def departures(row: Row) -> int:
    return (DTYPES[row.dtype] != SIZES[row.model].family.half) + (row.targets > 1) + row.compile


def reason_to_leave_out(row: Row, free: int) -> str | None:
    """What is known before a row is tried."""
    if row.dtype == "fp16" and not SIZES[row.model].family.fp16:
        return "fp16 overflows in networks of this family"
    needed = weights(SIZES[row.model], row.toy, 8 * DTYPES[row.dtype].itemsize)
    if needed > free:
        return f"its weights are {needed / GIB:.1f} GiB, and {free / GIB:.1f} GiB are free"
    return None


def free_memory(device: str) -> int:
    """Bytes: of the card, or of this machine."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(torch.device(device))[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def measured(row: Row, seconds: float) -> dict[str, Any]:
    """Of a process of its own, or why there are none."""
    flags = [f"--{f.name}={getattr(row, f.name)}" for f in fields(row) if not isinstance(getattr(row, f.name), bool)]
    flags += [f"--{name}" for name in ("compile", "toy") if getattr(row, name)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:  # a pipe could outlive the row
        command = [sys.executable, "-m", "benchmarks.gpu_step", *flags]
        environment = {"OMP_NUM_THREADS": "1", **os.environ}  # the host's part is small, and threads would spin
        process = subprocess.Popen(
            command, stdout=out, stderr=errors, cwd=ROOT, env=environment, start_new_session=True
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return {"left_out": f"took longer than {seconds:.0f} s"}
        finally:
            stop(process)
        for file in (out, errors):
            file.seek(0)
        if process.returncode:
            said = errors.read().strip().splitlines()
            return {"left_out": f"failed: {said[-1] if said else f'exit code {process.returncode}'}"}
        return json.loads(out.read().splitlines()[-1])


def stop(process: subprocess.Popen[bytes]) -> None:
    """The process and those that it started (compilers), if they still run."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def results(config: GpuConfig) -> Iterator[list[dict[str, Any]]]:
    """All rows, as far as they are known, after each one that was tried."""
    deadline = (time.time() if config.since is None else config.since) + 60 * config.minutes
    todo = rows(config)
    late = {"left_out": f"not reached in {config.minutes:g} minutes"}
    found = [vars(row) | late for row in todo]
    for i, row in enumerate(todo):
        left = deadline - time.time()
        if why := reason_to_leave_out(row, free_memory(row.device)):
            found[i] = vars(row) | {"left_out": why}
        elif left >= SHORTEST:
            found[i] = vars(row) | measured(row, min(left, 60 * config.row_minutes))
        yield found


def main(config: GpuConfig) -> None:
    """Measure, and write the table after every row."""
    if config.device.startswith("cuda") and (why := problem()):
        raise InputError(why)
    out = config.out or OUT
    command = shlex.join(["python", "-m", "benchmarks.gpu", *sys.argv[1:]])
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the row under way is stopped as well
    try:
        for tried, found in enumerate(results(config), 1):
            write_atomic(out, markdown(found, command, config.minutes).encode())
            write_atomic(out.with_suffix(".json"), json.dumps(found, indent=1).encode())
            print(f"{tried} of {len(found)} rows are in {out}", file=sys.stderr, flush=True)
    finally:
        signal.signal(signal.SIGTERM, before)
    print(out.read_text())


if __name__ == "__main__":
    sys.exit(run_program(main, GpuConfig, __doc__))
