"""The folder of a personalization: what it may not replace, what a resumed run may change, and when it is finished."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cpds.errors import InputError
from cpds.personalize.result import CHECKPOINT, LORA, PRIOR
from cpds.personalize.training import SAMPLES
from cpds.priors.adapters import RUN_NAME
from cpds.runs import METRICS, write_atomic
from cpds.stored import CONFIG, PLAN, damaged, differences, read_object

SETTINGS = RUN_NAME
FILES = (SETTINGS, CONFIG, PLAN, CHECKPOINT, METRICS, LORA, PRIOR, SAMPLES)  # a run's own, or another command's
LONGER = ("steps", "checkpoint_every", "sample_every")  # settings that a resumed run may change
FINISHED = "finished"  # beside the settings: the steps of the result that is there


def require_place(out: Path, *, resume: bool) -> None:
    """InputError where a new run would replace something, or where there is none to resume."""
    if resume and not (out / SETTINGS).is_file():
        raise InputError(f"there is no run to resume in {out}: check the path, or start a run anew")
    for name in () if resume else FILES:
        if os.path.lexists(out / name):
            raise InputError(f"{out} already holds {name}: resume what is there, or choose another folder")


def claim(out: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
    """Note the run's settings, unless it is finished. InputError for a resumed run with others, or fewer steps."""
    if resume:
        require_same(out, settings)
        if is_finished(out, settings["steps"]):
            return
    try:
        _write(out, settings)
    except OSError as err:
        raise InputError(f"output folder {out} cannot be written ({err.strerror}): choose another") from err


def require_same(out: Path, settings: Mapping[str, Any]) -> None:
    """InputError unless the run in `out` may go on with these settings."""
    before = read_object(out / SETTINGS)
    may_differ = (*LONGER, FINISHED)
    old, new = ({k: v for k, v in each.items() if k not in may_differ} for each in (before, settings))
    if changed := differences(old, new):
        raise InputError(f"cannot resume {out} with changed settings ({'; '.join(changed)}): use the old ones")
    steps = before.get("steps")
    if type(steps) is not int:
        raise damaged(out / SETTINGS, "it does not say how many steps there are")
    if settings["steps"] < steps:
        raise InputError(
            f"cannot resume {out}: steps was {steps}, is now {settings['steps']}: a run can be made longer, not shorter"
        )


def is_finished(out: Path, steps: int) -> bool:
    """Whether the result of so many steps is there."""
    whole = any(os.path.lexists(out / name) for name in (LORA, PRIOR))
    return whole and read_object(out / SETTINGS).get(FINISHED) == steps


def finish(out: Path) -> None:
    """Note that the result is whole."""
    settings = read_object(out / SETTINGS)
    _write(out, {**settings, FINISHED: settings["steps"]})


def _write(out: Path, settings: Mapping[str, Any]) -> None:
    write_atomic(out / SETTINGS, json.dumps(settings, indent=2).encode())
