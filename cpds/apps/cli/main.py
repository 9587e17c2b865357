"""The command line, `cpds …`. Nothing heavy is imported before a command really runs."""

from __future__ import annotations

import re
import shlex
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import partial
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_type_hints

import tyro

from cpds.apps.cli.eval import EvalArgs, run_eval
from cpds.apps.cli.image import ImageArgs, run_image
from cpds.apps.cli.splats import SplatArgs, run_splats
from cpds.apps.cli.svg import SvgArgs, run_svg
from cpds.config import EditConfig, GuidanceConfig
from cpds.errors import InputError
from cpds.presets import NOTES, PRESETS, PRESETS_FOR
from cpds.stored import stored
from cpds.terminal import print_result, print_status, warn
from cpds.threads import wait_passively


@dataclass(frozen=True)
class PresetsArgs:
    """List the presets with their settings."""


def run_presets() -> int:
    """Print every preset, one line each, with what differs from the plain defaults."""
    for name, preset in PRESETS.items():
        shown = {f.name: getattr(preset.guidance, f.name) for f in fields(GuidanceConfig)}
        shown |= {f.name: getattr(preset, f.name) for f in fields(EditConfig) if f.name != "guidance"}
        plain = {f.name: f.default for f in [*fields(GuidanceConfig), *fields(EditConfig)]}
        own = " ".join(f"{k}={v}" for k, v in shown.items() if k == "method" or (v and v != plain.get(k)))
        print_result(f"{name:>15}: {own}" + (f"  # {NOTES[name]}" if name in NOTES else ""))
    return 0


Run = Callable[[Any, str], int]  # (arguments, the command line as typed) -> exit code
COMMANDS: dict[str, tuple[type, Run]] = {
    "image": (ImageArgs, lambda args, _: run_image(args)),
    "svg": (SvgArgs, lambda args, _: run_svg(args)),
    "splats": (SplatArgs, lambda args, _: run_splats(args)),
    "eval": (EvalArgs, run_eval),
    "presets": (PresetsArgs, lambda _args, _: run_presets()),
}


def flag_values(argv: Sequence[str]) -> dict[str, str]:
    """'--flag value' and '--flag=value' of a command line, as far as that can be told without its parser."""
    found = {}
    for word, after in pairwise([*argv, ""]):
        flag, equals, value = word.partition("=")
        if flag.startswith("--"):
            found[flag] = value if equals else after
    return found


def chosen_preset(argv: Sequence[str]) -> str:
    """The preset to start from: --preset, else the first one of --method, which is cpds by default.

    InputError for a preset of another command.
    """
    command = argv[0] if argv else ""
    offered, given = PRESETS_FOR.get(command, PRESETS_FOR["image"]), flag_values(argv)
    fitting = [p for p in offered if PRESETS[p].guidance.method == given.get("--method", "cpds")]
    name = given.get("--preset") or (fitting or offered)[0]
    for kind, names in PRESETS_FOR.items():
        if name in names and name not in offered:
            raise InputError(f"preset {name!r} is for {kind}, not for {command}: take one of {', '.join(offered)}")
    return name if name in offered else offered[0]  # tyro will say what is wrong with an unknown one


def starting_point(argv: Sequence[str], command: str, args: type) -> dict[str, Any]:
    """A command's defaults: the chosen preset's settings, or with --resume the arguments of the run that goes on."""
    # tyro makes a mess of nested settings that come from a factory: it is given the settings themselves
    made = {f.name: f.default_factory() for f in fields(args) if f.default_factory is not MISSING}
    if argv[:1] != [command]:
        return made
    folder = flag_values(argv).get("--resume")
    if hasattr(args, "resume") and folder and not folder.startswith("--") and not {"-h", "--help"} & set(argv):
        old = stored(Path(folder), command, args).args
        return {f.name: getattr(old, f.name) for f in fields(args)}
    if not hasattr(args, "preset"):
        return made
    name = chosen_preset(argv)
    return made | {"preset": name, "edit": PRESETS[name]}


def unboxed(box: str) -> str:
    """One line from tyro's error box: without frame, title, hints and its inner names."""
    lines = [line.strip("│|╭╮╰╯ ") for line in box.splitlines()][1:]
    parts = " ".join("\n" if re.fullmatch("[-─]*", line) else line for line in lines).split("\n")
    kept = [p.strip() for p in parts if p.strip() and not re.match(r"\s*(For full|Argument) helptext", p)]
    return re.sub(r"^Error parsing __\S+: ", "", "; ".join(kept).rstrip(".!") or box.strip())


def with_dashes(argv: Sequence[str], why: str) -> str:
    """How to give the value that begins with a dash, if that is what a parser complained of; else nothing."""
    flag = ""
    for word, after in pairwise([*argv, ""]):
        flag = word if word.startswith("--") else flag
        if flag and re.match("-(?!-)", after) and re.search("Missing value|Unrecognized options", why):
            return f" (a value that begins with a dash is given as {flag}={shlex.quote(after)})"
    return ""


def lists(kind: type) -> set[str]:
    """The fields of a command's arguments, nested ones too, that take any number of values."""
    found: set[str] = set()
    for name, hint in get_type_hints(kind).items():
        if isinstance(hint, type) and is_dataclass(hint):
            found |= lists(hint)
        elif get_args(hint)[1:] == (Ellipsis,):
            found.add(name)
    return found


def parse(argv: Sequence[str]) -> ImageArgs | SvgArgs | SplatArgs | EvalArgs | PresetsArgs:
    """Arguments with the chosen preset's settings, or the resumed run's, as defaults. InputError on a bad flag."""
    flags = Counter(word.partition("=")[0].replace("-", "_") for word in argv if word.startswith("--"))
    known_lists = lists(COMMANDS[argv[0]][0]) if argv and argv[0] in COMMANDS else set()
    for name in sorted(n for n in known_lists if flags[f"__{n}"] > 1):
        raise InputError(
            f"--{name} is given twice, and only the last would count: put all its values after one flag "
            "(one that begins with a dash in quotes, with a space before it)"
        )
    commands: dict[str, Any] = {}
    for command, (args, _) in COMMANDS.items():
        known = starting_point(argv, command, args)
        commands[command] = partial(args, **known) if known else args
    box = StringIO()
    try:
        with redirect_stderr(box):
            return tyro.extras.subcommand_cli_from_dict(commands, args=list(argv), prog="cpds", description=__doc__)
    except SystemExit as stop:
        if stop.code != 2:
            raise
        command = f"cpds {argv[0]}" if argv and argv[0] in commands else "cpds"
        why = re.sub(r"(Perhaps you meant: --[\w-]+).*", r"\1", unboxed(box.getvalue()))
        raise InputError(f"{why}{with_dashes(argv, why)}; see {command} --help") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 2 and one sentence for anything that the user can mend."""
    wait_passively()
    warnings.showwarning = lambda message, *_args, **_kwargs: warn(message)
    try:
        given = list(sys.argv[1:] if argv is None else argv)
        args = parse(given)
        (run,) = (run for kind, run in COMMANDS.values() if isinstance(args, kind))
        return run(args, shlex.join(["cpds", *given]))
    except InputError as err:
        print_status(f"cpds: error: {err}")
        return 2
    except KeyboardInterrupt:
        print_status("Stopped before the first step; nothing has changed")
        return 130
    except Exception as err:
        if type(err).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
            raise
        print_status("cpds: error: out of GPU memory: lower --resolution (or --batch), or take --torch_dtype fp16")
        return 2


if __name__ == "__main__":
    sys.exit(main())
