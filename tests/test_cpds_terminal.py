"""What reaches the terminal: one escaped line each, and the first of them at once."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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


def strings(tree: ast.AST) -> list[ast.Constant]:
    """All strings but those that stand alone: docstrings."""
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return [node for node in texts if id(node) not in alone]


def test_library_messages_name_no_flags() -> None:
    """They name the setting: what is called --w_cut on a command line is w_cut in Python."""
    flag = re.compile(r"(?<![\w-])--[a-z]")
    probe = ast.parse("""def f():\n    "--doc"\n    raise ValueError(f"{1}: lower --lr")\n""")
    assert [node.value for node in strings(probe) if flag.search(str(node.value))] == [": lower --lr"]
    files = [f for package in ("cpds", "svg", "representations") for f in sorted((ROOT / package).rglob("*.py"))]
    assert len(files) > 50
    for file in files:
        if ROOT / "cpds/apps" not in file.parents:
            found = [n.lineno for n in strings(ast.parse(file.read_text())) if flag.search(str(n.value))]
            assert not found, f"{file}:{found}"


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


def test_help_loads_nothing_heavy() -> None:
    program = """
import sys, cpds.apps.cli.main as command
try:
    command.main(["--help"])
finally:
    print(*sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    loaded = set(done.stderr.split())
    assert "cpds.apps.cli.main" in loaded
    assert not loaded & {"torch", "numpy", "PIL", "diffusers", "transformers", "peft", "accelerate", "lxml", "scipy"}
