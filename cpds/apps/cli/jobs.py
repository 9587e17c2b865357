"""The edits that a command line asks for: which they are, and where they go."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from cpds.apps.cli.args import EditArgs
from cpds.apps.cli.resuming import FREE, OF_PRIOR, anew, require_same
from cpds.config import require
from cpds.stored import CONFIG, PLAN, Stored, request, stored
from cpds.terminal import print_status


class Job(NamedTuple):
    """One edit that was asked for."""

    source: Path  # the file that is edited
    target: str  # prompt
    folder: Path  # run folder


class Jobs(NamedTuple):
    """A command's edits."""

    command: str
    args: Any  # EditArgs
    source: str  # the argument that says what is edited
    jobs: Sequence[Job]
    root: Path  # the run folder, or the folder of several run folders
    anew: Sequence[str] = ()  # flags given beside --resume that the run does not hold
    skipped: Collection[Path] = ()  # sources that cannot be edited: their edits stay planned

    @property
    def several(self) -> bool:
        """Whether each edit has a folder of its own below `root`."""
        return any(job.folder != self.root for job in self.jobs)

    @property
    def again(self) -> str:
        """The command that goes on with all of them."""
        return shlex.join(["cpds", self.command, "--resume", str(self.root), *self.anew])

    def request(self, job: Job) -> dict[str, Any]:
        """The command of one of the edits alone."""
        return request(self.command, replace(self.args, **{self.source: job.source, "target_prompt": (job.target,)}))

    def plan(self) -> dict[str, Any]:
        """The command of all."""
        given = getattr(self.args, self.source)
        names = ("" if job.source == given else job.source.name for job in self.jobs)
        edits = [(name, job.target, job.folder.name) for name, job in zip(names, self.jobs, strict=True)]
        return request(self.command, self.args, edits)


def slug(text: str) -> str:
    """A prompt as a folder name."""
    return re.sub(r"[^\w]+", "-", text.lower()).strip("-")[:60] or "edit"


def fresh_folder(stem: str) -> Path:
    """runs/<stem>, or runs/<stem>-2 … if that is taken."""
    candidates = (Path("runs") / (stem if i == 1 else f"{stem}-{i}") for i in range(1, 100_000))
    return next(p for p in candidates if not p.exists())


def folder_name(source: Path, target: str) -> str:
    """<source>-<prompt>, short enough for every file system."""
    return "-".join(part.encode()[:120].decode(errors="ignore") for part in (source.stem, slug(target)))


def destinations(given: Path, sources: Sequence[Path], targets: Sequence[str], save_path: Path | None) -> list[Job]:
    """Every edit of the `sources` found in `given` into the target prompts; no two share a folder."""
    first = folder_name(sources[0], targets[0])
    many = len(sources) * len(targets) > 1
    root = save_path or fresh_folder(given.stem if many else first)
    if not many:
        return [Job(sources[0], targets[0], root)]
    jobs: list[Job] = []
    taken: set[Path] = set()
    for source in sources:
        for target in targets:
            name = folder_name(source, target)
            # cat.png and cat.jpg, or prompts that differ in punctuation, must not meet in one folder
            folder = next(p for i in range(1, 10_000) if (p := root / (name if i == 1 else f"{name}-{i}")) not in taken)
            taken.add(folder)
            jobs.append(Job(source, target, folder))
    return jobs


def find_jobs(command: str, args: EditArgs, source: str, find: Callable[[Path], Sequence[Path]]) -> Jobs:
    """The edits that the arguments ask for: new ones in free places, or those to resume that are not finished.

    The argument called `source` says what is edited, and `find` which files that are.
    """
    given = getattr(args, source)
    if args.resume is not None:
        before = stored(args.resume, command, type(args))
        require_same(before.args, args)
        return Jobs(command, args, source, unfinished(before, args, given), args.resume, anew(before.args, args))
    jobs = destinations(given, find(given), args.target_prompt, args.save_path)
    root = jobs[0].folder if len(jobs) == 1 else jobs[0].folder.parent
    require_places(jobs, root)
    return Jobs(command, args, source, jobs, root)


def require_places(jobs: Sequence[Job], root: Path) -> None:
    """InputError unless every edit's folder, and the one that holds them, is free; none may be that of its source."""
    from cpds.runs import RunFolder

    require(not os.path.isfile(root), f"{root} is a file: choose another folder for results")
    for job in jobs:
        require(
            job.folder.resolve() != job.source.parent.resolve(),
            f"save_path {job.folder} is the folder of {job.source.name}, where results would be taken for sources: "
            "choose another, such as one in it",
        )
        RunFolder(job.folder).require_free()
    for name in (CONFIG, PLAN):
        require(not os.path.lexists(root / name), f"{root} already holds {name}: choose another folder")


def unfinished(before: Stored, args: EditArgs, given: Path) -> list[Job]:
    """The edits in args.resume that are not finished, where `before` is what it was begun with."""
    from cpds.locks import held
    from cpds.runs import RunFolder

    assert args.resume is not None
    edits = before.edits or (("", args.target_prompt[0], ""),)
    jobs = [Job(given / source, target, args.resume / folder) for source, target, folder in edits]
    same = {k: getattr(before.args, k) for k in FREE - OF_PRIOR if hasattr(args, k)}
    if replace(args, **same) == before.args:  # else whether they fit what was finished is seen when all is loaded
        steps = args.edit.num_inference_steps
        done = [job for job in jobs if RunFolder(job.folder).finished_steps >= steps]
        for job in done:
            print_status(f"{job.folder} is already finished")
        jobs = [job for job in jobs if job not in done]
    if jobs:
        with held(args.resume, PLAN if before.edits else CONFIG):
            pass  # that another process is at work is told now, not after the prior is loaded
    return jobs
