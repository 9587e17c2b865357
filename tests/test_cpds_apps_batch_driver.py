"""The driver: who does what, second tries and replaced workers, shown with workers that only note what they do."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from batches import Inline, InlineWorker

from cpds.apps.batch.driver import LOSSES, Task, tasks_of, work
from cpds.apps.batch.executor import Lost, Outcome, Ready, Refused
from cpds.apps.batch.rows import Row
from cpds.apps.cli.image import ImageArgs
from cpds.errors import InputError

READY = Ready("prior", "cpu")


def row(name: str, size: tuple[int, int] = (28, 40), **own: Any) -> Row:
    edit = replace(ImageArgs.__dataclass_fields__["edit"].default_factory(), seed=own.pop("seed", 0))
    args = ImageArgs(img_path=Path(f"{name}.png"), prompt=f"a {name}", target_prompt=("a dog",), edit=edit, **own)
    return Row(1, name, "image", args, name, size)


class Notes:
    """What workers edit goes to `edited`; rows in `bad` fail as often as is said there."""

    def __init__(self, bad: dict[str, int]) -> None:
        self.bad, self.edited = Counter(bad), []

    def load(self) -> Ready:
        return READY

    def edit(self, rows: Any) -> list[Outcome]:
        self.edited.append([r.id for r in rows])
        return [Outcome(r.id, error="no" if self.fails(r.id) else None) for r in rows]

    def fails(self, name: str) -> bool:
        self.bad[name] -= 1
        return self.bad[name] >= 0


def done(tasks: list[Task], act: Any = None, bad: dict[str, int] | None = None, **more: Any) -> Any:
    """Outcomes by id, the workers' notes, and the executor."""
    notes = Notes(bad or {})
    executor = Inline(lambda _: notes, act=act, **more)
    outcomes = [event for event in work(tasks, executor) if isinstance(event, Outcome)]
    assert len({o.id for o in outcomes}) == len(outcomes)  # none twice
    assert executor.closed
    assert all(worker.stopped for worker in executor.begun)
    return {o.id: o for o in outcomes}, notes, executor


# ---- what goes together


def test_images_of_one_size_and_setting_go_together() -> None:
    rows = [row("a"), row("b", (28, 41)), row("c", seed=1), row("d", mask=Path("m.png")), row("e"), row("f")]
    rows += [row("g", mask=Path("n.png")), replace(row("h"), command="svg"), replace(row("i"), command="svg")]
    ids = [[r.id for r in task.rows] for task in tasks_of(rows, 2)]
    assert ids == [["a", "e"], ["f"], ["b"], ["c"], ["d", "g"], ["h"], ["i"]]
    assert [len(task.rows) for task in tasks_of(rows, 1)] == [1] * 9


# ---- what fails


def test_rows_that_fail_are_tried_once_more_alone() -> None:
    tasks = tasks_of([row(name) for name in "abcd"], 4)
    outcomes, notes, _ = done(tasks, bad={"b": 1, "c": 9})
    assert notes.edited == [list("abcd"), ["b"], ["c"]]
    assert {name: (o.error, o.attempts) for name, o in outcomes.items()} == {
        "a": (None, 1),
        "b": (None, 2),
        "c": ("no", 2),
        "d": (None, 1),
    }


def test_a_row_that_is_refused_is_not_tried_again() -> None:
    refused = [Outcome("a", error="no", refused=True)]
    outcomes, _, executor = done([Task([row("a")])], lambda _, method, *__: refused if method == "edit" else None)
    assert (outcomes["a"].error, outcomes["a"].attempts) == ("no", 1)
    assert [method for method, _ in executor.begun[0].calls] == ["load", "edit"]


def dying(at: dict[str, int]) -> Callable[..., Any]:
    """Workers die of rows, as often as is said."""
    left = Counter(at)

    def act(worker: InlineWorker, method: str, *arguments: Any) -> Lost | None:
        for r in arguments[0] if method == "edit" else ():
            left[r.id] -= 1
            if left[r.id] >= 0:
                return Lost(f"{worker.name} has ended")
        return None

    return act


def test_a_worker_that_dies_is_replaced_and_its_rows_are_done_again() -> None:
    tasks = tasks_of([row(name) for name in "abcdef"], 2)
    outcomes, notes, executor = done(tasks, dying({"c": 1, "e": 2}), places=("cuda:0", "cuda:1"))
    assert len(outcomes) == 6
    assert {name for name, o in outcomes.items() if o.error} == {"e"}
    assert outcomes["e"].error.startswith("worker ")
    assert Counter(name for group in notes.edited for name in group) == Counter("abcdf")  # each once
    assert len(executor.begun) == 4  # three were lost, the last when nothing was left to do


def test_no_more_workers_are_begun_than_there_is_work_for() -> None:
    _, _, executor = done(tasks_of([row("a")], 1), places=("cpu",) * 3)
    assert len(executor.begun) == 1
    assert done([], places=("cpu",))[2].begun == []


def test_a_prior_that_cannot_be_loaded_ends_all() -> None:
    executor = Inline(lambda _: Notes({}), act=lambda *_: Refused("there is no prior"))
    with pytest.raises(InputError, match="there is no prior"):
        list(work([Task([row("a")])], executor))
    assert executor.closed


def test_workers_that_die_while_they_load_end_all() -> None:
    executor = Inline(lambda _: Notes({}), act=lambda worker, *_: Lost(f"{worker.name} has ended"))
    with pytest.raises(InputError, match=r"load the prior \(the last: worker 3 has ended\): take fewer workers"):
        list(work([Task([row("a")])], executor))
    assert len(executor.begun) == LOSSES
    assert all(worker.stopped for worker in executor.begun)


def test_a_consumer_that_stops_stops_the_workers() -> None:
    executor = Inline(lambda _: Notes({}))
    events = work(tasks_of([row("a"), row("b")], 1), executor)
    assert next(events) == READY
    events.close()
    assert executor.closed
    assert executor.begun[0].stopped
