"""The edits that a command line asks for: which they are, where they go, and running them one after the other."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cpds.apps.cli.args import EditArgs
from cpds.config import require
from cpds.errors import InputError
from cpds.stored import CONFIG, PLACES, PLAN, Stored, differences, encode, read_object, request, stored
from cpds.terminal import print_result, print_status

if TYPE_CHECKING:
    from PIL.Image import Image

    from cpds.priors.base import Prior
    from cpds.representation import Representation

# what may change when a run is resumed, beside paths and more steps: the rest of the settings decides the pixels. What
# the paths, the prior and the precision stand for is compared by its digest once it is loaded.
FREE = {"prior", "device", "torch_dtype", "checkpoint_every", "svg_every", "ply_every", "dry_run"}


class Job(NamedTuple):
    """One edit that was asked for."""

    source: Path  # the file that is edited
    target: str  # prompt
    folder: Path  # run folder


class Opened(NamedTuple):
    """What one edit starts from."""

    representation: Representation[Any]
    before: Image | None = None  # for people; none: the representation's preview
    export_every: int = 0


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
    """InputError unless every edit's folder, and the one that holds them, is free."""
    from cpds.runs import RunFolder

    require(not os.path.isfile(root), f"{root} is a file: choose another folder for results")
    for job in jobs:
        RunFolder(job.folder).require_free()
    for name in (CONFIG, PLAN):
        require(not os.path.lexists(root / name), f"{root} already holds {name}: choose another folder")


def free_fields(old: Any, new: Any) -> set[str]:
    """Arguments that may change when a run is resumed: those of FREE, and paths, whose files' digests are compared."""
    paths = {f.name for f in fields(new) if isinstance(getattr(new, f.name) or getattr(old, f.name), Path)}
    return paths | {k for k in FREE if hasattr(new, k)}


def anew(old: Any, new: Any) -> list[str]:
    """The flags among those that may change by which the arguments `new` differ from the run's own."""
    names = [k for k in sorted(free_fields(old, new) - {*PLACES, "dry_run"}) if getattr(new, k) != getattr(old, k)]
    return [word for k in names if getattr(new, k) is not None for word in (f"--{k}", str(getattr(new, k)))]


def unfinished(before: Stored, args: EditArgs, given: Path) -> list[Job]:
    """The edits in args.resume that are not finished, where `before` is what it was begun with."""
    from cpds.runs import RunFolder, held

    assert args.resume is not None
    edits = before.edits or (("", args.target_prompt[0], ""),)
    jobs = [Job(given / source, target, args.resume / folder) for source, target, folder in edits]
    same = {k: getattr(before.args, k) for k in FREE - {"prior", "torch_dtype"} if hasattr(args, k)}
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


def require_same(old: Any, new: Any) -> None:
    """InputError where arguments `new` contradict those that the run was begun with; steps may be added."""
    require(new.save_path == new.resume, f"the run to resume is in {new.resume}: leave out save_path")
    free = free_fields(old, new)
    before, now = ({k: v for k, v in encode(args).items() if k not in free} for args in (old, new))
    steps = [args["edit"].pop("num_inference_steps") for args in (before, now)]
    changed = [c.removeprefix("edit.").removeprefix("guidance.") for c in differences(before, now)]
    require(
        not changed,
        f"cannot resume {new.resume} with changed settings ({'; '.join(changed)}): leave these out, or start a new run",
    )
    require(
        steps[0] <= steps[1],
        f"num_inference_steps was {steps[0]}, is now {steps[1]}: a run can be made longer, not shorter",
    )


def tell_skipped(skipped: Mapping[Path, str]) -> None:
    """Name every source that could not be edited, and why."""
    for path, reason in skipped.items():
        print_status(f"cpds: skipped: {reason if str(path) in reason else f'{path}: {reason}'}")


def run_jobs(jobs: Jobs, prior: Prior, opened: Callable[[Job], Opened], suffix: str = "") -> int:
    """All edits, one after the other; the first exit code that is not 0. `suffix` ends both prompts."""
    if not jobs.several:
        return _each(jobs, prior, opened, suffix)
    from cpds.runs import held, write_atomic

    plan = jobs.root / PLAN
    with held(jobs.root, PLAN):
        try:
            old = read_object(plan) if os.path.lexists(plan) else jobs.plan()
            old["edit"]["num_inference_steps"] = jobs.args.edit.num_inference_steps
            write_atomic(plan, json.dumps(old, indent=2).encode())
            return _each(jobs, prior, opened, suffix)
        except KeyboardInterrupt:  # between two edits
            print_status(f"Stopped; go on with: {jobs.again}")
            return 130
        except OSError as err:
            raise InputError(f"{jobs.root} cannot be written ({err.strerror}): choose another") from err
        finally:
            if not any(os.path.lexists(job.folder / CONFIG) for job in jobs.jobs) and jobs.args.resume is None:
                plan.unlink(missing_ok=True)  # the first edit was refused: nothing was begun


def _each(jobs: Jobs, prior: Prior, opened: Callable[[Job], Opened], suffix: str) -> int:
    """What `run_jobs` does once the folders' folder is its own."""
    todo = [job for job in jobs.jobs if job.source not in jobs.skipped]
    for n, job in enumerate(todo, 1):
        if jobs.several:
            print_status(f"[{n}/{len(todo)}] {job.source.name} -> {job.target}")
        if code := run_job(jobs, job, prior, opened(job), suffix):
            return code
    return 0


def run_job(jobs: Jobs, job: Job, prior: Prior, opened: Opened, suffix: str = "") -> int:
    """Start, resume or skip one edit, and say what it has left; its exit code."""
    from cpds.callbacks import ProgressBar
    from cpds.session import EditStopped, RunOptions, RunUnwritable, edit_in_folder, outputs

    args, bar = jobs.args, ProgressBar()
    try:
        edit_in_folder(
            opened.representation,
            prior,
            args.prompt + suffix,
            job.target + suffix,
            job.folder,
            args.edit,
            resume=args.resume is not None,
            source=opened.before,
            callbacks=[bar],
            options=RunOptions(args.checkpoint_every, opened.export_every),
            request=jobs.request(job),
        )
    except EditStopped as stop:
        if not stop.finished:
            print_status(f"Stopped after step {stop.step}; go on with: {jobs.again}")
            return stop.exit_code
        code = stop.exit_code
    except RunUnwritable as err:
        raise InputError(f"{err.why}: {err.remedy} and go on with: {jobs.again}") from err
    else:
        code = 0
    if bar.started_at is None:
        print_status(f"{job.folder} is already finished")
        return 0
    for label, file in outputs(opened.representation, job.folder).items():
        print_result(f"{label:>12}: {file}")
    return code
