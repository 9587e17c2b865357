"""What a run folder holds of its command: the arguments as JSON, and back. No torch here."""

import json
import os
import re
import reprlib
import sys
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeGuard, Union, get_args, get_origin, get_type_hints

from cpds.errors import InputError
from cpds.priors.options import with_located_prior

CONFIG = "config.json"  # of one edit
PLAN = "plan.json"  # of several edits, in the folder that holds their folders
PLACES = ("save_path", "resume")  # arguments that name the folder itself: it may be moved

_short = reprlib.Repr()  # of what may be deep or endless
_short.maxstring = _short.maxother = 120


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in `file`. InputError for anything else."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        raise damaged(file, getattr(err, "strerror", None) or "not valid JSON") from err
    if not isinstance(found, dict):
        raise damaged(file, f"it holds {_short.repr(found)} instead of a run's settings")
    return found


def damaged(file: Path, why: object) -> InputError:
    return InputError(f"{file} is damaged or of another version of CPDS ({why}): start the run anew elsewhere")


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """'name was X, is now Y' for every leaf that differs."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b and all(isinstance(x, str) and re.fullmatch("[0-9a-f]{64}", x) for x in (a, b)):
            found.append(f"{prefix}{key} is another one")  # digests
        elif a != b:
            found.append(f"{prefix}{key} was {_short.repr(a)}, is now {_short.repr(b)}")
    return found


def encode(value: Any) -> Any:
    """Settings as plain JSON; paths become absolute."""
    if is_dataclass(value):
        return {f.name: encode(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Path):
        return os.path.abspath(value)
    if isinstance(value, Mapping):
        return {k: encode(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [encode(v) for v in value]
    return value


def decode(kind: Any, value: Any, name: str) -> Any:
    """What `encode` made of a setting of type `kind`. InputError, which names the setting, for anything else."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and types.NoneType in inner:
            return None
        *others, last = (k for k in inner if k is not types.NoneType)
        for kind in others:
            with suppress(InputError):
                return decode(kind, value, name)
        return decode(last, value, name)
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict):
        return decode_fields(kind, value, f"{name}.")
    if origin is tuple and isinstance(value, list) and (inner[-1] is Ellipsis or len(inner) == len(value)):
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        return tuple(decode(k, v, name) for k, v in zip(kinds, value, strict=True))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, dict):
        return {k: decode(inner[1], v, f"{name}.{k}") for k, v in value.items()}
    if origin is Literal and any(value == k and type(value) is type(k) for k in inner):
        return value
    if kind is Path and isinstance(value, str) and "\0" not in value:
        return Path(value)
    if kind is float and is_number(value):
        return float(value)
    if kind is str and isinstance(value, str) and "\0" not in value and value == value.encode(errors="ignore").decode():
        return value
    if kind in (int, bool) and type(value) is kind:
        return value
    raise InputError(f"{name} is {_short.repr(value)}")


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a float holds it; neither NaN nor infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def decode_fields(kind: type, values: Mapping[str, Any], prefix: str = "", **known: Any) -> Any:
    """A dataclass of type `kind` from its fields' values; those in `known` are taken as they are."""
    names = {f.name for f in fields(kind)} - known.keys()
    if odd := sorted(names ^ values.keys()):
        raise InputError(f"{'it lacks' if odd[0] in names else 'unknown is'} {prefix}{odd[0]}")
    hints = get_type_hints(kind)
    return kind(**known, **{k: decode(hints[k], values[k], f"{prefix}{k}") for k in names})


class Stored(NamedTuple):
    """A run's, or several runs', command as it was given."""

    args: Any
    edits: tuple[tuple[str, str, str], ...] = ()  # several: (source in what was given, target prompt, folder)


def request(command: str, args: Any, edits: Sequence[Sequence[str]] | None = None) -> dict[str, Any]:
    """What `stored` reads: the command's name and arguments, and several runs' own parts."""
    document = encode(with_located_prior(args))
    arguments = {k: v for k, v in document.items() if k not in (*PLACES, "edit")}
    plan = {} if edits is None else {"edits": [list(edit) for edit in edits]}
    return {"command": command, "arguments": arguments, "edit": document["edit"], **plan}


def stored(folder: Path, command: str, kind: type) -> Stored:
    """The arguments, of type `kind`, of the run or runs in `folder`. InputError if there is none of this command."""
    plan, config = folder / PLAN, folder / CONFIG
    file = plan if os.path.isfile(plan) else config
    if not os.path.isfile(file):
        raise InputError(
            f"there is no run to resume in {folder}: nothing of one was stored there; check the path, "
            "or start a run anew"
        )
    document = read_object(file)
    if document.get("command") != command:
        began = document.get("command")
        what = f"cpds {str(began)[:40]}" if began else "a Python program"
        raise InputError(f"{folder} holds a run of {what}, not of cpds {command}")
    arguments = document.get("arguments")
    if not isinstance(arguments, dict):
        raise damaged(file, f"arguments is {_short.repr(arguments)}")
    try:
        places = dict.fromkeys(PLACES, folder)
        args = decode_fields(kind, {**arguments, "edit": document.get("edit")}, **places)
        edits = decode(tuple[tuple[str, str, str], ...], document.get("edits"), "edits") if file == plan else ()
    except (ValueError, TypeError) as err:
        raise damaged(file, err) from err
    names = [name for _, _, name in edits]
    if (not edits if file == plan else len(args.target_prompt) != 1) or len(set(names)) != len(names):
        raise damaged(file, "it does not say which edits there are")
    for source, _, name in edits:
        if os.path.basename(name) != name or os.path.basename(source) != source or name in ("", ".", ".."):
            raise damaged(file, f"{_short.repr([source, name])} leads out of its folder")
    return Stored(args, edits)
