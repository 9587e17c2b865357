"""`cpds svg` from the command line to its run folder: what it writes, what its flags do, what it refuses."""

import gzip
import re
import runpy
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import fields
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PRIOR_OPTIONS, resuming
from lxml import etree
from PIL import Image

from cpds.apps.cli.main import main, parse
from cpds.apps.cli.svg import SvgArgs
from cpds.callbacks import StopBetweenSteps
from cpds.presets import PRESETS
from cpds.state import EditState
from svg.config import SvgConfig

PAGE = b"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 24">
  <!-- mine --><rect id="back" width="32" height="24" fill="#9cf"/>
  <g class="cat"><path id="face" d="M4 4L28 3C30 20 12 30 4 4Z" fill="#f80" stroke="#300" stroke-width="1.5"/></g>
</svg>
"""
Edit = Callable[..., int]


@pytest.fixture
def edit(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Edit:
    """Run a short `cpds svg`; keywords replace or add flags, None leaves one out, True is a bare flag."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat.svg").write_bytes(PAGE)
    plain = {
        "svg_path": tmp_path / "cat.svg",
        "prompt": "a cat",
        "trg_prompt": "a dog",
        "prior": tiny_folder,
        "save_path": tmp_path / "out",
        "num_inference_steps": 4,
        "redraw_steps": 2,
        "n_patches": 8,
        "svg_every": 2,
        "device": "cpu",
    }

    def run(**changes: Any) -> int:
        argv = ["svg"]
        for flag, value in resuming(plain, changes).items():
            if value is not None:
                values = [] if value is True else value if isinstance(value, list | tuple) else [value]
                argv += [f"--{flag}", *map(str, values)]
        return main(argv)

    return run


def tree(data: bytes) -> list[tuple[Any, dict[str, str]]]:
    """Tags with the attributes that no edit touches."""
    kept = ("id", "class", "viewBox")
    return [(e.tag, {k: v for k, v in e.attrib.items() if k in kept}) for e in etree.fromstring(data).iter()]


def test_run_folder_holds_everything(edit: Edit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert edit() == 0
    files = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    frames = {f"frames/{i:06d}.png" for i in range(1, 5)}
    plain = {".lock", "config.json", "metrics.jsonl", "checkpoint.safetensors", "result.png", "before_after.png"}
    assert files == plain | frames | {"trajectory.gif", "result.svg", "svg/000002.svg", "svg/000004.svg"}
    result = (tmp_path / "out/result.svg").read_bytes()
    assert result != PAGE
    assert tree(result) == tree(PAGE)
    assert (tmp_path / "out/svg/000004.svg").read_bytes() == result
    assert (tmp_path / "cat.svg").read_bytes() == PAGE
    assert str(Path("out/result.svg")) in capsys.readouterr().out
    with Image.open(tmp_path / "out/result.png") as picture:
        assert picture.size == (512, 384)


def test_same_seed_same_bytes_other_seed_other_bytes(edit: Edit, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert edit(save_path=tmp_path / name, seed=seed) == 0
    a, b, c = ((tmp_path / x / "result.svg").read_bytes() for x in "abc")
    assert a == b != c


def test_stopped_and_resumed_equals_uninterrupted(
    edit: Edit, tmp_path: Path, pressed: Callable[[int], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert edit(save_path=tmp_path / "whole") == 0
    with pressed(3):
        assert edit() == 130
    assert "Stopped after step 3" in capsys.readouterr().err
    assert not (tmp_path / "out/result.svg").exists()
    (tmp_path / "out/svg/000004.svg").write_text("of a step that was lost")
    assert edit(resume=True) == 0
    for name in ("result.svg", "result.png", "svg/000004.svg", "metrics.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_stopped_while_the_image_is_edited(
    edit: Edit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    led = StopBetweenSteps.led

    def press(self: StopBetweenSteps, state: EditState) -> None:
        if state.lead is not None and state.lead.step == 1:
            signal.raise_signal(signal.SIGINT)
        led(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(StopBetweenSteps, "led", press)
        assert edit(may_add=1) == 130
    out, err = capsys.readouterr()
    assert "Stopped after step 1 of 2 of the image that is followed; go on with: " in err
    assert not out  # nothing has come of it yet
    assert edit(resume=True) == 0
    assert re.search("cat.svg -> a dog: [01] of 1 paths added$", capsys.readouterr().out, re.MULTILINE)


def test_a_folder_of_documents_and_compressed_ones(edit: Edit, tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    (tmp_path / "many/one.svg").write_bytes(PAGE)
    (tmp_path / "many/two.svgz").write_bytes(gzip.compress(PAGE.replace(b"#f80", b"#0f8")))
    (tmp_path / "many/notes.txt").write_text("not a drawing")
    assert edit(svg_path=tmp_path / "many", trg_prompt=["a dog", "a pig"]) == 0
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"one-a-dog", "one-a-pig", "two-a-dog", "two-a-pig", "plan.json", ".lock"}
    packed = [tmp_path / f"out/two-a-pig/{name}.svgz" for name in ("result", "svgz/000002", "svgz/000004")]
    assert [tree(gzip.decompress(file.read_bytes())) for file in packed] == [tree(PAGE)] * 3
    assert not (tmp_path / "out/two-a-pig/result.svg").exists()


def test_a_packed_documents_run_is_resumed_and_never_written_over(
    edit: Edit, tmp_path: Path, pressed: Callable[[int], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cat.svgz").write_bytes(gzip.compress(PAGE))
    assert edit(svg_path=tmp_path / "cat.svgz", save_path=tmp_path / "whole") == 0
    with pressed(3):
        assert edit(svg_path=tmp_path / "cat.svgz") == 130
    assert edit(svg_path=tmp_path / "cat.svgz", resume=True) == 0
    assert (tmp_path / "out/result.svgz").read_bytes() == (tmp_path / "whole/result.svgz").read_bytes()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/result.svgz").write_text("mine")
    assert edit(svg_path=tmp_path / "cat.svgz", save_path=tmp_path / "mine") == 2
    assert "already holds result.svgz" in capsys.readouterr().err


def test_a_dry_run_says_what_would_be_edited_and_leaves_nothing(
    edit: Edit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    speck = b"<g opacity='.5'><circle id='speck' cx='3' cy='3' r='.01'/></g><text x='2' y='9'>hello</text></svg>"
    (tmp_path / "cat.svg").write_bytes(PAGE.replace(b"</svg>", speck))
    assert edit(dry_run=True, num_inference_steps=7) == 0
    out, err = capsys.readouterr()
    assert {p.name for p in tmp_path.iterdir()} == {"cat.svg"}
    # 2 of the circle's, and a move and two curves' points of the path; the rect covers the page
    assert "3 shapes, of which 7 points may change" in out
    assert "stays, as it covers the page: 1 outline\n" in out
    assert "1 shape is smaller than a pixel there" in out
    assert "may change: 2 outlines, 3 fill colors, 1 stroke color, 1 stroke width" in out
    assert re.search(r"stays, as it was not asked for: \d opacit", out)
    assert re.search(r"about \d+ s: 2 steps of [\d.]+ s and 7 steps of [\d.]+ s, \d+ s between them, as measured", out)
    assert "1 text element" in err
    assert "cat.svg: measuring a step ..." in err
    assert "may be added" not in out


def test_groups_whose_learning_rate_is_0_stay(edit: Edit, capsys: pytest.CaptureFixture[str]) -> None:
    rates = ["points", "0", "fills", "0.0"]
    assert edit(dry_run=True, group_lrs=rates) == 0
    out = capsys.readouterr().out
    assert "may change: 1 stroke color, 1 stroke width\n" in out
    assert "2 shapes, of which 0 points may change" in out
    (stays,) = re.findall("stays, as it was not asked for: (.*)", out)
    assert {"1 outline", "2 fill colors"} < set(stays.split(", "))


@pytest.mark.parametrize("dry_run", [True, None])
def test_where_every_learning_rate_is_0_nothing_is_edited(
    edit: Edit, tmp_path: Path, capsys: pytest.CaptureFixture[str], dry_run: bool | None
) -> None:
    rates = [word for group in ("points", "fills", "strokes", "widths", "gradients") for word in (group, "0")]
    assert edit(dry_run=dry_run, group_lrs=rates) == 2
    out, err = capsys.readouterr()
    assert "nothing in this SVG may change, as group_lrs is 0 for points, fills, strokes, widths: raise one" in err
    assert not out
    assert {p.name for p in tmp_path.iterdir()} == {"cat.svg"}


def test_what_is_refused_is_refused_before_a_step_is_measured(edit: Edit, capsys: pytest.CaptureFixture[str]) -> None:
    assert edit(dry_run=True, polish=0.5) == 2
    said = capsys.readouterr().err
    assert "polish is for what is edited as latents, which SvgImage is not" in said
    assert "measuring" not in said


def test_paths_that_may_be_added_are_not_counted_among_the_shapes(
    edit: Edit, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edit(dry_run=True, may_add=8, optimize=["colors"], svg_path="cat.svg") == 0
    out = capsys.readouterr().out
    assert "2 shapes, of which 0 points may change" in out
    assert "may change: 2 fill colors, 1 stroke color\n" in out
    assert "up to 8 paths may be added" in out
    assert re.search("stays, as it was not asked for: .*2 outlines", out)


def test_a_large_document_says_so_before_it_starts_and_is_edited_alike(
    edit: Edit, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert edit(save_path=tmp_path / "quiet") == 0
    assert "may change" not in capsys.readouterr().err
    monkeypatch.setattr("svg.summary.LARGE_POINTS", 5)
    assert edit(save_path=tmp_path / "told") == 0
    said = capsys.readouterr().err
    assert "2 shapes, of which" in said
    assert "4 steps of" in said
    assert (tmp_path / "told/result.svg").read_bytes() == (tmp_path / "quiet/result.svg").read_bytes()


def test_settings_start_from_the_presets_for_svg() -> None:
    given = ["svg", "--svg_path", "x.svg", "--prompt", "a", "--trg_prompt", "b"]
    assert parse(given).edit == PRESETS["cpds-svg"]  # pyright: ignore[reportAttributeAccessIssue]
    assert parse([*given, "--method", "pds"]).edit == PRESETS["pds-svg"]  # pyright: ignore[reportAttributeAccessIssue]
    assert parse([*given, "--preset", "pds-svg-paper"]).edit == PRESETS["pds-svg-paper"]  # pyright: ignore[reportAttributeAccessIssue]


def test_styles_speak_in_both_prompts(edit: Edit, tmp_path: Path) -> None:
    assert edit(style="pixelart") == 0
    config = (tmp_path / "out/config.json").read_text()
    assert '"prompt": "a cat, pixel art' in config
    assert '"target_prompt": "a dog, pixel art' in config
    before, after = (etree.fromstring(x) for x in (PAGE, (tmp_path / "out/result.svg").read_bytes()))
    assert [e.get("d") for e in before.iter()] == [e.get("d") for e in after.iter()]  # colours alone


def svg_every(edit: Edit, here: Path) -> None:
    assert edit(svg_every=0, save_path=here / "two") == 0
    assert not (here / "two/svg").exists()


def mask(edit: Edit, here: Path) -> None:
    black = Image.new("L", (32, 24), 0)
    black.save(here / "mask.png")
    assert edit(mask=here / "mask.png", save_path=here / "two") == 2  # nothing could change
    black.putpixel((31, 0), 255)  # a corner in which nothing is drawn
    black.save(here / "mask.png")
    assert edit(mask=here / "mask.png", save_path=here / "two") == 0
    assert (here / "two/result.svg").read_bytes() == PAGE


def resume(edit: Edit, here: Path) -> None:
    assert edit() == 2  # taken
    assert edit(resume=True) == 0  # finished: nothing to do


def refused_with(**flags: Any) -> Callable[[Edit, Path], None]:
    def case(edit: Edit, here: Path) -> None:
        assert edit(save_path=here / "two", **flags) == 2

    return case


def differs(**flags: Any) -> Callable[[Edit, Path], None]:
    def case(edit: Edit, here: Path) -> None:
        assert edit(save_path=here / "two", **flags) == 0
        assert (here / "out/result.svg").read_bytes() != (here / "two/result.svg").read_bytes()

    return case


def background(edit: Edit, here: Path) -> None:
    """It is seen around a page that a shape covers if there is a margin."""
    for name, flags in {"plain": {}, "green": {"background": [0, 0.5, 0]}}.items():
        assert edit(save_path=here / name, margin=0.2, **flags) == 0
    assert (here / "plain/result.svg").read_bytes() != (here / "green/result.svg").read_bytes()


def save_path(edit: Edit, here: Path) -> None:
    assert edit(save_path=here / "deep/er") == 0
    assert (here / "deep/er/result.svg").read_bytes() == (here / "out/result.svg").read_bytes()


def rasterizer(edit: Edit, here: Path) -> None:
    try:
        import pydiffvg  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        refused_with(rasterizer="diffvg")(edit, here)
    else:
        differs(rasterizer="diffvg")(edit, here)


def may_change(words: str, **flags: Any) -> Callable[[Edit, Path], None]:
    """Of a drawing with a small shape, the run says what has become of it."""

    def case(edit: Edit, here: Path) -> None:
        (here / "small.svg").write_bytes(PAGE.replace(b"</g>", b'<circle id="eye" cx="12" cy="9" r="2"/></g>'))
        said = []
        for more in ({}, flags):
            with redirect_stdout(StringIO()) as out:
                assert edit(svg_path=here / "small.svg", save_path=here / f"small {len(said)}", **more) == 0
            said.append([x for x in ("shapes removed", "paths added") if x in out.getvalue()])
        assert said == [[], [words]]
        assert edit(save_path=here / "two", **dict.fromkeys(flags, -1)) == 2

    return case


def dry_run(edit: Edit, here: Path) -> None:
    assert edit(dry_run=True, save_path=here / "two") == 0
    assert not (here / "two").exists()


def profile(edit: Edit, here: Path) -> None:
    assert edit(profile=True, save_path=here / "two") == 0
    assert "whole" in (here / "two/profile.txt").read_text()
    assert not (here / "out/profile.txt").exists()


CASES: dict[str, Callable[[Edit, Path], None]] = {
    "svg_path": refused_with(svg_path="none.svg"),
    "prompt": differs(prompt="a pig"),
    "target_prompt": differs(trg_prompt="a pig"),
    "save_path": save_path,
    "preset": differs(preset="dds-svg"),
    "prior": refused_with(prior="nothing/here"),
    "mask": mask,
    "rasterizer": rasterizer,
    "svg_every": svg_every,
    "dry_run": dry_run,
    "resume": resume,
    "checkpoint_every": refused_with(checkpoint_every=0),  # what it does: test_cpds_resume.py
    "device": refused_with(device="cuda:99"),
    "profile": profile,
    "torch_dtype": differs(torch_dtype="bf16"),
    "scene": differs(optimize=["fills"]),
    "edit": differs(guidance_scale=30),
    "style": differs(style="iconography"),
    "optimize": differs(optimize=["points"]),
    "only": differs(only=["face"]),
    "background": background,
    "resolution": differs(resolution=48),
    "margin": differs(margin=0.3),
    "smoothness": differs(smoothness=0),
    "detail_size": differs(detail_size=3),
    "colors_first": refused_with(colors_first="perhaps"),  # what it does: test_svg_image.py
    "coarse_steps": differs(coarse_steps=2),
    "simple": refused_with(simple="perhaps"),  # what it does: test_svg_simple_outlines.py
    "may_remove": may_change("shapes removed", may_remove=True),
    "may_add": may_change("paths added", may_add=2),
}


@pytest.mark.parametrize(
    "name", dict.fromkeys(f.name for c in (SvgArgs, SvgConfig) for f in fields(c) if f.name not in PRIOR_OPTIONS)
)
def test_flags_of_the_command(edit: Edit, tmp_path: Path, name: str) -> None:
    assert name in CASES, f"{name} is a new flag: give it a case that shows what it does"
    assert edit() == 0
    CASES[name](edit, tmp_path)


HEAD = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">'
BOMB = b'<!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa">' + b"".join(
    b'<!ENTITY %c "&%c;&%c;&%c;&%c;&%c;&%c;&%c;&%c;&%c;&%c;">' % (c, *[c - 1] * 10) for c in b"bcdefghijk"
)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"hello", "XML"),
        (b"<html/>", "svg"),
        (HEAD + b"<path d='M0 0L5 5Z'>", "Premature end"),  # unclosed
        (HEAD + b"</svg>", "no shape"),
        (HEAD + b"<text>only words</text></svg>", "text"),
        (HEAD.replace(b"0 0 9 9", b"0 0 0 9") + b"<circle r='3'/></svg>", "viewBox"),
        (HEAD.replace(b"0 0 9 9", b"0 0 nan 9") + b"<circle r='3'/></svg>", "viewBox"),
        (HEAD + b"<circle r='1e999'/></svg>", "1e999"),
        (
            b'<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + HEAD + b"<desc>&x;</desc><rect/></svg>",
            "entit",
        ),
        (BOMB + b"]>" + HEAD + b"<desc>&k;</desc><circle r='3'/></svg>", "entit"),
        (gzip.compress(PAGE)[:-20], "gzip"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "PNG image"),
    ],
)
def test_unusable_documents(
    edit: Edit, tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes, words: str
) -> None:
    (tmp_path / "bad.svg").write_bytes(data)
    assert edit(svg_path=tmp_path / "bad.svg") == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(said) == 1, said
    assert re.match("cpds: error: ", said[0])
    assert words.lower() in said[0].lower()
    assert {p.name for p in tmp_path.iterdir()} == {"cat.svg", "bad.svg"}
    assert (tmp_path / "bad.svg").read_bytes() == data


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({"trg_prompt": ""}, "a target prompt is empty"),
        ({"svg_every": -1}, "svg_every must be >= 0, got -1"),
        ({"smoothness": -2}, "smoothness must be >= 0 and finite, got -2"),
        ({"only": ["#nobody"]}, "nothing of #nobody"),
        ({"svg_path": "empty"}, "holds no SVG"),
        ({"resume": True}, "there is no run to resume"),
    ],
)
def test_bad_values(edit: Edit, capsys: pytest.CaptureFixture[str], flags: dict[str, Any], words: str) -> None:
    Path("empty").mkdir()
    assert edit(**flags) == 2
    assert words in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_result_is_never_written_over(edit: Edit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/result.svg").write_text("mine")
    assert edit() == 2
    assert "already holds result.svg" in capsys.readouterr().err
    assert (tmp_path / "out/result.svg").read_text() == "mine"


def test_what_is_not_edited_is_named_once_and_kept(
    edit: Edit, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = b"<text x='2' y='9'>hello</text>"
    (tmp_path / "cat.svg").write_bytes(PAGE.replace(b"</svg>", words + b"</svg>"))
    for drawn in (True, False):
        monkeypatch.setattr(
            "svg.raster.resvg.draw", lambda _svg, h, w, drawn=drawn: torch.full((h, w, 4), float(drawn))
        )
        assert edit(save_path=tmp_path / f"{drawn}") == 0
        warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
        assert len(warnings) == 1
        assert "1 text element" in warnings[0]
        assert ("for want of fonts" in warnings[0]) == (not drawn)
        assert words in (tmp_path / f"{drawn}/result.svg").read_bytes().replace(b'"', b"'")


def test_the_script_is_the_same_command(
    edit: Edit, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Path(__file__).parents[1] / "scripts/edit_svg.py"
    assert edit() == 0
    flags = {"svg_path": "cat.svg", "prompt": "a cat", "trg_prompt": "a dog", "prior": tiny_folder, "device": "cpu"}
    flags |= {"num_inference_steps": 4, "redraw_steps": 2, "n_patches": 8, "save_path": "again"}
    monkeypatch.setattr(sys, "argv", [str(script), *(str(x) for k, v in flags.items() for x in (f"--{k}", v))])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(script), run_name="__main__")
    assert stop.value.code == 0
    assert (tmp_path / "out/result.svg").read_bytes() == (tmp_path / "again/result.svg").read_bytes()


def test_a_bad_document_of_a_folder_is_skipped_and_listed(
    edit: Edit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "many").mkdir()
    (tmp_path / "many/one.svg").write_bytes(PAGE)
    (tmp_path / "many/broken.svg").write_bytes(PAGE[:40])
    assert edit(svg_path=tmp_path / "many") == 1
    assert (tmp_path / "out/one-a-dog/result.svg").is_file()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("cpds: skipped: ")
    assert "broken.svg" in last
    (tmp_path / "many/broken.svg").write_bytes(PAGE)
    assert edit(resume=True) == 0
    assert (tmp_path / "out/broken-a-dog/result.svg").is_file()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/broken.svg").write_bytes(PAGE[:40])
    assert edit(svg_path=tmp_path / "bad", save_path=tmp_path / "none") == 2
    assert not (tmp_path / "none").exists()
