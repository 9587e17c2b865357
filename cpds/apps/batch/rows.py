"""A row of a manifest: one edit, with the arguments that its command would have."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cpds.apps.batch.columns import (
    COMMANDS,
    NEEDED,
    OF_ALL,
    OWN,
    Column,
    columns,
    command_of,
    value_of,
)
from cpds.apps.batch.settings import arguments
from cpds.config import require
from cpds.errors import InputError

MADE = {"image": ("png",), "svg": ("svg", "svgz"), "splats": ("ply",)}  # suffixes of results; each has a .png beside it
LONGEST = 120  # letters of an id, or of a part of an output's name


@dataclass(frozen=True)
class Row:
    """One edit. `args` are those of its command, for this edit alone."""

    line: int
    id: str
    command: str
    args: Any
    output: str  # below the folder of results, without suffix
    size: tuple[int, int] = (0, 0)  # px, height and width of an image; rows of one size may be edited at once
    digest: str = ""  # changes with all that decides the result

    @property
    def source(self) -> Path:
        """The file that is edited."""
        return getattr(self.args, COMMANDS[self.command].source)

    @property
    def target_prompt(self) -> str:
        return self.args.target_prompt[0]


def read_row(record: Mapping[str, Any], line: int, number: int, folder: Path, faults: list[str]) -> Row | None:
    """The row of a record whose relative paths are to `folder`; what is wrong with it goes to `faults`."""
    named = {name: record[name] for name in OWN if name in record}
    found = len(faults)

    def tried(make: Callable[..., Any], *given: Any) -> Any:
        """What `make` gives, or None where that is a fault."""
        try:
            return make(*given)
        except InputError as err:
            faults.append(f"line {line}: {err}")
            return None

    for name in NEEDED:
        if not (isinstance(named.get(name), str) and named[name].strip()):
            faults.append(f"line {line}: {name} must be a text that is not empty")
            named[name] = "" if name == "source" else "-"  # for the rest to be checked
    key = named.get("id", number)
    name = tried(identity, str(key) if type(key) is int else key)
    if not named["source"]:
        return None  # what it is decides what the rest means
    command = command_of(named["source"])
    values = {}
    for column in (column for column in record if column not in named):
        if read := tried(setting, column, record[column], command):
            path, value = read
            values[path] = tried(located, value, column, folder) or value
    source = tried(located, Path(named["source"]), "source", folder)
    place = tried(output, named.get("output", name or "-"), command)
    args = tried(arguments, command, source or Path(named["source"]), named, values)
    return Row(line, name, command, args, place) if len(faults) == found else None


def known(name: str, command: str) -> Column:
    """A column's meaning for a command. InputError for those that it has not."""
    if name in OF_ALL:
        raise InputError(f"{name} holds for all rows: it is given to the command, not to a row")
    if name not in columns(command):
        raise InputError(f"unknown column {name!r} for {COMMANDS[command].what}s")
    return columns(command)[name]


def setting(name: str, value: Any, command: str) -> tuple[tuple[str, ...], Any]:
    """Where a column stands among a command's arguments, and its value there. InputError for what is neither."""
    path, kind = known(name, command)
    return path, value_of(kind, value, name)


def is_column(name: str) -> bool:
    """Whether rows of any kind have it."""
    return name in OWN or any(name in columns(command) for command in COMMANDS)


def located(value: Any, name: str, folder: Path) -> Any:
    """Paths absolute, others as they are. InputError for one where nothing is."""
    if not isinstance(value, Path):
        return value
    path = Path(os.path.abspath(folder / value))
    require(os.path.exists(path), f"{name} {path} does not exist: check the path")
    return path


def identity(name: Any) -> str:
    """A row's id. InputError for what cannot name a file."""
    fits = isinstance(name, str) and re.fullmatch(rf"[\w.-]{{1,{LONGEST}}}", name) and not name.startswith(".")
    require(bool(fits), f"id {name!r} must be at most {LONGEST} letters, digits, '.', '_' and '-', as it names a file")
    return name


def output(name: Any, command: str) -> str:
    """Where a result goes, without its suffix. InputError for a name that leads elsewhere or is of another format."""
    from cpds.image_files import image_suffixes

    require(isinstance(name, str) and bool(name.strip()), f"output must be a text that is not empty, got {name!r}")
    path = PurePosixPath(name)
    bad = not name.isprintable() or set(name) & set('\\:*?"<>|') or path.is_absolute() or name.endswith("/")
    bad = bad or any(part.startswith(".") or len(part.encode()) > 2 * LONGEST for part in path.parts)
    require(not bad, f"output {name!r} must be a name, or folder/name, that stays in the folder of results")
    suffix = path.suffix.lower().removeprefix(".")
    others = {s.removeprefix(".") for s in image_suffixes()} | {s for made in MADE.values() for s in made}
    if suffix in MADE[command]:
        return str(path.with_suffix(""))
    require(suffix not in others, f"output {name!r} of {COMMANDS[command].what}s is .{MADE[command][0]}: name it so")
    return str(path)
