"""What is distributed: every package with its types, one version, and not the benchmark's data."""

import tomllib
from importlib.metadata import version
from pathlib import Path

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
