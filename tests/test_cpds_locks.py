"""One process at a time in a folder."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cpds.locks import held

Edit = Callable[..., int]
Pressed = Callable[[int], Any]


def result(folder: Path) -> bytes:
    return (folder / "result.png").read_bytes()


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


HOLDER = """
import sys
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
input()
"""


@contextmanager
def another_process(lock: Path) -> Iterator[subprocess.Popen[str]]:
    """Holds the lock until it is killed."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("several", [False, True])
def test_two_processes_cannot_go_on_with_one_folder(
    edit: Edit, tmp_path: Path, pressed: Pressed, capsys: pytest.CaptureFixture[str], several: bool
) -> None:
    targets = {"trg_prompt": ["a dog", "a pig"] if several else ["a dog"]}
    assert edit(save_path=tmp_path / "whole", **targets) == 0
    with pressed(2):
        assert edit(**targets) == 130
    out = tmp_path / "out"
    before = {p: p.is_dir() or p.read_bytes() for p in out.rglob("*")}
    capsys.readouterr()
    with another_process(out / ".lock"):
        assert edit(resume=True) == 2
        assert (
            told(capsys)
            .strip()
            .endswith(f"error: another process is at work in {out}: wait until it has ended, or stop it first")
        )
        assert {p: p.is_dir() or p.read_bytes() for p in out.rglob("*")} == before
    assert edit(resume=True) == 0  # the lock of the killed process does not last
    name = "cat-a-dog" if several else "."
    assert result(out / name) == result(tmp_path / "whole" / name)


def test_a_lock_leaves_nothing_where_nothing_was_claimed(tmp_path: Path) -> None:
    with held(tmp_path / "a/b"):
        assert (tmp_path / "a/b/.lock").exists()
    assert not list(tmp_path.iterdir())
    with held(tmp_path / "a"):
        (tmp_path / "a/config.json").write_text("{}")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [".lock", "config.json"]
