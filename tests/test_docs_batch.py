"""What docs/batch.md shows works as it stands there."""

import re
import shlex
import shutil
from dataclasses import fields, replace
from pathlib import Path

from cpds.apps.batch.columns import COMMANDS, columns
from cpds.apps.batch.manifest import read_manifest
from cpds.apps.batch.rows import is_column
from cpds.apps.cli.batch import BatchArgs
from cpds.apps.cli.main import parse

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/batch.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, re.S)


def test_the_manifests_are_one_as_json_and_as_csv(tmp_path: Path) -> None:
    demo = Path("cpds/assets/demo")
    shutil.copytree(ROOT / demo, tmp_path / demo)
    read = {}
    for form, suffix in {"json": "jsonl", "csv": "csv"}.items():
        (content,) = (block for kind, block in BLOCKS if kind == form)
        (tmp_path / f"edits.{suffix}").write_text(content)
        read[form] = [replace(row, line=0) for row in read_manifest(tmp_path / f"edits.{suffix}")]
    assert read["json"] == read["csv"]
    assert [row.id for row in read["json"]] == ["dog", "pig", "fox"]
    assert [row.args.edit.guidance.method for row in read["json"]] == ["cpds", "cpds", "dds"]


def test_the_commands_can_be_read() -> None:
    lines = [line for kind, block in BLOCKS if not kind for line in block.splitlines()]
    commands = [shlex.split(line) for line in lines if line.startswith("cpds batch")]
    assert len(commands) == 3
    assert all(isinstance(parse(command[1:]), BatchArgs) for command in commands)


def test_every_column_and_flag_that_it_names_is_one() -> None:
    flags = {f.name for kind in (BatchArgs, *(c.args for c in COMMANDS.values())) for f in fields(kind)}
    others = {"help", "head", "port", "address", "multi_gpu"}  # Ray's, and accelerate's
    assert {flag.replace("-", "_") for flag in re.findall(r"--([a-z][\w-]+)", TEXT)} <= flags | others
    table = re.findall(r"^\| (`.*?`) \|", TEXT.partition("## The manifest")[2].partition("## What")[0], re.M)
    named = {name for cell in table for name in re.findall(r"`(\w+)`", cell)}
    assert {"source", "prompt", "target_prompt", "id", "output", "mask", "cameras", "frame", "masks"} == named
    assert all(is_column(name) for name in named)
    assert {"method", "preset", "num_inference_steps", "seed", "resolution"} <= columns("image").keys()


def test_links_within_the_page_lead_somewhere() -> None:
    headings = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^## (.*)$", TEXT, re.M)}
    assert set(re.findall(r"\(#([\w-]+)\)", TEXT)) == headings
