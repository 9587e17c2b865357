"""Whether an element is drawn at all, and what keeps it from being edited."""

from typing import Any

from svg.parse.clips import Clips
from svg.parse.context import Context
from svg.parse.css import Cascade
from svg.parse.use_expansion import STATIC
from svg.parse.values import reference
from svg.parse.xml import Tree, tag

MARKERS = ("marker-start", "marker-mid", "marker-end")
MARKED = frozenset(("path", "line", "polyline", "polygon"))


def conditions_hold(element: Any) -> bool:
    """Conditional processing (SVG 2, 5.7): no extensions, and English where a language is asked for."""
    if element.get("requiredExtensions") is not None:
        return False
    languages = element.get("systemLanguage")
    return languages is None or any(name.strip().lower().split("-")[0] == "en" for name in languages.split(","))


class Limits:
    """What of a document's elements cannot be edited."""

    def __init__(self, tree: Tree, cascade: Cascade, clips: Clips) -> None:
        self.tree, self.cascade, self.clips = tree, cascade, clips

    def of(self, element: Any, context: Context) -> list[str]:
        """What keeps an element from being edited, as notes name it."""
        found = [STATIC[tag(element)]] if tag(element) in STATIC else []
        declared = self.cascade(element, context.variables)
        if "filter" in declared and declared["filter"].value not in ("none", "", "inherit", "initial"):
            found.append("filter")
        if "mask" in declared and self._names(declared["mask"].value, "mask"):
            found.append("mask")
        if "clip-path" in declared and self.clips.has_text(declared["clip-path"].value):
            found.append("clip path of text")
        if self.has_markers(element, context) and self._inseparable(context):
            found.append("marker")
        return found

    def has_markers(self, element: Any, context: Context) -> bool:
        """Whether an element is drawn with markers."""
        return tag(element) in MARKED and any(self._names(context.computed(name), "marker") for name in MARKERS)

    def _inseparable(self, context: Context) -> bool:
        """Whether markers cannot be drawn without their shape: in its colors, or below its paints."""
        if "markers" in context.computed("paint-order"):
            return True
        markers = [self.tree.ids.get(reference(context.computed(name)) or "") for name in MARKERS]
        parts = [part for marker in markers if marker is not None for part in marker.iter("*")]
        texts = [text for part in parts for text in part.attrib.values()]
        texts += [text for part in parts for _, text, _ in self.cascade.of_sheets(part)]
        return any("context-" in text for text in texts)

    def _names(self, text: str, kind: str) -> bool:
        """Whether `url(#id)` names an element of this kind."""
        name = reference(text)
        target = self.tree.ids.get(name) if name else None
        return target is not None and tag(target) == kind
