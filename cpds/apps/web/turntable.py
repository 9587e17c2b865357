"""A scene that turns: views on an orbit between the cameras that it came with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from cpds.representation import ImageSpec
    from representations.cameras import Camera

VIEWS = 20
GAP = math.pi / 2  # a gap between cameras that is wider is not looked into
SWING = 0.35  # radians to either side, where all cameras stand in one direction
SIDE = 192  # px, the least shorter side of a view


def turntable(scene: Path, args: Any, spec: ImageSpec, count: int = VIEWS) -> bytes:
    """A .ply as an endless GIF, seen from `count` places by cameras as `cpds splats` reads them from its arguments."""
    import torch

    from cpds.images import gif, to_pil
    from representations.cameras import Frame, read_cameras
    from representations.splats.ply import SplatFile
    from representations.splats.scene import SplatScene

    file = SplatFile.read(scene)
    cameras = read_cameras(args.cameras, None if args.frame is None else Frame.read(args.frame))
    config = replace(args.views, region=None, resolution=max(SIDE, args.views.resolution or spec.image_size))
    shown = SplatScene(file, orbit(cameras, file.gaussians.means, count), spec, config)
    with torch.no_grad():
        frames = [to_pil(shown.render(view)) for view in range(count)]
    return gif(frames, last_ms=100)


def orbit(cameras: Sequence[Camera], means: Tensor, count: int = VIEWS) -> list[Camera]:
    """The first camera carried about the axis through what all of them look at, along their mean upward direction.

    Once around where they stand around the scene, else to and fro between the outermost.
    """
    import torch

    poses = torch.stack([torch.linalg.inv(c.viewmat.double()) for c in cameras])
    centres, up = poses[:, :3, 3], -poses[:, :3, 1].mean(0)
    up = up / up.norm().clamp(min=1e-9)
    about = focus(poses, means.double())
    low, high = span(centres - about, up)
    if high - low > 2 * math.pi - GAP:
        angles = [2 * math.pi * i / count for i in range(count)]
    else:  # a cosine, so that it slows down where it turns back
        angles = [low + (high - low) * (0.5 - 0.5 * math.cos(2 * math.pi * i / count)) for i in range(count)]
    return [replace(cameras[0], viewmat=(poses[0].inverse() @ turned(-a, up, about)).float()) for a in angles]


def focus(poses: Tensor, means: Tensor) -> Tensor:
    """(3,): the point nearest to the optical axes of camera-to-world `poses`, or before the first one where these are
    parallel: at the median depth of the gaussians that it has before it."""
    import torch

    centres, ahead = poses[:, :3, 3], poses[:, :3, 2]
    across = torch.eye(3, dtype=poses.dtype) - ahead[:, :, None] * ahead[:, None, :]
    total = across.sum(0)
    if float(torch.linalg.eigvalsh(total)[0]) > 0.01 * len(poses):
        return torch.linalg.solve(total, (across @ centres[:, :, None]).sum(0)[:, 0])
    depths = (means - centres[0]) @ ahead[0]
    depths = depths[depths > 0]
    return centres[0] + ahead[0] * (depths.median() if len(depths) else 1.0)


def span(offsets: Tensor, up: Tensor) -> tuple[float, float]:
    """The angles about `up` between which cameras stand, from the first one's 0: all but the widest gap."""
    import torch

    flat = offsets - (offsets @ up)[:, None] * up
    if float(flat[0].norm()) < 1e-9:
        return -SWING, SWING
    x = flat[0] / flat[0].norm()
    y = torch.linalg.cross(up, x)
    angles = sorted(math.atan2(float(f @ y), float(f @ x)) % (2 * math.pi) for f in flat)
    gaps = [b - a for a, b in zip(angles, [*angles[1:], angles[0] + 2 * math.pi], strict=True)]
    widest = max(range(len(gaps)), key=gaps.__getitem__)
    if gaps[widest] < GAP:
        return 0.0, 2 * math.pi
    low, high = angles[widest] - (2 * math.pi - gaps[widest]), angles[widest]
    return (low, high) if high - low > SWING else (-SWING, SWING)


def turned(angle: float, axis: Tensor, about: Tensor) -> Tensor:
    """(4, 4): the rotation by `angle` about a line through `about` along a unit vector (Rodrigues)."""
    import torch

    k = torch.zeros(3, 3, dtype=axis.dtype)
    k[0, 1], k[0, 2], k[1, 2] = -axis[2], axis[1], -axis[0]
    k = k - k.T
    rotation = torch.eye(3, dtype=axis.dtype) + math.sin(angle) * k + (1 - math.cos(angle)) * k @ k
    made = torch.eye(4, dtype=axis.dtype)
    made[:3, :3], made[:3, 3] = rotation, about - rotation @ about
    return made
