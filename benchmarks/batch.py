"""A batch of edits by several workers, one of them killed midway: are all results there, once, and what is gained?

    python -m benchmarks.batch --edits 200 --steps 10             # two processes
    python -m benchmarks.batch --edits 200 --steps 10 --ray       # two workers of a Ray cluster begun here

Writes a manifest over the shipped image, runs `cpds batch` with one worker and with several, kills one of the latter
when half of the edits are done, and compares results: ids, pixels with the one worker's, and of some rows with those of
`cpds image`. Prints edits per second of both, the time to load the prior aside. The killing needs Linux's /proc.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cpds.config import require
from scripts.program import run_program

IMAGE = Path(__file__).parents[1] / "cpds/assets/demo/cat.png"
PROMPT = "a cat face on a blue background"
TARGETS = ("dog", "pig", "fox", "bear", "panda", "rabbit", "koala", "tiger")


@dataclass(frozen=True)
class Config:
    """How much to edit, and by how many."""

    out: Path = Path("runs/batch")
    """Folder for the manifest and the results; what an earlier run of this left there is removed."""
    edits: int = 200
    """Rows of the manifest."""
    steps: int = 10
    """Optimization steps of each."""
    workers: int = 2
    """Workers of the batch that is compared with one worker."""
    ray: bool = False
    """Let Ray run the workers."""
    compared: int = 3
    """Rows that are edited by `cpds image` too."""

    def __post_init__(self) -> None:
        require(self.workers >= 2, f"workers must be >= 2, got {self.workers}: one of them is killed")
        require(self.edits >= 4 * self.workers, f"edits must be >= {4 * self.workers}, got {self.edits}")


def write_manifest(config: Config) -> Path:
    """Targets in turn, each time with another seed."""
    rows = [
        {
            "id": f"edit-{i:04d}",
            "source": str(IMAGE),
            "prompt": PROMPT,
            "target_prompt": PROMPT.replace("cat", TARGETS[i % len(TARGETS)]),
            "num_inference_steps": config.steps,
            "seed": i // len(TARGETS),
        }
        for i in range(config.edits)
    ]
    file = config.out / "manifest.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def finished(out: Path) -> int:
    file = out / "results.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def run_batch(config: Config, out: Path, flags: list[str], kill: bool = False) -> float:
    """Edits per second from the first result to the last; with `kill` one worker dies when half of them are there."""
    argv = [sys.executable, "-m", "cpds.apps.cli.main", "batch", str(config.out / "manifest.jsonl"), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    process = subprocess.Popen([*argv, "--devices", "cpu", *flags], env=environment)
    first = last = 0.0
    while process.poll() is None:
        time.sleep(0.05)
        count = finished(out)
        if count and not first:
            first, at_first = time.perf_counter(), count
        if kill and count >= config.edits // 2:
            os.kill(busiest(process.pid), signal.SIGKILL)
            kill = False
        if count == config.edits and not last:
            last = time.perf_counter()
    require(process.returncode == 0, f"cpds batch ended with {process.returncode}: see above")
    return (config.edits - at_first) / (last - first)


def busiest(pid: int) -> int:
    """The descendant of a process that has computed most: one of its workers."""
    found, todo = {}, [pid]
    while todo:
        current = todo.pop()
        tasks = Path(f"/proc/{current}/task/{current}/children")
        todo += [int(word) for word in tasks.read_text().split()] if tasks.exists() else []
        stat = Path(f"/proc/{current}/stat").read_text().rpartition(")")[2].split()
        found[current] = int(stat[11])  # user time
    del found[pid]
    return max(found, key=lambda p: found[p])


def by_command(config: Config, number: int) -> bytes:
    """The same edit by `cpds image`."""
    row = json.loads((config.out / "manifest.jsonl").read_text().splitlines()[number])
    out = config.out / "alone" / row["id"]
    own = ["--num_inference_steps", str(config.steps), "--seed", str(row["seed"]), "--device", "cpu"]
    argv = ["image", "--img_path", row["source"], "--prompt", row["prompt"], "--trg_prompt", row["target_prompt"]]
    command = [sys.executable, "-m", "cpds.apps.cli.main", *argv, *own, "--save_path", str(out)]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    return (out / "result.png").read_bytes()


def main(config: Config) -> None:
    shutil.rmtree(config.out, ignore_errors=True)
    config.out.mkdir(parents=True)
    write_manifest(config)
    one, several = config.out / "one", config.out / "several"
    flags = ["--workers", str(config.workers), *(["--ray"] if config.ray else [])]
    rates = {"1 process": run_batch(config, one, ["--workers", "1"])}
    name = f"{config.workers} {'Ray workers' if config.ray else 'processes'}, one killed"
    rates[name] = run_batch(config, several, flags, kill=True)
    records = [json.loads(line) for line in (several / "results.jsonl").read_text().splitlines()]
    ids = Counter(record["id"] for record in records)
    files = sorted(file.name for file in (several / "results").glob("*.png"))
    same = sum((one / "results" / f).read_bytes() == (several / "results" / f).read_bytes() for f in files)
    alone = [i * config.edits // config.compared for i in range(config.compared)]
    equal = sum(by_command(config, i) == (several / f"results/edit-{i:04d}.png").read_bytes() for i in alone)
    print(f"{len(records)} of {config.edits} rows have a result, {sum(n > 1 for n in ids.values())} of them twice")
    print(
        f"{sum(r['attempts'] > 1 for r in records)} were begun again, {sum(bool(r['error']) for r in records)} failed"
    )
    print(f"{same} of {len(files)} files equal those of one process, {equal} of {len(alone)} those of cpds image")
    for name, rate in rates.items():
        print(f"{name}: {rate:.3f} edits/s, {rate / rates['1 process']:.2f} times that of one process")


if __name__ == "__main__":
    sys.exit(run_program(main, Config, __doc__))
