"""Custom properties and what var() stands for (CSS Custom Properties for Cascading Variables, Level 1)."""

import re
from collections.abc import Iterable, Mapping
from graphlib import TopologicalSorter
from typing import Any

from cpds.errors import MissingExtra

Variables = Mapping[str, str]  # name -> computed value; what is invalid has none

REFERENCE = re.compile(r"\bvar\(\s*(--[^\s,()]+)", re.I)
INHERITING = ("inherit", "unset", "revert")
MAX_LENGTH = 10_000  # characters that variables may put into one value: each could hold the one before twice
MAX_NESTING = 50  # brackets within brackets


class _Invalid(Exception):
    pass


def substituted(text: str, variables: Variables) -> str | None:
    """`text` with the values of what its var() name; None where one names nothing and has no fallback."""
    names = REFERENCE.findall(text)
    if not names:
        return text
    if sum(len(variables.get(name, "")) for name in names) > MAX_LENGTH:
        return None
    try:
        from tinycss2 import parse_component_value_list, serialize
    except ImportError as err:
        raise MissingExtra("SVG needs tinycss2, which is not installed: pip install -e '.[svg]'") from err
    try:
        return serialize(list(_filled(parse_component_value_list(text), variables, 0))).strip()
    except _Invalid:
        return None


def _filled(tokens: Iterable[Any], variables: Variables, depth: int) -> Iterable[Any]:
    """The tokens with those of the values in the places of var()."""
    from tinycss2 import parse_component_value_list

    if depth > MAX_NESTING:
        raise _Invalid
    for token in tokens:
        inside = "arguments" if token.type == "function" else "content" if token.type.endswith(" block") else None
        if token.type == "function" and token.lower_name == "var":
            comma = next((i for i, t in enumerate(token.arguments) if t == ","), None)
            words = [t for t in token.arguments[:comma] if t.type not in ("whitespace", "comment")]
            if [t.type for t in words] != ["ident"]:
                raise _Invalid
            if words[0].value in variables:
                yield from _filled(parse_component_value_list(variables[words[0].value]), {}, depth + 1)
            elif comma is not None:
                yield from _filled(token.arguments[comma + 1 :], variables, depth + 1)
            else:
                raise _Invalid
        else:
            if inside:
                setattr(token, inside, list(_filled(getattr(token, inside), variables, depth + 1)))
            yield token


def computed(own: Variables, inherited: Variables) -> Variables:
    """The custom properties of an element: those declared on it over those that it inherits."""
    refers = {name: {other for other in REFERENCE.findall(text) if other in own} for name, text in own.items()}
    invalid = {name for name in own if name in _reached(name, refers)}
    found = {name: value for name, value in inherited.items() if own.get(name, "inherit") in INHERITING}
    for name in TopologicalSorter({n: refers[n] - invalid for n in own if n not in invalid}).static_order():
        value = substituted(own[name], found)
        if value is not None and value not in (*INHERITING, "initial"):
            found[name] = value
    return found


def _reached(name: str, refers: Mapping[str, set[str]]) -> set[str]:
    """The custom properties that one refers to, however indirectly."""
    found: set[str] = set()
    todo = [name]
    while todo:
        new = refers[todo.pop()] - found
        found |= new
        todo += new
    return found
