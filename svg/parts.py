"""The parts of a drawing, for which a step is damped by size: what of each path holds together, and what lies on what.

A part is a basic shape, or those contours of a path whose boxes overlap (an outline and its holes). Small parts have
neighbors that they move with: the shapes of an eye, the bars of a grille.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from svg.model import Draw, Geometry
from svg.raster import outlines

CANVAS = 512.0  # px of the longer side (of very long pages: svg.flat), the unit of points and widths
SMALL = 0.35  # of the canvas: larger parts have no neighbors
REACH = 0.05  # of the canvas: gap between neighbors
CURVE = 6  # segments of a flattened curve
DUST = 0.1  # canvas px between ends that are one point
NEIGHBORS = 256  # of a part, those that count most: drawings of thousands of parts have thousands in reach


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
    of: Int[Tensor, " q"]  # a part …
    near: Int[Tensor, " q"]  # … one of its neighbors, itself among them …
    weight: Float[Tensor, " q"]  # … and how much that counts; they sum to 1

    def __init__(self, found: Sequence[Outline], page_unit: float, device: torch.device) -> None:
        """page_unit: canvas px per page px."""
        rows = _Rows()
        for outline in found:
            rows.take(outline, page_unit)

        def table(numbers: Sequence[object], width: int = 0) -> Tensor:
            made = torch.tensor(numbers, device=device).long()
            return made.reshape(-1, width) if width else made

        curves = table(rows.curves, 7)
        self.curve, (self.degree, self.contour, self.curve_part) = curves[:, :4], curves[:, 4:].unbind(1)
        self.point, self.part = table(rows.point), table(rows.part)
        self.number, self.number_part = table(rows.number), table(rows.number_part)
        self.matrix = torch.from_numpy(np.array(rows.matrices).reshape(-1, 2, 2)).float().to(device)
        self.inverse = torch.linalg.inv(self.matrix)
        self.filled = torch.tensor(rows.filled, dtype=torch.bool, device=device)
        boxes = np.array(rows.boxes).reshape(-1, 2, 2)
        side = boxes[:, 1] - boxes[:, 0]
        self.size = torch.from_numpy(side.max(1, initial=0) / CANVAS).float().to(device)
        of, near, weight = neighbors(boxes)
        self.of, self.near = (torch.from_numpy(rows).to(device) for rows in (of, near))
        self.weight = torch.from_numpy(weight).float().to(device)

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

    def common(self, x: Tensor) -> Tensor:
        """Of rows (p, …), one for each part, the mean of its neighbors' and its own, as they weigh."""
        weighed = torch.einsum("q,q...->q...", self.weight, x[self.near])
        return torch.zeros_like(x).index_add(0, self.of, weighed)

    def mean(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "p d"]:
        """Of each part's points."""
        count = x.new_zeros(len(self)).index_add(0, self.part, torch.ones_like(x[:, 0]))
        return x.new_zeros(len(self), x.shape[1]).index_add(0, self.part, x) / count.clamp(min=1)[:, None]


@dataclass
class _Rows:
    """The tables while they are filled, outline by outline."""

    point: list[int] = field(default_factory=list)
    part: list[int] = field(default_factory=list)
    number: list[int] = field(default_factory=list)
    number_part: list[int] = field(default_factory=list)
    curves: list[tuple[int, ...]] = field(default_factory=list)
    matrices: list[np.ndarray] = field(default_factory=list)
    filled: list[bool] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)
    contours: int = 0

    def take(self, outline: Outline, page_unit: float) -> None:
        """Add an outline's parts."""
        m, x = outline.draw.matrix, outline.numbers.double().numpy()
        linear = np.array([[m.a, m.c], [m.b, m.d]]) / np.sqrt(abs(m.det))
        offset = np.array([m.e, m.f]) * page_unit
        if outline.geometry.kind in ("path", "line"):
            self._take_path(outline, x.reshape(-1, 2) @ linear.T + offset, linear)
            return
        kind = outline.geometry.kind
        half = {"circle": x[[-1, -1]], "ellipse": x[2:4], "rect": x[2:4] / 2}[kind]
        corners = x[:2] + half * np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]]) + (half if kind == "rect" else 0)
        part = self._part(outline, corners @ linear.T + offset, linear)
        self.point.append(outline.start)
        self.part.append(part)
        self.number += range(outline.start + 2, outline.start + len(x))
        self.number_part += [part] * (len(x) - 2)

    def _part(self, outline: Outline, points: np.ndarray, linear: np.ndarray) -> int:
        self.boxes.append(_box(points))
        self.matrices.append(linear)
        self.filled.append(outline.draw.fill is not None)
        return len(self.boxes) - 1

    def _take_path(self, outline: Outline, place: np.ndarray, linear: np.ndarray) -> None:
        """`place`: its points on the page, in canvas px."""
        contours = outlines.contours(outline.geometry)
        ids = [list(dict.fromkeys(i for curve in curves for i in curve[:4])) for curves, _ in contours]
        group = connected(np.array([_box(place[own]) for own in ids]).reshape(-1, 2, 2), 0.0).tolist()
        members = {g: [i for own, h in zip(ids, group, strict=True) if h == g for i in own] for g in group}
        part = {g: self._part(outline, place[own], linear) for g, own in members.items()}
        row: dict[int, int] = {}
        for (curves, _), own, g in zip(contours, ids, group, strict=True):
            for i in own:
                if i not in row:  # a contour may begin where the one before did
                    row[i] = len(self.point)
                    self.point.append(outline.start + 2 * i)
                    self.part.append(part[g])
            for *ends, degree in curves:
                if degree > 1 or np.abs(place[ends[0]] - place[ends[3]]).max() > DUST:
                    self.curves.append((*(row[i] for i in ends), degree, self.contours, part[g]))
            self.contours += 1


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


def neighbors(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of parts that move alike, each with itself, and how much the second counts for the first.

    Small parts do, the more the nearer their boxes and the larger the other: exp(-(gap / REACH)² / 2) times its area.
    Of more than NEIGHBORS those that weigh most are taken.
    """
    side = boxes[:, 1] - boxes[:, 0]
    area, small = side.clip(1).prod(1), side.max(1, initial=0) < SMALL * CANVAS
    order = np.flatnonzero(small)[np.argsort(boxes[small, 0, 0])]
    sorted_boxes = boxes[order]
    left = sorted_boxes[:, 0, 0]
    far = 2.2 * REACH * CANVAS  # where exp(...) is below 0.1
    widest = side[order, 0].max(initial=0) + far
    rows, columns, weights = [], [], []
    for i in range(len(boxes)):
        chosen, near = np.array([i]), np.ones(1)
        if small[i]:
            first, last = np.searchsorted(left, [boxes[i, 0, 0] - widest, boxes[i, 1, 0] + far])
            low, high = sorted_boxes[first:last, 0, 1], sorted_boxes[first:last, 1, 1]
            chosen = order[first:last][(low <= boxes[i, 1, 1] + far) & (high >= boxes[i, 0, 1] - far)]
            chosen.sort()
            gap = np.maximum(boxes[chosen, 0] - boxes[i, 1], boxes[i, 0] - boxes[chosen, 1]).clip(0)
            near = np.exp(-(gap**2).sum(1) / (2 * (REACH * CANVAS) ** 2))
            chosen, near = chosen[near > 0.1], near[near > 0.1]
        weight = near * area[chosen]
        if len(chosen) > NEIGHBORS:
            first = np.where(chosen == i, np.inf, weight)  # itself in any case
            most = np.sort(np.argsort(-first, kind="stable")[:NEIGHBORS])
            chosen, weight = chosen[most], weight[most]
        rows.append(np.full(len(chosen), i))
        columns.append(chosen)
        weights.append(weight / weight.sum())
    if not rows:
        return np.zeros(0, int), np.zeros(0, int), np.zeros(0)
    return np.concatenate(rows), np.concatenate(columns), np.concatenate(weights)


def _box(points: np.ndarray) -> np.ndarray:
    return np.stack([points.min(0), points.max(0)])
