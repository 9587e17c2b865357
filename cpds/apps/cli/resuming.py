"""Which flags may stand beside --resume: those that leave a run's pixels as they would have been."""

from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import tyro

from cpds.config import require
from cpds.priors.options import PriorOptions
from cpds.stored import PLACES, differences, encode

# what may change when a run is resumed, beside paths and more steps: the rest of the settings decides the pixels. What
# the paths, the prior and its options stand for is compared by its digest once it is loaded.
OF_PRIOR = {"prior", *(f.name for f in fields(PriorOptions))}
FREE = {*OF_PRIOR, "device", "checkpoint_every", "svg_every", "ply_every", "profile", "dry_run"}
POSITIONAL = tyro.conf.Positional[Path]


def free_fields(old: Any, new: Any) -> set[str]:
    """Arguments that may change when a run is resumed: those of FREE, and paths, whose files' digests are compared."""
    paths = {f.name for f in fields(new) if isinstance(getattr(new, f.name) or getattr(old, f.name), Path)}
    return paths | {k for k in FREE if hasattr(new, k)}


def anew(old: Any, new: Any) -> list[str]:
    """The flags among those that may change by which the arguments `new` differ from the run's own."""
    kinds = get_type_hints(type(new), include_extras=True)
    names = sorted(free_fields(old, new) - {*PLACES, "profile", "dry_run"}, key=lambda k: (kinds[k] != POSITIONAL, k))
    return [word for k in names if getattr(new, k) != getattr(old, k) for word in words(k, getattr(new, k), kinds[k])]


def words(name: str, value: Any, kind: Any) -> list[str]:
    """A field of type `kind` as the command line takes it."""
    if kind is bool:
        return [f"--{name}" if value else f"--no-{name}"]
    flag = [] if kind == POSITIONAL else [f"--{name}"]
    return flag + [str(v) for v in (value if isinstance(value, tuple) else (value,))]


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
