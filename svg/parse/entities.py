"""Entities of a document: internal, short and of plain text, or the document is refused."""

import math
import re
from typing import Any

from cpds.config import require
from cpds.errors import InputError

MAX_ENTITY = 100_000  # characters that one entity may expand to
QUOTED = r""""[^"]*+"|'[^']*+'"""
ENTITY = re.compile(rf"<!ENTITY\s+(%\s+)?(\S+)\s+({QUOTED}|[^>]*)")
PREDEFINED = ("amp", "lt", "gt", "quot", "apos")
REFERENCE = re.compile(r"&([^;&<#\s]+);")


def expanded_size(text: str) -> float:
    """At most so many characters a text has once its entities are expanded; infinity where that cannot be told."""
    sizes = dict.fromkeys(PREDEFINED, 0.0)
    for parameter, name, value in ENTITY.findall(text):
        hidden = parameter or value[:1] not in "\"'" or "&#" in value or "%" in value  # may declare or become others
        size = len(value) + sum(sizes.get(other, math.inf) for other in REFERENCE.findall(value))
        sizes[name] = max(sizes.get(name, 0.0), math.inf if hidden else size)
    return float(len(text) + sum(sizes.get(other, math.inf) for other in REFERENCE.findall(text)))


def is_external(text: str, name: str) -> bool:
    """Whether a text declares an entity of this name to be another document's."""
    return any(name == other and value[:1] not in "\"'" for _, other, value in ENTITY.findall(text))


def check_entities(root: Any, name: str) -> None:
    """Only short internal entities of plain text pass: nothing outside is named, nothing explodes."""
    dtd = root.getroottree().docinfo.internalDTD
    sizes: dict[str, int] = {}
    for entity in dtd.entities() if dtd is not None else ():
        content = entity.content
        if content is None:
            raise InputError(f"{name} declares the external entity {entity.name!r}: remove it")
        require("<" not in content, f"{name} keeps elements in the entity {entity.name!r}: write them out")
        size = len(content) + sum(sizes.get(inner, 0) for inner in re.findall(r"&([^;#\s]+);", content))
        require(
            size <= MAX_ENTITY, f"{name} has the entity {entity.name!r} that expands to {size} characters: remove it"
        )
        sizes[entity.name] = size
