"""Workers that are processes: one is killed, then the command itself, and every row is done once, as if alone."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from batches import SHORT, write_manifest

from cpds.apps.batch.driver import tasks_of, work
from cpds.apps.batch.executor import Lost, Outcome, Ready, Setup
from cpds.apps.batch.local import LocalProcesses, LocalWorker
from cpds.apps.batch.manifest import read_manifest
from cpds.apps.batch.worker import EditWorker
from cpds.priors.options import PriorOptions

ROW = {"source": "cat.png", "prompt": "a cat", "target_prompt": "a dog", **SHORT}
PATIENCE = 300  # s


@pytest.fixture
def manifest(tmp_path: Path, image_file: Path) -> Path:
    return write_manifest(tmp_path / "manifest.jsonl", [{**ROW, "id": f"r{i}", "seed": i} for i in range(12)])


def until(ready: Callable[[], Any]) -> Any:
    """What `ready` gives as soon as that is something."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := ready():
            return found
        time.sleep(0.01)
    raise TimeoutError


def test_a_killed_worker_is_replaced_and_no_row_is_lost_or_done_twice(
    tmp_path: Path, tiny_folder: Path, manifest: Path
) -> None:
    rows = read_manifest(manifest)
    setup = Setup(str(tiny_folder), PriorOptions(), tmp_path / "results")
    begun: list[LocalWorker] = []

    class Watched(LocalProcesses):
        def start(self, place: str) -> LocalWorker:
            begun.append(super().start(place))
            return begun[-1]

    outcomes: list[Outcome] = []
    for event in work(tasks_of(rows, 1), Watched(setup, ["cpu", "cpu"])):
        if isinstance(event, Ready):
            continue
        outcomes.append(event)
        if len(outcomes) == 3:
            os.kill(begun[0].process.pid or 0, signal.SIGKILL)
    assert sorted(o.id for o in outcomes) == sorted(row.id for row in rows)
    assert {o.error for o in outcomes} == {None}
    assert {o.attempts for o in outcomes} <= {1, 2}
    assert len(begun) in (2, 3)  # it may have been killed when nothing was left to begin
    assert all(worker.process.exitcode is not None for worker in begun)
    inline = EditWorker(Setup(str(tiny_folder), PriorOptions(), tmp_path / "inline"), "cpu")
    inline.load()
    inline.edit(rows[:1])
    inline.edit(rows[-1:])
    for row in (rows[0], rows[-1]):  # test_cpds_apps_batch_worker.py compares these with `cpds image`
        name = f"{row.output}.png"
        assert (tmp_path / "results" / name).read_bytes() == (tmp_path / "inline" / name).read_bytes()


def test_a_lost_worker_says_how_it_ended(tiny_folder: Path, tmp_path: Path) -> None:
    executor = LocalProcesses(Setup(str(tiny_folder), PriorOptions(), tmp_path), ["cpu"])
    worker = executor.start("cpu")
    worker.call("load")
    worker.process.kill()
    lost = executor.wait([worker])[1]
    assert isinstance(lost, Lost)
    assert lost.reason == f"process {worker.process.pid} on cpu has ended (killed by SIGKILL)"
    worker.call("edit", [])  # says nothing, as it cannot be heard
    assert isinstance(executor.wait([worker])[1], Lost)
    worker.stop()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads the children of a process from /proc")
@pytest.mark.parametrize("what", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_command_takes_its_workers_along_and_is_resumed(
    tmp_path: Path, tiny_folder: Path, manifest: Path, what: signal.Signals
) -> None:
    out = tmp_path / "out"
    argv = ["batch", str(manifest), "--out", str(out), "--prior", str(tiny_folder), "--devices", "cpu"]
    command = [sys.executable, "-m", "cpds.apps.cli.main", *argv]
    log = tmp_path / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
        until(lambda: done(out) or process.poll() is not None)
        workers = descendants(process.pid)
        os.killpg(process.pid, what) if what == signal.SIGINT else process.kill()  # Ctrl-C reaches the whole group
        assert process.wait(PATIENCE) == (130 if what == signal.SIGINT else -9), log.read_text()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert "Traceback" not in log.read_text()
    first = done(out)
    assert 0 < len(first) < 12
    times = {name: (out / f"results/{name}.png").stat().st_mtime_ns for name in first}
    again = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert again.returncode == 0, again.stderr
    assert f"{len(first)} of 12 rows are already finished" in again.stderr
    assert sorted(done(out)) == sorted(f"r{i}" for i in range(12))
    assert times == {name: (out / f"results/{name}.png").stat().st_mtime_ns for name in first}
    assert not list(out.rglob("*.part"))


def done(out: Path) -> list[str]:
    """The ids of all lines, those given twice too."""
    file = out / "results.jsonl"
    return [json.loads(line)["id"] for line in file.read_text().split("\n")[:-1]] if file.exists() else []


def descendants(pid: int) -> list[int]:
    """Processes that this one has begun, and those that they have."""
    file = Path(f"/proc/{pid}/task/{pid}/children")
    children = [int(word) for word in file.read_text().split()] if file.exists() else []
    return children + [found for child in children for found in descendants(child)]
