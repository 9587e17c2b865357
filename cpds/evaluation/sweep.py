"""A grid of settings from words such as preset=pds,cpds and guidance_scale=3,5,7.5. No torch here.

Values of a field are separated by commas, and the items of one that is a list by spaces: "patch_size=1 2,1".
"""

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any, Literal, get_args, get_origin, get_type_hints

from cpds.config import EditConfig, GuidanceConfig, require
from cpds.errors import InputError
from cpds.evaluation.settings import BaselineConfig, Setting, fields_of, replaced, setting_name
from cpds.stored import decode

KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


def read_axes(words: Sequence[str]) -> dict[str, list[str]]:
    """The values of each field, as texts. InputError for a word that is no field=value,value,..."""
    axes: dict[str, list[str]] = {}
    for word in words:
        name, _, values = word.partition("=")
        texts = values.split(",")
        require(bool(name) and all(texts), f"sweep takes words such as guidance_scale=3,5,7.5, got {word!r}")
        require(name not in axes, f"sweep has {name} twice: put all its values into one word")
        require(len(set(texts)) == len(texts), f"sweep has a value of {name} twice: {values}")
        axes[name] = texts
    return axes


def grid(axes: Mapping[str, Sequence[str]], preset: str, start: Callable[[str], Setting]) -> dict[str, Setting]:
    """Every combination by its name. `start` makes a preset's setting, `preset` is the one where no axis is.

    Raises InputError for a field that a setting does not have and for a value that it cannot take.
    """
    found: dict[str, Setting] = {}
    for combination in product(*axes.values()):
        texts = dict(zip(axes, combination, strict=True))
        chosen = texts.pop("preset", preset)
        setting = start(chosen)
        setting = replaced(setting, {name: value_of(setting, name, text) for name, text in texts.items()})
        label = setting_name(chosen, setting)
        require(label not in found, f"two combinations of the sweep have one name, {label!r}: sweep fewer fields")
        found[label] = setting
    return found


def value_of(setting: Setting, name: str, text: str) -> Any:
    """A field's value from its text; what lies outside of its range is left to the setting to refuse."""
    fields = fields_of(setting).keys() - {"baseline"}
    who = setting.baseline if isinstance(setting, BaselineConfig) else "an edit"
    require(name in fields, f"sweep: {who} has no field {name!r}; there are preset, {', '.join(sorted(fields))}")
    owners = [BaselineConfig] if isinstance(setting, BaselineConfig) else [GuidanceConfig, EditConfig]
    kind = next(hints[name] for owner in owners if name in (hints := get_type_hints(owner)))
    for value in candidates(text):
        try:
            return decode(kind, value, name)
        except InputError:
            continue
    if get_origin(kind) is Literal:
        raise InputError(f"{name} must be one of {', '.join(map(str, get_args(kind)))}, got {text!r}")
    said = [KINDS[one] for one in (kind, *get_args(kind)) if one in KINDS]
    raise InputError(f"sweep: {name} cannot be {text!r}" + (f": it is {said[0]}" if said else ""))


def candidates(text: str) -> list[Any]:
    """What a text may mean: a number, true, false, none; a list of such; or itself."""
    found: list[Any] = []
    for form in (text, text.lower().replace("none", "null"), f"[{','.join(text.split())}]"):
        try:
            found.append(json.loads(form))
        except ValueError:
            continue
    return [*found, text]
