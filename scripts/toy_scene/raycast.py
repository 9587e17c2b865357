"""Ray casting of a relief: where a pinhole camera's rays end, and the image that it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from scripts.toy_scene.relief import FLOOR, MARGIN, Relief, bilinear, lit, normals_of, profile, shadow

STEPS, HALVINGS = 96, 14  # of a ray's steps through the slab; then between the last point outside and the first inside
CHUNK = 1 << 15  # rays at once


@dataclass(frozen=True)
class Hits:
    """Where rays end."""

    depth: Float[Tensor, " n"]  # in lengths of the directions
    points: Float[Tensor, "n 3"]
    normals: Float[Tensor, "n 3"]  # towards the outside
    rgb: Float[Tensor, "n 3"]
    solid: Bool[Tensor, " n"]  # the relief, not floor or dome

    @classmethod
    def joined(cls, parts: Sequence[Hits]) -> Hits:
        return cls(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    def __getitem__(self, which: Tensor) -> Hits:
        return Hits(*(getattr(self, f.name)[which] for f in fields(self)))

    def some(self, count: int, share: float, generator: torch.Generator) -> list[Hits]:
        """`count` of them at random: a share, as far as there are enough, of the relief; then of the rest."""
        order = torch.randperm(len(self.depth), generator=generator)
        on, off = order[self.solid[order]], order[~self.solid[order]]
        first = min(len(on), max(count - len(off), round(share * count)))
        return [self[on[:first]], self[off[: count - first]]]


def cast(relief: Relief, origin: Float[Tensor, " 3"], directions: Float[Tensor, "n 3"]) -> Hits:
    """First thing that each ray from a point inside the dome and above the floor meets."""
    return Hits.joined([_cast(relief, origin, part) for part in directions.split(CHUNK)])


def _cast(relief: Relief, origin: Tensor, directions: Tensor) -> Hits:
    square, product = (directions**2).sum(1), directions @ origin
    depth = (-product + (product**2 - square * (origin @ origin - relief.dome**2)).sqrt()) / square
    down = directions[:, 2] < 0
    depth = torch.where(down, torch.minimum(depth, (FLOOR - origin[2]) / directions[:, 2]), depth)
    near, far = crossing(relief, origin, directions)
    through = (near < far).nonzero()[:, 0]
    met, at = first_inside(relief, origin, directions[through], near[through], far[through])
    which = through[met]
    depth[which] = at[met]
    points = origin + depth[:, None] * directions
    on_floor = points[:, 2:] < FLOOR + 1e-4
    normals = torch.where(on_floor, torch.tensor([0.0, 0.0, 1.0]), normalize(-points, dim=1))
    rgb = relief.background * (1 - shadow(relief, points) * on_floor)
    solid = torch.zeros(len(directions), dtype=torch.bool)
    solid[which] = True
    normals[which] = normals_of(relief, points[which])
    rgb[which] = lit(relief, points[which], normals[which])
    return Hits(depth, points, normals, rgb, solid)


def crossing(relief: Relief, origin: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Depths at which rays enter and leave the box around the slab; enter > leave where they miss it."""
    box = origin.new_tensor([MARGIN, relief.thickness + 1e-4, MARGIN])
    slopes = torch.where(directions.abs() < 1e-9, 1e-9, directions)
    ends = torch.stack([(-box - origin) / slopes, (box - origin) / slopes])
    return ends.amin(0).amax(1).clamp(min=0), ends.amax(0).amin(1)


def first_inside(
    relief: Relief, origin: Tensor, directions: Tensor, near: Tensor, far: Tensor
) -> tuple[Bool[Tensor, " n"], Float[Tensor, " n"]]:
    """Whether each ray meets the slab between two depths, and where.

    Small steps, or as far as the silhouette is away (sphere tracing, Hart 1996); at last bisection.
    """
    met, low, high = torch.zeros_like(near, dtype=torch.bool), near.clone(), near.clone()
    speed, least = directions[:, ::2].norm(dim=1), (far - near) / STEPS
    todo = torch.arange(len(near))
    while len(todo):
        x, y, z = (origin + high[todo, None] * directions[todo]).unbind(1)
        distance = bilinear(relief.distance, x, z)[:, 0]
        now = y.abs() <= profile(relief, distance)
        met[todo[now]] = True
        todo, away = todo[~now], -distance[~now]
        low[todo] = high[todo]
        high[todo] += torch.maximum(least[todo], away / speed[todo])
        todo = todo[high[todo] <= far[todo]]
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        x, y, z = (origin + middle[:, None] * directions).unbind(1)
        now = y.abs() <= profile(relief, bilinear(relief.distance, x, z)[:, 0])
        low, high = torch.where(now, low, middle), torch.where(now, middle, high)
    return met, high


def rays(pose: Float[Tensor, "4 4"], focal: float, side: int, samples: int = 1) -> Float[Tensor, "n 3"]:
    """Directions through `samples`² points of each pixel, rows of points from above; 1 deep along the camera's axis.

    `pose` is camera to world in OpenGL's axes; the camera's axis meets the middle of the image.
    """
    at = (torch.arange(side * samples) + 0.5) / samples - side / 2
    v, u = torch.meshgrid(at, at, indexing="ij")
    local = torch.stack([u / focal, -v / focal, -torch.ones_like(u)], -1).view(-1, 3)
    return local @ pose[:3, :3].T


def render(
    relief: Relief, pose: Float[Tensor, "4 4"], focal: float, side: int, samples: int = 3
) -> tuple[Float[Tensor, "3 s s"], Float[Tensor, "1 s s"]]:
    """What a pinhole camera sees, in [0, 1], and how much of each pixel the relief covers; `samples`² rays a pixel."""
    hits = cast(relief, pose[:3, 3], rays(pose, focal, side, samples))
    fine = torch.cat([hits.rgb, hits.solid[:, None]], 1).T.view(1, 4, side * samples, side * samples)
    image, cover = avg_pool2d(fine, samples)[0].split([3, 1])
    return image, cover
