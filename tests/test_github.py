"""What a fork's workflows and forms say is true of this repository."""

import re
import shlex
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from documents import ROOT

yaml = pytest.importorskip("yaml")
FILES = sorted((ROOT / ".github").rglob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def workflow(name: str) -> dict[str, Any]:
    """With its triggers under "on", which YAML 1.1 takes for a yes."""
    found = read(ROOT / ".github/workflows" / f"{name}.yml")
    return {"on" if key is True else key: value for key, value in found.items()}


def commands(job: dict[str, Any]) -> list[list[str]]:
    return [shlex.split(step["run"]) for step in job["steps"] if "run" in step]


def test_cpu_tests_run_on_three_systems_and_both_pythons() -> None:
    jobs = workflow("tests")["jobs"]
    systems = {job["runs-on"] for job in jobs.values()} | set(jobs["others"]["strategy"]["matrix"]["os"])
    assert {"ubuntu-latest", "macos-latest", "windows-latest"} <= systems
    pythons = jobs["linux"]["strategy"]["matrix"]["python"]
    assert PROJECT["requires-python"] == f">={pythons[0]},<3.{int(pythons[-1].partition('.')[2]) + 1}"


def test_a_strangers_change_never_reaches_the_runner_with_the_gpu() -> None:
    gpu = workflow("gpu")
    assert set(gpu["on"]) == {"workflow_dispatch"}
    assert {"self-hosted", "gpu"} <= set(gpu["jobs"]["gpu"]["runs-on"])
    assert not any("self-hosted" in job["runs-on"] for job in workflow("tests")["jobs"].values())


@pytest.mark.parametrize("name", ["tests", "gpu"])
def test_workflows_ask_for_what_is_there(name: str) -> None:
    made = workflow(name)
    assert made["permissions"] == {"contents": "read"}
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    for words in (words for job in made["jobs"].values() for words in commands(job)):
        assert words[0] != "make" or words[1] in targets
        for extras in re.findall(r"\.\[(.*?)\]", " ".join(words)):
            assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
        for pattern in (given for flag, given in pairwise(words) if flag == "--ignore-glob"):
            assert list(ROOT.glob(pattern))
        for file in (word for word in words if word.startswith("cpds/")):
            assert (ROOT / file).is_file()


@pytest.mark.parametrize("path", [path for path in FILES if path.parent.name == "ISSUE_TEMPLATE"], ids=lambda p: p.name)
def test_forms_have_what_github_wants(path: Path) -> None:
    form = read(path)
    if path.name == "config.yml":
        assert form == {"blank_issues_enabled": True}
        return
    assert {"name", "description", "body"} <= form.keys()
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert len({part["id"] for part in fields}) == len(fields)
    assert all(part["attributes"]["label"] for part in fields)
    assert any(part.get("validations", {}).get("required") for part in fields)
    named = set(re.findall(r"\b(?:docs|benchmarks)/[\w./]+\w", path.read_text("utf-8")))
    assert all((ROOT / name).exists() for name in named)
