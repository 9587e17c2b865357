"""A row's settings as its command's arguments, and what of them that command would refuse only while it edits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from cpds.apps.batch.columns import COMMANDS, overridden
from cpds.apps.cli.presets import Beginning, chosen_preset, first_edit
from cpds.config import EditConfig, is_import_path, require
from cpds.errors import InputError
from cpds.parts import imported
from representations.splats.config import GroupName as SplatGroup
from svg.config import GroupName as SvgGroup

GROUPS = {"image": ("latent",), "svg": get_args(SvgGroup), "splats": get_args(SplatGroup)}  # of parameters


def arguments(command: str, source: Path, named: Mapping[str, Any], values: Mapping[tuple[str, ...], Any]) -> Any:
    """The command's arguments. InputError for settings that cannot be."""
    kind, origin, what = COMMANDS[command]
    method = values.get(("edit", "guidance", "method"), Beginning.method)
    preset = chosen_preset(command, Beginning(values.get(("preset",)), method))
    needed = {origin: source, "prompt": named["prompt"], "target_prompt": (named["target_prompt"],)}
    top = {path[0]: value for path, value in values.items() if len(path) == 1} | {"preset": preset}
    if command == "splats":
        require("cameras" in top, "cameras must name the scene's cameras: see cpds splats --help")
    args = kind(**needed, **top, edit=first_edit(command, preset))
    args = overridden(args, {path: value for path, value in values.items() if len(path) > 1})
    args.check(what)
    check_edit(args.edit, command)
    return args


def check_edit(edit: EditConfig, command: str) -> None:
    """InputError for settings that what is edited has not, or for parts that cannot be imported."""
    what = COMMANDS[command].what
    require(edit.redraw_steps == 0 or command == "svg", f"redraw_steps is for drawings, not for {what}s: leave it out")
    require(edit.polish == 0 or command == "image", f"polish is for images, not for {what}s: leave it out")
    if unknown := sorted(set(edit.group_lrs) - set(GROUPS[command])):
        names = ", ".join(GROUPS[command])
        raise InputError(f"group_lrs names {', '.join(unknown)}, but {what}s have {names}: leave the others out")
    if is_import_path(edit.guidance.method):
        from cpds.objectives.base import Objective

        imported(edit.guidance.method, "method", Objective)
    if is_import_path(edit.guidance.patch_selector):
        imported(edit.guidance.patch_selector, "patch_selector")
