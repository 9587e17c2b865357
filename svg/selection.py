"""Which numbers of a document may change."""

from collections.abc import Collection
from typing import get_args

from cpds.errors import InputError
from svg.backdrops import backdrops
from svg.config import GroupName, SvgConfig
from svg.document import Document
from svg.model import Parameter


def chosen(document: Document, config: SvgConfig, still: Collection[str] = ()) -> dict[GroupName, list[Parameter]]:
    """The parameters that may change, by group. InputError for names that nothing bears, and where nothing is left.

    Outlines that cover the page stay, unless `only` names some. still: groups that stay, as their learning rate is 0.
    """
    for name in config.only:
        if not any(document.matches(p, [name]) for p in document.parameters.values()):
            raise InputError(f"nothing of {name} in this SVG can change: name ids or classes of its shapes")
    groups, names, addable = config.groups, config.only, document.addable
    held = held_backdrops(document, config)
    found: dict[GroupName, list[Parameter]] = {g: [] for g in get_args(GroupName)}
    for p in document.parameters.values():
        # a gradient's transparency is asked for as others are
        asked = p.group in groups and (p.property != "stop-opacity" or "opacities" in groups)
        new = p.owner in addable and p.group in ("points", "fills", "fades")
        if p.group and p.key not in held and (new or (asked and (not names or document.matches(p, names)))):
            found[p.group].append(p)
    if not any(found.values()):
        of = f" of {' '.join(names)}" if names else ""
        raise InputError(
            f"nothing{of} in this SVG may change with optimize {' '.join(groups)}: name other groups, ids or classes"
        )
    moving: dict[GroupName, list[Parameter]] = {g: [] if g in still else members for g, members in found.items()}
    if not any(moving.values()):
        zero = ", ".join(g for g, members in found.items() if members)
        raise InputError(
            f"nothing in this SVG may change, as group_lrs is 0 for {zero}: raise one, or choose other groups"
        )
    return moving


def held_backdrops(document: Document, config: SvgConfig) -> set[str]:
    """Keys of the outlines that stay because they cover the page."""
    return backdrops(document) if "points" in config.groups and not config.only else set()
