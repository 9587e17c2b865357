"""Python in the documents: programs run, with the embedded prior's place taken by a tiny one.

docs/extending.md and the custom pipeline for diffusers have tests of their own.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from documents import PAGES, ROOT, fenced

from cpds.presets import PRESETS
from cpds.priors.unet import UNetPrior

ELSEWHERE = ("docs/extending.md", "integrations/diffusers/README.md")
BLOCKS = {block: page for page in PAGES if page not in ELSEWHERE for block in fenced(page, "python")}


def test_there_are_some() -> None:
    assert any("edit(image, prior" in block for block in BLOCKS)


@pytest.mark.parametrize("block", [pytest.param(block, id=page) for block, page in BLOCKS.items()])
def test_programs_run(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prior: UNetPrior) -> None:
    """Beside an image, with the presets' steps cut short."""
    shutil.copytree(ROOT / "cpds/assets/demo", tmp_path / "cpds/assets/demo")
    monkeypatch.chdir(tmp_path)
    short = {name: replace(preset, num_inference_steps=2) for name, preset in PRESETS.items()}
    monkeypatch.setattr("cpds.editor.PRESETS", short)
    monkeypatch.setattr("cpds.priors.load.load_prior", lambda *_args, **_options: prior)
    exec(compile(block, BLOCKS[block], "exec"), {})
    made = {file.name for file in tmp_path.iterdir()} - {"cpds"}
    assert made
