"""Steps by shape size: a small detail moves as a whole and slowly, a large outline bends freely."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from svg.parts import CANVAS, Parts
from svg.simple_outlines import Polylines

RIDGE = 0.02 * CANVAS  # canvas px: a part that is thinner than this is stretched across less than it might be
LINE = 0.25  # of its size: what counts as the thickness of an outline without a fill, which cannot fray


class Details:
    """Damps the steps of parts that are smaller than `full_size`, a share of the canvas.

    A step u of a part's points is the sum of four, of which a share is taken, s being sizes by `full_size`, 1 at most:

        the mean step of its neighbors and its own  sqrt(s of the largest of them)
        its own mean step beside that               s of the part; one without neighbors has none
        a linear map about its center, averaged alike  s of the part
        the rest, which bends it                    s of its thickness, 4 area / perimeter

    so that an eye of several shapes stays one and a whisker does not fray.
    """

    def __init__(self, parts: Parts, polylines: Polylines, flat: Tensor, full_size: float) -> None:
        """`flat`: the points as the document has them."""
        self.parts = parts
        area, perimeter = polylines.area_perimeter(flat)
        thickness = 4 * area / perimeter.clamp(min=1e-9) / CANVAS
        filled = torch.minimum(torch.where(perimeter > 0, thickness, parts.size), parts.size)
        thickness = torch.where(parts.filled, filled, LINE * parts.size)
        largest = parts.size.scatter_reduce(0, parts.of, parts.size[parts.near], "amax")
        self.own, self.thin = ((x / full_size).clamp(max=1) for x in (parts.size, thickness))
        self.whole = (largest / full_size).clamp(max=1).sqrt()

    def damped(self, before: Float[Tensor, " n"], after: Float[Tensor, " n"], bend: bool = True) -> Float[Tensor, " n"]:
        """What is taken of a step; without `bend` nothing of what bends a part."""
        parts, part = self.parts, self.parts.part
        x, u = parts.on_page(before), parts.on_page(after) - parts.on_page(before)
        mean = parts.mean(u)
        common = parts.common(mean)
        moved = self.whole[:, None] * common + self.own[:, None] * (mean - common)
        x, u = x - parts.mean(x)[part], u - mean[part]
        ux, xx = (parts.mean(torch.einsum("ni,nj->nij", a, x).flatten(1)).view(-1, 2, 2) for a in (u, x))
        A = ux @ torch.linalg.inv_ex(xx + RIDGE**2 / 12 * torch.eye(2, device=x.device))[0]
        linear = torch.einsum("nij,nj->ni", parts.common(A)[part], x)
        thin = self.thin if bend else torch.zeros_like(self.thin)
        taken = moved[part] + self.own[part, None] * linear + thin[part, None] * (u - linear)
        found = after.clone()
        for axis in (0, 1):
            found[parts.point + axis] = before[parts.point + axis]
        parts.put(found, taken)
        share = self.own[parts.number_part]
        found[parts.number] = torch.lerp(before[parts.number], after[parts.number], share)
        return found
