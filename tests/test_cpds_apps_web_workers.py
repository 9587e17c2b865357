"""The queue before the devices: order, bounds, stopping, leaving, and failures that harm nobody else."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cpds.apps.web.limits import Limits
from cpds.apps.web.workers import Job, Workers
from cpds.errors import InputError
from cpds.session import EditStopped

PATIENCE = 30  # s
Make = Callable[..., Workers]


class Held:
    """An edit that waits to be let go, and notes what it has done."""

    def __init__(self) -> None:
        self.go, self.done = threading.Semaphore(0), []
        self.begun = threading.Semaphore(0)

    def __call__(self, job: Job, prior: Any) -> None:
        self.begun.release()
        while not self.go.acquire(timeout=0.01):
            if job.stopping.is_set():
                raise EditStopped(3, 130, job.folder)
        if job.note == "fails":
            raise InputError("it cannot be")
        self.done.append((job.folder.name, prior))


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def make(held: Held) -> Iterator[Make]:
    begun: list[Workers] = []

    def build(devices: tuple[str, ...] = ("cpu",), **limits: Any) -> Workers:
        workers = Workers(devices, lambda device: f"prior on {device}", held, Limits(**limits))
        begun.append(workers)
        workers.start()
        return workers

    yield build
    for workers in begun:
        workers.close()


def job(name: str, visitor: str = "a", page: str = "a 1", **more: Any) -> Job:
    return Job(Path(visitor), page, SimpleNamespace(command="image"), Path(name), **more)


def until(ready: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(PATIENCE * 100):
        if ready():
            return
        waiting.wait(0.01)
    raise TimeoutError


def test_jobs_are_done_in_their_order_one_at_a_time(make: Make, held: Held) -> None:
    workers = make()
    jobs = [job(str(i)) for i in range(4)]
    workers.submit(jobs)
    held.begun.acquire(timeout=PATIENCE)
    assert [j.state for j in jobs] == ["running", "waiting", "waiting", "waiting"]
    assert [workers.before(j) for j in jobs] == [0, 0, 1, 2]
    for _ in jobs:
        held.go.release()
    until(lambda: all(j.ended for j in jobs))
    assert held.done == [(str(i), "prior on cpu") for i in range(4)]
    assert {j.state for j in jobs} == {"done"}


def test_every_device_works(make: Make, held: Held) -> None:
    workers = make(("cpu", "other"))
    workers.submit([job("0"), job("1")])
    for _ in range(2):
        assert held.begun.acquire(timeout=PATIENCE)  # both run before one is let go
    held.go.release(2)
    until(lambda: len(held.done) == 2)
    assert {prior for _, prior in held.done} == {"prior on cpu", "prior on other"}


def test_a_visitor_and_the_queue_have_bounds(make: Make, held: Held) -> None:
    workers = make(max_variants=2, max_waiting=3)
    workers.submit([job("0"), job("1")])
    held.begun.acquire(timeout=PATIENCE)  # one runs, one waits
    with pytest.raises(InputError, match="one visitor may have 2 edits waiting and running, and this would be 3"):
        workers.submit([job("2")])
    workers.submit([job("b0", "b", "b 1"), job("b1", "b", "b 1")])
    with pytest.raises(InputError, match="3 edits wait already: try again"):
        workers.submit([job("c", "c", "c 1")])


def test_stopping_ends_what_runs_and_what_waits_and_nothing_of_others(make: Make, held: Held) -> None:
    workers = make()
    mine, theirs = [job("0"), job("1")], [job("b", "b", "b 1")]
    workers.submit(mine)
    workers.submit(theirs)
    held.begun.acquire(timeout=PATIENCE)
    workers.stop(workers.jobs_of("a 1", "image"))
    held.begun.acquire(timeout=PATIENCE)  # theirs
    assert [j.state for j in mine] == ["stopped", "stopped"]
    held.go.release()
    until(lambda: theirs[0].ended)
    assert theirs[0].state == "done"


def test_a_page_that_is_closed_takes_its_jobs_along(make: Make, held: Held) -> None:
    workers = make()
    first, second = job("0", page="a 1"), job("1", page="a 2")  # two pages of one visitor
    workers.submit([first])
    workers.submit([second])
    held.begun.acquire(timeout=PATIENCE)
    workers.leave("a 1")
    held.begun.acquire(timeout=PATIENCE)
    assert first.state == "stopped"
    assert second.state == "running"
    assert workers.running(second.folder)
    assert not workers.running(first.folder)


def test_a_failure_is_a_sentence_and_the_next_job_is_done(make: Make, held: Held) -> None:
    workers = make()
    jobs = [job("0", note="fails"), job("1")]
    workers.submit(jobs)
    held.go.release(2)
    until(lambda: all(j.ended for j in jobs))
    assert [j.state for j in jobs] == ["failed", "done"]
    assert jobs[0].note == "it cannot be"


def test_new_jobs_of_a_tab_take_the_place_of_its_ended_ones(make: Make, held: Held) -> None:
    workers = make()
    held.go.release(2)
    first, second = job("0"), job("1")
    workers.submit([first])
    until(lambda: first.ended)
    assert workers.jobs_of("a 1", "image") == [first]
    workers.submit([second])
    assert workers.jobs_of("a 1", "image") == [second]
    assert workers.jobs_of("a 1", "svg") == []


def test_closing_stops_all(make: Make, held: Held) -> None:
    workers = make()
    jobs = [job("0"), job("1")]
    workers.submit(jobs)
    held.begun.acquire(timeout=PATIENCE)
    workers.close()
    assert [j.state for j in jobs] == ["stopped", "stopped"]


def test_a_prior_that_cannot_be_loaded_is_told_before_anything_is_served() -> None:
    def load(device: str) -> Any:
        raise InputError(f"no prior for {device}")

    with pytest.raises(InputError, match="no prior for cuda:7"):
        Workers(["cuda:7"], load, lambda job, prior: None, Limits()).start()
