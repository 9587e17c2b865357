"""Running the edits that were asked for, one after the other, and telling what they leave."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cpds.apps.cli.jobs import Job, Jobs
from cpds.errors import InputError
from cpds.presets import PRESETS
from cpds.stored import CONFIG, PLAN, read_object
from cpds.terminal import print_result, print_status

if TYPE_CHECKING:
    from PIL.Image import Image

    from cpds.priors.base import Prior
    from cpds.representation import Representation


class Opened(NamedTuple):
    """What one edit starts from."""

    representation: Representation[Any]
    before: Image | None = None  # for people; none: the representation's preview
    export_every: int = 0
    changes: Callable[[], str] = str  # what the edit has done, in words, once it has ended; "": there is no more to say


def tell_skipped(skipped: Mapping[Path, str]) -> None:
    """Name every source that could not be edited, and why."""
    for path, reason in skipped.items():
        print_status(f"cpds: skipped: {reason if str(path) in reason else f'{path}: {reason}'}")


def run_jobs(jobs: Jobs, prior: Prior, opened: Callable[[Job], Opened], suffix: str = "") -> int:
    """All edits, one after the other; the first exit code that is not 0. `suffix` ends both prompts."""
    from cpds.guidance_scale import guidance_note
    from cpds.unused import unused_notes

    edit = jobs.args.edit
    for note in (guidance_note(edit.guidance, prior), *unused_notes(edit, PRESETS[jobs.args.preset], prior.guidance)):
        if note:
            print_status(f"cpds: note: {note}")
    if not jobs.several:
        return _each(jobs, prior, opened, suffix)
    from cpds.locks import held
    from cpds.runs import write_atomic

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
        state = edit_in_folder(
            opened.representation,
            prior,
            args.prompt + suffix,
            job.target + suffix,
            job.folder,
            args.edit,
            resume=args.resume is not None,
            source=opened.before,
            callbacks=[bar],
            options=RunOptions(args.checkpoint_every, opened.export_every, profile=args.profile),
            request=jobs.request(job),
        )
    except EditStopped as stop:
        if not stop.finished:
            print_status(f"Stopped after {stop.after}; go on with: {jobs.again}")
            return stop.exit_code
        code = stop.exit_code
    except RunUnwritable as err:
        raise InputError(f"{err.why}: {err.remedy} and go on with: {jobs.again}") from err
    else:
        code = 0
        if state.step < args.edit.num_inference_steps:
            steps, share = args.edit.num_inference_steps, args.edit.stop_below
            if state.settling.reached:
                print_status(f"Ended before the first of {steps} steps: what is followed is reached already")
            else:
                print_status(f"Settled after step {state.step} of {steps} (stop_below {share:g})")
    if bar.started_at is None:
        print_status(f"{job.folder} is already finished")
        return 0
    for label, file in outputs(opened.representation, job.folder).items():
        print_result(f"{label:>12}: {file}")
    if changes := opened.changes():
        print_result(f"{job.source.name} -> {job.target}: {changes}")
    return code
