"""Parts of an edit from outside of this package: by their import path, what they must offer, and their names."""

from functools import partial
from importlib import import_module
from typing import Any

from cpds.config import is_import_path
from cpds.errors import InputError


def imported(path: str, field: str, kind: type | None = None) -> Any:
    """The object at module:name, an instance of `kind` or, without one, something to call.

    `field` is the setting that names it. Raises InputError where there is no such thing.
    """
    if not is_import_path(path):
        raise InputError(f"{field} {path!r} is no import path: write module:name")
    module, _, name = path.partition(":")
    try:
        found = getattr(import_module(module), name)
    except Exception as err:  # a module of one's own may raise anything
        absent = isinstance(err, ModuleNotFoundError) and f"{module}.".startswith(f"{err.name}.")
        remedy = "check its spelling and PYTHONPATH" if absent or isinstance(err, AttributeError) else "correct it"
        raise InputError(f"{field} {path} cannot be imported ({err}): {remedy}") from err
    if not (isinstance(found, kind) if kind else callable(found)):
        wanted = f"of type {kind.__name__}" if kind else "callable"
        raise InputError(f"{field} {path} is of type {type(found).__name__}: it must be {wanted}")
    return found


def require_kind(part: object, kind: type, what: str) -> None:
    """InputError unless `part` is an object that offers what the protocol `kind` asks for; `what` it is."""
    names = {n for n in (*vars(kind), *kind.__annotations__) if not n.startswith("_")}
    missing = sorted(n for n in names if not hasattr(part, n))
    if isinstance(part, type):
        raise InputError(f"the {what} is the class {part.__name__}: give an object of it")
    if missing:
        raise InputError(f"the {what}, of type {type(part).__name__}, lacks {', '.join(missing)}")


def name_of(part: object) -> str:
    """What a saved run remembers a part by: module and name of a class, a function, or an object's class.

    Raises InputError for what another program could not tell from another one of its kind.
    """
    if isinstance(part, partial):
        given = [*map(repr, part.args), *(f"{k}={v!r}" for k, v in sorted(part.keywords.items()))]
        return f"{name_of(part.func)}({', '.join(given)})"
    named: Any = part if hasattr(part, "__qualname__") else type(part)
    if "<" in named.__qualname__:
        raise InputError(
            f"a run folder cannot remember {named.__qualname__} of {named.__module__}: "
            "give a function or a class that stands in a module by a name"
        )
    return f"{named.__module__}:{named.__qualname__}"
