"""Questions about a drawing: which shapes it holds, which parameters it uses."""

from collections.abc import Iterator

from svg.clips import nested
from svg.model import Clip, Draw, Fixed, Group

Node = Group | Draw | Fixed


def all_draws(nodes: tuple[Node, ...]) -> Iterator[Draw]:
    """Every Draw among the nodes."""
    todo = list(nodes)
    while todo:
        node = todo.pop()
        if isinstance(node, Draw):
            yield node
        elif isinstance(node, Group):
            todo.extend(node.children)


def used_keys(root: Group) -> set[str]:
    """Every key that the drawing uses, clips included."""
    keys: set[str | None] = set()
    clips: dict[int, Clip] = {}
    todo: list[Node] = [root]
    seen: set[int] = set()
    while todo:
        node = todo.pop()
        if isinstance(node, Group):
            keys.add(node.opacity)
            todo.extend(node.children)
            if node.clip is not None:
                clips.setdefault(id(node.clip), node.clip)
        elif isinstance(node, Draw):
            keys.add(node.geometry.key)
            keys.add(node.fill_opacity)
            paints = [node.fill, node.stroke.paint if node.stroke else None]
            if node.stroke:
                keys |= {node.stroke.opacity, node.stroke.width}
            for one in paints:
                if one is not None:
                    keys.add(one.key)
                    for stop in getattr(one, "stops", ()):
                        keys |= {stop.offset, stop.color, stop.opacity}
    stack = list(clips.values())
    while stack:
        clip = stack.pop()
        if id(clip) in seen:
            continue
        seen.add(id(clip))
        keys |= {draw.geometry.key for draw, _ in clip.draws}
        stack += nested(clip)
    return {key for key in keys if key is not None}
