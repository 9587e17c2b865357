"""Commands that the documents show can be read by the programs that they call; nothing is run.

test_nerf_plugin_config.py has those of ns-train.
"""

import importlib.util
import os
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import tyro
from documents import FENCE, PAGES, ROOT, all_commands, commands_of, read

from cpds.apps.cli.main import ALIASES, COMMANDS, parse

ASK_THE_SYSTEM = {f"benchmarks.{name}" for name in ("rasterizers", "scene_memory", "steps")}  # for their memory


class Parsed(BaseException):
    """A program has read its arguments."""


@pytest.fixture
def stop_when_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    cli: Callable[..., Any] = tyro.cli

    def parse_only(*args: Any, **kwargs: Any) -> None:
        cli(*args, **kwargs)
        raise Parsed

    monkeypatch.setattr(tyro, "cli", parse_only)


@pytest.mark.parametrize("words", commands_of("cpds"))
def test_commands_of_cpds(words: list[str]) -> None:
    assert type(parse(words)) is COMMANDS[words[0]][0]


@pytest.mark.parametrize("words", commands_of("python", "-m"))
def test_programs(words: list[str], stop_when_parsed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = words[0]
    if os.name == "nt" and name in ASK_THE_SYSTEM:
        pytest.skip("measures by functions that Windows does not have")
    if importlib.util.find_spec(f"{name}.__main__" if (ROOT / name.replace(".", "/")).is_dir() else name) is None:
        pytest.fail(f"there is no program {name}")
    monkeypatch.chdir(tmp_path)
    for folder in (given for flag, given in pairwise(words) if flag == "--folder"):
        Path(folder).mkdir()  # it has to be there
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(Parsed):
        runpy.run_module(name, run_name="__main__", alter_sys=True)


def test_there_are_commands() -> None:
    assert {"image", "svg", "splats", "batch", "eval", "dreambooth"} <= {p.values[0][0] for p in commands_of("cpds")}
    assert len(commands_of("python", "-m")) > 10
    assert len(commands_of("ns-train")) > 5


def test_targets_of_make() -> None:
    asked = {words[1] for _, words in all_commands() if words[0] == "make"}
    assert asked >= {"demo", "test", "gpu"}
    assert asked <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.M))


def test_extras_that_pip_is_asked_for() -> None:
    import tomllib

    known = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    lists = [extras for page in PAGES for extras in re.findall(r"\.\[([\w,]+)\]", read(page))]
    asked = {name for extras in lists for name in extras.split(",")}
    assert asked >= {"svg", "nerf", "train", "metrics", "batch"}
    assert asked <= set(known)


def names(kind: type) -> Iterator[str]:
    """Of the fields of a command's arguments, nested ones too."""
    for name, hint in get_type_hints(kind).items():
        yield name
        if isinstance(hint, type) and is_dataclass(hint):
            yield from names(hint)


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/") or page == "README.md"])
def test_flags_are_some_commands(page: str) -> None:
    """Those in the text; the ones of commands in blocks are read with these."""
    ours = {name for args, _ in COMMANDS.values() for name in names(args)} | set(ALIASES) | {"help", "version"}
    others = {"torch-backend", "load-config", "max-num-iterations"}  # uv's and nerfstudio's
    asked = set(re.findall(r"(?<![\w-])--([a-z][\w-]*)(?![\w.-])", FENCE.sub("", read(page)))) - others
    assert {flag for flag in asked if flag.replace("-", "_").removeprefix("no_") not in ours} == set()


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/") or page == "README.md"])
def test_files_that_the_text_names(page: str) -> None:
    """Paths in the repository, between backquotes."""
    roots = "cpds|svg|representations|nerf_plugin|scripts|benchmarks|tests|docs"
    text = FENCE.sub("", read(page))
    named = re.findall(rf"`((?:{roots})/[\w./-]+)`", text)
    assert [name for name in named if not (ROOT / name).exists() and not (ROOT / f"{name}.py").exists()] == []
