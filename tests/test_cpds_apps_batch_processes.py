"""Workers that are processes: one is killed, then the command itself, and every row is done once, as if alone."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from batches import SHORT, Inline, write_manifest

from cpds.apps.batch.driver import tasks_of, work
from cpds.apps.batch.executor import Lost, Outcome, Ready, Setup
from cpds.apps.batch.local import LocalProcesses, LocalWorker
from cpds.apps.batch.manifest import read_manifest
from cpds.apps.batch.worker import EditWorker
from cpds.apps.cli.main import main
from cpds.apps.cli.workers import WorkerArgs
from cpds.priors.options import PriorOptions

# long enough to be stopped between two rows
ROW = {"source": "cat.png", "prompt": "a cat", "target_prompt": "a dog", **SHORT, "num_inference_steps": 20}
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
    for event in work(tasks_of(rows, 1), Watched(partial(EditWorker, setup), ["cpu", "cpu"])):
        if isinstance(event, Ready):
            continue
        outcomes.append(event)
        if len(outcomes) == 3:
            begun[0].process.kill()
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
    executor = LocalProcesses(partial(EditWorker, Setup(str(tiny_folder), PriorOptions(), tmp_path)), ["cpu"])
    worker = executor.start("cpu")
    worker.call("load")
    worker.process.kill()
    lost = executor.wait([worker])[1]
    assert isinstance(lost, Lost)
    how = "SIGTERM" if os.name == "nt" else "SIGKILL"  # as multiprocessing says of its kill
    assert lost.reason == f"process {worker.process.pid} on cpu has ended (killed by {how})"
    worker.call("edit", [])  # says nothing, as it cannot be heard
    assert isinstance(executor.wait([worker])[1], Lost)
    worker.stop()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads the children of a process from /proc")
def test_a_stopped_command_takes_its_workers_along_and_is_resumed(
    tmp_path: Path, tiny_folder: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, times = tmp_path / "out", {}
    argv = ["batch", str(manifest), "--out", str(out), "--prior", str(tiny_folder), "--devices", "cpu"]
    for what, code in {signal.SIGINT: 130, signal.SIGKILL: -9}.items():
        before = done(out)
        assert stopped([sys.executable, "-m", "cpds.apps.cli.main", *argv], what, out, tmp_path / "log") == code
        assert len(before) < len(done(out)) < 12
        assert "Traceback" not in (tmp_path / "log").read_text()
        assert times == {name: (out / f"results/{name}.png").stat().st_mtime_ns for name in before}
        times = {name: (out / f"results/{name}.png").stat().st_mtime_ns for name in done(out)}
    monkeypatch.setattr(WorkerArgs, "executor", lambda args, make: Inline(make))
    assert main(argv) == 0
    assert sorted(done(out)) == sorted(f"r{i}" for i in range(12))
    assert times == {name: (out / f"results/{name}.png").stat().st_mtime_ns for name in times}
    assert not list(out.rglob("*.part"))


def stopped(command: list[str], what: signal.Signals, out: Path, log: Path) -> int:
    """The exit code of a command that gets a signal after its first row; its workers end with it."""
    before = len(done(out))
    with log.open("w") as stream:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a shell's background job ignores
        )
    until(lambda: len(done(out)) > before or process.poll() is not None)
    workers = descendants(process.pid)
    if what == signal.SIGINT:  # a terminal sends it to all
        os.killpg(process.pid, what)
    else:
        process.send_signal(what)
    code = process.wait(PATIENCE)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    return code


def done(out: Path) -> list[str]:
    """The ids of all lines, those given twice too."""
    file = out / "results.jsonl"
    return [json.loads(line)["id"] for line in file.read_text().split("\n")[:-1]] if file.exists() else []


def descendants(pid: int) -> list[int]:
    """Processes that this one has begun, and those that they have."""
    file = Path(f"/proc/{pid}/task/{pid}/children")
    children = [int(word) for word in file.read_text().split()] if file.exists() else []
    return children + [found for child in children for found in descendants(child)]
