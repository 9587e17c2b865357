"""How much a document draws once every `use` is followed, found in one pass over its elements."""

from collections.abc import Iterator
from typing import Any

from cpds.config import require
from svg.parse.shapes import SHAPES
from svg.parse.xml import MAX_DEPTH, Tree, tag

MAX_DRAWN = 100_000
CONTAINERS = frozenset(("svg", "g", "a", "switch", "use"))
STATIC = {"text": "text element", "image": "image", "foreignObject": "foreign object"}


def check_use_expansion(tree: Tree, name: str) -> None:
    """InputError if `use` multiplies the drawing without end, before anything of it is drawn."""
    found: dict[Any, tuple[int, int]] = {}  # element -> things drawn, depth
    path: list[tuple[Any, Iterator[Any]]] = [(tree.root, _drawn_by(tree, tree.root))]
    open_elements = {tree.root}
    totals = [(1, 1)]
    while path:
        element, todo = path[-1]
        child = next(todo, None)
        if child is None:
            path.pop()
            open_elements.discard(element)
            done = found[element] = totals.pop()
            if totals:
                totals[-1] = (totals[-1][0] + done[0], max(totals[-1][1], done[1] + 1))
        elif child in found:
            totals[-1] = (totals[-1][0] + found[child][0], max(totals[-1][1], found[child][1] + 1))
        elif child not in open_elements:  # else it contains itself, and that is not drawn
            path.append((child, _drawn_by(tree, child)))
            open_elements.add(child)
            totals.append((1, 1))
    drawn, depth = found[tree.root]
    message = f"{name} draws more than {MAX_DRAWN} things (`use` repeats them): simplify it"
    require(drawn <= MAX_DRAWN, message)
    require(depth <= MAX_DEPTH, f"{name} nests elements more than {MAX_DEPTH} deep: flatten its groups")


def reused(tree: Tree) -> set[Any]:
    """The elements that a `use` draws and that may be drawn where they stand as well."""
    found = set()
    for element in tree.path:
        if tag(element) == "use" and not any(tag(up) == "clipPath" for up in element.iterancestors()):
            target = tree.linked(element)
            if target is not None:
                found.add(target)
    return found


def _drawn_by(tree: Tree, element: Any) -> Iterator[Any]:
    """The elements that are drawn with an element, if it is."""
    if tag(element) == "use":
        target = tree.linked(element)
        if target is not None:
            yield target
        return
    for child in element.iterchildren("*"):
        if tag(child) in CONTAINERS or tag(child) in SHAPES or tag(child) in STATIC:
            yield child
