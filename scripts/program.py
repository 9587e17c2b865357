"""What the programs here share: arguments from a dataclass, and one sentence for what the user can fix."""

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from cpds.errors import InputError
from cpds.terminal import print_status

T = TypeVar("T")


def run_program(run: Callable[[T], None], settings: type[T], doc: str | None, argv: Sequence[str] | None = None) -> int:
    """Exit code of `run` with `settings` from the command line: 2 for bad input, 130 when interrupted.

    `doc`: the program's docstring, for --help. tyro itself prints what is wrong with a flag.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    prog = f"python -m {spec.name.removesuffix('.__main__')}" if spec else None
    try:
        given = tyro.cli(settings, args=argv, prog=prog, description=doc)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        run(given)
    except InputError as err:
        print_status(f"error: {err}")
        return 2
    except KeyboardInterrupt:
        print_status("stopped")
        return 130
    return 0
