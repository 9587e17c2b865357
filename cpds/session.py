"""An edit in a run folder: checkpoints, resuming and outputs, from Python as from the command line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from cpds.callbacks import Checkpoints, Exports, ImageOutputs, MetricsLog, StopBetweenSteps
from cpds.config import EditConfig, require
from cpds.editor import OwnParts, own_preset, run, settled_edit, start
from cpds.errors import EditDiverged, InputError
from cpds.images import to_pil
from cpds.locks import held
from cpds.parts import name_of, require_kind
from cpds.polish import polish
from cpds.priors.base import Prior
from cpds.profiling import profiled
from cpds.representation import Exportable, Representation
from cpds.run_key import RunKey, environment
from cpds.runs import CHECKPOINT, COMPARISON, EXPORT, FORMATS, GIF, PROFILE, RESULT, RunFolder, remedy
from cpds.state import Callback, EditState


class EditStopped(KeyboardInterrupt):
    """An edit ended by Ctrl-C, SIGTERM or RunOptions.stop; its folder holds all that resuming needs, or is `finished`.

    `exit_code` is a shell's: 130 for Ctrl-C, 143 for SIGTERM. `after` says after which step, in words.
    """

    def __init__(
        self, step: int, exit_code: int, folder: Path, *, after: str | None = None, finished: bool = False
    ) -> None:
        self.after = after or f"step {step}"
        remedy = "the run is finished" if finished else f"resume the run in {folder}"
        super().__init__(f"stopped after {self.after}: {remedy}")
        self.step, self.exit_code, self.finished = step, exit_code, finished


class RunUnwritable(InputError):
    """A file of a run could not be written: `why`, and a `remedy` after which the run can be resumed."""

    def __init__(self, why: str, remedy: str, folder: Path) -> None:
        super().__init__(f"{why}: {remedy} and resume the run in {folder}")
        self.why, self.remedy = why, remedy


@dataclass(frozen=True)
class RunOptions:
    """How a run folder is kept; none of this changes a result."""

    checkpoint_every: int = 10
    """Steps between two checkpoints: at most so many are lost when the run is killed."""
    export_every: int = 0
    """Steps between two exports of a representation that has a file format of its own; 0: only at the end."""
    frames: int = 24
    """About so many images of the trajectory are kept."""
    profile: bool = False
    """Whether profile.txt is written, which says how long each part took; a GPU is waited for at each."""
    stop: Callable[[], bool] | None = None
    """Asked after each step whether the edit shall end there, as by Ctrl-C, which a program's threads do not hear."""

    def __post_init__(self) -> None:
        require(self.checkpoint_every >= 1, f"checkpoint_every must be >= 1, got {self.checkpoint_every}")
        require(self.export_every >= 0, f"export_every must be >= 0, got {self.export_every}")
        require(self.frames >= 1, f"frames must be >= 1, got {self.frames}")


def edit_in_folder(
    representation: Representation[Any],
    prior: Prior,
    prompt: str,
    target_prompt: str,
    folder: str | Path,
    config: EditConfig | None = None,
    *,
    resume: bool = False,
    source: Image | None = None,
    callbacks: Sequence[Callback] = (),
    parts: OwnParts | None = None,
    options: RunOptions | None = None,
    request: Mapping[str, Any] | None = None,
) -> EditState:
    """`cpds.edit` of one thing, with everything that it leaves behind in `folder`.

    With `resume` a run that is there goes on from its last checkpoint, to the pixels that it would have had; it may be
    asked for more steps than before, in all else it must be the same. A finished one is loaded. Without, the folder
    must be free. `source` is shown as what the edit began from, by default the representation's preview. `request` is
    what a command line wants to find again in config.json.

    Raises InputError for folders, settings and checkpoints that cannot be used, for an edit that diverges and for files
    that cannot be written; EditStopped, when all is saved, after Ctrl-C or SIGTERM, or where options.stop says so.
    """
    require_kind(representation, Representation, "representation")
    require_kind(prior, Prior, "prior")
    config = settled_edit(config or own_preset(representation), prior)
    parts, options = parts or OwnParts(), options or RunOptions()
    own_format = require_suffix(representation)
    shown = source or to_pil(representation.preview())
    key = RunKey(prompt, target_prompt, prior.fingerprint, representation.fingerprint(), config, own_names(parts))
    place = RunFolder(Path(folder), {*FORMATS, *own_format})
    with held(place.path), _profiled(place, prior, options):
        if fresh := not (resume and place.exists):
            state = start(representation, prior, prompt, target_prompt, config, parts)
            place.create(key, request or {}, environment(prior.device))
        else:
            state = _continued(place, representation, prior, key, parts)
            if place.finished_steps == state.config.num_inference_steps:
                polish(state)  # checkpoints hold what the last step left
                return state
        callbacks = [*callbacks, *_outputs(place, representation, shown, options)]
        return _run(place, state, callbacks, options, fresh)


@contextmanager
def _profiled(place: RunFolder, prior: Prior, options: RunOptions) -> Iterator[None]:
    """Leave a profile of what runs in it, if one is asked for and a run is there."""
    if not options.profile:
        yield
        return
    on_cuda = prior.device.type == "cuda"
    profile = None
    try:
        with profiled((lambda: torch.cuda.synchronize(prior.device)) if on_cuda else lambda: None) as profile:
            yield
    finally:
        if profile is not None and place.exists:
            with suppress(OSError):  # what stopped the run, if that did, is told of already
                place.write(PROFILE, profile.table().encode())


def own_names(parts: OwnParts) -> dict[str, str]:
    """What a run remembers of parts from outside."""
    found = {}
    if (own := parts.objective) is not None:
        facts: dict[str, Any] = {k: v for k, v in vars(own).items() if k not in ("direction", "branches", "guides")}
        facts["coupling"] = name_of(own.coupling) if callable(own.coupling) else own.coupling
        facts["offsets"] = own.offsets if any(own.offsets) else ()
        found["objective"] = " ".join([name_of(own.direction), *(f"{k}={v}" for k, v in facts.items() if v)])
    if parts.selectors:
        found["selectors"] = ", ".join(map(name_of, parts.selectors))
    if parts.optimizer is not None:
        found["optimizer"] = name_of(parts.optimizer)
    return found


def require_suffix(representation: Representation[Any]) -> list[str]:
    """That of a representation's own format, if it has one. InputError if it would write over a file of the run."""
    if not isinstance(representation, Exportable):
        return []
    suffix, taken = representation.suffix, {name.rpartition(".")[2] for name in (RESULT, GIF)}
    require(
        bool(re.fullmatch("[A-Za-z0-9]+", suffix)) and suffix.lower() not in taken,
        f"suffix must be letters and digits, without a dot, and not {' or '.join(sorted(taken))}, got {suffix!r}",
    )
    return [suffix]


def outputs(representation: Representation[Any], folder: Path) -> dict[str, Path]:
    """The files that a finished edit leaves in its folder, for people, by what they are."""
    made = {"result": RESULT, "comparison": COMPARISON, "trajectory": GIF}
    if isinstance(representation, Exportable):
        made[representation.suffix] = f"{EXPORT}.{representation.suffix}"
    return {label: folder / name for label, name in made.items()}


def _outputs(
    place: RunFolder, representation: Representation[Any], shown: Image, options: RunOptions
) -> list[Callback]:
    """What writes the files; the result image, by which a run counts as finished, comes last."""
    exports = [Exports(place, representation, options.export_every)] if isinstance(representation, Exportable) else []
    return [*exports, ImageOutputs(place, shown, options.frames)]


def _run(
    place: RunFolder, state: EditState, callbacks: Sequence[Callback], options: RunOptions, fresh: bool
) -> EditState:
    """Run to the end what is in its place; `fresh`: it was begun just now."""
    checkpoints, stopper = Checkpoints(place, options.checkpoint_every), StopBetweenSteps(options.stop)
    try:
        try:
            run(state, [MetricsLog(place), *callbacks, checkpoints, stopper])
            place.finish()
        except KeyboardInterrupt as err:
            if stopper.stopped:  # between two steps: the state is whole
                checkpoints.save(state)
            code, after = stopper.exit_code or 130, _last_step(state, *(part.step for part in reversed(state.parts)))
            raise EditStopped(state.step, code, place.path, after=after) from err
    except EditDiverged as err:
        saved = place.load_checkpoint() or {}  # the selector has seen the bad step
        kept = _last_step(state, *(int(saved.get(name, 0)) for name in ("step", "lead.step")))
        raise InputError(f"{err}; the state after {kept} is kept in {place.path}") from err
    except OSError as err:
        why = f"{err.filename or place.path} cannot be written ({err.strerror or err})"
        raise RunUnwritable(why, remedy(err), place.path) from err
    except Exception:  # a setting that only the first step could refuse, or too little memory
        if fresh and not any(part.step for part in state.parts):
            place.forget()
        raise
    finally:
        _closed(callbacks)
        stopper.restore()
    if stopper.asked:  # while the last files were written
        raise EditStopped(state.step, stopper.exit_code, place.path, finished=True)
    return state


def _last_step(state: EditState, step: int, led: int = 0) -> str:
    """The last of `step` steps of an edit, or of `led` steps of the image that it follows, in words."""
    if state.lead is None or not led or step:
        return f"step {step}"
    return f"step {led} of {state.lead.config.num_inference_steps} of the image that is followed"


def _closed(callbacks: Sequence[Callback]) -> None:
    """Let those that hold something (a progress bar) let go of it."""
    for callback in callbacks:
        close: Callable[[], None] | None = getattr(callback, "close", None)
        if close is not None:
            close()


def _continued(
    place: RunFolder, representation: Representation[Any], prior: Prior, key: RunKey, parts: OwnParts
) -> EditState:
    """A run where its checkpoint ended.

    A longer run than before goes on from there as one that was meant to be so long from the beginning: its timesteps
    and its learning rate are the longer run's at that step.
    """
    key = place.check(key, environment(prior.device))
    state = start(representation, prior, key.prompt, key.target_prompt, key.edit, parts)
    if saved := place.load_checkpoint():
        try:
            state.load(saved)
        except (KeyError, ValueError, TypeError, RuntimeError, IndexError) as err:
            raise InputError(
                f"{place.path / CHECKPOINT} is damaged, or of another run ({err}): start the run anew elsewhere"
            ) from err
    place.extend(key.edit.num_inference_steps, state.step)
    return state
