"""How far the outlines of two documents are from each other: the Chamfer distance of points along them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from svg.document import Document
from svg.model import Draw, Group, Node
from svg.raster.coverage import Edges
from svg.raster.outlines import Outlines

CANVAS = 512.0  # px of the longer side while curves are flattened
POINTS = 2048  # on a document's outlines: about 2 px of that canvas apart for outlines of 4000 px


def outline_distance(a: Document, b: Document, points: int = POINTS) -> float:
    """Chamfer distance of the outlines of all visible shapes, on canvases whose longer side is 1; inf if one has none.

    The mean distance from a's points to the nearest of b's, and from b's to the nearest of a's, halved. Points lie
    evenly by arc length on the flattened outlines, where fills end and along which strokes run. Whether one shape hides
    another, or a clip a part of it, is not looked at; static parts have no outlines.
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
    """Line segments along all visible shapes, in px of a canvas with CANVAS px a longer side."""
    values = {key: torch.from_numpy(p.value) for key, p in document.parameters.items()}
    shapes = list(visible(document.root, values))
    if not shapes:
        return torch.zeros(0, 2, 2, dtype=torch.float64)
    unit = CANVAS / max(document.width, document.height)
    matrices = torch.tensor([shape.matrix.rows for shape in shapes], dtype=torch.float64)[:, :2] * unit
    scales = torch.linalg.matrix_norm(matrices[:, :, :2])  # Frobenius, at least the largest stretch
    segments = Outlines([shape.geometry for shape in shapes]).flatten(values, scales)
    edges, own = torch.stack([segments.start, segments.end], 1), matrices[segments.geometry]
    return torch.einsum("eij,epj->epi", own[:, :, :2], edges) + own[:, None, :, 2]


def visible(root: Group, values: Mapping[str, Tensor]) -> Iterator[Draw]:
    """Shapes with a fill or a stroke of any opacity, outside of groups without."""

    def shows(opacity: str | None) -> bool:
        return opacity is None or float(values[opacity]) > 0

    todo: list[Node] = [root]
    while todo:
        node = todo.pop()
        if isinstance(node, Group):
            todo += node.children if shows(node.opacity) else ()
        elif isinstance(node, Draw):
            stroke = node.stroke
            if (node.fill and shows(node.fill_opacity)) or (
                stroke and shows(stroke.opacity) and float(values[stroke.width]) > 0
            ):
                yield node


def points_along(edges: Edges, count: int) -> Float[Tensor, "count 2"]:
    """Points evenly spaced by arc length on line segments, laid end to end; none where these have no length."""
    ends = (edges[:, 1] - edges[:, 0]).norm(dim=1).cumsum(0)
    if not len(ends) or float(ends[-1]) == 0:
        return edges.new_zeros(0, 2)
    at = (torch.arange(count, dtype=ends.dtype) + 0.5) / count * ends[-1]
    i = torch.searchsorted(ends, at).clamp(max=len(ends) - 1)
    length = (edges[i, 1] - edges[i, 0]).norm(dim=1)
    share = ((at - ends[i] + length) / length.clamp(min=1e-12)).clamp(0, 1)
    return torch.lerp(edges[i, 0], edges[i, 1], share[:, None])
