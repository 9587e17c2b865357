"""What an edit of a document will change, for people who are about to start it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from svg.affine import Affine2D
from svg.config import SvgConfig
from svg.document import Document
from svg.model import StaticPart, draws, nodes
from svg.parse.clips import outline_box
from svg.selection import chosen, held_backdrops

LARGE_SHAPES, LARGE_POINTS = 1000, 20_000  # from which on an edit may take long
NAMES = {  # group -> what one and several of its parameters are called
    "points": ("outline", "outlines"),
    "fills": ("fill color", "fill colors"),
    "strokes": ("stroke color", "stroke colors"),
    "widths": ("stroke width", "stroke widths"),
    "opacities": ("opacity", "opacities"),
    "gradients": ("gradient number", "gradient numbers"),
    "fades": ("shape's visibility", "shapes' visibilities"),
}


@dataclass(frozen=True)
class Summary:
    """What of a document may change, drawn at `size` (height, width) px."""

    shapes: int  # drawn with numbers
    points: int  # that may change; two numbers of a basic shape count as one
    tiny: int  # shapes that are smaller than a pixel
    size: tuple[int, int]
    changing: dict[str, int]  # group -> parameters
    staying: dict[str, int]
    addable: int  # paths that are not counted above

    @classmethod
    def of(cls, document: Document, config: SvgConfig, size: tuple[int, int], still: Collection[str] = ()) -> Summary:
        """Count a document's numbers; `still` and InputError as in `chosen`."""
        new = document.addable
        found = chosen(document, config, still)
        members = {g: [p for p in group if p.owner not in new] for g, group in found.items()}
        keys = {p.key for group in members.values() for p in group}
        others = (p for p in document.parameters.values() if p.key not in keys and p.owner not in new)
        held = held_backdrops(document, config)
        staying = Counter("backdrops" if p.key in held else p.group or "constants" for p in others)
        view = Affine2D.scaling(size[1] / document.width, size[0] / document.height)
        tiny, shapes = 0, [d for d in draws(document.root) if document.parameters[d.geometry.key].owner not in new]
        for draw in shapes:
            left, top, right, bottom = outline_box(draw, view, document.parameters)
            tiny += right - left < 1 and bottom - top < 1
        points = sum(-(-p.value.size // 2) for p in members["points"])
        changing = {g: len(m) for g, m in members.items() if m}
        return cls(len(shapes), points, tiny, size, changing, dict(staying), len(new))

    @property
    def large(self) -> bool:
        """Whether the edit may take long."""
        return self.shapes >= LARGE_SHAPES or self.points >= LARGE_POINTS

    def lines(self) -> list[str]:
        """Sentences for people."""
        height, width = self.size
        shapes, points = _plural(self.shapes, "shape", "shapes"), _plural(self.points, "point", "points")
        found = [f"{shapes}, of which {points} may change, rendered at {width}x{height} px"]
        if self.tiny:
            tiny = _plural(self.tiny, "shape is", "shapes are")
            found.append(f"{tiny} smaller than a pixel there: hardly seen by the prior")
        if self.changing:
            found.append(f"may change: {_counted(self.changing)}")
        if self.addable:
            found.append(f"up to {_plural(self.addable, 'path', 'paths')} may be added")
        if others := {g: n for g, n in self.staying.items() if g in NAMES}:
            found.append(f"stays, as it was not asked for: {_counted(others)}")
        if covering := self.staying.get("backdrops"):
            found.append(f"stays, as it covers the page: {_plural(covering, 'outline', 'outlines')}")
        if constants := self.staying.get("constants"):
            found.append(f"stays, as clip paths or several drawings need it: {_plural(constants, 'number', 'numbers')}")
        return found


def _counted(groups: dict[str, int]) -> str:
    return ", ".join(_plural(n, *NAMES[g]) for g, n in groups.items())


def _plural(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"


def text_is_lost(document: Document) -> bool:
    """Whether resvg draws nothing of a text of the document."""
    from svg.raster import resvg

    texts = (n for n in nodes(document.root) if isinstance(n, StaticPart) and "text" in n.name)
    return any(not resvg.draw(text.svg, 64, 64).any() for text in texts)
