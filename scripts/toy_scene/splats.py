"""Gaussian splats of a scene whose surface is known: placed on what the cameras see, then fitted to their images."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from cpds.evaluation.metrics import psnr
from cpds.images import to_tensor
from representations.cameras import Camera, read_cameras
from representations.splats.harmonics import C0
from representations.splats.ply import Gaussians, SplatFile
from representations.splats.rasterize import rasterization
from scripts.toy_scene.raycast import Hits

RELIEF = 0.75  # of the gaussians lie on it, the others on floor and dome
FLAT = 0.2  # a gaussian's thickness over its width, at first
LEARNING_RATES = {"means": 2e-3, "scales": 1e-2, "quats": 5e-3, "opacities": 2e-2, "dc": 1e-2}  # of Adam


def spacing(points: Float[Tensor, "n 3"], neighbours: int = 3) -> Float[Tensor, " n"]:
    """Root mean square distance to the nearest others."""
    near = [torch.cdist(part, points).topk(neighbours + 1, largest=False).values[:, 1:] for part in points.split(1024)]
    return torch.cat(near).square().mean(1).sqrt()


def rotations_to(normals: Float[Tensor, "n 3"]) -> Float[Tensor, "n 4"]:
    """Quaternions (w x y z) that rotate z to each normal: the half-way rotation of (0, 0, 1) and n."""
    w = 1 + normals[:, 2]
    halfway = torch.stack([w, -normals[:, 1], normals[:, 0], torch.zeros_like(w)], 1)
    upside_down = normals.new_tensor([0.0, 1.0, 0.0, 0.0])
    return normalize(torch.where((w > 1e-6)[:, None], halfway, upside_down), dim=1)


def placed(hits: Hits, count: int, generator: torch.Generator) -> Gaussians:
    """`count` flat gaussians, at most as many as there are points, each as wide as they are apart."""
    parts = hits.some(count, RELIEF, generator)
    found = Hits.joined(parts)
    width = torch.cat([spacing(p.points) if len(p.points) > 3 else torch.full_like(p.depth, 0.1) for p in parts])
    scales = torch.stack([width, width, FLAT * width], 1).clamp(min=1e-4).log()
    opacities = torch.full((len(width), 1), 2.0)
    dc = (found.rgb - 0.5) / C0
    return Gaussians(found.points, rotations_to(found.normals), scales, opacities, dc, torch.zeros(len(width), 0, 3))


def drawn(gaussians: Gaussians, camera: Camera) -> Float[Tensor, "3 h w"]:
    """What the camera sees of them on black."""
    image, _, _ = rasterization(
        means=gaussians.means,
        quats=gaussians.quats,
        scales=gaussians.scales.exp(),
        opacities=gaussians.opacities[:, 0].sigmoid(),
        colors=gaussians.dc[:, None],
        viewmats=camera.viewmat[None],
        Ks=camera.k[None],
        width=camera.width,
        height=camera.height,
        sh_degree=0,
    )
    return image[0].permute(2, 0, 1)


def fitted(
    gaussians: Gaussians,
    cameras: Sequence[Camera],
    images: Sequence[Float[Tensor, "3 h w"]],
    steps: int,
    generator: torch.Generator,
) -> Gaussians:
    """After `steps` of Adam on the mean absolute difference to one image after another, in random order."""
    now = {name: getattr(gaussians, name).clone().requires_grad_() for name in LEARNING_RATES}
    groups = [{"params": [now[name]], "lr": rate} for name, rate in LEARNING_RATES.items()]
    adam = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)
    decay = torch.optim.lr_scheduler.ExponentialLR(adam, 0.05 ** (1 / max(1, steps)))
    order: list[int] = []
    for _ in range(steps):
        order = order or torch.randperm(len(cameras), generator=generator).tolist()
        view = order.pop()
        adam.zero_grad()
        (drawn(Gaussians(**now, rest=gaussians.rest), cameras[view]) - images[view]).abs().mean().backward()
        adam.step()
        decay.step()
    return Gaussians(**{k: v.detach() for k, v in now.items()}, rest=gaussians.rest)


def draw_splats(folder: Path, hits: Hits, count: int, steps: int, generator: torch.Generator) -> float:
    """Write scene.ply beside the views that it is fitted to; its mean PSNR over those held out, dB."""
    train, test = read_cameras(folder), read_cameras(folder, split="test")
    images = {c.name: to_tensor(Image.open(folder / c.name))[0] for c in (*train, *test)}
    start = placed(hits, count, generator)
    splats = fitted(start, train, [images[c.name] for c in train], steps, generator)
    SplatFile.of(splats).write(folder / "scene.ply", splats)
    with torch.no_grad():
        views = torch.stack([drawn(splats, c).clamp(0, 1) for c in test])
    return float(psnr(views, torch.stack([images[c.name] for c in test])).mean())
