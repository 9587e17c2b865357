"""What the page asks for, without the page: edits begun, watched, stopped and gone on with, each visitor's own."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from cpds.apps.batch.columns import COMMANDS
from cpds.apps.batch.rows import Row
from cpds.apps.web.edits import Run, latest_image, row_in, run_in, runs_of
from cpds.apps.web.form import row_of
from cpds.apps.web.limits import Limits
from cpds.apps.web.visitors import Visitor, Visitors
from cpds.apps.web.workers import ENDED, Job, Workers
from cpds.config import require
from cpds.errors import InputError
from cpds.priors.options import PriorOptions

SAMPLES = Path(__file__).parents[2] / "assets/demo"


class Wish(NamedTuple):
    """An edit as it was filled in."""

    command: str
    source: str | None  # the file, an upload or a sample
    prompt: str
    target_prompt: str
    settings: Mapping[str, Any]
    files: Mapping[str, str | None]  # further arguments that are uploads
    strength: float = 1.0
    variants: int = 1  # with seeds that follow each other


class Status(NamedTuple):
    """How far the edits of a page's tab are."""

    text: str
    fraction: float
    preview: Path | None
    ended: bool
    runs: list[Run]  # those that left anything, where all have ended
    trouble: str = ""  # why one failed


@dataclass
class Desk:
    """Takes wishes to the workers and tells what became of them."""

    workers: Workers
    visitors: Visitors
    limits: Limits
    prior: str | None = None
    options: PriorOptions = field(default_factory=PriorOptions)
    pages: dict[Path, set[str]] = field(default_factory=dict)  # the open ones of each visitor, by its folder

    def arrive(self, visitor: Visitor, session: str) -> None:
        """A page was opened."""
        self.pages.setdefault(visitor.folder, set()).add(session)

    def begin(self, visitor: Visitor, session: str, wish: Wish) -> None:
        """Let the edits of a wish wait for a device. InputError for what cannot be, of which nothing is left."""
        most = self.limits.max_variants
        require(1 <= wish.variants <= most, f"variants must be in 1 ... {most}, got {wish.variants}")
        require(wish.source is not None, f"there is nothing to edit: upload {ARTICLE[wish.command]} or take a sample")
        cameras = wish.command != "splats" or bool(wish.files.get("cameras"))
        require(cameras, "the scene has no cameras: upload their file, or take a sample")
        uploads = {name: visitor.require_own(path) for name, path in wish.files.items() if path}
        source = visitor.require_own(str(wish.source))
        first = row_of(
            wish.command,
            source,
            (wish.prompt, wish.target_prompt),
            wish.settings,
            uploads,
            self.limits,
            wish.strength,
        )
        jobs = [self._job(visitor, session, first, i) for i in range(wish.variants)]
        self._submit(visitor, jobs)

    def _job(self, visitor: Visitor, session: str, first: Row, number: int) -> Job:
        """A variant of an edit, with copies of its files: the pages' own may go before it is done."""
        run = visitor.fresh_run()
        inputs = visitor.inputs / run
        inputs.mkdir(parents=True)
        args = first.args
        paths = {name: value for name, value in vars(args).items() if isinstance(value, Path)}
        copies = {name: Path(shutil.copy(path, inputs / f"{name}{path.suffix}")) for name, path in paths.items()}
        edit = replace(args.edit, seed=(args.edit.seed + number) % 2**32)
        prior = {name: getattr(self.options, name) for name in self.options.__dataclass_fields__}
        args = replace(args, **copies, **prior, prior=self.prior, edit=edit)
        return Job(
            visitor.folder, session, replace(first, args=args), visitor.runs / run, steps=edit.num_inference_steps
        )

    def _submit(self, visitor: Visitor, jobs: Sequence[Job]) -> None:
        try:
            self.workers.submit(jobs)
        except InputError:
            for job in jobs:
                if not job.resume:
                    visitor.forget_inputs(job.folder.name)
            raise

    def resume(self, visitor: Visitor, session: str, name: str) -> None:
        """Go on with a run that was stopped. InputError where that cannot be."""
        run = self.run(visitor, name)
        require(not run.finished, "that run is finished: start another one")
        require(not self.workers.running(run.folder), "that run is being edited already")
        row = row_in(run)
        require(row.source.is_file(), "the files of that run were removed: upload them again and start anew")
        self._submit(
            visitor, [Job(visitor.folder, session, row, run.folder, resume=True, steps=run.steps, step=run.step)]
        )

    def run(self, visitor: Visitor, name: str) -> Run:
        """A visitor's run by its folder's name. InputError where there is none."""
        folder = visitor.runs / Path(name).name
        run = run_in(folder) if name and visitor.owns(folder) else None
        if run is None:
            raise InputError("that run is not here any more: start another one")
        return run

    def remove(self, visitor: Visitor, name: str) -> None:
        """Remove a run and all of its files."""
        run = self.run(visitor, name)
        require(not self.workers.running(run.folder), "that run is being edited: stop it first")
        visitor.forget_run(run.folder.name)

    def stop(self, session: str, command: str) -> None:
        self.workers.stop(self.workers.jobs_of(session, command))

    def leave(self, visitor: Visitor, session: str) -> None:
        """A page was closed: its edits end, and may be gone on with; with the visitor's last page its uploads go."""
        self.workers.leave(session)
        self._forget_unbegun(visitor)
        left = self.pages.get(visitor.folder, set())
        left.discard(session)
        if not left:
            self.pages.pop(visitor.folder, None)
            visitor.forget_uploads()
        self.visitors.remove_old()

    def history(self, visitor: Visitor, command: str) -> list[Run]:
        """The visitor's runs of a kind, the newest first, without those that are waiting or running."""
        return [run for run in runs_of(visitor, command) if not self.workers.running(run.folder)]

    def status(self, session: str, command: str) -> Status:
        """How far the last edits of a tab are."""
        jobs = self.workers.jobs_of(session, command)
        if not jobs:
            return Status("", 0.0, None, True, [])
        ended = all(job.ended for job in jobs)
        fraction = sum(1.0 if j.state == "done" else j.step / max(1, j.steps) for j in jobs) / len(jobs)
        current = next((j for j in jobs if j.state == "running"), next((j for j in jobs if not j.ended), jobs[-1]))
        preview = latest_image(current.folder) if current.folder.is_dir() else None
        runs = [run for job in jobs if (run := run_in(job.folder)) is not None] if ended else []
        if ended:
            self._forget_unbegun(Visitor(current.visitor))
        trouble = next((job.note for job in jobs if job.state == "failed"), "")
        shown = preview if preview is not None and preview.is_file() else None
        return Status(self._text(jobs, current), fraction, shown, ended, runs, trouble)

    def _forget_unbegun(self, visitor: Visitor) -> None:
        """Remove the files of edits that ended before their first step."""
        for inputs in visitor.inputs.glob("*"):
            folder = visitor.runs / inputs.name
            if run_in(folder) is None and not self.workers.running(folder):
                visitor.forget_run(inputs.name)

    def _text(self, jobs: Sequence[Job], current: Job) -> str:
        """In a line."""
        which = f"variant {jobs.index(current) + 1} of {len(jobs)}: " if len(jobs) > 1 else ""
        if all(job.ended for job in jobs):
            counts = {state: sum(job.state == state for job in jobs) for state in ENDED}
            said = [f"{count} {state}" if len(jobs) > 1 else state for state, count in counts.items() if count]
            return "; ".join([", ".join(said), *dict.fromkeys(job.note for job in jobs if job.note)])
        if current.state == "waiting":
            before = self.workers.before(current)
            return f"{which}waiting for a device, {before} before it" if before else f"{which}waiting for a device"
        if not current.step:
            return f"{which}beginning"
        stopping = ", stopping" if current.stopping.is_set() else ""
        return f"{which}step {current.step} of {current.steps}{stopping}"


ARTICLE = {"image": "an image", "svg": "an SVG", "splats": "a scene and its cameras"}
assert ARTICLE.keys() == COMMANDS.keys()


def take_sample(visitor: Visitor, command: str) -> list[Path]:
    """What ships with the package to be tried, as if the visitor had uploaded it; of a scene its cameras, too."""
    if command == "splats":
        from cpds.apps.web.relief import write_relief

        scene, cameras = visitor.place("cat.ply"), visitor.place("transforms.json")
        write_relief(SAMPLES / "cat.png", scene, cameras)
        return [scene, cameras]
    name = {"image": "cat.png", "svg": "cat.svg"}[command]
    return [Path(shutil.copy(SAMPLES / name, visitor.place(name)))]
