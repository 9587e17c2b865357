"""Gradients as images: straight-alpha colors at pixel centers, differentiable in geometry, offsets and stops."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from svg.model import Affine2D, Gradient

INNER = 0.9999  # of the radius: as far from the center as a focus may lie


def offsets_at(
    gradient: Gradient, numbers: Tensor, points: Float[Tensor, "n 2"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Where each point lies along the gradient (before spreading), and whether (0, 1) it is painted at all."""
    if gradient.kind == "linear":
        t = _along_line(numbers[:2], numbers[2:] - numbers[:2], points)
        return t, torch.ones_like(t)
    c, r, f, r0 = numbers[:2], numbers[2], numbers[3:5], numbers[5]
    if float(r.detach()) <= 0:
        return points.new_ones(len(points)), points.new_ones(len(points))
    e = f - c
    eccentricity = float((e.norm() / r).detach())
    if eccentricity > INNER and float(r0.detach()) == 0:  # a focus outside lies on the rim
        f = c + e * (INNER / eccentricity)
    return _between_circles(c, r, f, r0, points)


def _along_line(p1: Tensor, v: Tensor, p: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
    """t = (p - p1) . v / |v|^2, where v = p2 - p1."""
    vv = (v * v).sum()
    return ((p - p1) * v).sum(1) / vv if float(vv.detach()) > 0 else p.new_ones(len(p))


def _between_circles(
    c: Tensor, r: Tensor, f: Tensor, r0: Tensor, p: Float[Tensor, "n 2"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """The larger t whose circle, radius r0 + t (r - r0) >= 0 about f + t (c - f), goes through p.

    With q = p - f, s = c - f, dr = r - r0 that is A t^2 - 2 B t + C = 0, where A = s.s - dr^2, B = q.s + r0 dr and
    C = q.q - r0^2.
    """
    s, dr, q = c - f, r - r0, p - f
    A = (s * s).sum() - dr * dr
    B = (q * s).sum(1) + r0 * dr
    C = (q * q).sum(1) - r0 * r0
    inside = B * B - A * C >= 0  # beyond a cone that opens to one side nothing is painted
    if abs(float(A.detach())) < 1e-9:
        t = C / torch.where(B == 0, 1e-12, 2 * B)
    else:
        root = (B * B - A * C).clamp(min=1e-12).sqrt()
        t0, t1 = (B + root) / A, (B - root) / A
        high, low = torch.maximum(t0, t1), torch.minimum(t0, t1)
        t = torch.where(r0 + high * dr >= 0, high, low)
    return t, (inside & (r0 + t * dr >= 0)).to(t)


def spread_over(t: Tensor, spread: str) -> Tensor:
    """Offsets by spreadMethod: folded into [0, 1], or left as they are where the first and last stop go on."""
    if spread == "repeat":
        return t - t.detach().floor()
    if spread == "reflect":
        t = t - 2 * (t.detach() / 2).floor()
        return torch.where(t > 1, 2 - t, t)
    return t


def interpolated(t: Float[Tensor, " n"], offsets: Float[Tensor, " s"], colors: Float[Tensor, "s 4"]) -> Tensor:
    """The colors (n, 4) of offsets t between stops."""
    offsets = offsets.clamp(0, 1).cummax(0).values  # none lies before the one ahead of it
    i = torch.searchsorted(offsets.detach().contiguous(), t.detach(), right=True).clamp(1, len(offsets) - 1)
    t0, t1 = offsets[i - 1], offsets[i]
    u = ((t - t0) / (t1 - t0).clamp(min=1e-9)).clamp(0, 1)
    u = torch.where(t >= t1, 1.0, u)[:, None]  # at the last stop, though another may lie at the same offset
    return colors[i - 1] * (1 - u) + colors[i] * u


def paint(
    gradient: Gradient,
    values: Mapping[str, Tensor],
    to_user: Float[Tensor, "3 3"],
    bounds: tuple[float, float, float, float],
    box: tuple[int, int, int, int],
) -> Float[Tensor, "h w 4"]:
    """The gradient's colors in a box (x, y, w, h) of pixels.

    `to_user` leads from canvas px to the shape's user units; `bounds` (x, y, w, h) are its outline's there, as
    objectBoundingBox wants them.
    """
    x, y, w, h = box
    frame = to_user.new_tensor(gradient.matrix.rows)
    if gradient.units == "objectBoundingBox":
        frame = to_user.new_tensor(Affine2D.onto_box(*bounds).rows) @ frame
    colors = torch.stack(
        [torch.cat([values[s.color].reshape(3), values[s.opacity].reshape(1)]) for s in gradient.stops]
    ).to(to_user)
    if len(colors) == 1 or abs(float(torch.linalg.det(frame[:2, :2]))) < 1e-20:  # no area to spread over
        return colors[-1].expand(h, w, 4)
    M = torch.linalg.inv(frame) @ to_user
    rows, columns = torch.meshgrid(
        torch.arange(y, y + h, device=M.device), torch.arange(x, x + w, device=M.device), indexing="ij"
    )
    points = torch.stack([columns.flatten() + 0.5, rows.flatten() + 0.5], 1).to(M)
    t, painted = offsets_at(gradient, values[gradient.key].to(M), points @ M[:2, :2].T + M[:2, 2])
    offsets = torch.stack([values[s.offset].reshape(()) for s in gradient.stops]).to(M)
    color = interpolated(spread_over(t, gradient.spread), offsets, colors)
    return torch.cat([color[:, :3], color[:, 3:] * painted[:, None]], 1).view(h, w, 4)
