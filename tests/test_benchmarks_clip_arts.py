"""The benchmark of clip arts: its list, what it counts as a fault, and what it writes."""

import json
from pathlib import Path

import pytest
from svg_oracles import DATA

pytest.importorskip("resvg_py")

from benchmarks import clip_arts
from benchmarks.clip_arts import CLIP_ARTS, ClipArt, Config, faults
from cpds.errors import InputError
from cpds.priors.unet import UNetPrior
from svg.document import Document

HEAD = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100">'


def test_twenty_drawings() -> None:
    assert len({job.path for job in CLIP_ARTS}) == len(CLIP_ARTS) == 20
    assert all(job.shown != job.wanted for job in CLIP_ARTS)


def test_crossings_and_spikes_are_faults() -> None:
    for path, count in ((b"M10 10H90V90H10Z", 0), (b"M10 10L90 90H10L90 10Z", 1), (b"M10 10L90 12L10 14Z", 1)):
        assert faults(Document.parse(HEAD + b'<path d="' + path + b'"/></svg>')) == count


def test_what_is_written(tmp_path: Path, prior: UNetPrior, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CPDS_ALEXNET", raising=False)
    monkeypatch.setattr(clip_arts, "load_prior", lambda device: prior)
    monkeypatch.setattr(clip_arts, "CLIP_ARTS", (ClipArt("face.svg", "cat", "dog"),))
    clip_arts.main(Config(DATA, tmp_path, steps=2, self_steps=2))
    (found,) = json.loads((tmp_path / "results.json").read_text())
    assert found["psnr_itself"] == 100
    assert found["psnr_there"] < 100
    assert found["new_faults"] <= 0
    assert (tmp_path / "sheet.png").is_file()
    assert Document.open(tmp_path / "face.svg")


def test_bad_settings(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        Config(tmp_path / "none")
    with pytest.raises(InputError, match="self_steps must be >= 1, got 0"):
        Config(tmp_path, self_steps=0)
    with pytest.raises(InputError, match=r"skip must be in 0 \.\.\. 19, got 20"):
        Config(tmp_path, skip=20)
