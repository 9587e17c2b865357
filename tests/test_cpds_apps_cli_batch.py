"""`cpds batch` from the command line to its folder: results, summaries, resuming, and what its flags do."""

import csv
import json
import re
import socket
from collections.abc import Callable
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from batches import SHORT, Inline, write_manifest
from conftest import PRIOR_OPTIONS, snapshot

from cpds.apps.batch.executor import Lost, Make
from cpds.apps.batch.sheet import figure
from cpds.apps.cli.batch import BatchArgs
from cpds.apps.cli.main import main, parse
from cpds.apps.cli.workers import WorkerArgs, located_prior, places
from cpds.threads import available

ROW = {"source": "cat.png", "prompt": "a cat", "target_prompt": "a dog", **SHORT}
ROWS = [{**ROW, "id": name, "seed": i} for i, name in enumerate("abc")]
Batch = Callable[..., int]


@pytest.fixture
def executors(monkeypatch: pytest.MonkeyPatch) -> list[Inline]:
    """Workers run in this process; the executors of all commands."""
    made: list[Inline] = []

    def executor(args: WorkerArgs, make: Make) -> Inline:
        made.append(Inline(make, places(args.devices, args.workers)))
        return made[-1]

    monkeypatch.setattr(WorkerArgs, "executor", executor)
    return made


@pytest.fixture
def run(tmp_path: Path, tiny_folder: Path, image_file: Path, executors: list[Inline]) -> Batch:
    """`cpds batch` of rows; keywords replace or add flags."""

    def run(*rows: dict[str, Any], **changes: Any) -> int:
        manifest = write_manifest(tmp_path / "manifest.jsonl", rows)
        argv = ["batch", str(manifest)]
        for flag, value in {"out": tmp_path / "out", "prior": tiny_folder, "devices": "cpu", **changes}.items():
            argv += [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]
        return main(argv)

    return run


def edited(executor: Inline) -> list[list[str]]:
    """The ids that its workers were given, call by call."""
    calls = [call for worker in executor.begun for call in worker.calls if call[0] == "edit"]
    return [[row.id for row in arguments[0]] for _, arguments in calls]


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_what_a_batch_leaves(run: Batch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*ROWS) == 0
    out = tmp_path / "out"
    files = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    results = {f"results/{name}.png" for name in "abc"}
    assert files == results | {".lock", "config.json", "results.jsonl", "results.csv", "results.html"}
    assert [(r["id"], r["files"], r["error"], r["attempts"]) for r in lines(out)] == [
        (name, [f"{name}.png"], None, 1) for name in "abc"
    ]
    shown = capsys.readouterr()
    assert shown.out.split() == [str(out / name) for name in ("results.jsonl", "results.csv", "results.html")]
    assert re.search(r"3/3 \[.*edit", shown.err)  # with rate and time
    table = list(csv.DictReader((out / "results.csv").open()))
    assert [(t["id"], t["state"], t["result"]) for t in table] == [(n, "done", f"results/{n}.png") for n in "abc"]
    assert {t["source"] for t in table} == {str(tmp_path / "cat.png")}


def test_settings_without_effect_are_named_once(run: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    idle = {"preset": "pds", "polish": 0, "w_cut": 3}
    assert run(ROWS[0], {**ROW, **idle, "id": "e"}, {**ROW, **idle, "id": "f", "seed": 1}) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "no effect" in line]
    assert notes == [
        "cpds: note: line 2 and 1 more: w_cut, n_patches have no effect here: method pds has no contrastive loss"
    ]


def test_finished_rows_are_not_edited_again(run: Batch, tmp_path: Path, executors: list[Inline]) -> None:
    assert run(*ROWS) == 0
    before = snapshot(tmp_path / "out/results")
    assert run(*ROWS) == 0
    assert executors[1:] == []  # not even a worker
    more = [ROWS[0], {**ROWS[1], "seed": 9}, ROWS[2], {**ROW, "id": "d"}]
    (tmp_path / "out/results/c.png").unlink()
    with (tmp_path / "out/results.jsonl").open("a") as stream:
        stream.write('{"id": "a", "ro')  # half a line, left by a kill
    assert run(*more) == 0
    assert edited(executors[1]) == [["b"], ["c"], ["d"]]  # other settings; a lost file; a new row
    after = snapshot(tmp_path / "out/results")
    assert {name: after[name] == before.get(name) for name in after} == {
        "a.png": True,
        "b.png": False,
        "c.png": True,
        "d.png": False,
    }
    assert [r["id"] for r in lines(tmp_path / "out")] == list("abcd")


def test_rows_that_fail_are_listed_and_tried_again(
    run: Batch, tmp_path: Path, executors: list[Inline], capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {**ROW, "id": "bad", "lr": 1e31, "target_prompt": "<script>alert('x')</script>"}
    assert run(ROWS[0], bad, ROWS[1]) == 1
    assert edited(executors[0]) == [["a"], ["bad"], ["b"], ["bad"]]
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cpds: failed")]
    assert len(told) == 1
    assert told[0].startswith("cpds: failed: bad (line 2): step ")
    record = lines(tmp_path / "out")[1]
    assert (record["id"], record["attempts"], record["files"]) == ("bad", 2, [])
    assert list(csv.DictReader((tmp_path / "out/results.csv").open()))[1]["state"] == "failed"
    assert run(ROWS[0], {**ROW, "id": "bad"}, ROWS[1]) == 0
    assert edited(executors[1]) == [["bad"]]


class Page(HTMLParser):
    """All tags with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_all_and_runs_nothing(run: Batch, tmp_path: Path) -> None:
    evil = '"><img src=x onerror=alert(1)> & <b>'
    assert run(ROWS[0], {**ROW, "id": "bad", "lr": 1e31, "target_prompt": evil}) == 1
    page = Page((tmp_path / "out/results.html").read_text())
    text = {"h1", "figure", "figcaption", "img", "a", "br", "span"}
    assert {tag for tag, _ in page.tags} <= {"html", "head", "meta", "title", "style", "body"} | text
    assert evil in page.text
    assert "1 done, 1 failed" in page.text
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    images = [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]
    assert images == ["../cat.png", "results/a.png", "../cat.png"]
    assert all((tmp_path / "out" / image).is_file() for image in images)


def test_the_page_shows_images_of_what_browsers_cannot_show(tmp_path: Path) -> None:
    row = {"id": "s", "state": "done", "prompt": "a", "target_prompt": "b", "notes": "n", "error": None}
    rows = [{**row, "source": str(tmp_path / f"x.{s}"), "result": f"results/s p.{s}"} for s in ("ply", "svgz", "svg")]
    sources = [[a["src"] for t, a in Page(figure(tmp_path / "out", row)).tags if t == "img"] for row in rows]
    assert sources == [["results/s%20p.png"], ["results/s%20p.png"], ["../x.svg", "results/s%20p.svg"]]


def test_workers_get_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's do not begin in this folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local").mkdir()
    words = ["--prior", "local", "--lora", "local:0.5", "owner/model", "--transformer", "local", "--out", "out"]
    prior, options = located_prior(parse(["batch", "m.jsonl", *words]))
    here = str(tmp_path / "local")
    assert (prior, options.lora) == (here, (f"{here}:0.5", "owner/model"))
    assert (options.transformer, options.tiny_vae) == (here, None)


# ---- flags


def test_faults_come_before_anything_is_written(
    run: Batch, tmp_path: Path, executors: list[Inline], sentence: Any
) -> None:
    assert run(ROWS[0], {**ROW, "seed": "x"}) == 2
    assert "line 2: seed must be a whole number, got 'x'" in sentence()
    assert not (tmp_path / "out").exists()
    assert executors == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"workers": 0}, "workers must be >= 1, got 0"),
        ({"batch": 0}, "batch must be >= 1, got 0"),
        ({"prior": "no/where/at-all"}, "prior 'no/where/at-all'"),
        ({"devices": "cuda:99"}, "device 'cuda:99' is not usable here"),
    ],
)
def test_flags_that_cannot_be(
    run: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any], message: str, sentence: Any
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert run(*ROWS, **flags) == 2
    assert message in sentence()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"out": "cat.png"}, "output folder cat.png cannot be written (File exists): choose another"),
        ({"prior": "empty"}, "prior folder empty has no model_index.json"),
        ({"devices": "cpu,cuda:99"}, "device 'cuda:99' is not usable here"),
    ],
)
def test_what_no_row_could_use_is_told_before_rows_are_read(
    run: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any], message: str, sentence: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert run({**ROW, "seed": "x"}, **flags) == 2
    assert message in sentence()


def test_a_folder_of_something_else_is_left_alone(run: Batch, tmp_path: Path, edit: Any, sentence: Any) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/config.json").write_text('{"command": "image"}')
    before = snapshot(tmp_path / "out")
    assert run(*ROWS) == 2
    assert "already holds config.json of another command" in sentence()
    assert {k: v for k, v in snapshot(tmp_path / "out").items() if k != ".lock"} == before


@pytest.mark.parametrize("name", ["results.jsonl", "results.csv", "results.html", "results/a.png"])
def test_files_that_no_batch_has_left_are_left_alone(run: Batch, tmp_path: Path, name: str, sentence: Any) -> None:
    file = tmp_path / "out" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    assert run(*ROWS) == 2
    assert f"already holds {name.split('/')[0]}, but no config.json of a batch" in sentence()
    assert [f for f in (tmp_path / "out").rglob("*") if f.is_file()] == [file]
    assert file.read_text() == "mine"


def test_another_prior_needs_another_folder(run: Batch, tmp_path: Path, capsys: Any) -> None:
    assert run(ROWS[0]) == 0
    before = snapshot(tmp_path / "out")
    assert run(*ROWS, torch_dtype="bf16") == 2
    assert "was made with another prior (prior was" in capsys.readouterr().err
    assert snapshot(tmp_path / "out") == before


def test_batch_says_how_many_are_edited_at_once(run: Batch, executors: list[Inline]) -> None:
    rows = [{**ROW, "id": name} for name in "abc"]
    assert run(*rows, batch=2) == 0
    assert edited(executors[0]) == [["a", "b"], ["c"]]
    assert run(*[{**row, "seed": 1} for row in rows]) == 0
    assert edited(executors[1]) == [["a"], ["b"], ["c"]]  # on the CPU


def test_devices_and_workers() -> None:
    assert places(("cuda:0,cuda:1",), None) == places(("cuda:0", "cuda:1"), None) == ["cuda:0", "cuda:1"]
    assert places(("cuda:0", "cuda:1"), 3) == ["cuda:0", "cuda:1", "cuda:0"]
    assert places(("cpu",), 2) == ["cpu", "cpu"]
    assert len(places((), None)) >= 1
    assert available() >= 1


def test_ray_may_stand_alone_or_name_an_address() -> None:
    def ray(*words: str) -> Any:
        return parse(["batch", "m.jsonl", "--out", "o", *words]).ray

    assert (ray(), ray("--ray"), ray("--ray", "10.0.0.1:6379")) == (None, (), ("10.0.0.1:6379",))


def test_ray_without_ray_or_without_a_cluster(
    tmp_path: Path, tiny_folder: Path, image_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    manifest = write_manifest(tmp_path / "manifest.jsonl", ROWS)
    argv = ["batch", str(manifest), "--out", str(tmp_path / "out"), "--prior", str(tiny_folder)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setitem(__import__("sys").modules, "ray", type("ray", (), {}))  # is not asked
    for address, words in {
        f"127.0.0.1:{port}": "no Ray cluster answers at 127.0.0.1",
        f"ray://127.0.0.1:{port}": "no Ray cluster answers at ray://127.0.0.1",
        "nonsense": "is no address",
        "host:port": "has no port",
    }.items():
        assert main([*argv, "--ray", address]) == 2
        assert words in capsys.readouterr().err
    assert main([*argv, "--ray", "--devices", "cuda:0"]) == 2
    assert "leave devices out, or say cpu" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    assert main([*argv, "--ray"]) == 2
    assert "pip install -e '.[batch]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_flag_is_tested() -> None:
    """Beside a prior's options, which test_cpds_priors_options.py has."""
    tested = {"manifest", "out", "prior", "devices", "workers", "batch", "ray", "torch_dtype"}
    assert {f.name for f in fields(BatchArgs)} - PRIOR_OPTIONS == tested


# ---- stopping


def test_ctrl_c_keeps_what_is_done(
    run: Batch, tmp_path: Path, executors: list[Inline], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    wait = Inline.wait

    def pressed(self: Inline, workers: Any) -> Any:
        if edited(self)[-1:] == [["b"]]:
            raise KeyboardInterrupt
        return wait(self, workers)

    with monkeypatch.context() as patch:
        patch.setattr(Inline, "wait", pressed)
        assert run(*ROWS) == 130
    assert "Stopped; the same command goes on where this one ended" in capsys.readouterr().err
    assert [r["id"] for r in lines(tmp_path / "out")] == ["a"]
    assert executors[0].begun[0].stopped
    assert run(*ROWS) == 0
    assert edited(executors[1]) == [["b"], ["c"]]


def test_workers_that_cannot_load_are_told_in_a_sentence(
    run: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sentence: Any
) -> None:
    monkeypatch.setattr(Inline, "wait", lambda self, workers: (workers[0], Lost("killed by SIGKILL")))
    assert run(*ROWS) == 2
    assert "workers end while they load the prior (the last: killed by SIGKILL): take fewer workers" in sentence()
    assert not (tmp_path / "out").exists()
