"""Programs: each starts as its docstring says, and bad input is one sentence with code 2."""

import importlib
import re
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from cpds.config import require
from cpds.errors import InputError
from scripts.program import run_program

ROOT = Path(__file__).parents[1]
PROGRAMS = [
    f"scripts.emoji_prior.{name}" for name in ("train", "export", "classifier", "evaluate", "benchmark", "icons")
]
PROGRAMS += ["scripts.toy_scene.__main__"]
PROGRAMS += [f"benchmarks.{name}" for name in ("batch", "compare", "full_size_step", "gpu", "there_and_back")]


@dataclass(frozen=True)
class Settings:
    """Of a program that counts."""

    count: int = 3

    def __post_init__(self) -> None:
        require(self.count > 0, f"count must be above 0, got {self.count}")


def count(settings: Settings) -> None:
    if settings.count == 7:
        raise InputError("7 cannot be used: take 8")
    if settings.count == 9:
        raise KeyboardInterrupt
    print(settings.count)


@pytest.mark.parametrize(
    ("argv", "code", "out", "err"),
    [
        ([], 0, "3\n", ""),
        (["--count", "5"], 0, "5\n", ""),
        (["--count", "7"], 2, "", "error: 7 cannot be used: take 8\n"),
        (["--count", "9"], 130, "", "stopped\n"),
    ],
)
def test_exit_codes(argv: list[str], code: int, out: str, err: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program(count, Settings, "Counts.", argv) == code
    assert capsys.readouterr() == (out, err)


@pytest.mark.parametrize(
    ("argv", "words"), [(["--count", "0"], "count must be above 0, got 0"), (["--cuont", "1"], "--cuont")]
)
def test_flags_that_cannot_be_read(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program(count, Settings, "Counts.", argv) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("name", PROGRAMS)
def test_docstrings_name_the_command(name: str) -> None:
    doc = importlib.import_module(name).__doc__ or ""
    commands = set(re.findall(r"^    python -m ([\w.]+)", doc, re.MULTILINE))
    assert commands == {name.removesuffix(".__main__")}


@pytest.mark.parametrize("module", PROGRAMS)
def test_a_program_answers_help(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(SystemExit) as stop:
        runpy.run_module(module, run_name="__main__")
    assert stop.value.code == 0
    assert f"python -m {module.removesuffix('.__main__')}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["image", "svg", "splats"])
def test_scripts_to_copy_are_the_commands(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"edit_{name}.py", "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "scripts" / f"edit_{name}.py"), run_name="__main__")
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: cpds {name} ")
