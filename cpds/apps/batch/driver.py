"""Which worker does what: rows in batches, a second try for those that fail, a new worker for one that dies."""

import json
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, NamedTuple, Protocol

from cpds.apps.batch.columns import OF_ALL
from cpds.apps.batch.executor import Executor, Lost, Outcome, Ready, Refused, W
from cpds.apps.batch.rows import Row
from cpds.errors import InputError
from cpds.stored import encode

ATTEMPTS = 2  # of a row
LOSSES = 3  # workers that may die one after the other while they load the prior


class Identified(Protocol):
    """A row, of whatever: ids are unique."""

    @property
    def id(self) -> str: ...


class Task(NamedTuple):
    """Rows that a worker edits at once; one row alone where it is tried again."""

    rows: Sequence[Identified]
    attempt: int = 1


def tasks_of(rows: Iterable[Row], batch: int) -> list[Task]:
    """Images of one size and with the same settings go together, `batch` at most; all else row by row."""
    alike: dict[str, list[Row]] = {}
    for row in rows:
        alike.setdefault(_setting(row), []).append(row)
    return [Task(same[i : i + batch]) for same in alike.values() for i in range(0, len(same), batch)]


def _setting(row: Row) -> str:
    """Equal for rows that may be edited at once."""
    if row.command != "image":
        return row.id
    own = {*OF_ALL, "img_path", "prompt", "target_prompt", "preset", "mask"}
    settings = {name: value for name, value in encode(row.args).items() if name not in own}
    return json.dumps([row.size, row.args.mask is None, settings], sort_keys=True)


@dataclass
class _Crew(Generic[W]):
    """The workers and what is left to do."""

    executor: Executor[W]
    queue: deque[Task]
    busy: dict[W, Task | None] = field(default_factory=dict)  # None: it loads the prior
    idle: list[W] = field(default_factory=list)
    places: dict[W, str] = field(default_factory=dict)
    losses: int = 0

    def start(self, place: str) -> None:
        worker = self.executor.start(place)
        self.places[worker], self.busy[worker] = place, None
        worker.call("load")

    def assign(self) -> None:
        while self.idle and self.queue:
            worker, task = self.idle.pop(), self.queue.popleft()
            self.busy[worker] = task
            worker.call("edit", task.rows)

    def replace(self, worker: W, loading: bool, reason: str) -> None:
        """A new worker for one that has died, if there is work for it."""
        place = self.places.pop(worker)
        worker.stop()
        self.losses = self.losses + 1 if loading else 0
        if self.losses == LOSSES:
            raise InputError(f"workers end while they load the prior (the last: {reason}): take fewer workers")
        if self.queue:
            self.start(place)

    def stop(self) -> None:
        for worker in self.places:
            worker.stop()
        self.executor.close()


def work(tasks: Iterable[Task], executor: Executor[W]) -> Generator[Ready | Outcome, None, None]:
    """Do all tasks: each worker's Ready, and of each row the one outcome that counts.

    A row that fails, or whose worker dies, is tried once more, by itself, unless it was refused. Raises InputError
    where no worker can begin.
    """
    crew = _Crew(executor, deque(tasks))
    try:
        for place in executor.places[: len(crew.queue)]:
            crew.start(place)
        while crew.busy:
            worker, answer = executor.wait(list(crew.busy))
            task = crew.busy.pop(worker)
            if isinstance(answer, Refused):
                raise InputError(answer.reason)
            if task is not None:
                yield from _ended(crew.queue, task, answer)
            if isinstance(answer, Lost):
                crew.replace(worker, task is None, answer.reason)
            else:
                crew.idle.append(worker)
            if isinstance(answer, Ready):
                crew.losses = 0
                yield answer
            crew.assign()
    finally:
        crew.stop()


def _ended(queue: deque[Task], task: Task, answer: list[Outcome] | Lost) -> Iterator[Outcome]:
    """The outcomes that count; rows that are to be tried again go to the queue."""
    lost = answer.reason if isinstance(answer, Lost) else ""
    outcomes = [Outcome(row.id, error=lost) for row in task.rows] if isinstance(answer, Lost) else answer
    for row, outcome in zip(task.rows, outcomes, strict=True):
        if outcome.error is not None and not outcome.refused and task.attempt < ATTEMPTS:
            queue.append(Task([row], task.attempt + 1))
        else:
            yield replace(outcome, attempts=task.attempt)
