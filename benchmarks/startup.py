"""How long the demo edit takes until it says that it loads, and until its first step is done, of one or more checkouts.

python -m benchmarks.startup --runs 5
python -m benchmarks.startup --checkouts . ../before --runs 5

Seconds by the clock, and of the CPU (user and system), which a busy machine disturbs less. Checkouts take turns. The
CPU's are read from /proc: Linux alone.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

from cpds.config import require
from cpds.errors import InputError
from cpds.terminal import print_result
from scripts.program import run_program

DEMO = ["--img_path", "cpds/assets/demo/cat.png", "--prompt", "a cat face on a blue background"]
TARGET = ["--target_prompt", "a dog face on a blue background", "--num_inference_steps", "2", "--device", "cpu"]
LOADING, STEP = "loading", "1/2 ["  # what is printed: a line, and the progress bar after the first step


@dataclass(frozen=True)
class StartupConfig:
    """What is measured, and how often."""

    checkouts: tuple[Path, ...] = (Path(__file__).parents[1],)
    """Folders of the program: this one, or several to compare."""
    runs: int = 5
    """Of each, in turn, after one that is not counted."""

    def __post_init__(self) -> None:
        require(self.runs >= 1, f"runs must be >= 1, got {self.runs}")
        require(bool(self.checkouts), "checkouts is empty: name at least one folder")
        for folder in self.checkouts:
            require((folder / "cpds" / "assets" / "demo").is_dir(), f"{folder} is no checkout with the demo in it")


class Moment(NamedTuple):
    """Seconds since the command began."""

    clock: float
    cpu: float


def start_up(checkout: Path) -> dict[str, Moment]:
    """When one edit has said that it loads, and when its first step was done. InputError if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, "-m", "cpds.apps.cli.main", "image", *DEMO, *TARGET, "--save_path", f"{folder}/run"]
        environment = os.environ | {"PYTHONPATH": str(checkout.resolve())}
        began, found, said = time.perf_counter(), dict[str, Moment](), ""
        with subprocess.Popen(
            argv, cwd=checkout, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        ) as run:
            assert run.stderr is not None
            while piece := os.read(run.stderr.fileno(), 2**16):
                now = Moment(time.perf_counter() - began, cpu_seconds(run.pid))
                said += piece.decode(errors="replace")
                for mark in (LOADING, STEP):
                    if mark in said:
                        found.setdefault(mark, now)
    if run.returncode or len(found) < 2:
        raise InputError(f"the demo edit of {checkout} failed: {said.strip().splitlines()[-1:]}")
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a running process (proc(5), fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(config: StartupConfig) -> None:
    rounds = [{checkout: start_up(checkout) for checkout in config.checkouts} for _ in range(config.runs + 1)][1:]
    print_result("| checkout | loading, s | CPU | first step, s | CPU |\n|---|---|---|---|---|")
    for checkout in config.checkouts:
        moments = [one[checkout][mark] for mark in (LOADING, STEP) for one in rounds]
        halves = moments[: config.runs], moments[config.runs :]
        cells = [f"{median(values):.2f}" for half in halves for values in zip(*half, strict=True)]
        print_result(f"| {checkout} | {' | '.join(cells)} |")


if __name__ == "__main__":
    sys.exit(run_program(main, StartupConfig, __doc__))
