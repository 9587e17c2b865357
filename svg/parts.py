"""The parts of a drawing, for which a step is damped by size: what of each path holds together, and what lies on what.

A part is a basic shape, or those contours of a path whose boxes overlap (an outline and its holes). Parts that lie on
each other and are small together form a cluster: an eye of several shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from svg.model import Draw, Geometry
from svg.raster import outlines

CANVAS = 512.0  # px of the longer side, the unit of points and widths
CLUSTER = 0.35  # of the canvas: larger parts stand alone
OVERLAP = 0.3  # of the smaller one's box, from which on parts lie on each other
CURVE = 6  # segments of a flattened curve
DUST = 0.1  # canvas px between ends that are one point


@dataclass(frozen=True)
class Outline:
    """One element's outline: where its numbers begin in the flat tensor, and the numbers, in canvas px."""

    draw: Draw
    start: int
    numbers: Float[Tensor, " _n"]

    @property
    def geometry(self) -> Geometry:
        return self.draw.geometry


class Parts:
    """Tables of points (n), other numbers (k), curves (m) and parts (p) of a flat tensor x, y, x, y, …"""

    point: Int[Tensor, " n"]  # where the x of each stands; its y follows
    part: Int[Tensor, " n"]
    number: Int[Tensor, " k"]  # radii and sides
    number_part: Int[Tensor, " k"]
    curve: Int[Tensor, "m 4"]  # control points, as rows of `point`
    degree: Int[Tensor, " m"]
    contour: Int[Tensor, " m"]
    curve_part: Int[Tensor, " m"]
    matrix: Float[Tensor, "p 2 2"]  # from the flat tensor's directions to the page's
    filled: Bool[Tensor, " p"]
    size: Float[Tensor, " p"]  # longer side of the box, of the canvas
    cluster: Int[Tensor, " p"]
    cluster_size: Float[Tensor, " c"]
    area: Float[Tensor, " p"]  # of the box: what a part weighs in its cluster

    def __init__(self, found: Sequence[Outline], page_unit: float, device: torch.device) -> None:
        """page_unit: canvas px per page px."""
        points, part, numbers, number_part, curves = [], [], [], [], []
        matrices, filled, boxes = [], [], []
        contours = 0
        for outline in found:
            geometry, m, x = outline.geometry, outline.draw.matrix, outline.numbers.double().numpy()
            scale = np.sqrt(abs(m.det))
            linear = np.array([[m.a, m.c], [m.b, m.d]]) / scale
            offset = np.array([m.e, m.f]) * page_unit

            def add(box: np.ndarray, linear: np.ndarray = linear, draw: Draw = outline.draw) -> int:
                matrices.append(linear)
                filled.append(draw.fill is not None)
                boxes.append(box)
                return len(boxes) - 1

            if geometry.kind not in ("path", "line"):
                half = {"circle": x[[-1, -1]], "ellipse": x[2:4], "rect": x[2:4] / 2}[geometry.kind]
                center = x[:2] + (half if geometry.kind == "rect" else 0)
                corners = center + half * np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
                own = add(_box(corners @ linear.T + offset))
                points.append(outline.start)
                part.append(own)
                numbers += range(outline.start + 2, outline.start + len(x))
                number_part += [own] * (len(x) - 2)
                continue
            place = x.reshape(-1, 2) @ linear.T + offset
            each = outlines.contours(geometry)
            ids = [list(dict.fromkeys(i for curve in loop for i in curve[:4])) for loop, _ in each]
            groups = connected(np.array([_box(place[i]) for i in ids]).reshape(-1, 2, 2), 0.0)
            owners = {
                g: add(_box(place[np.concatenate([ids[k] for k in np.flatnonzero(groups == g)])]))
                for g in dict.fromkeys(groups.tolist())
            }
            row: dict[int, int] = {}
            for (loop, _), mine, g in zip(each, ids, groups.tolist(), strict=True):
                for i in mine:
                    if i not in row:
                        row[i] = len(points)
                        points.append(outline.start + 2 * i)
                        part.append(owners[g])
                for *ends, degree in loop:
                    real = degree > 1 or np.abs(place[ends[0]] - place[ends[3]]).max() > DUST
                    if real:
                        curves.append((*(row[i] for i in ends), degree, contours, owners[g]))
                contours += 1
        table = torch.tensor(curves, device=device).long().reshape(-1, 7)
        self.curve, (self.degree, self.contour, self.curve_part) = table[:, :4], table[:, 4:].unbind(1)
        self.point, self.part, self.number, self.number_part = (
            torch.tensor(x, device=device).long() for x in (points, part, numbers, number_part)
        )
        self.matrix = torch.tensor(np.array(matrices).reshape(-1, 2, 2), device=device).float()
        self.inverse = torch.linalg.inv(self.matrix)
        self.filled = torch.tensor(filled, dtype=torch.bool, device=device)
        box = np.array(boxes).reshape(-1, 2, 2)
        cluster, extents = _clusters(box)
        side = box[:, 1] - box[:, 0]
        self.size = torch.tensor(side.max(1, initial=0) / CANVAS, device=device).float()
        self.area = torch.tensor(side.clip(1).prod(1), device=device).float()
        self.cluster = torch.tensor(cluster, device=device).long()
        self.cluster_size = torch.tensor(extents / CANVAS, device=device).float()

    def __len__(self) -> int:
        return len(self.size)

    def on_page(self, flat: Float[Tensor, " _x"]) -> Float[Tensor, "n 2"]:
        """The points in canvas px, each part from an origin of its own."""
        own = torch.stack([flat[self.point], flat[self.point + 1]], 1)
        return torch.einsum("nij,nj->ni", self.matrix[self.part], own)

    def put(self, flat: Float[Tensor, " _x"], step: Float[Tensor, "n 2"]) -> None:
        """Add a step on the page to the points, in place."""
        own = torch.einsum("nij,nj->ni", self.inverse[self.part], step)
        for axis in (0, 1):
            flat[self.point + axis] += own[:, axis]

    def mean(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "p d"]:
        """Of each part's points."""
        count = x.new_zeros(len(self)).index_add(0, self.part, torch.ones_like(x[:, 0]))
        return x.new_zeros(len(self), x.shape[1]).index_add(0, self.part, x) / count.clamp(min=1)[:, None]


def connected(boxes: np.ndarray, share: float) -> np.ndarray:
    """A number for each of the boxes (n, 2, 2) that those share which hang together, by overlaps of more than `share`.

    It is the index of one of them.
    """
    label = np.arange(len(boxes))
    low, high = boxes[:, 0], boxes[:, 1]
    area = (high - low).prod(1)
    for i in label.copy():
        shared = (np.minimum(high, high[i]) - np.maximum(low, low[i])).clip(0).prod(1)
        near = label[shared > share * np.minimum(area, area[i])]
        label[np.isin(label, near)] = label[i]
    return label


def _clusters(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cluster of each part, counted from 0, and their sizes."""
    small = np.flatnonzero((boxes[:, 1] - boxes[:, 0]).max(1, initial=0) < CLUSTER * CANVAS)
    label = np.arange(len(boxes))
    label[small] = small[connected(boxes[small], OVERLAP)]
    names, cluster = np.unique(label, return_inverse=True)
    extents = [np.ptp(boxes[cluster == c].reshape(-1, 2), axis=0).max() for c in range(len(names))]
    return cluster, np.array(extents)


def _box(points: np.ndarray) -> np.ndarray:
    return np.stack([points.min(0), points.max(0)])
