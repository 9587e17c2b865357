"""`cpds presets`, and which preset a command line starts from."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import tyro

from cpds.config import EditConfig, GuidanceConfig
from cpds.errors import InputError
from cpds.evaluation.settings import BASELINES, EvaluatedEdit, evaluated, starting_edit
from cpds.presets import NOTES, PRESETS, PRESETS_FOR
from cpds.terminal import print_result


@dataclass(frozen=True)
class PresetsArgs:
    """List the presets with their settings."""


def run_presets() -> int:
    """Print every preset, one line each, with what differs from the plain defaults."""
    for name, preset in PRESETS.items():
        shown = {f.name: getattr(preset.guidance, f.name) for f in fields(GuidanceConfig)}
        shown["guidance_scale"], shown["source_guidance_scale"] = shown.pop("default_guidance")
        shown["guidance_schedule"] = shown.pop("default_schedule")
        shown |= {f.name: getattr(preset, f.name) for f in fields(EditConfig) if f.name != "guidance"}
        plain = {f.name: f.default for f in [*fields(GuidanceConfig), *fields(EditConfig)]}
        plain["guidance_schedule"] = plain["default_schedule"]
        own = " ".join(f"{k}={v}" for k, v in shown.items() if k == "method" or (v and v != plain.get(k)))
        print_result(f"{name:>15}: {own}" + (f"  # {NOTES[name]}" if name in NOTES else ""))
    return 0


@dataclass(frozen=True)
class Beginning:
    """What decides the defaults of a command's other arguments."""

    preset: str | None = None
    method: str = "cpds"
    resume: Path | None = None
    help: bool = False

    @classmethod
    def of(cls, argv: Sequence[str]) -> "Beginning":
        """From a command's arguments, among which all others are passed over. What is wrong is left to their parser."""
        try:
            found, rest = tyro.cli(
                cls, args=list(argv), return_unknown_args=True, add_help=False, console_outputs=False
            )
        except SystemExit:
            return cls()
        return cls(found.preset, found.method, found.resume, bool({"-h", "--help"} & set(rest)) or found.help)


def chosen_preset(command: str, beginning: Beginning) -> str:
    """The preset to start from: the one that is named, else the first one of the method.

    InputError for a preset of another command.
    """
    offered, name = offered_to(command), beginning.preset
    if name is None:
        fitting = [p for p in offered if p in PRESETS and PRESETS[p].guidance.method == beginning.method]
        return (fitting or offered)[0]
    for kind, names in PRESETS_FOR.items():
        if name in names and name not in offered:
            raise InputError(f"preset {name!r} is for {kind}, not for {command}: take one of {', '.join(offered)}")
    return name if name in offered else offered[0]  # tyro will say what is wrong with an unknown one


def offered_to(command: str) -> tuple[str, ...]:
    """The presets of a command; `cpds eval` has the baselines too."""
    return (*PRESETS_FOR["image"], *BASELINES) if command == "eval" else PRESETS_FOR.get(command, PRESETS_FOR["image"])


def first_edit(command: str, preset: str) -> EditConfig:
    """The settings that a command's flags change."""
    return evaluated(starting_edit(preset)) if command == "eval" else PRESETS[preset]


def edit_as_typed(argv: Sequence[str], start: EvaluatedEdit) -> EvaluatedEdit:
    """`start` with what the arguments of `cpds eval`, which its parser has taken, change of it."""
    kind = tyro.conf.OmitArgPrefixes[EvaluatedEdit]
    return tyro.cli(
        kind, args=list(argv), default=start, return_unknown_args=True, add_help=False, console_outputs=False
    )[0]
