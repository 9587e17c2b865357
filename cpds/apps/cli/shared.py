"""What commands that edit share: where their runs go, and starting, resuming and stopping one."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from cpds.config import require
from cpds.errors import InputError
from cpds.presets import PRESETS_FOR
from cpds.stored import CONFIG, PLACES, PLAN, Stored, differences, encode, read_object, request, stored
from cpds.terminal import print_result, print_status

if TYPE_CHECKING:
    from PIL.Image import Image

    from cpds.callbacks import Callback, Exports
    from cpds.editor import EditState
    from cpds.priors.base import Prior
    from cpds.representation import Representation
    from cpds.runs import RunFolder, RunKey

BIGGER = "stable-diffusion-v1-5/stable-diffusion-v1-5"
EMBEDDED_NOTE = (
    "Using the embedded prior, which knows some 280 emoji-like things (cats, fruit, hearts, ...) on plain backgrounds; "
    f"for photos name a bigger one: --prior {BIGGER}"
)

ImagePreset = Literal[PRESETS_FOR["image"]]
SvgPreset = Literal[PRESETS_FOR["svg"]]
SplatPreset = Literal[PRESETS_FOR["splats"]]

# what may change when a run is resumed, beside paths and more steps: the rest of the settings decides the pixels. What
# the paths, the prior and the precision stand for is compared by its digest once it is loaded.
FREE = {"prior", "device", "torch_dtype", "checkpoint_every", "svg_every", "ply_every", "dry_run"}


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


class Asked(NamedTuple):
    """A command's edits."""

    command: str
    args: Any
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
        return request(self.command, replace(self.args, **{self.source: job.source, "trg_prompt": (job.target,)}))

    def plan(self) -> dict[str, Any]:
        """The command of all."""
        given = getattr(self.args, self.source)
        names = ("" if job.source == given else job.source.name for job in self.jobs)
        edits = [(name, job.target, job.folder.name) for name, job in zip(names, self.jobs, strict=True)]
        return request(self.command, self.args, edits)


def require_request(args: Any, what: str) -> None:
    """InputError for an empty prompt or an impossible interval; `what` is what is edited."""
    require(bool(args.prompt.strip()), f"the prompt is empty: say in words what the {what} shows")
    require(bool(args.trg_prompt), f"there is no target prompt: say what the {what} should become")
    require(all(t.strip() for t in args.trg_prompt), f"a target prompt is empty: say what the {what} should become")
    require(args.checkpoint_every >= 1, f"checkpoint_every must be >= 1, got {args.checkpoint_every}")


def asked(command: str, args: Any, source: str, find: Callable[[Path], Sequence[Path]]) -> Asked:
    """The edits that the arguments ask for: new ones in free places, or those to resume that are not finished.

    The argument called `source` says what is edited, and `find` which files that are.
    """
    given = getattr(args, source)
    if args.resume is not None:
        before = stored(args.resume, command, type(args))
        require_same(before.args, args)
        return Asked(command, args, source, unfinished(before, args, given), args.resume, anew(before.args, args))
    jobs = destinations(given, find(given), args.trg_prompt, args.save_path)
    root = jobs[0].folder if len(jobs) == 1 else jobs[0].folder.parent
    require_places(jobs, root)
    return Asked(command, args, source, jobs, root)


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


def unfinished(before: Stored, args: Any, given: Path) -> list[Job]:
    """The edits in args.resume that are not finished, where `before` is what it was begun with."""
    from cpds.runs import RunFolder, held

    edits = before.edits or (("", args.trg_prompt[0], ""),)
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


class Opened(NamedTuple):
    """What one edit starts from."""

    representation: Representation[Any]
    before: Image  # for people
    exports: Sequence[Exports] = ()


def tell_skipped(skipped: Mapping[Path, str]) -> None:
    """Name every source that could not be edited, and why."""
    for path, reason in skipped.items():
        print_status(f"cpds: skipped: {reason if str(path) in reason else f'{path}: {reason}'}")


def run_jobs(edits: Asked, prior: Prior, opened: Callable[[Job], Opened], suffix: str = "") -> int:
    """All edits, one after the other; the first exit code that is not 0. `suffix` ends both prompts."""
    if not edits.several:
        return each(edits, prior, opened, suffix)
    from cpds.runs import held, write_atomic

    plan = edits.root / PLAN
    with held(edits.root, PLAN):
        try:
            old = read_object(plan) if os.path.lexists(plan) else edits.plan()
            old["edit"]["num_inference_steps"] = edits.args.edit.num_inference_steps
            write_atomic(plan, json.dumps(old, indent=2).encode())
            return each(edits, prior, opened, suffix)
        except KeyboardInterrupt:  # between two edits
            print_status(f"Stopped; go on with: {edits.again}")
            return 130
        except OSError as err:
            raise InputError(f"{edits.root} cannot be written ({err.strerror}): choose another") from err
        finally:
            if not any(os.path.lexists(job.folder / CONFIG) for job in edits.jobs) and edits.args.resume is None:
                plan.unlink(missing_ok=True)  # the first edit was refused: nothing was begun


def each(edits: Asked, prior: Prior, opened: Callable[[Job], Opened], suffix: str) -> int:
    """What `run_jobs` does once the folders' folder is its own."""
    from cpds.runs import RunKey

    args = edits.args
    jobs = [job for job in edits.jobs if job.source not in edits.skipped]
    for n, job in enumerate(jobs, 1):
        if edits.several:
            print_status(f"[{n}/{len(jobs)}] {job.source.name} -> {job.target}")
        thing, before, exports = opened(job)
        prompts = (args.prompt + suffix, job.target + suffix)
        identity = RunKey(*prompts, prior.fingerprint, thing.fingerprint(), args.edit)  # pyright: ignore[reportAttributeAccessIssue]
        code = one_edit(
            thing,
            prior,
            identity,
            job.folder,
            before,
            resume=args.resume is not None,
            again=edits.again,
            request=edits.request(job),
            checkpoint_every=args.checkpoint_every,
            extra=exports,
        )
        if code != 0:
            return code
    return 0


def one_edit(
    representation: Representation[Any],
    prior: Prior,
    identity: RunKey,
    folder: Path,
    before: Image,
    *,
    resume: bool,
    again: str,
    request: Mapping[str, Any],
    checkpoint_every: int = 10,
    extra: Sequence[Callback] = (),
) -> int:
    """Start, resume or skip the run in `folder`; its exit code.

    `before` is the source for people, `again` the command that goes on with the run and `request` the one that began
    it. The callbacks in `extra` come before the one that writes the result picture: what they write at the end is
    whole when the run counts as finished.
    """
    from cpds.callbacks import Checkpoints, Exports, MetricsLog, Pictures, ProgressBar, StopBetweenSteps
    from cpds.editor import EditDiverged, run
    from cpds.runs import EXPORT, GIF, RESULT, STRIP, RunFolder, held, remedy

    place = RunFolder(folder)
    with held(folder):
        resumed = resume and place.exists
        if resumed:
            state = continued(place, representation, prior, identity)
        else:
            state = begun(place, representation, prior, identity, request)
        if state is None:
            return 0
        bar, checkpoints, stopper = ProgressBar(), Checkpoints(place, checkpoint_every), StopBetweenSteps()
        callbacks: list[Callback] = [MetricsLog(place), bar, *extra, Pictures(place, before), checkpoints, stopper]
        try:
            try:
                run(state, callbacks)
                place.finish()
            except KeyboardInterrupt:
                bar.close()
                if stopper.stopped:  # between two steps: the state is whole
                    checkpoints.save(state)
                print_status(f"Stopped after step {state.step}; go on with: {again}")
                return stopper.exit_code or 130
        except EditDiverged as err:
            bar.close()
            kept = int((place.load_checkpoint() or {"step": 0})["step"])  # the selector has seen the bad step
            raise InputError(f"{err}; the state after step {kept} is kept in {folder}") from err
        except OSError as err:
            bar.close()
            why = f"{err.filename or folder} cannot be written ({err.strerror or err})"
            raise InputError(f"{why}: {remedy(err)} and go on with: {again}") from err
        except Exception:  # a setting that only the first step could refuse, or too little memory
            bar.close()
            if state.step == 0 and not resumed:
                place.forget()
            raise
        finally:
            stopper.restore()
    made = {"result": RESULT, "before/after": STRIP, "trajectory": GIF}
    made |= {one.suffix: f"{EXPORT}.{one.suffix}" for one in extra if isinstance(one, Exports)}
    for label, name in made.items():
        print_result(f"{label:>12}: {folder / name}")
    return stopper.exit_code  # of a signal while the last pictures were written


def begun(
    place: RunFolder,
    representation: Representation[Any],
    prior: Prior,
    identity: RunKey,
    request: Mapping[str, Any],
) -> EditState:
    """A new run, whose place is claimed once its settings are known to be usable."""
    from cpds.editor import start
    from cpds.runs import environment

    state = start(representation, prior, identity.prompt, identity.target_prompt, identity.edit)
    place.create(identity, request, environment(prior.device))
    return state


def continued(
    place: RunFolder, representation: Representation[Any], prior: Prior, identity: RunKey
) -> EditState | None:
    """A run where its checkpoint ended; None if nothing is left to do.

    A longer run than before goes on from there as one that was meant to be so long from the beginning: its timesteps
    and its learning rate are the longer run's at that step.
    """
    from cpds.editor import start
    from cpds.runs import CHECKPOINT, environment

    identity = place.check(identity, environment(prior.device))
    if place.finished_steps == identity.edit.num_inference_steps:
        print_status(f"{place.path} is already finished")
        return None
    state = start(representation, prior, identity.prompt, identity.target_prompt, identity.edit)
    if saved := place.load_checkpoint():
        try:
            state.load(saved)
        except (KeyError, ValueError, TypeError, RuntimeError, IndexError) as err:
            raise InputError(
                f"{place.path / CHECKPOINT} is damaged, or of another run ({err}): start the run anew elsewhere"
            ) from err
    place.extend(identity.edit.num_inference_steps, state.step)
    return state
