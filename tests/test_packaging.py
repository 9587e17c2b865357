"""What is distributed: every package with its types, one version, and not the benchmark's data; and that it runs."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from zipfile import ZipFile

import pytest

import cpds

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TOP = {"cpds", "representations", "svg", "nerf_plugin"}


def test_every_package_and_nothing_else_is_in_the_wheel() -> None:
    setuptools = pytest.importorskip("setuptools")
    found = set(setuptools.find_packages(str(ROOT), **PROJECT["tool"]["setuptools"]["packages"]["find"]))
    folders = {file.parent for name in TOP for file in (ROOT / name).rglob("*.py")}
    assert found == {".".join(folder.relative_to(ROOT).parts) for folder in folders}


def test_packages_carry_their_types_and_no_large_data() -> None:
    data = PROJECT["tool"]["setuptools"]["package-data"]
    assert "py.typed" in data["*"]
    assert all((ROOT / name / "py.typed").is_file() for name in TOP)
    assert data["cpds"] == ["assets/**"]
    shipped = [file for file in (ROOT / "cpds/assets").rglob("*") if file.is_file()]
    assert ROOT / "cpds/assets/prior/unet/diffusion_pytorch_model.safetensors" in shipped
    assert sum(file.stat().st_size for file in shipped) < 24 * 2**20


def test_there_is_one_version() -> None:
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["project"]["version"]
    assert cpds.__version__ == version("cpds")


def test_the_papers_of_all_methods_are_cited() -> None:
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert [reference["notes"] for reference in citation["references"]] == ["SDS", "DDS", "CDS", "PDS"]
    for reference in citation["references"]:
        assert {"type", "title", "authors"} <= reference.keys()
        assert all(i["value"].startswith("arXiv:") for i in reference["identifiers"])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources, as setuptools leaves files beside them; nothing is downloaded."""
    pytest.importorskip("setuptools", minversion="77")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in TOP:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "CITATION.cff", "CHANGELOG.md"):
        shutil.copy(ROOT / name, source)
    program = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", program, str(out)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


def test_what_lands_in_site_packages(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    record = f"cpds-{cpds.__version__}.dist-info"
    assert {name.partition("/")[0] for name in names} == TOP | {record}
    assert {f"{name}/py.typed" for name in TOP} <= set(names)
    assert f"{record}/licenses/LICENSE" in names
    kept = {f"cpds/{file.relative_to(ROOT / 'cpds')}" for file in (ROOT / "cpds/assets").rglob("*") if file.is_file()}
    assert {name for name in names if name.startswith("cpds/assets/")} == {Path(name).as_posix() for name in kept}
    assert wheel.name == f"cpds-{cpds.__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel alone is installed in; what it depends on is this environment's."""
    pytest.importorskip("pip")
    folder = tmp_path_factory.mktemp("installed")
    flags = ["--no-deps", "--no-index", "--no-compile", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *flags, "--target", str(folder), str(wheel)], check=True)
    return folder


def run(installed: Path, command: Sequence[str]) -> str:
    """What a command prints that finds the installed packages first, away from the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=installed.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_installed_packages_are_imported_from_there(installed: Path) -> None:
    program = f"import {', '.join(TOP)}; print(*[m.__file__ for m in ({', '.join(TOP)})], sep='\\n')"
    places = [Path(line) for line in run(installed, [sys.executable, "-c", program]).splitlines()]
    assert {place.parent.parent for place in places} == {installed}


def test_the_installed_command_runs(installed: Path) -> None:
    program = shutil.which("cpds", path=os.pathsep.join(str(installed / name) for name in ("bin", "Scripts")))
    assert program is not None
    assert run(installed, [program, "--version"]) == f"cpds {cpds.__version__}\n"
    assert "dreambooth" in run(installed, [program, "--help"])
    assert "cpds-svg" in run(installed, [program, "presets"])


def test_methods_of_nerfstudio_are_registered_by_the_wheel(wheel: Path) -> None:
    archive = ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
    listed = archive.read(name).decode()
    for group, entries in {
        "console_scripts": PROJECT["project"]["scripts"],
        **PROJECT["project"]["entry-points"],
    }.items():
        assert f"[{group}]" in listed
        assert all(f"{name} = {place}" in listed for name, place in entries.items())
