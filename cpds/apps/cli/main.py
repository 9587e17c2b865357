"""The command line, `cpds …`. Nothing heavy is imported before a command really runs."""

import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import MISSING, fields, is_dataclass
from functools import partial
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import tyro

import cpds
from cpds.apps.cli.batch import BatchArgs, run_batch
from cpds.apps.cli.demo import DemoArgs, run_demo
from cpds.apps.cli.dreambooth import DreamBoothArgs, run_dreambooth
from cpds.apps.cli.eval import EvalArgs, run_eval
from cpds.apps.cli.image import ImageArgs, run_image
from cpds.apps.cli.presets import Beginning, PresetsArgs, chosen_preset, first_edit, run_presets
from cpds.apps.cli.priors import PriorsArgs, run_priors
from cpds.apps.cli.splats import SplatArgs, run_splats
from cpds.apps.cli.svg import SvgArgs, run_svg
from cpds.errors import InputError, out_of_memory
from cpds.profiling import begin
from cpds.stored import stored
from cpds.terminal import print_result, print_status, print_styled, warn
from cpds.threads import wait_passively

Run = Callable[[Any, str], int]  # (arguments, the command line as typed) -> exit code
COMMANDS: dict[str, tuple[type, Run]] = {
    "image": (ImageArgs, lambda args, _: run_image(args)),
    "svg": (SvgArgs, lambda args, _: run_svg(args)),
    "splats": (SplatArgs, lambda args, _: run_splats(args)),
    "batch": (BatchArgs, run_batch),
    "demo": (DemoArgs, lambda args, _: run_demo(args)),
    "eval": (EvalArgs, run_eval),
    "dreambooth": (DreamBoothArgs, lambda args, _: run_dreambooth(args)),
    "presets": (PresetsArgs, lambda _args, _: run_presets()),
    "priors": (PriorsArgs, lambda _args, _: run_priors()),
}
ROOM = {  # by command, where it is not the others'
    "eval": "lower --batch or --resolution, or take --low_memory",
    "dreambooth": "lower --batch or --resolution, or take --gradient_checkpointing and --mixed_precision bf16",
}
ALIASES = {"trg_prompt": "target_prompt"}


def starting_point(command: str, args: type, argv: Sequence[str]) -> dict[str, Any]:
    """A command's defaults: the chosen preset's settings, or with a run to resume that run's arguments."""
    # tyro makes a mess of nested settings that come from a factory: it is given the settings themselves
    made = {f.name: f.default_factory() for f in fields(args) if f.default_factory is not MISSING}
    if "edit" not in made or argv[:1] != [command]:
        return made
    beginning = Beginning.of(argv[1:])
    if beginning.resume is not None and hasattr(args, "resume") and not beginning.help:
        old = stored(beginning.resume, command, args).args
        return {f.name: getattr(old, f.name) for f in fields(args)}
    name = chosen_preset(command, beginning)
    return made | {"preset": name, "edit": first_edit(command, name)}


def lists(kind: type) -> set[str]:
    """The fields of a command's arguments, nested ones too, that take any number of values."""
    found: set[str] = set()
    for name, hint in get_type_hints(kind).items():
        if isinstance(hint, type) and is_dataclass(hint):
            found |= lists(hint)
        elif get_args(hint)[1:] == (Ellipsis,) or get_origin(hint) is Mapping:
            found.add(name)
    return found


def require_once(argv: Sequence[str]) -> None:
    """InputError where a list is given twice: tyro takes the last one alone, and says nothing."""
    known = lists(COMMANDS[argv[0]][0]) if argv and argv[0] in COMMANDS else set()
    given: set[str] = set()
    for word in (word for word in argv if word.startswith("--")):
        flag = word.partition("=")[0].removeprefix("--").replace("-", "_")
        name = ALIASES.get(flag, flag)
        if name in known & given:
            raise InputError(
                f"--{flag} is given twice, and only the last would count: put all its values after one flag "
                "(one that begins with a dash in quotes, with a space before it)"
            )
        given.add(name)


def require_paths(args: Any, argv: Sequence[str]) -> None:
    """InputError for an empty path, as of a shell's variable that is not set: it would be the current folder."""
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--") else [word])]
    for flag, value in pairwise(words):
        name = flag.removeprefix("--").replace("-", "_")
        if not value and isinstance(getattr(args, name, None), Path):
            raise InputError(f"{name} is empty: say which path, or leave it out")


def parse(argv: Sequence[str]) -> Any:
    """A command's arguments, with the chosen preset's settings, or the resumed run's, as defaults.

    Raises InputError for values that cannot be used, and SystemExit, when the reason is printed, for what cannot be
    read.
    """
    require_once(argv)
    commands: dict[str, Any] = {}
    for command, (args, _) in COMMANDS.items():
        known = starting_point(command, args, argv)
        commands[command] = partial(args, **known) if known else args
    box = StringIO()
    try:
        with redirect_stderr(box):
            args = tyro.extras.subcommand_cli_from_dict(commands, args=list(argv), prog="cpds", description=__doc__)
    except SystemExit as stop:
        if refused := input_error(stop):
            raise refused from None
        print_styled(box.getvalue(), argv)
        if stop.code and (value := dashed_value(argv)):
            print_status(f"cpds: a value that begins with a dash is given as {value}")
        raise
    require_paths(args, argv)
    return args


def input_error(err: BaseException | None) -> InputError | None:
    """What our own checks have raised, if that is what led to `err`: tyro makes a SystemExit of every ValueError."""
    while err is not None and not isinstance(err, InputError):
        err = err.__context__
    return err


def dashed_value(argv: Sequence[str]) -> str | None:
    """--flag=value for the first value, no number, that begins with a dash."""
    flag = ""
    for word in argv:
        if word.startswith("--"):
            flag = word
        elif flag and re.match(r"-[^\d.]", word):
            return f"{flag}={shlex.quote(word)}"
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 2 and one sentence for anything that the user can fix."""
    begin()
    wait_passively()
    warnings.showwarning = lambda message, *_args, **_kwargs: warn(message)
    try:
        return run_command(list(sys.argv[1:] if argv is None else argv))
    except InputError as err:
        print_status(f"cpds: error: {err}")
        return 2
    except BrokenPipeError:  # whoever read our output (head, less) has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at its end
        return 141  # as a shell has it for a command that SIGPIPE ended
    except KeyboardInterrupt:
        print_status("Stopped before the first step; nothing has changed")
        return 130
    except Exception as err:
        if not out_of_memory(err):
            raise
        words = sys.argv[1:] if argv is None else argv
        print_status(f"cpds: error: out of memory: {ROOM.get(words[0], 'lower --resolution, or take --low_memory')}")
        return 2


def run_command(argv: Sequence[str]) -> int:
    """Parse and run; the exit code."""
    if list(argv) == ["--version"]:
        print_result(f"cpds {cpds.__version__}")
        return 0
    try:
        args = parse(argv)
    except SystemExit as stop:  # help is printed, or what could not be read
        return int(stop.code or 0)
    (run,) = (run for kind, run in COMMANDS.values() if isinstance(args, kind))
    return run(args, shlex.join(["cpds", *argv]))


if __name__ == "__main__":
    sys.exit(main())
