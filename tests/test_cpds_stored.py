"""Arguments and settings as JSON, and back."""

import json
from pathlib import Path

import pytest

from cpds.apps.cli.image import ImageArgs
from cpds.apps.cli.main import parse
from cpds.config import EditConfig
from cpds.errors import InputError
from cpds.presets import PRESETS
from cpds.stored import decode, decode_fields, encode

ARGUMENTS = (
    ["image", "--img_path", "x", "--prompt", "-a", "--trg_prompt", "b", "c"],
    ["svg", "--svg_path", "x", "--prompt", "-a", "--trg_prompt", "b", "--only", "#face", "--optimize", "points"],
    ["splats", "x.ply", "--cameras", "c.json", "--prompt", "-a", "--trg_prompt", "b", "--frame", "f.json"],
    ["eval", "emoji-edit", "--limit", "3", "--clip", "openai/clip"],
)


@pytest.mark.parametrize("argv", ARGUMENTS, ids=lambda argv: argv[0])
def test_arguments_survive_json(argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    args = parse([w if w != "-a" else "a" for w in argv])
    again = decode_fields(type(args), json.loads(json.dumps(encode(args))))
    assert encode(again) == encode(args)
    assert {k: v for k, v in vars(again).items() if not isinstance(v, Path)} == {
        k: v for k, v in vars(args).items() if not isinstance(v, Path)
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_settings_survive_json(preset: str) -> None:
    assert decode(EditConfig, json.loads(json.dumps(encode(PRESETS[preset]))), "edit") == PRESETS[preset]


def test_arguments_of_every_command_are_known() -> None:
    """A field of a type that cannot be read back is found here, not by the user who resumes."""
    with pytest.raises(InputError, match="it lacks"):
        decode_fields(ImageArgs, {})
