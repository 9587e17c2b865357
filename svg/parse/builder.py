"""From a tree of elements to the model: who is drawn, where, in what style, and who owns its numbers."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from cpds.config import require
from svg.model import Affine2D, Clip, Draw, Geometry, Group, Node, draws
from svg.parse.clips import Clips
from svg.parse.conditions import Limits, conditions_hold
from svg.parse.context import CONSTANT, Context, Viewport
from svg.parse.css import Cascade
from svg.parse.paints import PaintResolver
from svg.parse.parameters import ParameterTable
from svg.parse.shapes import SHAPES, Shape, read_shape
from svg.parse.static_parts import StaticParts, remote
from svg.parse.use_expansion import CONTAINERS, MAX_DRAWN, STATIC, reused
from svg.parse.values import fraction
from svg.parse.xml import MAX_DEPTH, Tree, describe, href, tag

Nodes = tuple[Node, ...]


@dataclass
class Pending:
    """Neighbours that will be drawn together by resvg."""

    elements: list[Any]
    context: Context


@dataclass
class Frame:
    """A container that is being read."""

    todo: Iterator[Any]
    context: Context
    close: Callable[[Nodes], Nodes]
    out: list[Node | Pending] = field(default_factory=list)


class Builder:
    """Reads one document; `size` is the page's, `name` what messages call the document."""

    def __init__(self, tree: Tree, cascade: Cascade, size: tuple[float, float], name: str) -> None:
        self.tree, self.cascade, self.name = tree, cascade, name
        self.table = ParameterTable(tree)
        self.notes: Counter[str] = Counter()  # what is not edited, and how often
        self.static = StaticParts(tree, cascade, size, name)
        self.paints = PaintResolver(tree, cascade, self.table, self.static.texture)
        self.clips = Clips(tree, cascade, self.table, self.count)
        self.limits = Limits(tree, cascade, self.clips)
        self._noted: set[Any] = set()
        self._outlines: dict[Any, Shape | None] = {}
        self._drawn = 0
        self._reused = reused(tree)

    def build(self, context: Context) -> Group:
        """The drawing; its parameters are in the table. context: the state inside the root's viewport."""
        frames = [Frame(iter((self.tree.root,)), context, lambda nodes: nodes)]
        while True:
            frame = frames[-1]
            element = next(frame.todo, None)
            if element is not None:
                inner = self._enter(element, frame)
                if inner is not None:
                    require(len(frames) < MAX_DEPTH, f"{self.name} nests elements too deep: flatten its groups")
                    frames.append(inner)
                continue
            frames.pop()
            nodes = frame.close(tuple(self._finish(node) for node in frame.out))
            if not frames:
                break
            frames[-1].out.extend(nodes)
        self.table.freeze_owned_by(self.static.shown)  # it is drawn as it was, so it stays as it was
        return Group(nodes)

    def count(self) -> None:
        """Count something drawn; InputError if there is no end of it."""
        self._drawn += 1
        message = f"{self.name} draws more than {MAX_DRAWN} things (`use` repeats them): simplify it"
        require(self._drawn <= MAX_DRAWN, message)

    def _enter(self, element: Any, frame: Frame) -> Frame | None:
        """Draw an element into `frame`, or return a frame for its children."""
        name, outer = tag(element), frame.context
        if name not in CONTAINERS and name not in SHAPES and name not in STATIC:
            return None
        self.count()
        declared = self.cascade(element, outer.variables)
        if ("display" in declared and declared["display"].value == "none") or not conditions_hold(element):
            return None
        if element in self._reused and element not in outer.uses:
            outer = outer.given_to(CONSTANT)
        context = outer.within(declared, element.attrib)
        require(max(map(abs, context.matrix)) < 1e12, f"the transform of {describe(element)} is too large: reduce it")
        if not context.matrix.invertible:
            return None
        if limits := self.limits.of(element, context):
            for kind in limits:
                self._note(element, kind)
            if not (name in STATIC and context.computed("visibility") in ("hidden", "collapse")):
                self._leave(element, frame, outer)
            return None
        if "mix-blend-mode" in declared and declared["mix-blend-mode"].value != "normal":
            self._note(element, "blend mode")
        if name in SHAPES:
            self._note_paints(element, context)
            frame.out.extend(self._draw(element, context, outer))
            return None
        return self._container(element, name, context)

    def _container(self, element: Any, name: str, context: Context) -> Frame | None:
        """A frame for the children of a group, a nested svg, a switch or a use."""

        def close(nodes: Nodes) -> Nodes:
            return self._wrap(element, context, nodes)

        if name == "use":
            return self._use(element, context, close)
        if name == "svg" and element is not self.tree.root:
            return self._viewport([element], element, context, close)
        children = element.iterchildren("*")
        if name == "switch":
            children = (c for c in element.iterchildren("*") if tag(c) in SHAPES | CONTAINERS | {"text", "image"})
            children = iter([c for c in children if conditions_hold(c)][:1])
        return Frame(children, context, close)

    def _use(self, element: Any, context: Context, close: Callable[[Nodes], Nodes]) -> Frame | None:
        """A frame that holds what a `use` refers to."""
        if remote(element):
            self._note(element, "reference to another document")
            return None
        target = self.tree.linked(element)
        if target is None or target in context.uses:
            return None
        if any(target is up for up in element.iterancestors()):
            return None
        inside = replace(context.given_to(element), uses=(*context.uses, target, element))
        if tag(target) == "symbol":
            inside = inside.within(self.cascade(target, inside.variables), target.attrib)
            return self._viewport([element], target, inside, close)
        x, y = (context.measure(element.get(a, "0"), a) or 0.0 for a in "xy")
        inside = replace(inside, matrix=inside.matrix @ Affine2D.translation(x, y))
        if tag(target) == "svg":
            inside = inside.within(self.cascade(target, inside.variables), target.attrib)
            return self._viewport([element, target], target, inside, close)
        return Frame(iter((target,)), inside, close)

    def _viewport(
        self, sized_by: list[Any], content: Any, context: Context, close: Callable[[Nodes], Nodes]
    ) -> Frame | None:
        """A frame with a viewport of its own. sized_by: whose width and height count; the last one's x and y do."""

        def size(name: str) -> float:
            text = next((e.get(name) for e in sized_by if e.get(name) is not None), "100%")
            value = context.measure(text, "x" if name == "width" else "y")
            return context.viewport[name == "height"] if value is None else value

        x, y = (context.measure(sized_by[-1].get(a, "0"), a) or 0.0 for a in "xy")
        window = Viewport(x, y, size("width"), size("height"))
        inside = window.enter(context, content.get("viewBox"), content.get("preserveAspectRatio"))
        if inside is None or not inside.matrix.invertible:
            return None
        overflow = self.cascade(content).get("overflow")
        sized = tag(content) == "symbol" or any(e.get("width") or e.get("height") for e in sized_by)
        clip = None
        if sized and not (overflow and overflow.value in ("visible", "auto")):
            box = (window.x, window.y, window.width, window.height, 0.0, 0.0)
            key = self.table.add(sized_by[0], "viewport", box, None)
            clip = Clip(((Draw(Geometry("rect", key), context.matrix), None),))

        def closed(nodes: Nodes) -> Nodes:
            return close((Group(nodes, clip=clip),) if clip and nodes else nodes)

        return Frame(content.iterchildren("*"), inside, closed)

    def _draw(self, element: Any, context: Context, outer: Context) -> Nodes:
        """A shape with its paints and markers, in a group where it has an opacity or a clip of its own."""
        if context.computed("visibility") in ("hidden", "collapse"):
            return ()
        shape = self._outlines[element] if element in self._outlines else read_shape(element, context.measure)
        if tag(element) in ("path", "polyline", "polygon"):
            self._outlines[element] = shape  # nothing in it depends on where it is drawn
        if shape is None:
            return ()
        opacity = self._opacity(element, context)
        marked = self.limits.has_markers(element, context)
        draw = self.paints.draw(element, shape, context, None if marked else opacity)
        if draw is None and marked:
            return (self.static.page([element], outer, "marker"),)
        if draw is None:
            return ()
        if opacity in (draw.fill_opacity, draw.stroke.opacity if draw.stroke else None):
            opacity = None
        nodes: Nodes = (draw,)
        if marked:
            nodes += (self.static.markers(element, outer),)
        clip = self.clips.of(element, context, lambda: [draw])
        return nodes if opacity is None and clip is None else (Group(nodes, opacity, clip),)

    def _wrap(self, element: Any, context: Context, nodes: Nodes) -> Nodes:
        """The children of a container, on a layer where it has an opacity or a clip."""
        if not nodes:
            return ()
        clip = self.clips.of(element, context, lambda: list(draws(*nodes)))
        opacity = self._opacity(element, context)
        return nodes if opacity is None and clip is None else (Group(nodes, opacity, clip),)

    def _opacity(self, element: Any, context: Context) -> str | None:
        """The key of an element's own opacity, or None where it is 1."""
        declaration = self.cascade(element, context.variables).get("opacity")
        value = fraction(declaration.value) if declaration else None
        return None if value is None or value == 1 else self.table.add(element, "opacity", value, "opacities")

    def _leave(self, element: Any, frame: Frame, outer: Context) -> None:
        """Leave an element to resvg, together with the neighbour before it where that is static as well."""
        for part in element.iter("*"):
            if tag(part) in ("image", "feImage", "use") and remote(part):
                self._note(part, "reference to another document")
        if tag(element) == "image" and (remote(element) or not href(element)):
            return
        last = frame.out[-1] if frame.out else None
        if isinstance(last, Pending) and last.context == outer:
            last.elements.append(element)
        else:
            frame.out.append(Pending([element], outer))

    def _finish(self, node: Node | Pending) -> Node:
        """Write the static parts out."""
        if not isinstance(node, Pending):
            return node
        return self.static.page(node.elements, node.context, ", ".join(dict.fromkeys(tag(e) for e in node.elements)))

    def _note_paints(self, element: Any, context: Context) -> None:
        """Note what of a shape is not edited although its outline is."""
        if any(self.paints.is_pattern(context.computed(side)) for side in ("fill", "stroke")):
            self._note(element, "pattern")
        if self.limits.has_markers(element, context):
            self._note(element, "marker")

    def _note(self, element: Any, kind: str) -> None:
        if (element, kind) not in self._noted:
            self._noted.add((element, kind))
            self.notes[kind] += 1
