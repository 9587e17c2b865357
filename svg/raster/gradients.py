"""Gradients as pictures: straight-alpha colours at pixel centres, differentiable in geometry, offsets and stops."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from svg.model import Gradient, Matrix


def affine(m: Matrix, like: Tensor) -> Float[Tensor, "3 3"]:
    """SVG's a b c d e f as a matrix for column vectors."""
    a, b, c, d, e, f = m
    return like.new_tensor([[a, c, e], [b, d, f], [0, 0, 1]])


def offset_of(
    gradient: Gradient, numbers: Tensor, points: Float[Tensor, "n 2"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Where each point lies along the gradient (before spreading), and whether (0, 1) it is painted at all."""
    if gradient.kind == "linear":
        start, along = numbers[:2], numbers[2:] - numbers[:2]
        square = (along * along).sum()
        on = ((points - start) * along).sum(1) / square if float(square.detach()) > 0 else points.new_ones(len(points))
        return on, torch.ones_like(on)
    centre, radius, focus, first = numbers[:2], numbers[2], numbers[3:5], numbers[5]
    if float(radius.detach()) <= 0:
        return points.new_ones(len(points)), points.new_ones(len(points))
    way = focus - centre
    far = float((way.norm() / radius).detach())
    if far > 0.9999 and float(first.detach()) == 0:  # a focus outside lies on the rim
        focus = centre + way * (0.9999 / far)
    # the circle through p: |p - f - t (c - f)| = r0 + t (r - r0), the larger t with a radius >= 0
    to_centre, grow, p = centre - focus, radius - first, points - focus
    a = (to_centre * to_centre).sum() - grow * grow
    b = (p * to_centre).sum(1) + first * grow
    c = (p * p).sum(1) - first * first
    inside = b * b - a * c >= 0  # beyond a cone that opens to one side nothing is painted
    if abs(float(a.detach())) < 1e-9:
        t = c / torch.where(b == 0, 1e-12, 2 * b)
    else:
        root = (b * b - a * c).clamp(min=1e-12).sqrt()
        one, other = (b + root) / a, (b - root) / a
        high, low = torch.maximum(one, other), torch.minimum(one, other)
        t = torch.where(first + high * grow >= 0, high, low)
    return t, (inside & (first + t * grow >= 0)).to(t)


def spread_over(t: Tensor, spread: str) -> Tensor:
    """Offsets as spreadMethod says: folded into [0, 1], or left as they are where the first and last stop go on."""
    if spread == "repeat":
        return t - t.detach().floor()
    if spread == "reflect":
        t = t - 2 * (t.detach() / 2).floor()
        return torch.where(t > 1, 2 - t, t)
    return t


def paint(
    gradient: Gradient,
    values: Mapping[str, Tensor],
    to_user: Float[Tensor, "3 3"],
    bounds: tuple[float, float, float, float],
    box: tuple[int, int, int, int],
) -> Float[Tensor, "h w 4"]:
    """The gradient's colours in a box (x, y, w, h) of pixels.

    `to_user` leads from canvas px to the shape's user units; `bounds` (x, y, w, h) are its outline's there, as
    objectBoundingBox wants them.
    """
    x, y, w, h = box
    numbers = values[gradient.key].to(to_user)
    frame = affine(gradient.matrix, to_user)
    if gradient.units == "objectBoundingBox":
        frame = affine((bounds[2], 0.0, 0.0, bounds[3], bounds[0], bounds[1]), to_user) @ frame
    colours = torch.stack(
        [torch.cat([values[s.color].reshape(3), values[s.opacity].reshape(1)]) for s in gradient.stops]
    ).to(to_user)
    if len(colours) == 1 or abs(float(torch.linalg.det(frame[:2, :2]))) < 1e-20:  # no area to spread over
        return colours[-1].expand(h, w, 4)
    inverse = torch.linalg.inv(frame) @ to_user
    rows, columns = torch.meshgrid(
        torch.arange(y, y + h, device=to_user.device), torch.arange(x, x + w, device=to_user.device), indexing="ij"
    )
    points = torch.stack([columns.flatten() + 0.5, rows.flatten() + 0.5], 1).to(to_user)
    t, painted = offset_of(gradient, numbers, points @ inverse[:2, :2].T + inverse[:2, 2])
    t = spread_over(t, gradient.spread)
    offsets = torch.stack([values[s.offset].reshape(()) for s in gradient.stops]).to(to_user).clamp(0, 1)
    offsets = offsets.cummax(0).values  # none lies before the one ahead of it
    right = torch.searchsorted(offsets.detach().contiguous(), t.detach(), right=True).clamp(1, len(offsets) - 1)
    before, after = offsets[right - 1], offsets[right]
    share = ((t - before) / (after - before).clamp(min=1e-9)).clamp(0, 1)
    share = torch.where(t >= after, 1.0, share)[:, None]  # at the last stop, though another may lie at the same offset
    colour = colours[right - 1] * (1 - share) + colours[right] * share
    return torch.cat([colour[:, :3], colour[:, 3:] * painted[:, None]], 1).view(h, w, 4)
