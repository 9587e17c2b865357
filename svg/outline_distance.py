"""How far the outlines of two documents are from each other: the Chamfer distance of points along them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from svg.document import Document
from svg.model import Affine2D, Draw, Group
from svg.raster.coverage import Edges
from svg.raster.edges import page_edges
from svg.raster.shapes import Shapes

CANVAS = 512.0  # px of the longer side while curves are flattened
POINTS = 2048  # on a document's outlines: about 2 px of that canvas apart for outlines of 4000 px


def outline_distance(a: Document, b: Document, points: int = POINTS) -> float:
    """Chamfer distance of the outlines of all visible shapes, on canvases whose longer side is 1; inf if one has none.

    The mean distance from a's points to the nearest of b's, and from b's to the nearest of a's, halved. Points lie
    evenly by arc length on the flattened borders of fills and strokes. Whether one shape hides another, or a clip a
    part of it, is not looked at; static parts have no outlines.
    """
    one, other = (points_along(outline_edges(d), points) for d in (a, b))
    return chamfer(one, other) / CANVAS


def chamfer(a: Float[Tensor, "n 2"], b: Float[Tensor, "m 2"]) -> float:
    """Mean of both directions' mean distances to the nearest point; inf where a set is empty."""
    if not len(a) or not len(b):
        return float("inf")
    distances = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")  # exact where points coincide
    return float(distances.amin(1).mean() + distances.amin(0).mean()) / 2


@torch.no_grad()
def outline_edges(document: Document) -> Edges:
    """Line segments along the borders of what the document paints, in px of a canvas with CANVAS px a longer side."""
    shapes = Shapes(document.root)
    values = {key: torch.from_numpy(p.value) for key, p in document.parameters.items()}
    unit = CANVAS / max(document.width, document.height)
    view = torch.tensor(Affine2D.scaling(unit, unit).rows, dtype=torch.float64)
    found = page_edges(shapes, values, view @ shapes.matrices)
    seen = {id(draw) for draw in visible(document.root, values)}
    painted = [
        id(s.draw) in seen and s.paint is not None and (s.opacity is None or float(values[s.opacity]) > 0)
        for s in shapes.table
    ]
    return found.edges[torch.tensor(painted, dtype=torch.bool)[found.owner]]


def visible(root: Group, values: dict[str, Tensor]) -> Iterator[Draw]:
    """What is drawn outside of groups with opacity 0."""
    todo = [root]
    while todo:
        node = todo.pop()
        if isinstance(node, Draw):
            yield node
        elif isinstance(node, Group) and (node.opacity is None or float(values[node.opacity]) > 0):
            todo.extend(node.children)  # pyright: ignore[reportArgumentType]


def points_along(edges: Edges, count: int) -> Float[Tensor, "count 2"]:
    """Points evenly spaced by arc length on line segments (n, 2, 2) laid end to end; none where they have no length."""
    ends = (edges[:, 1] - edges[:, 0]).norm(dim=1).cumsum(0)
    if not len(ends) or float(ends[-1]) == 0:
        return edges.new_zeros(0, 2)
    at = (torch.arange(count, dtype=ends.dtype) + 0.5) / count * ends[-1]
    i = torch.searchsorted(ends, at).clamp(max=len(ends) - 1)
    length = (edges[i, 1] - edges[i, 0]).norm(dim=1)
    share = ((at - ends[i] + length) / length.clamp(min=1e-12)).clamp(0, 1)
    return torch.lerp(edges[i, 0], edges[i, 1], share[:, None])
