"""What the system misses is found by loading it, installed where that can be done, and else named."""

import json
import os
import sys
from pathlib import Path

import pytest

from scripts import system_packages

NEEDY = """import os
if not os.path.exists({library!r}):
    raise OSError("libusb-1.0.so.0: cannot open shared object file: No such file or directory")
"""


APT = """#!/bin/sh
cd {folder} && echo "apt-get $*" >> typed
if [ "$1" = update ]; then rm -f no-lists; else [ ! -e no-lists ] && touch library; fi
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root's machine: `needy` wants a library that this PATH's apt-get brings; what was typed lands in `typed`."""
    (tmp_path / "needy.py").write_text(NEEDY.format(library=str(tmp_path / "library")))
    program = tmp_path / "bin" / "apt-get"
    program.parent.mkdir()
    program.write_text(APT.format(folder=tmp_path))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(system_packages, "PROBES", {"needy": "scenes"})
    monkeypatch.setattr(system_packages, "loads", lambda library: library != "libEGL.so.1")
    monkeypatch.delenv("CI", raising=False)
    return tmp_path


def test_a_missing_library_is_found_by_loading_and_installed(machine: Path):
    assert system_packages.missing_library("needy") == "libusb-1.0.so.0"
    gaps = machine / "gaps"
    assert system_packages.main(["libraries", str(gaps)]) == 0
    assert json.loads(gaps.read_text()) == {}
    assert (machine / "typed").read_text() == "apt-get install -y --no-install-recommends libusb-1.0-0 libegl1\n"
    assert system_packages.main(["report", str(gaps)]) == 0


def test_lists_that_were_never_fetched_are_fetched(machine: Path):
    (machine / "no-lists").touch()
    assert system_packages.main(["libraries", str(machine / "gaps")]) == 0
    assert json.loads((machine / "gaps").read_text()) == {}
    assert (machine / "typed").read_text().count("apt-get update\n") == 1


def test_without_rights_the_command_is_named_and_only_ci_fails(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(system_packages.shutil, "which", lambda name: None if name == "sudo" else f"/bin/{name}")
    gaps = machine / "gaps"
    assert system_packages.main(["libraries", str(gaps)]) == 0
    assert not (machine / "typed").exists()
    assert system_packages.main(["report", str(gaps)]) == 0
    error = capsys.readouterr().err
    assert "scenes" in error
    assert "sudo apt-get install -y --no-install-recommends libusb-1.0-0 libegl1\n" in error
    monkeypatch.setenv("CI", "true")
    assert system_packages.main(["report", str(gaps)]) == 1


def test_a_library_is_looked_for_by_the_loader():
    assert system_packages.loads("libc.so.6")
    assert not system_packages.loads("libno-such-thing.so.1")


def test_packages_that_are_absent_or_fail_otherwise_are_no_gaps(machine: Path):
    assert system_packages.missing_library("no_such_package") is None
    (machine / "broken.py").write_text("raise ValueError('its own fault')")
    assert system_packages.missing_library("broken") is None


def test_a_compiler_gap_is_kept_until_the_compiler_is_there(machine: Path, monkeypatch: pytest.MonkeyPatch):
    gaps = machine / "gaps"
    monkeypatch.setattr(system_packages.sysconfig, "get_path", lambda name: str(machine))
    monkeypatch.setattr(system_packages, "install", lambda packages: False)
    assert system_packages.main(["compiler", str(gaps)]) == 1
    (machine / "library").touch()
    system_packages.main(["libraries", str(gaps)])
    assert list(json.loads(gaps.read_text())) == [system_packages.HEADERS]
    (machine / "Python.h").touch()
    (machine / "bin" / "c++").symlink_to(sys.executable)
    assert system_packages.main(["compiler", str(gaps)]) == 0
    assert json.loads(gaps.read_text()) == {}


@pytest.mark.parametrize(
    ("library", "package"),
    [
        ("libusb-1.0.so.0", "libusb-1.0-0"),  # a name that ends in a digit takes a hyphen
        ("libX11.so.6", "libx11-6"),
        ("libEGL.so.1", "libegl1"),
        ("libgthread-2.0.so.0", "libglib2.0-0"),  # several libraries in one package
    ],
)
def test_packages_are_named_as_debian_names_them(library: str, package: str):
    assert system_packages.debian(library) == package
