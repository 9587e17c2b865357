"""What reaches the terminal: one escaped line each, and the first of them at once."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cpds.apps.cli.image import ImageArgs
from cpds.apps.cli.main import main, parse
from cpds.presets import PRESETS, PRESETS_FOR
from cpds.terminal import print_result, print_status, printable

Edit = Callable[..., int]
ROOT = Path(__file__).parents[1]
CLEAR = "\x1b[2J\x1b]0;owned\x07"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a cat, größer 猫 👩‍👩‍👧 مرحبا\u00a0x", "a cat, größer 猫 👩‍👩‍👧 مرحبا\u00a0x"),  # words of all languages
        (CLEAR, "\\x1b[2J\\x1b]0;owned\\x07"),
        ("a\nb\r\tc\0", "a\\nb\\r\\tc\\x00"),
        ("\x7f\x85\x9b31m", "\\x7f\\x85\\x9b31m"),  # the one-byte forms of 8-bit terminals
        ("cat\u202egnp.exe\u2066", "cat\\u202egnp.exe\\u2066"),  # reads backwards
        ("a\u2028b", "a\\u2028b"),
        (os.fsdecode(b"caf\xe9.png"), "caf\\udce9.png"),  # a file name that is not UTF-8
    ],
)
def test_controls_are_escaped(text: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert printable(text) == shown
    print_status(text)
    print_result(text.replace("\n", ""))
    out, err = capsys.readouterr()
    assert err == shown + "\n"
    assert out == shown.replace("\\n", "") + "\n"


def test_results_keep_their_lines(capsys: pytest.CaptureFixture[str]) -> None:
    print_result(f"| a |\n|---|\n| {CLEAR} |")
    assert capsys.readouterr().out.splitlines() == ["| a |", "|---|", f"| {printable(CLEAR)} |"]


def test_a_terminal_without_unicode_is_no_error() -> None:
    code = "from cpds.terminal import print_status, print_result; print_status('猫'); print_result('猫')"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\u732b\n", "\\u732b\n")


def test_nothing_else_in_the_library_prints() -> None:
    for file in sorted((ROOT / "cpds").rglob("*.py")):
        calls = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Call)]
        printing = [n.lineno for n in calls if isinstance(n.func, ast.Name) and n.func.id == "print"]
        assert not printing or file.name == "terminal.py", f"{file}:{printing}"


def test_nothing_from_files_or_flags_controls_the_terminal(
    edit: Edit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Settings, names and prompts with escape codes, in every kind of message."""
    assert edit(num_inference_steps=1) == 0
    config = tmp_path / "out/config.json"
    text = config.read_text()
    for path in (
        ("prompt",),
        ("prior",),
        ("environment", "torch"),
        ("command",),
        ("arguments", "device"),
        ("edit", "lr"),
    ):
        document = json.loads(text)
        place = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = CLEAR
        config.write_text(json.dumps(document | {"finished": 0}))
        edit(resume=True)
    edit(img_path=tmp_path / f"{CLEAR}.png", save_path=tmp_path / "two")
    edit(prior=CLEAR, save_path=tmp_path / "two")
    edit(trg_prompt=[CLEAR, "a b c d e f g h i j k l m n o p " * 3 + CLEAR], save_path=tmp_path / f"x{CLEAR}")
    edit(lr=CLEAR)
    out, err = capsys.readouterr()
    assert len(err.splitlines()) > 8
    assert not {"\x1b", "\x07"} & set(err.replace("\x1b[A", "") + out)  # a progress bar's own


# ---- at once


SLOW = """
import os, sys
sys.stderr.write("TORCH")
sys.stderr.flush()
os._exit(3)
"""


@pytest.mark.parametrize(
    "argv",
    [
        ["image", "--img_path", "x.png", "--prompt", "a", "--trg_prompt", "b"],
        ["svg", "--svg_path", "x.svg", "--prompt", "a", "--trg_prompt", "b"],
        ["splats", "x.ply", "--cameras", "c.json", "--prompt", "a", "--trg_prompt", "b"],
        ["eval", "emoji-edit"],
    ],
    ids=lambda argv: argv[0],
)
def test_loading_is_announced_before_anything_heavy_is_imported(argv: list[str], tmp_path: Path) -> None:
    for name in ("torch", "diffusers", "transformers", "numpy", "PIL"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(SLOW)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "cpds.apps.cli.main", *argv]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)
    assert (done.returncode, done.stderr) == (3, "loading torch and the prior ...\nTORCH")


# ---- words about flags


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        (["--prompt", "-cat", "--trg_prompt", "b"], "--prompt=-cat"),
        (["--prompt", "a", "--trg_prompt", "-b c"], "--trg_prompt='-b c'"),
        (["--prompt", "a", "--trg_prompt", "b", "-c"], "--trg_prompt=-c"),
        (["--prompt", "a", "--trg_prompt", "b", "--nothing", "c"], ""),
        (["--trg_prompt", "b", "--prompt", "--seed", "3"], ""),
    ],
)
def test_a_value_that_begins_with_a_dash(flags: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["image", "--img_path", "x", *flags]) == 2
    message = capsys.readouterr().err
    assert ("a value that begins with a dash is given as" in message) == bool(hint)
    assert hint in message


def test_every_preset_is_for_something() -> None:
    names = [name for group in PRESETS_FOR.values() for name in group]
    for_renderers_of_ones_own = [name for name in PRESETS if name.endswith("-render")]
    assert sorted([*names, *for_renderers_of_ones_own]) == sorted(PRESETS)


@pytest.mark.parametrize("command", ["image", "svg", "splats", "eval"])
def test_help_offers_the_presets_that_fit(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    shown = "".join(line.strip("│ ") for line in capsys.readouterr().out.splitlines())
    offered = shown.split("--preset {", 1)[1].split("}", 1)[0].replace(" ", "").split(",")
    assert offered == list(PRESETS_FOR["image" if command == "eval" else command])


@pytest.mark.parametrize(
    ("command", "preset", "kind"),
    [
        ("image", "cpds-svg", "svg"),
        ("image", "pds-splats-paper", "splats"),
        ("image", "pds-nerf-paper", "nerf"),
        ("svg", "cpds-fast", "image"),
        ("splats", "dds-svg", "svg"),
        ("eval", "cpds-splats", "splats"),
    ],
)
def test_a_preset_that_does_not_fit_is_refused(
    command: str, preset: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags in (["--preset", preset], [f"--preset={preset}"]):
        assert main([command, *flags]) == 2
        assert f"preset '{preset}' is for {kind}, not for {command}: take one of " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("second", "flag"),
    [
        ("--trg_prompt=-wolf", "trg_prompt"),
        ("--trg-prompt", "trg_prompt"),
        ("--target_prompt", "target_prompt"),  # an alias
    ],
)
def test_a_list_that_is_given_twice_is_refused(second: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["image", "--img_path", "a.png", "--prompt", "a cat", "--trg_prompt", "a dog", second]
    assert main([*argv, "a wolf"]) == 2
    message = capsys.readouterr().err
    assert f"--{flag} is given twice" in message
    assert len(message.splitlines()) == 1


def test_of_a_setting_that_is_given_twice_the_last_counts() -> None:
    args = parse(["image", "--img_path", "a.png", "--prompt", "a", "--trg_prompt", "b", "--seed", "2", "--seed", "3"])
    assert isinstance(args, ImageArgs)
    assert args.edit.seed == 3


def test_a_prompt_that_begins_with_a_dash_may_stand_among_others() -> None:
    argv = ["image", "--img_path", "a.png", "--prompt", "a cat", "--trg_prompt", "a dog", " -wolf"]
    args = parse(argv)
    assert isinstance(args, ImageArgs)
    assert args.target_prompt == ("a dog", " -wolf")


@pytest.mark.parametrize("argv", [[], ["imge"]])
def test_without_a_command_the_commands_are_named(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    message = capsys.readouterr().err
    assert all(command in message for command in ("image", "svg", "splats", "eval", "presets", "cpds --help"))
