"""The command line, `cpds …`. Nothing heavy is imported before a command really runs."""

from __future__ import annotations

import re
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import MISSING, dataclass, fields
from functools import partial
from io import StringIO
from typing import Any

import tyro

from cpds.cli_eval import EvalArgs, run_eval
from cpds.cli_image import ImageArgs, run_image
from cpds.cli_splats import SplatArgs, run_splats
from cpds.cli_svg import SvgArgs, run_svg
from cpds.config import EditConfig, GuidanceConfig
from cpds.errors import InputError
from cpds.presets import NOTES, PRESETS
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
        print(f"{name:>15}: {own}" + (f"  # {NOTES[name]}" if name in NOTES else ""))
    return 0


Run = Callable[[Any, str], int]  # (arguments, the command line as typed) -> exit code
COMMANDS: dict[str, tuple[type, Run]] = {
    "image": (ImageArgs, lambda args, _: run_image(args)),
    "svg": (SvgArgs, lambda args, _: run_svg(args)),
    "splats": (SplatArgs, lambda args, _: run_splats(args)),
    "eval": (EvalArgs, run_eval),
    "presets": (PresetsArgs, lambda _args, _: run_presets()),
}


def chosen_preset(argv: Sequence[str]) -> str:
    """The preset to start from: --preset, else the one named like --method, else cpds; svg, splats have their own."""
    found = {}
    for i, word in enumerate(argv):
        flag, _, value = word.partition("=")
        if flag in ("--preset", "--method"):
            found[flag] = value or (argv[i + 1] if i + 1 < len(argv) else "")
    own = {"svg": "-svg", "splats": "-splats"}.get(argv[0] if argv else "", "")
    name = found.get("--preset") or found.get("--method", "cpds") + own
    return name if name in PRESETS else "cpds" + own  # tyro will say what is wrong with an unknown one


def unboxed(box: str) -> str:
    """One line from tyro's error box: without frame, title, hints and its inner names."""
    lines = [line.strip("│|╭╮╰╯ ") for line in box.splitlines()][1:]
    parts = " ".join("\n" if re.fullmatch("[-─]*", line) else line for line in lines).split("\n")
    kept = [p.strip() for p in parts if p.strip() and not re.match(r"\s*(For full|Argument) helptext", p)]
    return re.sub(r"^Error parsing __\S+: ", "", "; ".join(kept).rstrip(".!") or box.strip())


def parse(argv: Sequence[str]) -> ImageArgs | SvgArgs | SplatArgs | EvalArgs | PresetsArgs:
    """Arguments with the chosen preset's settings as defaults. InputError on a bad flag."""
    name = chosen_preset(argv)
    commands: dict[str, Any] = {}
    for command, (args, _) in COMMANDS.items():
        # tyro makes a mess of nested settings that come from a factory: it is given the settings themselves
        made = {f.name: f.default_factory() for f in fields(args) if f.default_factory is not MISSING}
        chosen = {"preset": name, "edit": PRESETS[name]} if hasattr(args, "preset") else {}
        commands[command] = partial(args, **made | chosen) if made else args
    box = StringIO()
    try:
        with redirect_stderr(box):
            return tyro.extras.subcommand_cli_from_dict(commands, args=list(argv), prog="cpds", description=__doc__)
    except SystemExit as stop:
        if stop.code != 2:
            raise
        command = argv[0] if argv and argv[0] in commands else "image"
        raise InputError(f"{unboxed(box.getvalue())}; see cpds {command} --help") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 2 and one sentence for anything that the user can mend."""
    wait_passively()
    warnings.showwarning = lambda message, *_args, **_kwargs: print(f"cpds: warning: {message}", file=sys.stderr)
    try:
        given = list(sys.argv[1:] if argv is None else argv)
        args = parse(given)
        (run,) = (run for kind, run in COMMANDS.values() if isinstance(args, kind))
        return run(args, shlex.join(["cpds", *given]))
    except InputError as err:
        print(f"cpds: error: {err}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped", file=sys.stderr)
        return 130
    except Exception as err:
        if type(err).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
            raise
        print(
            "cpds: error: out of GPU memory: lower --resolution (or --batch), or take --torch_dtype fp16",
            file=sys.stderr,
        )
        return 2


if __name__ == "__main__":
    sys.exit(main())
