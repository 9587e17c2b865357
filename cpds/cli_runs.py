"""What commands that edit share: where their runs go, and starting, resuming and stopping one."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from cpds.config import require
from cpds.errors import InputError
from cpds.presets import PRESETS

if TYPE_CHECKING:
    from PIL.Image import Image

    from cpds.callbacks import Callback, Exports
    from cpds.prior import Prior
    from cpds.representation import Representation
    from cpds.runs import Identity

BIGGER = "stable-diffusion-v1-5/stable-diffusion-v1-5"
EMBEDDED_NOTE = (
    "Using the embedded prior, which knows some 280 emoji-like things (cats, fruit, hearts, ...) on plain backgrounds; "
    f"for photos name a bigger one: --prior {BIGGER}"
)

PresetName = Literal[tuple(PRESETS)]


class Job(NamedTuple):
    """One edit that was asked for."""

    source: Path  # the file that is edited
    target: str  # prompt
    folder: Path  # run folder


def slug(text: str) -> str:
    """A prompt as a folder name."""
    return re.sub(r"[^\w]+", "-", text.lower()).strip("-")[:60] or "edit"


def fresh_folder(stem: str) -> Path:
    """runs/<stem>, or runs/<stem>-2 … if that is taken."""
    candidates = (Path("runs") / (stem if i == 1 else f"{stem}-{i}") for i in range(1, 100_000))
    return next(p for p in candidates if not p.exists())


def folder_name(picture: Path, target: str) -> str:
    """<picture>-<prompt>, short enough for every file system."""
    return "-".join(part.encode()[:120].decode(errors="ignore") for part in (picture.stem, slug(target)))


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


def require_request(args: Any, what: str) -> None:
    """InputError for an empty prompt, or a run to resume without a name; `what` is what is edited."""
    require(bool(args.prompt.strip()), f"the prompt is empty: say in words what the {what} shows")
    require(bool(args.trg_prompt), f"there is no target prompt: say what the {what} should become")
    require(all(t.strip() for t in args.trg_prompt), f"a target prompt is empty: say what the {what} should become")
    require(args.save_path is not None or not args.resume, "--resume needs --save_path: name the run to go on with")


def require_places(jobs: Sequence[Job], resume: bool) -> None:
    """InputError unless every folder is free or, with `resume`, holds a run; a sole job has one to resume."""
    from cpds.runs import RunFolder

    for job in jobs:
        if not (resume and RunFolder(job.folder).exists):
            RunFolder(job.folder).require_free()
            require(len(jobs) > 1 or not resume, f"there is no run to resume in {job.folder}: check --save_path")


class Opened(NamedTuple):
    """What one edit starts from."""

    representation: Representation[Any]
    before: Image  # for people
    exports: Sequence[Exports] = ()


def run_jobs(
    args: Any,
    jobs: Sequence[Job],
    prior: Prior,
    opened: Callable[[Job], Opened],
    suffix: str = "",
    many: bool | None = None,
) -> int:
    """All edits, one after the other; the first exit code that is not 0. `suffix` ends both prompts.

    `many`: whether more than one was asked for, where some are left out of `jobs`.
    """
    from cpds.runs import Identity
    from cpds.threads import choose_threads

    choose_threads(prior)
    many = len(jobs) > 1 if many is None else many
    again = f"--resume --save_path {jobs[0].folder.parent if many else jobs[0].folder}"
    for n, job in enumerate(jobs, 1):
        if len(jobs) > 1:
            print(f"[{n}/{len(jobs)}] {job.source.name} -> {job.target}", file=sys.stderr)
        thing, before, exports = opened(job)
        prompts = (args.prompt + suffix, job.target + suffix)
        identity = Identity(*prompts, prior.identity, thing.source_id(), args.edit)  # pyright: ignore[reportAttributeAccessIssue]
        code = one_edit(thing, prior, identity, job.folder, before, resume=args.resume, again=again, extra=exports)
        if code != 0:
            return code
    return 0


def one_edit(
    representation: Representation[Any],
    prior: Prior,
    identity: Identity,
    folder: Path,
    before: Image,
    *,
    resume: bool,
    again: str,
    extra: Sequence[Callback] = (),
) -> int:
    """Start, resume or skip the run in `folder`; its exit code.

    `before` is the source for people, `again` the flags to go on with the run. The callbacks in `extra` come before
    the one that writes the result picture: what they write at the end is whole when the run counts as finished.
    """
    from cpds.callbacks import Checkpoints, Exports, MetricsLog, Pictures, ProgressBar, StopBetweenSteps
    from cpds.editor import EditDiverged, run, start
    from cpds.runs import EXPORT, GIF, RESULT, STRIP, RunFolder

    place = RunFolder(folder)
    state = start(representation, prior, identity.prompt, identity.target_prompt, identity.edit)
    if resume and place.exists:
        place.check(identity)
        if place.finished:
            print(f"{folder} is already finished", file=sys.stderr)
            return 0
        if saved := place.load_checkpoint():
            try:
                state.load(saved)
            except (KeyError, ValueError, RuntimeError) as err:
                raise InputError(f"the checkpoint in {folder} is of another run: start the run anew elsewhere") from err
    else:
        place.create(identity)

    bar, checkpoints = ProgressBar(), Checkpoints(place)
    stopper = StopBetweenSteps()
    callbacks = [bar, MetricsLog(place), *extra, Pictures(place, before), checkpoints, stopper]
    try:
        run(state, callbacks)
    except KeyboardInterrupt:
        bar.close()
        if stopper.stopped:  # between two steps: the state is whole
            checkpoints.save(state)
        print(f"Stopped after step {state.step}; go on with {again}", file=sys.stderr)
        return 130
    except EditDiverged as err:
        bar.close()
        kept = int((place.load_checkpoint() or {"step": 0})["step"])  # the selector has seen the bad step: save no more
        raise InputError(f"{err}; the state after step {kept} is kept in {folder}") from err
    except OSError as err:
        bar.close()
        raise InputError(f"{folder} cannot be written ({err.strerror}): make room and go on with {again}") from err
    finally:
        stopper.restore()
    made = {"result": RESULT, "before/after": STRIP, "trajectory": GIF}
    made |= {one.suffix: f"{EXPORT}.{one.suffix}" for one in extra if isinstance(one, Exports)}
    for label, name in made.items():
        print(f"{label:>12}: {folder / name}")
    return 130 if stopper.asked else 0  # Ctrl-C while the last pictures were written
