"""Runs that are killed, or stopped by Ctrl-C, end as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import FILES, SEVERAL, steps_of
from safetensors.torch import load_file

from cpds.callbacks import ImageOutputs, MetricsLog

Edit = Callable[..., int]
Command = Callable[..., list[str]]


ZYGOTE = """
import json, os, sys
from diffusers import StableDiffusionPipeline
from cpds import callbacks, editor
from cpds.priors import unet as diffusion
from cpds.apps.cli.main import main
for line in sys.stdin:  # a fork for each command: the imports are paid for once
    if (pid := os.fork()) == 0:
        sys.stdout = sys.stderr
        os._exit(main(json.loads(line)))
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Interrupted:
    """Runs `cpds` in processes of their own and sends each a signal when its log has so many lines."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, "-c", ZYGOTE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def __call__(self, argv: list[str], lines: int, what: signal.Signals, metrics: Path) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(argv), file=self.process.stdin, flush=True)
        pid = int(self.process.stdout.readline())
        end = time.monotonic() + 300
        while time.monotonic() < end and not (metrics.exists() and metrics.read_bytes().count(b"\n") >= lines):
            time.sleep(0.002)
        os.kill(pid, what)
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interrupted]:
    if not hasattr(os, "fork"):
        pytest.skip("forks a process for each command")
    runner = Interrupted(tmp_path_factory.mktemp("interrupted") / "stderr")
    yield runner
    assert runner.process.stdin is not None
    runner.process.stdin.close()
    runner.process.wait(300)


STEPS = 16
LEARNED = {"method": "cpds", "patch_selector": "learned", "num_inference_steps": STEPS}
ADAMW = {"method": "pds", "optimizer": "adamw", "lr": 0.3, "num_inference_steps": STEPS}
WHOLE: dict[str, dict[str, bytes]] = {}


def whole(edit: Edit, folder: Path, flags: dict) -> dict[str, bytes]:
    """What a run without interruption leaves."""
    if str(flags) not in WHOLE:
        assert edit(save_path=folder / "whole", **flags) == 0
        WHOLE[str(flags)] = {
            f: (folder / "whole" / f).read_bytes() for f in ("result.png", "metrics.jsonl", "trajectory.gif")
        }
    return WHOLE[str(flags)]


def leaves(folder: Path, flags: dict) -> dict[str, bytes]:
    return {f: (folder / f).read_bytes() for f in WHOLE[str(flags)]}


@pytest.mark.parametrize(
    ("flags", "moments"),
    [
        (
            LEARNED,
            (1, 3, 13),
        ),  # at once; before and after the tenth step, when the selector learns and a state is saved
        (ADAMW, (3, 13)),  # before and after that state
    ],
)
def test_killed_and_resumed_equals_uninterrupted(
    edit: Edit, command: Command, interrupted: Interrupted, tmp_path: Path, flags: dict, moments: tuple[int, ...]
) -> None:
    want = whole(edit, tmp_path, flags)
    for lines in moments:
        out = tmp_path / f"killed{lines}"
        argv = command(save_path=out, **flags)
        assert interrupted(argv, lines, signal.SIGKILL, out / "metrics.jsonl") == -signal.SIGKILL
        assert not (out / "result.png").exists()
        assert edit(save_path=out, resume=True, **flags) == 0
        assert steps_of(out) == list(range(1, STEPS + 1))
        assert leaves(out, flags) == want
        assert not list(out.rglob("*.part"))


def test_ctrl_c_leaves_a_resumable_folder(
    edit: Edit, command: Command, interrupted: Interrupted, tmp_path: Path
) -> None:
    want, out = whole(edit, tmp_path, LEARNED), tmp_path / "out"
    assert interrupted(command(**LEARNED), 4, signal.SIGINT, out / "metrics.jsonl") == 130
    stopped = len(steps_of(out))
    assert 4 <= stopped < STEPS
    assert int(load_file(out / "checkpoint.safetensors")["step"]) == stopped  # nothing is lost
    told = interrupted.log.read_text()
    assert f"Stopped after step {stopped}; go on with: cpds image --resume {out}" in told
    assert "Traceback" not in told
    assert edit(resume=True, **LEARNED) == 0
    assert leaves(out, LEARNED) == want


def test_killed_before_the_first_step(edit: Edit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise SystemExit("killed")

    assert edit(save_path=tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "started", killed)
        with pytest.raises(SystemExit):
            edit()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [".lock", "config.json"]
    assert edit(resume=True) == 0
    assert (tmp_path / "out/result.png").read_bytes() == (tmp_path / "whole/result.png").read_bytes()


@pytest.mark.parametrize("presses", [1, 2])  # one stops after the step; a second one stops at once, within a step
def test_ctrl_c_never_saves_half_a_step(
    edit: Edit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], presses: int
) -> None:
    from cpds.selection.base import Cells
    from cpds.selection.learned import LearnedPatches

    want = whole(edit, tmp_path, LEARNED)
    observe, seen = LearnedPatches.observe_all, []

    def press(selectors: list[LearnedPatches], cells: list[Cells]) -> None:
        seen.append(0)
        for _ in range(presses if len(seen) == 50 else 0):
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.01)
        observe(selectors, cells)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(LearnedPatches, "observe_all", staticmethod(press))
        assert edit(**LEARNED) == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert "go on with: cpds image --resume" in capsys.readouterr().err
    assert edit(resume=True, **LEARNED) == 0
    assert leaves(tmp_path / "out", LEARNED) == want


def test_ctrl_c_while_the_images_are_written_stops_the_batch(
    edit: Edit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = ImageOutputs.finished

    def press(self: ImageOutputs, state: object) -> None:
        signal.raise_signal(signal.SIGINT)
        finished(self, state)  # pyright: ignore

    monkeypatch.setattr(ImageOutputs, "finished", press)
    assert edit(trg_prompt=["a pig", "a dog"], num_inference_steps=1) == 130
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"cat-a-pig"} | SEVERAL
    assert {p.name for p in (tmp_path / "out/cat-a-pig").iterdir()} == FILES


def test_resume_of_a_finished_run_changes_nothing(
    edit: Edit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edit() == 0
    before = {p: (p.stat().st_mtime_ns, p.is_dir() or p.read_bytes()) for p in (tmp_path / "out").rglob("*")}
    capsys.readouterr()
    assert edit(resume=True) == 0
    assert capsys.readouterr().err.strip() == f"{tmp_path / 'out'} is already finished"
    assert {p: (p.stat().st_mtime_ns, p.is_dir() or p.read_bytes()) for p in (tmp_path / "out").rglob("*")} == before


def test_a_run_that_settles_says_so_and_is_not_gone_on_with(
    edit: Edit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edit(num_inference_steps=11, lr_decay=0.001, stop_below=0.999) == 0
    assert "Settled after step 10 of 11 (stop_below 0.999)" in capsys.readouterr().err
    before = (tmp_path / "out/metrics.jsonl").read_bytes()
    assert len(before.splitlines()) == 10
    assert edit(num_inference_steps=14, lr_decay=0.001, stop_below=0.999, resume=True) == 0
    assert "Settled after step 10 of 14 (stop_below 0.999)" in capsys.readouterr().err
    assert (tmp_path / "out/metrics.jsonl").read_bytes() == before


def test_settings_without_effect_are_named(edit: Edit, capsys: pytest.CaptureFixture[str]) -> None:
    assert edit(method="dds", w_cut=4.0, redraw_lr=0.3) == 0
    err = capsys.readouterr().err
    assert "cpds: note: w_cut, n_patches have no effect here: method dds has no contrastive loss" in err
    assert "cpds: note: redraw_lr has no effect here: redraw_steps is 0" in err
