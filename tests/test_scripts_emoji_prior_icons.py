"""The icon cache: two programs that fill it at once, both of which must succeed."""

import json
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest

from scripts.emoji_prior import icons, packages

BODY = '<circle cx="8" cy="8" r="6" fill="red"/>'
ICONS = json.dumps({"icons": {"heart": {"body": BODY}}, "width": 16, "height": 16})


def stub_npm(folder: Path, count: int) -> None:
    """An `npm` whose `pack` waits until `count` of them run, and then leaves the same package in each's folder."""
    folder.mkdir()
    with tarfile.open(folder / "package.tgz", "w:gz") as archive:
        member = tarfile.TarInfo("package/icons.json")
        member.size = len(ICONS)
        archive.addfile(member, BytesIO(ICONS.encode()))
    script = f"""#!/bin/sh
touch "{folder}/started.$$"
while [ $(ls "{folder}" | grep -c started) -lt {count} ]; do sleep 0.01; done
cp "{folder}/package.tgz" .
"""
    (folder / "npm").write_text(script)
    (folder / "npm").chmod(0o755)


def test_two_programs_fetch_a_package_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub_npm(tmp_path / "bin", 2)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    with ThreadPoolExecutor(2) as programs:
        folders = list(programs.map(lambda _: packages.fetch_package("noto", tmp_path / "cache"), range(2)))
    (kept,) = (tmp_path / "cache/icons").iterdir()
    assert folders == [kept, kept]
    assert (kept / "icons.json").read_text() == ICONS


def test_a_package_that_cannot_be_moved_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub_npm(tmp_path / "bin", 1)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        packages.fetch_package("noto", tmp_path / "cache")


def test_two_programs_render_an_icon_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program renders the same icon between this one's writing and its renaming."""
    pytest.importorskip("resvg_py")
    monkeypatch.setattr(icons, "PACKAGES", {"noto": packages.PACKAGES["noto"]})
    (tmp_path / "package").mkdir()
    (tmp_path / "package/icons.json").write_text(ICONS)
    monkeypatch.setattr(icons, "fetch_package", lambda name, cache: tmp_path / "package")
    write, getpid, inside = Path.write_bytes, os.getpid, []

    def and_the_other(path: Path, data: bytes) -> int:
        written = write(path, data)
        if not inside:
            inside.append(path)
            with monkeypatch.context() as other:
                other.setattr(os, "getpid", lambda: getpid() + 1)
                icons.load_icons(["heart"], tmp_path)
        return written

    monkeypatch.setattr(Path, "write_bytes", and_the_other)
    made = icons.load_icons(["heart"], tmp_path)
    assert made.rgba.shape == (1, 4, icons.MASTER, icons.MASTER)
    assert len(inside) == 1
    assert [p.name for p in (tmp_path / "renders").rglob("*.*") if p.is_file()] == ["heart.png"]
