"""What a visitor has filled in, as the arguments that the command line would have."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cpds.apps.batch.columns import columns, value_of
from cpds.apps.batch.rows import Row, arguments
from cpds.apps.web.limits import Limits
from cpds.config import EditConfig, Method, SelectorName, require
from cpds.errors import InputError
from cpds.stored import encode

CHOSEN = {"method": Method.__args__, "patch_selector": SelectorName.__args__}  # no part of one's own: it would be run
OFFERED = ("edit", "scene", "views")  # arguments whose settings a page may set, beside these
ALSO = ("preset", "resolution", "keep_unchanged")
POLISH = 0.75  # the most that strength makes of it, where it was less: from more on, shapes are others'


def row_of(
    command: str,
    source: Path,
    prompts: tuple[str, str],
    settings: Mapping[str, Any],
    files: Mapping[str, Path],
    limits: Limits,
    strength: float = 1.0,
) -> Row:
    """An edit. `settings` are flags of its command by name, None and "" for those that are not set; `files` the
    arguments that are paths. InputError, in words for a visitor, for what cannot be."""
    given = {name: value for name, value in settings.items() if value not in (None, "", [])}
    values = {known(command, name): setting(command, name, value) for name, value in given.items()}
    values |= {(name,): path for name, path in files.items()}
    named = {"prompt": prompts[0], "target_prompt": prompts[1]}
    args = arguments(command, source, named, values)
    limits.check_edit(args, resolution_of(args))
    args = replace(args, edit=strengthened(args.edit, strength, own_rates(command)))
    return Row(1, "web", command, args, "web")


def known(command: str, name: str) -> tuple[str, ...]:
    """Where a setting stands among the command's arguments. InputError for those that a page does not set."""
    column = columns(command).get(name)
    if column is None or (column.path[0] not in OFFERED and name not in ALSO):
        raise InputError(f"{name!r} is no setting of an edit: cpds {command} --help lists them")
    return column.path


def setting(command: str, name: str, value: Any) -> Any:
    """A setting's value. InputError for one that cannot be."""
    if name in CHOSEN:
        require(value in CHOSEN[name], f"{name} must be one of {', '.join(CHOSEN[name])}, got {value!r}")
    return value_of(columns(command)[name].kind, value, name)


def lines_of(text: str) -> dict[str, str]:
    """Settings as they are typed into one field: a line each, its name and its value."""
    found = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, value = line.removeprefix("--").replace("=", " ", 1).partition(" ")
        name = name.replace("-", "_")
        require(bool(value.strip()), f"{name!r} has no value: write a setting and its value on each line")
        require(name not in found, f"{name} is there twice")
        found[name] = value.strip()
    return found


def strengthened(edit: EditConfig, factor: float, own_rates: Mapping[str, float]) -> EditConfig:
    """An edit that goes farther, or less far, than its settings say.

    The learning rates, on which it depends how far the edit goes, and the polish, which redraws what has changed, are
    multiplied. What follows an edited image goes as far as that edit: its learning rate alone is multiplied then.
    Where timesteps descend the learning rate is the sampler's own step, so that guidance is multiplied instead, unless
    the method takes none.
    `own_rates` are those of parameter groups where the settings name none.
    """
    require(0 < factor <= 10, f"strength must be above 0 and at most 10, got {factor}")
    if factor == 1:
        return edit
    from cpds.objectives.table import OBJECTIVES

    if edit.guidance.timesteps == "descending" and OBJECTIVES[edit.guidance.method].guides:
        guidance, (target, source) = edit.guidance, edit.guidance.default_guidance
        given = guidance.guidance_scale and factor * guidance.guidance_scale
        return replace(
            edit, guidance=replace(guidance, guidance_scale=given, default_guidance=(factor * target, source))
        )
    if edit.redraw_steps:
        return replace(edit, redraw_lr=factor * edit.redraw_lr)
    rates = {**(own_rates if edit.lr is None else {}), **edit.group_lrs}
    return replace(
        edit,
        lr=edit.lr and factor * edit.lr,
        group_lrs={name: factor * rate for name, rate in rates.items()},
        polish=min(max(POLISH, edit.polish), factor * edit.polish),
    )


def own_rates(command: str) -> dict[str, float]:
    """The learning rates that parameter groups have where nothing is said."""
    if command == "image":
        from representations.latent import LR

        return {"latent": LR}
    if command == "svg":
        from svg.config import GROUPS
        from svg.image import LR, LRS

        return {group: LRS.get(group, LR) for group in GROUPS}
    from representations.splats.scene import LEARNING_RATES

    return {str(group): rate for group, rate in LEARNING_RATES.items()}


def resolution_of(args: Any) -> int | None:
    """The shorter side while editing that was asked for."""
    return next(x.resolution for name in (*OFFERED, "") if hasattr(x := getattr(args, name, args), "resolution"))


def settings_of(row: Row) -> dict[str, Any]:
    """Prompts and settings of an edit, for people: nothing about this machine."""
    shown = ("prompt", "target_prompt", *ALSO, *OFFERED)
    return {"command": row.command, **{k: encode(v) for k, v in vars(row.args).items() if k in shown and k != "scene"}}
