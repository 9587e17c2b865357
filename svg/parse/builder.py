"""From a tree of elements to the model: who is drawn, where, in what style, and who owns its numbers."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from cpds.config import require
from svg.bindings import Node, draws, uses
from svg.model import Clip, Draw, Fixed, Geometry, Group, Parameter, Texture
from svg.parse.clips import Clips
from svg.parse.context import CONSTANT, Context, Viewport, start
from svg.parse.css import Cascade
from svg.parse.paints import Painter
from svg.parse.parameters import Ledger
from svg.parse.shapes import SHAPES, Shape, read_shape
from svg.parse.static_parts import Copier, remote
from svg.parse.use_expansion import CONTAINERS, FIXED, MAX_DRAWN
from svg.parse.values import fraction, invertible, reference
from svg.parse.xml import MAX_DEPTH, Tree, describe, href, tag

MAX_FIXED_BYTES = 200_000_000
MARKERS = ("marker-start", "marker-mid", "marker-end")
MARKED = frozenset(("path", "line", "polyline", "polygon"))

Size = tuple[float, float]


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
    close: Callable[[tuple[Node, ...]], tuple[Node, ...]]
    out: list[Node | Pending] = field(default_factory=list)


class Builder:
    """Reads one document; `size` is the page's."""

    def __init__(self, tree: Tree, cascade: Cascade, size: Size, name: str) -> None:
        self.tree, self.cascade, self.size, self.name = tree, cascade, size, name
        self.ledger = Ledger(tree)
        self.notes: Counter[str] = Counter()
        self.painter = Painter(tree, cascade, self.ledger, self._texture)
        self.clips = Clips(tree, cascade, self.ledger, self.count)
        self.copier = Copier(tree, cascade)
        self._outer: dict[Any, Context] = {}
        self._noted: set[Any] = set()
        self._outlines: dict[Any, Shape | None] = {}
        self._drawn = self._bytes = 0
        self._shared = self._used_twice()

    def build(self, context: Context) -> tuple[Group, dict[str, Parameter]]:
        """The drawing and the parameters that it uses. context: the state inside the root's viewport."""
        root = self.tree.root
        frames = [Frame(iter((root,)), context, lambda nodes: nodes)]
        while True:
            frame = frames[-1]
            element = next(frame.todo, None)
            if element is not None:
                inner = self.enter(element, frame)
                if inner is not None:
                    require(len(frames) < MAX_DEPTH, f"{self.name} nests elements too deep: flatten its groups")
                    frames.append(inner)
                continue
            frames.pop()
            nodes = frame.close(tuple(self._finish(node) for node in frame.out))
            if not frames:
                break
            frames[-1].out.extend(nodes)
        group = Group(nodes)
        self.ledger.freeze_owned_by(self.copier.shown)  # it is drawn as it was, so it stays as it was
        return group, self.ledger.settle(set(uses(group)))

    def count(self) -> None:
        """Count something drawn; InputError if there is no end of it."""
        self._drawn += 1
        message = f"{self.name} draws more than {MAX_DRAWN} things (`use` repeats them): simplify it"
        require(self._drawn <= MAX_DRAWN, message)

    def enter(self, element: Any, frame: Frame) -> Frame | None:
        """Draw an element into `frame`, or return a frame for its children."""
        name, outer = tag(element), frame.context
        if name not in CONTAINERS and name not in SHAPES and name not in FIXED:
            return None
        self.count()
        declared = self.cascade(element)
        if ("display" in declared and declared["display"].value == "none") or not met(element):
            return None
        if element in self._shared and element not in outer.uses:
            outer = outer.given_to(CONSTANT)
        context = outer.within(declared, element.attrib)
        require(max(map(abs, context.matrix)) < 1e12, f"the transform of {describe(element)} is too large: reduce it")
        if not invertible(context.matrix):
            return None
        if what := self._not_edited(element, name, context):
            for kind in what:
                self._note(element, kind)
            if not (name in FIXED and context.said("visibility") in ("hidden", "collapse")):
                self._fix(element, frame, outer)
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

        def close(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
            return self._wrap(element, context, nodes)

        if name == "use":
            return self._use(element, context, close)
        if name == "svg" and element is not self.tree.root:
            return self._viewport(element, element, context, close, None)
        children = element.iterchildren("*")
        if name == "switch":
            children = (c for c in element.iterchildren("*") if tag(c) in SHAPES | CONTAINERS | {"text", "image"})
            children = iter([c for c in children if met(c)][:1])
        return Frame(children, context, close)

    def _use(self, element: Any, context: Context, close: Callable) -> Frame | None:
        """A frame that holds what a `use` refers to."""
        if remote(element):
            self._note(element, "reference to another document")
            return None
        target = self.tree.linked(element)
        if target is None or target in context.uses:
            return None
        if any(target is up for up in element.iterancestors()):
            return None
        inside = context.given_to(element)
        inside = replace(inside, uses=(*context.uses, target, element))
        if tag(target) == "symbol":
            declared = self.cascade(target)
            return self._viewport(element, target, inside.within(declared, target.attrib), close, None, symbol=True)
        x, y = (context.measure(element.get(a, "0"), a) or 0.0 for a in "xy")
        a, b, c, d, e, f = inside.matrix
        inside = replace(inside, matrix=(a, b, c, d, a * x + c * y + e, b * x + d * y + f))
        if tag(target) == "svg":
            declared = self.cascade(target)
            return self._viewport(target, target, inside.within(declared, target.attrib), close, element)
        return Frame(iter((target,)), inside, close)

    def _viewport(
        self, place: Any, content: Any, context: Context, close: Callable, use: Any, symbol: bool = False
    ) -> Frame | None:
        """A frame with a viewport of its own. place: who has x, y, width and height; use: who overrides the sizes."""

        def size(name: str) -> float:
            text = use.get(name) if use is not None else None
            text = place.get(name, "100%") if text is None else text
            value = context.measure(text, "x" if name == "width" else "y")
            return context.viewport[name == "height"] if value is None else value

        x, y = (context.measure(place.get(a, "0"), a) or 0.0 for a in "xy")
        window = Viewport(x, y, size("width"), size("height"))
        inside = window.enter(context, content.get("viewBox"), content.get("preserveAspectRatio"))
        if inside is None or not invertible(inside.matrix):
            return None
        said = self.cascade(content).get("overflow")
        sized = any(e is not None and (e.get("width") or e.get("height")) for e in (place, use))
        clip = None
        if not (said and said.value in ("visible", "auto")) and (symbol or sized):
            box = (window.x, window.y, window.width, window.height, 0.0, 0.0)
            key = self.ledger.add(use if use is not None else place, "viewport", box, None)
            clip = Clip(((Draw(Geometry("rect", key), context.matrix), None),))

        def closed(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
            return close((Group(nodes, clip=clip),) if clip and nodes else nodes)

        return Frame(content.iterchildren("*"), inside, closed)

    def _draw(self, element: Any, context: Context, outer: Context) -> tuple[Node, ...]:
        """A shape with its paints and markers, in a group where it has an opacity or a clip of its own."""
        if context.said("visibility") in ("hidden", "collapse"):
            return ()

        def measured(name: str, axis: str) -> float | None:
            text = element.get(name)
            return None if text is None else context.measure(text, axis)

        shape = self._outlines[element] if element in self._outlines else read_shape(element, measured)
        if tag(element) in ("path", "polyline", "polygon"):
            self._outlines[element] = shape  # nothing in it depends on where it is drawn
        if shape is None:
            return ()
        said = self.cascade(element).get("opacity")
        opacity = fraction(said.value) if said else None
        opacity = None if opacity is None or opacity == 1 else self.ledger.add(element, "opacity", opacity, "opacities")
        marked = self._marked(element, context)
        draw = self.painter.draw(element, shape, context, None if marked else opacity)
        if draw is None and marked:
            return (self._fixed(self.copier.page([element], outer, *self._around()), "marker"),)
        if draw is None:
            return ()
        if opacity in (draw.fill_opacity, draw.stroke.opacity if draw.stroke else None):
            opacity = None
        nodes: tuple[Node, ...] = (draw,)
        if marked:
            nodes += (self._fixed(self.copier.markers(element, outer, *self._around()), "marker"),)
        clip = self.clips.of(element, context, lambda: [draw])
        return nodes if opacity is None and clip is None else (Group(nodes, opacity, clip),)

    def _texture(self, text: str, shape: Shape, context: Context) -> Texture:
        """A pattern as a paint."""
        return Texture(self._fixed(self.copier.texture(text, shape, context, *self._around()), "pattern").svg)

    def _wrap(self, element: Any, context: Context, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        """The children of a container, on a layer where it has an opacity or a clip."""
        if not nodes:
            return ()
        said = self.cascade(element).get("opacity")
        value = fraction(said.value) if said else None
        clip = self.clips.of(element, context, lambda: list(draws(*nodes)))
        key = None if value is None or value == 1 else self.ledger.add(element, "opacity", value, "opacities")
        return nodes if key is None and clip is None else (Group(nodes, key, clip),)

    def _not_edited(self, element: Any, name: str, context: Context) -> list[str]:
        """What keeps an element from being edited, as notes name it."""
        found = [FIXED[name]] if name in FIXED else []
        declared = self.cascade(element)
        if "filter" in declared and declared["filter"].value not in ("none", "", "inherit", "initial"):
            found.append("filter")
        if "mask" in declared and self._names(declared["mask"].value, "mask"):
            found.append("mask")
        if "clip-path" in declared and self.clips.has_text(declared["clip-path"].value):
            found.append("clip path of text")
        if self._marked(element, context) and self._inseparable(context):
            found.append("marker")
        return found

    def _marked(self, element: Any, context: Context) -> bool:
        """Whether an element has markers."""
        return tag(element) in MARKED and any(self._names(context.said(name), "marker") for name in MARKERS)

    def _inseparable(self, context: Context) -> bool:
        """Whether markers cannot be drawn without their shape: in its colours, or below its paints."""
        if "markers" in context.said("paint-order"):
            return True
        markers = [self.tree.ids.get(reference(context.said(name)) or "") for name in MARKERS]
        parts = [part for marker in markers if marker is not None for part in marker.iter("*")]
        texts = [text for part in parts for text in part.attrib.values()]
        texts += [text for part in parts for _, text, _ in self.cascade.of_sheets(part)]
        return any("context-" in text for text in texts)

    def _names(self, text: str, kind: str) -> bool:
        """Whether `url(#id)` names an element of this kind."""
        name = reference(text)
        target = self.tree.ids.get(name) if name else None
        return target is not None and tag(target) == kind

    def _fix(self, element: Any, frame: Frame, outer: Context) -> None:
        """Leave an element to resvg, together with the neighbour before it where that is fixed as well."""
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
        """Write the fixed parts out."""
        if not isinstance(node, Pending):
            return node
        svg = self.copier.page(node.elements, node.context, *self._around())
        return self._fixed(svg, ", ".join(dict.fromkeys(tag(e) for e in node.elements)))

    def _fixed(self, svg: bytes, name: str) -> Fixed:
        """A fixed part; InputError if there is too much of them."""
        self._bytes += len(svg)
        advice = "turn text into paths and patterns into shapes"
        require(self._bytes <= MAX_FIXED_BYTES, f"{self.name} has too much that cannot be edited: {advice}")
        return Fixed(svg, name)

    def _around(self) -> tuple[Size, dict[Any, Context]]:
        """What a fixed part's page needs to know: the page's size, and the state around every element."""
        if not self._outer:
            self._outer = self._contexts()
        return self.size, self._outer

    def _contexts(self) -> dict[Any, Context]:
        """The style around every element where it stands in the document."""
        around = {self.tree.root: start(self.size)}
        inside: dict[Any, Context] = {}
        for element in self.tree.path:
            parent = element.getparent()
            if element is not self.tree.root:
                around[element] = inside[parent]
            inside[element] = around[element].within(self.cascade(element), {})
        return around

    def _used_twice(self) -> set[Any]:
        """The elements that a `use` draws and that may be drawn where they stand as well."""
        shared = set()
        for element in self.tree.path:
            if tag(element) == "use" and not any(tag(up) == "clipPath" for up in element.iterancestors()):
                target = self.tree.linked(element)
                if target is not None:
                    shared.add(target)
        return shared

    def _note_paints(self, element: Any, context: Context) -> None:
        """Note what of a shape is not edited although its outline is."""
        if any(self.painter.is_pattern(context.said(side)) for side in ("fill", "stroke")):
            self._note(element, "pattern")
        if self._marked(element, context):
            self._note(element, "marker")

    def _note(self, element: Any, kind: str) -> None:
        if (element, kind) not in self._noted:
            self._noted.add((element, kind))
            self.notes[kind] += 1


def met(element: Any) -> bool:
    """Whether an element's conditions hold: no extensions, and English where a language is asked for."""
    if element.get("requiredExtensions") is not None:
        return False
    languages = element.get("systemLanguage")
    return languages is None or any(l.strip().lower().split("-")[0] == "en" for l in languages.split(","))  # noqa: E741
