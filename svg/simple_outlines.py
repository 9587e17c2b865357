"""Outlines that stay simple: no step makes a part cross itself, grow a spike or turn into a sliver."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from svg.parts import CURVE, Parts

PAIRS = 2**15  # of curves that are compared at once: it bounds the memory
BAND = 200  # curves of one part that are farther apart along it are not compared in parts of many curves
REVERSAL = -0.9  # cosine of the angle between two segments from which on their corner is a spike
COMPACT = 0.5  # of what its area by perimeter squared is in the document, below which a part is a sliver


@dataclass(frozen=True)
class Shapeliness:
    """What must not get worse, for each part."""

    crossings: Int[Tensor, " p"]
    spikes: Int[Tensor, " p"]
    compactness: Float[Tensor, " p"]  # area by perimeter squared; a circle's is 1 / (4 pi)


class Polylines:
    """The flattened outlines of parts: CURVE segments for each curve, one for each line."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        device = parts.curve.device
        count = torch.where(parts.degree > 1, CURVE, 1)
        self.first = count.cumsum(0) - count  # segment of each curve
        self.count = count
        self.curve = torch.arange(len(count), device=device).repeat_interleave(count)
        k = torch.arange(len(self.curve), device=device) - self.first[self.curve]
        self.weights = torch.stack([_bernstein((k + j) / count[self.curve], parts.degree[self.curve]) for j in (0, 1)])
        self.part, contour = parts.curve_part[self.curve], parts.contour[self.curve]
        segment = torch.arange(len(self.curve), device=device)
        starts = torch.ones_like(contour, dtype=torch.bool)
        starts[1:] = contour[1:] != contour[:-1]
        last = torch.cat([starts[1:], starts.new_ones(min(1, len(starts)))])
        self.next = segment + 1
        self.next[last] = segment[starts]
        self.pairs = self._curve_pairs()

    def _curve_pairs(self) -> Int[Tensor, "q 2"]:
        """Curves of one part, each with itself and with those after it."""
        part = self.parts.curve_part
        order = torch.argsort(part, stable=True)
        place = torch.arange(len(part), device=part.device)
        found = []
        last = int(torch.bincount(part).max()) if len(part) else 0
        for gap in range(min(last, BAND)):
            a, b = order[: len(order) - gap], order[gap:]
            same = part[a] == part[b]
            found.append(torch.stack([a[same], b[same]], 1))
        return torch.cat(found) if found else place.new_zeros(0, 2)

    def segments(self, flat: Float[Tensor, " _x"]) -> Float[Tensor, "s 2 2"]:
        """Start and end of each, in canvas px."""
        control = self.parts.on_page(flat)[self.parts.curve][self.curve]
        return (self.weights[..., None] * control).sum(2).transpose(0, 1)

    def area_perimeter(self, flat: Float[Tensor, " _x"]) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
        """Of each part: what its contours enclose, holes taken off, and how long they are."""
        s = self.segments(flat)
        return self._area(s), self._sum((s[:, 1] - s[:, 0]).norm(dim=1))

    def shapeliness(self, flat: Float[Tensor, " _x"]) -> Shapeliness:
        """Of each part as it stands."""
        s = self.segments(flat)
        along = s[:, 1] - s[:, 0]
        length = along.norm(dim=1)
        unit = along / length.clamp(min=1e-9)[:, None]
        spike = (unit * unit[self.next]).sum(1) < REVERSAL
        spike &= (length > 1e-3) & (length[self.next] > 1e-3)
        compactness = self._area(s) / self._sum(length).square().clamp(min=1e-9)
        return Shapeliness(self._crossings(s), self._sum(spike.long()), compactness)

    def _sum(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(self.parts)).index_add(0, self.part, x)

    def _area(self, s: Float[Tensor, "s 2 2"]) -> Float[Tensor, " p"]:
        a, b = s.unbind(1)
        return self._sum((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / 2).abs()

    def _crossings(self, s: Float[Tensor, "s 2 2"]) -> Int[Tensor, " p"]:
        """How often each part crosses itself."""
        of = self.curve[:, None].expand(-1, 2)
        low = s.new_full((len(self.count), 2), torch.inf).scatter_reduce(0, of, s.amin(1), "amin")
        high = s.new_full((len(self.count), 2), -torch.inf).scatter_reduce(0, of, s.amax(1), "amax")
        a, b = self.pairs.unbind(1)
        near = ((low[a] <= high[b]) & (low[b] <= high[a])).all(1).nonzero()[:, 0]
        found = torch.zeros(len(self.parts), dtype=torch.long, device=s.device)
        for pairs in self.pairs[near].split(PAIRS):
            self._count(s, pairs, found)
        return found

    def _count(self, s: Float[Tensor, "s 2 2"], pairs: Int[Tensor, "q 2"], found: Int[Tensor, " p"]) -> None:
        """Add to each part's crossings those of these pairs of curves."""
        a, b = pairs.unbind(1)
        k = torch.arange(CURVE, device=s.device)
        real = (k < self.count[a, None])[:, :, None] & (k < self.count[b, None])[:, None]
        place = real.flatten().nonzero()[:, 0]  # pair, then segment of the one and of the other
        pair = torch.div(place, CURVE**2, rounding_mode="floor")
        a, b = a[pair], b[pair]
        i = self.first[a] + torch.div(place, CURVE, rounding_mode="floor") % CURVE
        j = self.first[b] + place % CURVE
        crossed = crossing(s[i, 0], s[i, 1], s[j, 0], s[j, 1])
        crossed &= (i != j) & (self.next[i] != j) & (self.next[j] != i)
        crossed &= (a != b) | (i < j)  # a curve with itself is seen from both sides
        found.index_add_(0, self.part[i], crossed.long())


class SimpleOutlines:
    """Takes of a step what leaves every part as simple as it was."""

    def __init__(self, parts: Parts, polylines: Polylines, flat: Tensor) -> None:
        """`flat`: the points as the document has them."""
        self.parts, self.polylines = parts, polylines
        self._known = flat.clone(), polylines.shapeliness(flat)  # of the points that were seen last
        self.least = COMPACT * self._known[1].compactness

    def shortened(self, before: Float[Tensor, " n"], after: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The step of each part, or half of it, or its mean, or none: the first that makes nothing worse."""
        known, was = self._known
        if not torch.equal(known, before):
            was = self.polylines.shapeliness(before)
        now = was
        found, bad = after.clone(), torch.ones(len(self.parts), dtype=torch.bool, device=after.device)
        u = self.parts.on_page(after) - self.parts.on_page(before)
        for share, alike in ((1.0, 0.0), (0.5, 0.0), (0.0, 1.0), (0.0, 0.0)):
            step = share * u + alike * self.parts.mean(u)[self.parts.part]
            if share < 1:
                trial = found.clone()
                for axis in (0, 1):
                    at = self.parts.point + axis
                    trial[at] = torch.where(bad[self.parts.part], before[at], found[at])
                self.parts.put(trial, torch.where(bad[self.parts.part, None], step, 0))
                found = trial
            now = self.polylines.shapeliness(found)
            bad = self._worse(was, now)
            if not bool(bad.any()):
                break
        self._known = found.clone(), now
        return found

    def _worse(self, was: Shapeliness, now: Shapeliness) -> Bool[Tensor, " p"]:
        sliver = (now.compactness < self.least) & (now.compactness < was.compactness) & self.parts.filled
        return (now.crossings > was.crossings) | (now.spikes > was.spikes) | sliver


def _bernstein(t: Float[Tensor, " s"], degree: Int[Tensor, " s"]) -> Float[Tensor, "s 4"]:
    """Weights of four control points at t; a quadratic's middle one stands twice, a line's ends do."""
    s = 1 - t
    cubic = torch.stack([s * s * s, 3 * s * s * t, 3 * s * t * t, t * t * t], 1)
    quadratic = torch.stack([s * s, 2 * s * t, 0 * t, t * t], 1)
    line = torch.stack([s, 0 * t, 0 * t, t], 1)
    return torch.where(degree[:, None] == 3, cubic, torch.where(degree[:, None] == 2, quadratic, line))


def crossing(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Bool[Tensor, " n"]:
    """Whether segments ab and cd (n, 2) cross, ends apart."""

    def side(p: Tensor, q: Tensor, r: Tensor) -> Tensor:
        return ((q - p)[:, 0] * (r - p)[:, 1] - (q - p)[:, 1] * (r - p)[:, 0]).sign()

    return (side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)
