"""One thread for each device, and a bounded queue of edits before them."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cpds.apps.batch.worker import reason
from cpds.apps.web.limits import Limits
from cpds.apps.web.visitors import Visitor
from cpds.config import require

State = Literal["waiting", "running", "done", "stopped", "failed"]
ENDED = ("done", "stopped", "failed")


@dataclass(eq=False)
class Job:
    """An edit that a page has asked for, and how far it is."""

    visitor: Path  # folder
    session: str  # the open page
    row: Any  # cpds.apps.batch.rows.Row
    folder: Path  # run folder
    resume: bool = False
    state: State = "waiting"
    step: int = 0
    steps: int = 0
    note: str = ""  # why it failed, or what its user should know
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def ended(self) -> bool:
        return self.state in ENDED


Edit = Callable[[Job, Any], None]  # (job, prior); raises EditStopped for a job that was stopped


class Workers:
    """Devices that edit what waits in one queue, in the order in which it came.

    `load` makes a device's prior in its own thread; `edit` does one job with it.
    """

    def __init__(self, devices: Sequence[str], load: Callable[[str], Any], edit: Edit, limits: Limits) -> None:
        self.devices, self.limits = devices, limits
        self._load, self._edit = load, edit
        self._waiting: list[Job] = []
        self._jobs: list[Job] = []  # waiting, running, and the last ones of each page
        self._changed = threading.Condition()
        self._closed = False
        self.priors: list[Any] = []  # as soon as they are loaded
        self._refused: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Load every device's prior and begin to work. Raises what the first that fails has raised."""
        self._threads = [threading.Thread(target=self._work, args=(d,), daemon=True) for d in self.devices]
        for thread in self._threads:
            thread.start()
        with self._changed:
            while len(self.priors) < len(self.devices) and not self._refused:
                self._changed.wait(0.2)  # in between the main thread hears of Ctrl-C
        if self._refused:
            self.close()
            raise self._refused[0]

    def close(self) -> None:
        """Stop all edits after their current step, and wait until they have been saved."""
        with self._changed:
            self._closed = True
            for job in list(self._jobs):
                self._stop(job)
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Let jobs of one page wait for a device. InputError where that would be too many."""
        limits = self.limits
        with self._changed:
            own = sum(j.visitor == jobs[0].visitor and not j.ended for j in self._jobs)
            require(
                own + len(jobs) <= limits.max_variants,
                f"one visitor may have {limits.max_variants} edits waiting and running, and this would be "
                f"{own + len(jobs)}: take fewer variants, wait for the others, or stop them",
            )
            require(
                len(self._waiting) + len(jobs) <= limits.max_waiting,
                f"{len(self._waiting)} edits wait already: try again in a few minutes",
            )
            pages = {(job.session, job.row.command) for job in jobs}
            self._jobs = [j for j in self._jobs if not j.ended or (j.session, j.row.command) not in pages]
            self._jobs += jobs
            self._waiting += jobs
            self._changed.notify_all()

    def jobs_of(self, session: str, command: str) -> list[Job]:
        """The last jobs of a page's tab."""
        with self._changed:
            return [j for j in self._jobs if (j.session, j.row.command) == (session, command)]

    def running(self, folder: Path) -> bool:
        """Whether an edit waits or runs in a run folder."""
        with self._changed:
            return any(j.folder == folder and not j.ended for j in self._jobs)

    def before(self, job: Job) -> int:
        """How many others are to be done before a job that waits."""
        with self._changed:
            return self._waiting.index(job) if job in self._waiting else 0

    def stop(self, jobs: Sequence[Job]) -> None:
        """End jobs: those that wait at once, those that run after their step."""
        with self._changed:
            for job in jobs:
                self._stop(job)

    def leave(self, session: str) -> None:
        """A page was closed: end its jobs and forget them."""
        with self._changed:
            for job in [j for j in self._jobs if j.session == session]:
                self._stop(job)
            self._jobs = [j for j in self._jobs if j.session != session or not j.ended]

    def _stop(self, job: Job) -> None:
        job.stopping.set()
        if job in self._waiting:
            self._waiting.remove(job)
            job.state = "stopped"

    def _work(self, device: str) -> None:
        try:
            prior = self._load(device)
        except BaseException as err:
            self._refused.append(err)
            with self._changed:
                self._changed.notify_all()
            return
        with self._changed:
            self.priors.append(prior)
            self._changed.notify_all()
        while (job := self._next()) is not None:
            self._do(job, prior)

    def _next(self) -> Job | None:
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            job = self._waiting.pop(0)
            job.state = "running"
            return job

    def _do(self, job: Job, prior: Any) -> None:
        """One job; whatever happens to it, the next one is done as well."""
        try:
            self._edit(job, prior)
            job.state = "done"
        except KeyboardInterrupt:  # EditStopped
            job.state = "stopped"
        except Exception as err:  # of any library that the edit needs
            job.note, job.state = Visitor(job.visitor).without_places(reason(err)), "failed"
