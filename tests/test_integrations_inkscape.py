"""The Inkscape extension: by Inkscape itself on a virtual screen, and as a script in Inkscape's Python."""

import ast
import json
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cpds.apps.cli.main import main
from cpds.presets import PRESETS_FOR

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "integrations" / "inkscape"
INX = "{http://www.inkscape.org/namespace/inkscape/extension}"
SODIPODI = "http://sodipodi.sourceforge.net/DTD/sodipodi-0.dtd"
SCREEN = shutil.which("xvfb-run")
PATH = f"/usr/bin{os.pathsep}/bin"  # where a system's Inkscape finds the Python that has what it needs
FIELDS = ("prompt", "target_prompt", "preset", "prior", "command", "options")  # that are text
FACE, MOVED = "M 8,8 56,6 C 60,40 24,60 8,8 Z", "M 1 1 2 2 Z"
STAR = "M 52.286156,46.711958 28.0437,47.284048 39.670144,26.003994 Z"
PAGE = f"""<svg xmlns="http://www.w3.org/2000/svg" xmlns:sodipodi="{SODIPODI}" id="page" width="64" height="64"
  viewBox="0 0 64 64">
  <!-- mine --><rect id="back" width="64" height="64" fill="#99ccff"/>
  <g id="cat"><path id="face" d="{FACE}" fill="#ff8800" stroke="#330000" stroke-width="3"/></g>
  <path id="star" sodipodi:type="star" sodipodi:sides="3" sodipodi:cx="40" sodipodi:cy="40" sodipodi:r1="14"
    sodipodi:r2="7" sodipodi:arg1="0.5" sodipodi:arg2="1.5" d="{STAR}" fill="#22aa44"/>
</svg>
"""
# in place of cpds: it keeps its arguments, and leaves what it is told to
FAKE = """
import json, os, sys, time
from pathlib import Path
here = Path(__file__).parent
words = sys.argv[1:]
(here / "words.json").write_text(json.dumps([words, {k: os.environ.get(k) for k in ("PYTHONPATH", "PYTHONHOME")}]))
said = json.loads((here / "said.json").read_text())
sys.stderr.write(said["stderr"])
if said["code"] == "never":
    (here / "pid").write_text(str(os.getpid()))
    time.sleep(100)
if said["code"]:
    sys.exit(said["code"])
flags = dict(word.split("=", 1) for word in words if "=" in word)
text = Path(flags["--svg_path"]).read_text()
if said["result"]:
    Path(flags["--save_path"]).mkdir()
    Path(flags["--save_path"], "result.svg").write_text(text.replace(said["old"], said["new"]))
"""


def elements(data: str | bytes) -> dict[str, dict[str, str]]:
    """Attributes by id, of all that has one and is drawn."""
    found = {e.get("id", ""): dict(e.attrib) for e in ET.fromstring(data).iter()}
    return {name: found[name] for name in ("back", "cat", "face", "star")}


def program(path: Path, *words: str) -> Path:
    """An executable that runs these words with its arguments after them."""
    path.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def extensions() -> Path:
    """Inkscape's own extensions, inkex among them."""
    inkscape = shutil.which("inkscape")
    if inkscape is None:
        pytest.skip("needs Inkscape")
    told = subprocess.run([inkscape, "--system-data-directory"], capture_output=True, text=True, check=True)
    return Path(told.stdout.strip(), "extensions")


class Script:
    """The extension as Inkscape calls it, with a program of ours in place of cpds."""

    def __init__(self, folder: Path, extensions: Path) -> None:
        self.folder, self.extensions = folder, extensions
        (folder / "fake.py").write_text(FAKE)
        (folder / "page.svg").write_text(PAGE)
        self.command = program(folder / "cpds", sys.executable, str(folder / "fake.py"))
        self.says()

    def says(self, stderr: str = "", code: int | str = 0, result: bool = True) -> None:
        """What the program will do."""
        told = {"stderr": stderr, "code": code, "result": result, "old": FACE, "new": MOVED}
        (self.folder / "said.json").write_text(json.dumps(told))

    def start(self, *ids: str, **options: Any) -> subprocess.Popen[str]:
        given = {"prompt": "a cat", "target_prompt": "a dog", "command": self.command} | options
        words = [*(f"--{k}={v}" for k, v in given.items()), *(f"--id={name}" for name in ids)]
        argv = ["python3", str(FOLDER / "cpds_edit.py"), *words, str(self.folder / "page.svg")]
        environment = os.environ | {"PATH": PATH, "PYTHONPATH": str(self.extensions)}
        return subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")

    def __call__(self, *ids: str, **options: Any) -> subprocess.CompletedProcess[str]:
        running = self.start(*ids, **options)
        stdout, stderr = running.communicate(timeout=120)
        return subprocess.CompletedProcess(running.args, running.returncode, stdout, stderr)

    @property
    def words(self) -> list[str]:
        """The program's arguments."""
        return json.loads((self.folder / "words.json").read_text())[0]


@pytest.fixture
def script(tmp_path: Path, extensions: Path) -> Script:
    check = [*("python3", "-c"), "import inkex"]
    environment = os.environ | {"PATH": PATH, "PYTHONPATH": str(extensions)}
    if subprocess.run(check, env=environment, capture_output=True, check=False).returncode:
        pytest.skip("Inkscape's Python lacks what inkex needs")
    return Script(tmp_path, extensions)


def test_the_form_and_the_script_agree() -> None:
    form = ET.parse(FOLDER / "cpds_edit.inx").getroot()
    named = {p.get("name"): p for p in form.iter(f"{INX}param")}
    assert named.keys() == {*FIELDS, "guidance_scale", "steps", "seed"}
    presets = [option.get("value") for option in named["preset"]]
    assert set(presets) <= set(PRESETS_FOR["svg"])
    assert presets[0] == PRESETS_FOR["svg"][0]
    assert form.findtext(f"{INX}script/{INX}command") == "cpds_edit.py"


def test_the_script_needs_inkscapes_python_alone() -> None:
    """In which there is no cpds, and no torch."""
    nodes = list(ast.walk(ast.parse((FOLDER / "cpds_edit.py").read_text())))
    named = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in named} - sys.stdlib_module_names == {"inkex"}


def test_the_selection_and_the_fields_reach_cpds(script: Script) -> None:
    more = {"preset": "pds-svg", "guidance_scale": "12.5", "steps": "7", "seed": "3", "prior": "a folder/prior"}
    done = script("face", "star", **more, options="--optimize points 'fills' --device cpu")
    assert (done.returncode, done.stderr) == (0, "")
    words = script.words
    assert words[0] == "svg"
    at = words.index("--only")
    assert words[at + 1 : at + 3] == ["#face", "#star"]
    assert {"--prompt=a cat", "--target_prompt=a dog", "--preset=pds-svg", "--prior=a folder/prior"} <= set(words)
    assert {"--guidance_scale=12.5", "--num_inference_steps=7", "--seed=3"} <= set(words)
    assert words[-5:] == ["--optimize", "points", "fills", "--device", "cpu"]
    environment = json.loads((script.folder / "words.json").read_text())[1]
    assert environment == {"PYTHONPATH": None, "PYTHONHOME": None}


def test_what_is_not_asked_for_is_left_to_cpds(script: Script) -> None:
    assert script("face", guidance_scale="0.0", steps="0", seed="0", prior="", options="").returncode == 0
    flags = {word.partition("=")[0] for word in script.words if word.startswith("--")}
    assert flags == {"--svg_path", "--save_path", "--svg_every", "--prompt", "--target_prompt", "--only"}


def test_the_result_takes_the_documents_place(script: Script) -> None:
    found = elements(script("face").stdout)
    assert found["face"]["d"] == MOVED
    assert found["star"] == elements(PAGE)["star"]


@pytest.mark.parametrize(
    ("said", "options", "sentence"),
    [
        (
            {"stderr": "loading\ncpds: error: the prompt is empty: say it\n", "code": 2},
            {},
            "the prompt is empty: say it",
        ),
        (
            {"stderr": "╭─ No ─╮\n│ Unrecognized  │\n│ options: --x │\n│ ──── │\n│ help │\n╰──╯\n", "code": 2},
            {},
            "Unrecognized options: --x",
        ),
        ({"stderr": "Traceback\nOSError: disk\n", "code": 1}, {}, "OSError: disk"),
        ({"code": 9}, {}, "cpds ended with exit code 9 and said nothing."),
        ({"result": False}, {}, "cpds made no result: take out what stops it from More options."),
        ({}, {"options": "--style 'icon"}, "More options cannot be read (No closing quotation): close the quotation."),
        (
            {},
            {"command": "no-such-cpds"},
            "The command 'no-such-cpds' is not found: install cpds, or give the full path of its command in Command.",
        ),
        ({}, {"ids": ()}, "Nothing is selected: select what may change."),
    ],
)
def test_errors_are_one_sentence_and_nothing_changes(
    said: dict[str, Any], options: dict[str, Any], sentence: str, script: Script
) -> None:
    script.says(**said)
    done = script(*options.pop("ids", ["face"]), **options)
    assert done.returncode != 0
    assert (done.stdout, done.stderr.strip()) == ("", sentence)


def test_what_is_cancelled_ends_cpds_too(script: Script) -> None:
    script.says(code="never")
    running = script.start("face")
    pid = script.folder / "pid"
    until(lambda: pid.is_file() and bool(pid.read_text()))
    running.terminate()
    assert running.communicate(timeout=60)[0] == ""
    until(lambda: not alive(int(pid.read_text())))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def until(done: Callable[[], bool]) -> None:
    """Wait at most a minute."""
    for _ in range(600):
        if done():
            return
        time.sleep(0.1)
    raise AssertionError("it never came")


@pytest.mark.skipif(SCREEN is None, reason="needs xvfb-run: without a screen Inkscape has no extensions")
def test_by_inkscape_itself(tmp_path: Path, tiny_folder: Path, extensions: Path) -> None:
    """The same numbers as `cpds svg` of the file, in the same elements; the rest of the document as it was."""
    flags = ["--device=cpu", "--n_patches=8", f"--prior={tiny_folder}"]
    cpds = program(tmp_path / "cpds", "env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "cpds.apps.cli.main")
    (tmp_path / "page.svg").write_text(PAGE)
    profile = tmp_path / "profile"
    shutil.copytree(FOLDER, profile / "extensions")
    fields = {"prompt": "a cat", "target_prompt": "a dog", "steps": 2, "seed": 5, "command": cpds}
    fields |= {"options": " ".join(flags), "preset": "pds-svg"}
    kept = " ".join(f'org.cpds.edit.{name}="{value}"' for name, value in fields.items())
    (profile / "preferences.xml").write_text(f'<inkscape version="1"><group id="extensions" {kept}/></inkscape>')
    out = tmp_path / "out.svg"
    actions = f"select-by-id:cat,star;org.cpds.edit.noprefs;export-filename:{out};export-do"
    subprocess.run(
        [str(SCREEN), "-a", "inkscape", str(tmp_path / "page.svg"), "--batch-process", f"--actions={actions}"],
        env=os.environ | {"PATH": PATH, "INKSCAPE_PROFILE_DIR": str(profile)},
        capture_output=True,
        timeout=300,
        check=True,
    )
    argv = ["svg", f"--svg_path={tmp_path / 'page.svg'}", "--prompt=a cat", "--target_prompt=a dog", "--preset=pds-svg"]
    argv += [
        "--seed=5",
        "--num_inference_steps=2",
        f"--save_path={tmp_path / 'run'}",
        "--only",
        "#cat",
        "#star",
        *flags,
    ]
    assert main(argv) == 0
    wanted, found = elements((tmp_path / "run/result.svg").read_bytes()), elements(out.read_bytes())
    for name, attributes in wanted.items():
        own = {key: value for key, value in attributes.items() if not key.startswith(f"{{{SODIPODI}}}")}
        assert {key: found[name][key] for key in own} == own
    before = elements(PAGE)
    assert found["face"]["d"] != before["face"]["d"]
    assert found["star"]["d"] != STAR
    assert "<!-- mine -->" in out.read_text()
