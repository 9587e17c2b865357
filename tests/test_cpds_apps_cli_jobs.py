"""Several edits by one command: a folder for each, no two alike, and going on with all of them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import FILES
from PIL import Image

from cpds.apps.cli.jobs import slug
from cpds.callbacks import MetricsLog

Edit = Callable[..., int]


def test_folder_times_targets_without_collisions(edit: Edit, tmp_path: Path, image_file: Path) -> None:
    album = tmp_path / "album"
    album.mkdir()
    (album / "notes.txt").write_text("not an image")
    with Image.open(image_file) as source:
        source.save(album / "cat.png")
        source.save(album / "cat.jpg")
    targets = ["a dog", "a dog!", "?!"]  # alike but for punctuation; nothing but punctuation
    assert edit(img_path=album, trg_prompt=targets, num_inference_steps=1) == 0
    runs = sorted(p for p in (tmp_path / "out").iterdir() if p.is_dir())
    assert len(runs) == 6
    asked = {tuple(json.loads((r / "config.json").read_text())[k] for k in ("target_prompt",)) for r in runs}
    assert asked == {(t,) for t in targets}
    assert all({p.name for p in r.iterdir()} == FILES for r in runs)
    digests = [json.loads((r / "config.json").read_text())["source"]["image"] for r in runs]
    assert {digests.count(d) for d in digests} == {3}  # each image once a target


def test_each_target_starts_from_the_source(edit: Edit, tmp_path: Path) -> None:
    assert edit(trg_prompt=["a pig", "a dog"]) == 0
    assert edit(trg_prompt=["a dog"], save_path=tmp_path / "alone") == 0
    alone = (tmp_path / "alone/result.png").read_bytes()
    assert (tmp_path / "out/cat-a-dog/result.png").read_bytes() == alone
    assert (tmp_path / "out/cat-a-pig/result.png").read_bytes() != alone


def test_names_stay_short_enough_for_file_systems(edit: Edit, tmp_path: Path, image_file: Path) -> None:
    long = image_file.rename(tmp_path / ("猫" * 80 + ".png"))
    assert edit(img_path=long, trg_prompt=["犬" * 30, "豚" * 30], prompt="cat", num_inference_steps=1) == 0
    assert len([p for p in (tmp_path / "out").iterdir() if p.is_dir()]) == 2
    assert slug("A dog, with (two) ears!") == "a-dog-with-two-ears"


def test_a_taken_folder_stops_before_the_first_edit(edit: Edit, tmp_path: Path) -> None:
    (tmp_path / "out/cat-a-dog").mkdir(parents=True)
    (tmp_path / "out/cat-a-dog/result.png").write_bytes(b"mine")
    assert edit(trg_prompt=["a pig", "a dog"]) == 2
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["cat-a-dog"]


def test_folder_resume_skips_finished_and_starts_missing(
    edit: Edit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edit(trg_prompt=["a dog", "a pig"]) == 0
    done, missing = tmp_path / "out/cat-a-dog", tmp_path / "out/cat-a-pig"
    want = (missing / "result.png").read_bytes()
    for file in sorted(missing.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    missing.rmdir()
    before = {p: p.stat().st_mtime_ns for p in done.rglob("*")}
    capsys.readouterr()
    assert edit(resume=True) == 0
    assert f"{done} is already finished" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in done.rglob("*")} == before
    assert (missing / "result.png").read_bytes() == want


def test_batch_names_its_own_folder_when_stopped(
    edit: Edit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MetricsLog, "stepped", stop)
    assert edit(trg_prompt=["a pig", "a dog"]) == 130
    assert capsys.readouterr().err.rstrip().endswith(f"cpds image --resume {tmp_path / 'out'}")
