"""Manifests: what a row means is what its command means by it, and every fault is told before any work."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from batches import write_manifest
from PIL import Image

from cpds.apps.batch.columns import COMMANDS, columns
from cpds.apps.batch.manifest import read_manifest
from cpds.apps.batch.rows import Row
from cpds.apps.cli.main import parse
from cpds.errors import InputError

PLAIN = {"source": "cat.png", "prompt": "a cat", "target_prompt": "a dog"}
SVG = "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 64 64'><circle id='c' cx='32' cy='32' r='20'/></svg>"
Read = Callable[..., list[Row]]


@pytest.fixture
def read(tmp_path: Path, image_file: Path) -> Read:
    """The rows of a manifest beside cat.png, a mask and a drawing, as JSON Lines or as CSV."""
    Image.new("L", (40, 28), 255).save(tmp_path / "mask.png")
    (tmp_path / "c.svg").write_text(SVG)

    def read(*rows: dict[str, Any], form: str = "jsonl") -> list[Row]:
        file = tmp_path / f"manifest.{form}"
        if form == "jsonl":
            return read_manifest(write_manifest(file, rows))
        with file.open("w", newline="") as stream:
            table = csv.DictWriter(stream, list(dict.fromkeys(name for row in rows for name in row)))
            table.writeheader()
            table.writerows(rows)
        return read_manifest(file)

    return read


# ---- what rows mean

AS_FLAGS = [  # a row's own columns, and the same as flags of its command
    ({}, ""),
    ({"method": "dds", "guidance_scale": 3, "seed": 7}, "--method dds --guidance_scale 3 --seed 7"),
    ({"preset": "cds-paper", "lr": "0.5"}, "--preset cds-paper --lr 0.5"),
    ({"patch_size": "1 2 4", "keep_unchanged": "false"}, "--patch_size 1 2 4 --no-keep_unchanged"),
    ({"guidance_schedule": "table", "guidance_table": "0 0 1 2"}, "--guidance_schedule table --guidance_table 0 0 1 2"),
    ({"group-lrs": "latent 0.1", "resolution": "64"}, "--group_lrs latent 0.1 --resolution 64"),
    ({"mask": "mask.png", "negative_prompt": "a pig"}, "--mask {}/mask.png --negative_prompt=a\\ pig"),
    ({"source": "c.svg", "style": "pixelart", "may_add": "3"}, "--style pixelart --may_add 3"),
    ({"source": "c.svg", "only": "#c", "background": "1 1 0.5"}, "--only #c --background 1 1 0.5"),
]


@pytest.mark.parametrize(("own", "flags"), AS_FLAGS)
@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_row_has_the_arguments_of_its_command(
    read: Read, tmp_path: Path, own: dict[str, Any], flags: str, form: str
) -> None:
    (row,) = read(PLAIN | own, form=form)
    source = tmp_path / (PLAIN | own)["source"]
    words = [word.replace("\x00", " ") for word in flags.replace("\\ ", "\x00").format(tmp_path).split()]
    plain = [
        row.command,
        f"--{COMMANDS[row.command].source}",
        str(source),
        "--prompt",
        "a cat",
        "--trg_prompt",
        "a dog",
    ]
    assert row.args == parse([*plain, *words])
    assert row.size == ((28, 40) if row.command == "image" else (0, 0))


def test_json_values_are_taken_as_such(read: Read) -> None:
    (row,) = read({**PLAIN, "patch_size": [1, 4], "group_lrs": {"latent": 1}, "localize": True, "lr": None})
    guidance = row.args.edit.guidance
    assert (guidance.patch_size, guidance.localize, row.args.edit.group_lrs) == ((1, 4), True, {"latent": 1.0})


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_of_an_edit_is_a_column(command: str) -> None:
    """Compared with the flags that the command's own parser knows."""
    given = {"img_path", "svg_path", "scene", "prompt", "target_prompt"}
    ours = set(columns(command)) | given
    needs = {"image": ["--img_path", "x"], "svg": ["--svg_path", "x"], "splats": ["x", "--cameras", "y"]}[command]
    parsed = parse([command, *needs, "--prompt", "a", "--trg_prompt", "b"])
    flat = set(vars(parsed)) - {"edit", "scene" if command == "svg" else "", "views"}
    for part in ("edit", *{"svg": ["scene"], "splats": ["views"]}.get(command, [])):
        flat |= set(vars(getattr(parsed, part))) - {"guidance"}
    flat |= set(vars(parsed.edit.guidance))
    run = {"prior", "device", "save_path", "resume", "checkpoint_every", "svg_every", "ply_every", "profile", "dry_run"}
    assert flat - ours <= run | set(type(parsed.prior_options).__dataclass_fields__)
    assert not ours - flat - given


def test_names_and_digests(read: Read, image_file: Path) -> None:
    one, two, three = read(PLAIN, {**PLAIN, "id": "x", "output": "a/b.png"}, {**PLAIN, "id": 7, "output": "v1.2"})
    assert [(row.id, row.output) for row in (one, two, three)] == [("1", "1"), ("x", "a/b"), ("7", "v1.2")]
    again = read(PLAIN)[0]
    assert again == one
    assert read({**PLAIN, "seed": 1})[0].digest != one.digest
    assert read({**PLAIN, "target_prompt": "a pig"})[0].digest != one.digest
    Image.new("RGB", (40, 28), "red").save(image_file)  # under the same name
    assert read(PLAIN)[0].digest != one.digest


def test_a_manifest_may_be_moved_with_its_files(read: Read, tmp_path: Path) -> None:
    (row,) = read({**PLAIN, "mask": "mask.png"})
    (tmp_path / "new").mkdir()
    for name in ("cat.png", "mask.png", "manifest.jsonl"):
        (tmp_path / name).rename(tmp_path / "new" / name)
    (moved,) = read_manifest(tmp_path / "new/manifest.jsonl")
    assert moved.digest == row.digest
    assert moved.source == tmp_path / "new/cat.png"
    assert replace(moved, args=row.args) == row


# ---- what is wrong with them

FAULTS = [
    ({"target_prompt": " "}, "target_prompt must be a text that is not empty"),
    ({"source": "no.png"}, "no.png does not exist: check the path"),
    ({"source": "manifest.jsonl"}, "manifest.jsonl is not an image that can be read"),
    ({"source": "folder"}, "folder is a folder: name a file"),
    ({"mask": "no.png"}, "no.png does not exist: check the path"),
    ({"mask": "small.png"}, "small.png is 20x20 px but the image is 40x28: make them the same size"),
    ({"seed": "one"}, "seed must be a whole number, got 'one'"),
    ({"seed": True}, "seed must be a whole number, got True"),
    ({"lr": -1}, "learning rate lr must be > 0"),
    ({"optimizer": "adamm"}, "optimizer must be one of sgd, adam, adamw, got 'adamm'"),
    ({"method": "magic"}, "method must be one of sds, dds"),
    ({"preset": "cpds-svg"}, "preset must be one of cpds, pds"),
    ({"patch_size": [1, "x"]}, "patch_size must be a list, each item a whole number, got [1, 'x']"),
    ({"redraw_steps": 5}, "redraw_steps is for drawings, not for images: leave it out"),
    ({"source": "c.svg", "polish": 0.3}, "polish is for images, not for drawings: leave it out"),
    ({"group_lrs": {"points": 1}}, "group_lrs names points, but images have latent: leave the others out"),
    ({"source": "c.svg", "group_lrs": {"latent": 1}}, "group_lrs names latent, but drawings have points, fills"),
    ({"method": "nomod:thing"}, "method nomod:thing cannot be imported"),
    ({"method": "json:dumps"}, "method json:dumps is of type function: it must be of type Objective"),
    ({"patch_selector": "json:nothing"}, "patch_selector json:nothing cannot be imported"),
    ({"stepps": 3}, "unknown column 'stepps' for images"),
    ({"style": "pixelart"}, "unknown column 'style' for images"),
    ({"prior": "x"}, "prior holds for all rows"),
    ({"source": "c.svg", "only": "#nobody"}, "nothing of #nobody in this SVG can change"),
    ({"source": "scene.ply"}, "cameras must name the scene's cameras"),
    ({"id": "a/b"}, "id 'a/b' must be at most 120 letters"),
    ({"output": "../x"}, "output '../x' must be a name, or folder/name, that stays"),
    ({"output": "/x"}, "output '/x' must be a name"),
    ({"output": "x.jpg"}, "output 'x.jpg' of images is .png: name it so"),
]


@pytest.mark.parametrize(("own", "message"), FAULTS)
def test_a_fault_is_told_with_its_line(read: Read, tmp_path: Path, own: dict[str, Any], message: str) -> None:
    Image.new("L", (20, 20), 255).save(tmp_path / "small.png")
    (tmp_path / "scene.ply").write_bytes(b"ply")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError) as refused:
        read(PLAIN, {**PLAIN, **own})
    assert f"line 2: {'' if 'source' in own or 'mask' in own else message}" in str(refused.value)
    assert message in str(refused.value)
    assert "line 1:" not in str(refused.value)


@pytest.mark.parametrize(
    ("own", "messages"),
    [
        ({"prompt": "", "id": "a/b", "lr": -1}, ["prompt must be", "id 'a/b' must be", "learning rate lr must be"]),
        ({"seed": "x", "lr": -1}, ["seed must be a whole number", "learning rate lr must be > 0"]),
        ({"source": "", "id": "a/b"}, ["source must be", "id 'a/b' must be"]),
        ({"mask": "no.png", "polish": 2}, ["no.png does not exist", "polish must be"]),
        ({"source": "scene.ply", "cameras": "no.json"}, ["no.json does not exist"]),  # not: it must name cameras
    ],
)
def test_a_fault_hides_no_other_of_its_row(
    read: Read, tmp_path: Path, own: dict[str, Any], messages: list[str]
) -> None:
    (tmp_path / "scene.ply").write_bytes(b"ply")
    with pytest.raises(InputError) as refused:
        read(PLAIN, {**PLAIN, **own})
    faults = str(refused.value).partition("begun: ")[2].split("; ")
    assert len(faults) == len(messages)
    assert all(message in fault for fault, message in zip(faults, messages, strict=True))


def test_every_fault_is_told_at_once_in_order(read: Read, tmp_path: Path) -> None:
    bad = {**PLAIN, "seed": "x", "lr": 0, "stepps": 1}
    with pytest.raises(InputError) as refused:
        read({**PLAIN, "id": "a"}, bad, {**PLAIN, "id": "A"}, {**PLAIN, "output": "a"}, {**PLAIN, "source": "no.png"})
    lines = [fault.split(":")[0] for fault in str(refused.value).partition("begun: ")[2].split("; ")]
    assert lines == ["line 2", "line 2", "line 2", "line 3", "line 4", "line 5"]
    for words in (
        "stepps",
        "lr must be > 0",
        "seed must be",
        "id 'A' is that of line 1 too",
        "output 'a' is that of line 1 too",
    ):
        assert words in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "line 1: it is no JSON object"),
        (b"[1]\n\n3", "line 3: it is no JSON object"),
        (b"[" * 100_000, "line 1: it is no JSON object"),
        (b'{"prompt": "a", "prompt": "b"}', "line 1: prompt is given twice"),
        (b"\xff", "cannot be read (it is no UTF-8): save it as UTF-8"),
        (b"", "holds no row: give at least one"),
    ],
)
def test_what_is_no_json_lines(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "manifest.jsonl").write_bytes(content)
    with pytest.raises(InputError) as refused:
        read_manifest(tmp_path / "manifest.jsonl")
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("source,prompt,target_prompt,promt\n", "line 1: unknown column 'promt'"),
        ("source,prompt,prompt\n", "line 1: prompt is given twice"),
        ("source,prompt,target_prompt\ncat.png,a,b,c\n", "line 2: it has 4 cells, but there are 3 columns"),
        ('source,prompt,target_prompt\ncat.png,"a\nb",c\ncat.png,a\n', "line 4: target_prompt must be a text"),
        ('source,prompt,target_prompt\ncat.png,"a\n', "it is no CSV"),
        ("", "holds no row"),
    ],
)
def test_what_is_no_csv(tmp_path: Path, image_file: Path, content: str, message: str) -> None:
    (tmp_path / "manifest.csv").write_text(content)
    with pytest.raises(InputError) as refused:
        read_manifest(tmp_path / "manifest.csv")
    assert message in str(refused.value)


def test_other_files_are_no_manifests(tmp_path: Path, image_file: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    messages = {"cat.png": "must be a .jsonl or a .csv", "no.csv": "does not exist", "folder.jsonl": "is a folder"}
    for name, message in messages.items():
        with pytest.raises(InputError, match=message):
            read_manifest(tmp_path / name)


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path, image_file: Path) -> None:
    (tmp_path / "manifest.csv").write_bytes(b"\xef\xbb\xbfsource,prompt,trg_prompt\r\ncat.png,a cat,a dog\r\n")
    (row,) = read_manifest(tmp_path / "manifest.csv")
    assert row.target_prompt == "a dog"
    assert json.dumps(row.args.prompt) == '"a cat"'
