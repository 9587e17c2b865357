"""The comparisons of docs/knobs.md."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from documents import ROOT, read
from PIL import Image

from benchmarks import knobs
from cpds.apps.cli.main import parse
from cpds.config import EditConfig
from cpds.errors import InputError


def edit_of(*flags: str) -> EditConfig:
    """What `cpds image` makes of flags; the guidance scale is what a UNet is given."""
    edit = parse(["image", "--img_path", "x", "--prompt", "a", "--trg_prompt", "b", *flags]).edit
    scale = edit.guidance.guidance_scale or edit.guidance.default_guidance[0]
    return replace(edit, guidance=replace(edit.guidance, guidance_scale=scale))


@pytest.mark.parametrize("name", knobs.COMPARISONS)
def test_a_comparison_changes_one_flag_and_shows_the_presets_own_value(name: str) -> None:
    given = knobs.COMPARISONS[name]
    assert len({flags.split()[0] for flags in given}) == 1
    edits = [edit_of(*flags.split()) for flags in given]
    assert edits.count(edit_of()) == 1
    assert all(a != b for i, a in enumerate(edits) for b in edits[:i])


def test_the_page_says_the_presets_own_values_and_shows_every_comparison() -> None:
    text = read("docs/knobs.md")
    shown = set(re.findall(r"\(knobs/(\w+)\.png\)", text))
    assert shown == set(knobs.COMPARISONS)
    own = re.search(r"own values are (.*?)\.\n", text, re.S)
    assert own is not None
    flags = [word for given in re.findall(r"`(.*?)`", own[1]) for word in given.split()]
    assert edit_of(*flags) == edit_of()


@pytest.mark.parametrize("name", knobs.COMPARISONS)
def test_the_image_is_of_the_comparison_as_it_is_now(name: str) -> None:
    tiles = 1 + len(knobs.COMPARISONS[name])
    with Image.open(ROOT / "docs/knobs" / f"{name}.png") as image:
        assert image.size == (tiles * (knobs.SIDE + 4) - 4, knobs.SIDE + knobs.LABEL)


def test_comparisons_are_made(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tiny prior; the first tile is the source, and equal flags make equal tiles."""
    flags = [f"--num_inference_steps 2 --lr {lr}" for lr in (0.1, 0.5, 0.1)]
    monkeypatch.setitem(knobs.COMPARISONS, "strength", flags)
    monkeypatch.setattr(knobs, "one_thread", lambda: None)
    knobs.main(knobs.KnobsConfig(("strength",), tmp_path, str(tiny_folder)))
    (made,) = tmp_path.iterdir()
    with Image.open(made) as image:
        step = knobs.SIDE + 4
        tiles = [image.crop((i * step, 0, i * step + knobs.SIDE, knobs.SIDE)).tobytes() for i in range(4)]
    assert tiles[0] == knobs.tile(knobs.open_image(knobs.SOURCE)).tobytes()
    assert tiles[1] == tiles[3]
    assert len(set(tiles)) == 3


def test_a_comparison_that_there_is_not() -> None:
    with pytest.raises(InputError, match="there is no comparison 'sharpness': take strength, "):
        knobs.KnobsConfig(("sharpness",))
