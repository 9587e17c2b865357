"""The columns of a manifest: the flags of `cpds image`, `cpds svg` and `cpds splats`, and their values from text."""

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from cpds.apps.cli.image import ImageArgs
from cpds.apps.cli.splats import SplatArgs
from cpds.apps.cli.svg import SvgArgs
from cpds.errors import InputError
from cpds.priors.options import PriorOptions
from cpds.stored import PLACES, decode

SUFFIXES = {".svg": "svg", ".svgz": "svg", ".ply": "splats"}  # of sources; all others are images
NEEDED = ("source", "prompt", "target_prompt")
OWN = ("id", *NEEDED, "output")  # columns that are no flag of theirs
ALIASES = {"trg_prompt": "target_prompt"}
OF_ALL = {  # flags that say how a run is kept or computed: of `cpds batch` itself, or of no use there
    *(f.name for f in fields(PriorOptions)),
    *PLACES,
    *("prior", "device", "checkpoint_every", "svg_every", "ply_every", "profile", "dry_run"),
}


class Command(NamedTuple):
    """A command whose edits a manifest can ask for."""

    args: type
    source: str  # the argument that says what is edited
    what: str  # in words


COMMANDS = {
    "image": Command(ImageArgs, "img_path", "image"),
    "svg": Command(SvgArgs, "svg_path", "drawing"),
    "splats": Command(SplatArgs, "scene", "scene"),
}


class Column(NamedTuple):
    """A flag: where it stands among nested arguments, and its type."""

    path: tuple[str, ...]
    kind: Any


def command_of(source: str) -> str:
    """The command that edits such a file."""
    return SUFFIXES.get(Path(source).suffix.lower(), "image")


def column_name(header: str) -> str:
    """A column's name as ours: dashes are underscores, as in flags."""
    name = header.strip().removeprefix("--").replace("-", "_")
    return ALIASES.get(name, name)


@cache
def columns(command: str) -> dict[str, Column]:
    """The flags of a command that a row may set, by name."""
    given = {*OWN, COMMANDS[command].source}
    return {name: found for name, found in _leaves(COMMANDS[command].args, ()) if name not in given}


def _leaves(kind: type, path: tuple[str, ...]) -> list[tuple[str, Column]]:
    found: list[tuple[str, Column]] = []
    for name, hint in get_type_hints(kind).items():
        if isinstance(hint, type) and is_dataclass(hint):
            found += _leaves(hint, (*path, name))
        elif path or name not in OF_ALL:
            found.append((name, Column((*path, name), hint)))
    return found


def overridden(settings: Any, values: Mapping[tuple[str, ...], Any]) -> Any:
    """A dataclass with other values at paths of field names. InputError, of its own checks, for bad ones."""
    own = {path[0]: value for path, value in values.items() if len(path) == 1}
    for name in {path[0] for path in values if len(path) > 1}:
        inner = {path[1:]: value for path, value in values.items() if path[0] == name}
        own[name] = overridden(getattr(settings, name), inner)
    return replace(settings, **own)


def value_of(kind: Any, value: Any, name: str) -> Any:
    """A setting of type `kind` from JSON, or from text as it stands after a flag. InputError for anything else."""
    try:
        return decode(kind, as_json(kind, value), name)
    except (InputError, ValueError, RecursionError):
        raise InputError(f"{name} must be {described(kind)}, got {value!r}") from None


def as_json(kind: Any, value: Any) -> Any:
    """What `decode` takes. Text becomes what `kind` says, several words a list. ValueError where that cannot be."""
    origin, inner = get_origin(kind), get_args(kind)
    if not isinstance(value, str):
        return value
    if origin in (Union, types.UnionType):
        return _first_fitting([k for k in inner if k is not types.NoneType], value)
    if origin is Literal:
        return next((choice for choice in inner if str(choice) == value), value)
    if origin is tuple:
        return _listed(inner, value.split())
    if origin is not None and issubclass(origin, Mapping):
        words = value.split()
        return {k: as_json(inner[1], v) for k, v in zip(words[::2], words[1::2], strict=True)}
    if kind is bool:
        return {"true": True, "false": False}[value.lower()] if value.lower() in ("true", "false") else value
    return kind(value) if kind in (int, float) else value


def _first_fitting(kinds: list[Any], value: str) -> Any:
    """As the first of several types has it."""
    for kind in kinds[:-1]:
        try:
            found = as_json(kind, value)
            decode(kind, found, "")
        except (InputError, ValueError):
            continue
        return found
    return as_json(kinds[-1], value)


def _listed(inner: tuple[Any, ...], words: list[str]) -> list[Any]:
    """A tuple's items; those that are tuples themselves take as many words as they have places."""
    each = inner[0]
    if get_origin(each) is tuple and inner[-1] is Ellipsis:
        n = len(get_args(each))
        return [_listed(get_args(each), words[i : i + n]) for i in range(0, len(words), n)]
    return [as_json(each, word) for word in words]


def described(kind: Any) -> str:
    """A type in words, for a message."""
    origin, inner = get_origin(kind), [k for k in get_args(kind) if k not in (types.NoneType, Ellipsis)]
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(described, inner)))
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin is tuple:
        return f"a list, each item {described(inner[0])}"
    if origin is not None:
        return "names with a number each"
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "a text")
