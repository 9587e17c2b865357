"""Evaluations by workers have the rows that one process has."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from batches import Inline
from datasets import make_dataset

from cpds.apps.batch.executor import Lost
from cpds.apps.cli import workers
from cpds.apps.cli.main import main
from cpds.evaluation import runner
from cpds.evaluation.runner import read_rows

SHORT = ["--num_inference_steps", "2", "--lr", "20", "--n_patches", "8", "--device", "cpu", "--no-lpips"]
Evaluate = Callable[..., int]


@pytest.fixture
def evaluate(tiny_folder: Path, tmp_path: Path) -> Evaluate:
    """Run `cpds eval` into tmp_path/<name>; its exit code."""
    data = make_dataset(tmp_path / "data")

    def evaluate(name: str, *more: str) -> int:
        return main(["eval", str(data), *SHORT, "--prior", str(tiny_folder), "--out", str(tmp_path / name), *more])

    return evaluate


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Workers that are no processes; `act` may answer in their place."""

    def use(act: Any = None) -> None:
        monkeypatch.setattr(
            workers.WorkerArgs, "executor", lambda args, make: Inline(make, ("cpu",) * args.workers, act)
        )

    return use


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    return {name: row | {"seconds": 0} for name, row in read_rows(folder).items()}


@pytest.mark.parametrize("processes", [True, False])
def test_rows_and_images_are_those_of_one_process(
    evaluate: Evaluate, inline: Callable[..., None], tmp_path: Path, processes: bool
) -> None:
    sweep = ["--sweep", "preset=cpds,dds", "--limit", "3", "--batch", "2", "--there_and_back"]
    assert evaluate("one", *sweep) == 0
    if not processes:
        inline()
    assert evaluate("several", *sweep, "--workers", "2") == 0
    folders = sorted(path.name for path in (tmp_path / "one").iterdir() if path.is_dir())
    assert len(folders) == 2
    for name in folders:
        one, several = (tmp_path / out / name for out in ("one", "several"))
        assert rows(one) == rows(several)
        assert len(rows(one)) == 3
        files = sorted(file.relative_to(one) for file in one.glob("*/*.png"))
        assert len(files) == 6  # results, and what came back
        assert all((one / file).read_bytes() == (several / file).read_bytes() for file in [*files, Path("sheet.png")])
    assert (tmp_path / "several/table.csv").is_file()


def test_a_failed_edit_leaves_the_others_and_is_tried_again(
    evaluate: Evaluate,
    inline: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    inline()
    bad = ["c1"]

    def failing(make: Callable[..., Any], folder: Path, cases: Any, *more: Any) -> Any:
        if any(case.id in bad for case in cases):
            raise RuntimeError("the disk is full")
        return make(folder, cases, *more)

    monkeypatch.setattr(runner, "make", partial(failing, runner.make))
    flags = ("--label", "x", "--workers", "1", "--batch", "5")
    assert evaluate("out", *flags) == 1
    shown = capsys.readouterr()
    assert "cpds: failed: x/c1: RuntimeError: the disk is full" in shown.err
    assert "The same command tries these again" in shown.err
    assert sorted(read_rows(tmp_path / "out/x")) == ["c0", "c2", "c3", "c4"]
    assert not (tmp_path / "out/table.csv").exists()
    bad.clear()
    assert evaluate("out", *flags) == 0
    assert sorted(read_rows(tmp_path / "out/x")) == ["c0", "c1", "c2", "c3", "c4"]
    assert (tmp_path / "out/table.csv").is_file()


def test_a_lost_worker_costs_no_case(evaluate: Evaluate, inline: Callable[..., None], tmp_path: Path) -> None:
    lost: list[str] = []

    def act(worker: Any, method: str, *arguments: Any) -> Lost | None:
        if method == "edit" and not lost:
            lost.append(worker.name)
            return Lost("killed")
        return None

    inline(act)
    assert evaluate("out", "--label", "x", "--workers", "2", "--limit", "2", "--batch", "1") == 0
    assert len(read_rows(tmp_path / "out/x")) == 2
    assert lost


def test_a_worker_with_another_prior_is_refused(
    evaluate: Evaluate, inline: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inline()
    from cpds.apps.cli import eval as command

    given = command.located_prior
    monkeypatch.setattr(command, "located_prior", lambda args: (None, given(args)[1]))
    assert evaluate("out", "--label", "x", "--workers", "1", "--limit", "1") == 2
    assert "the prior of a worker on cpu is not the one here: give all the same files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--workers", "0"), "workers must be >= 1, got 0"),
        (("--ray", "a:1", "b:2"), "ray takes one address, got a:1 b:2"),
    ],
)
def test_numbers_that_cannot_be(
    evaluate: Evaluate, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], message: str
) -> None:
    assert evaluate("out", *flags) == 2
    assert message in capsys.readouterr().err
