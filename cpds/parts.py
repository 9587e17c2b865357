"""Parts of an edit from outside of this package, by their import path."""

from collections.abc import Callable
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
    except (ImportError, AttributeError) as err:
        raise InputError(f"{field} {path} cannot be imported ({err}): check its spelling and PYTHONPATH") from err
    if not (isinstance(found, kind) if kind else callable(found)):
        wanted = f"of type {kind.__name__}" if kind else "callable"
        raise InputError(f"{field} {path} is of type {type(found).__name__}: it must be {wanted}")
    return found


def name_of(part: Callable[..., Any] | object) -> str:
    """What a saved run remembers a part by: module and name of a class, a function, or an object's class."""
    named = part if hasattr(part, "__qualname__") else type(part)
    return f"{named.__module__}:{named.__qualname__}"  # pyright: ignore[reportAttributeAccessIssue]
