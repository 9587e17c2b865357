"""Gaussian splats as something to edit, view by view; the edit goes back into the .ply that it came from.

Each parameter is in units of its own, so that one step size serves any scene: positions in the extent of the cameras,
the higher spherical harmonics in twentieths (3DGS, Kerbl 2023, gives them a twentieth of the constant one's step size),
all others as a .ply holds them. What has not moved goes back to the last bit. Nothing is added and nothing removed.
A region names the gaussians that may change; masks say where in each view the edit may show.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from cpds.errors import InputError
from cpds.images import working_size
from cpds.priors.base import Prior
from cpds.representation import ParamGroup
from cpds.types import Images, Latents
from representations.cameras import Camera, Frame, read_cameras, view_at
from representations.masks import find_masks, fitted_mask, hold
from representations.splats.config import GROUPS, GroupName, SplatConfig
from representations.splats.ply import Gaussians, SplatFile
from representations.splats.rasterise import Rasterizer, rasteriser_for

FIELDS: dict[GroupName, tuple[str, ...]] = {  # of Gaussians
    "xyz": ("means",),
    "colour": ("dc", "rest"),
    "opacity": ("opacities",),
    "scale": ("scales",),
    "rotation": ("quats",),
}
HELD = 0.02  # of colours in [0, 1]: a change outside the masks that is pulled back as hard as the edit pulls


class SplatScene:
    """A scene under edit. Views are numbers of cameras. Raises InputError where no camera sees anything."""

    preset = "cpds-splats"  # what `cpds.edit` takes unless told otherwise

    def __init__(
        self,
        file: SplatFile,
        cameras: Sequence[Camera],
        prior: Prior,
        config: SplatConfig | None = None,
        rasterizer: Rasterizer | None = None,
        masks: Sequence[Path] = (),
    ) -> None:
        self.file, self.config, self.device = file, config or SplatConfig(), prior.device
        self.rasterizer = rasterizer or rasteriser_for(self.device)
        if not cameras:
            raise InputError("there is no camera: give at least one")
        short = self.config.resolution or prior.image_size
        sizes = [working_size(float(c.height), float(c.width), short, prior.size_multiple) for c in cameras]
        self.cameras = [c.fitted(*size) for c, size in zip(cameras, sizes, strict=True)]
        self._masks = [fitted_mask(m, c, *size) for m, c, size in zip(masks, cameras, sizes, strict=bool(masks))]
        self._base = {k: v.to(self.device) for k, v in vars(file.gaussians).items()}
        self.degree = file.gaussians.degree
        self._unit = {"means": extent(cameras, file.gaussians.means), "rest": 1 / 20}
        chosen = [field for group in GROUPS if group in self.config.optimize for field in FIELDS[group]]
        self._free = self._within(self._base["means"])
        self._start = {f: self._base[f][self._free] / self._unit.get(f, 1.0) for f in chosen if self._base[f].numel()}
        self._now = {f: x.clone().requires_grad_() for f, x in self._start.items()}
        self._ground = torch.tensor([self.config.background], device=self.device)
        self._sources: dict[int, Latents] = {}
        if not self._seen(slice(None)):
            raise InputError(
                f"none of the {len(cameras)} cameras sees a gaussian: the scene and the cameras lie in different axes; "
                "for an export of nerfstudio's pass its dataparser_transforms.json too"
            )
        if not self._seen(self._free):
            raise InputError(f"none of the {len(cameras)} cameras sees the region {self.config.region}: move it")
        if masks and not any(mask.any() for mask in self._masks):
            raise InputError(f"all {len(masks)} masks are black, so that nothing may change: white is what may")

    @classmethod
    def open(
        cls,
        path: str | Path,
        cameras: str | Path,
        prior: Prior,
        config: SplatConfig | None = None,
        frame: str | Path | None = None,
        masks: str | Path | None = None,
    ) -> SplatScene:
        """From a .ply, its cameras and, for what nerfstudio trained, its dataparser_transforms.json.

        `masks` is a folder with one for each camera. Raises InputError if one of them cannot be used.
        """
        views = read_cameras(cameras, None if frame is None else Frame.read(frame))
        files = () if masks is None else find_masks(masks, views)
        return cls(SplatFile.read(path), views, prior, config, masks=files)

    def encode(self) -> bytes:
        """The edited scene as a .ply."""
        return self.file.encode(self.gaussians())

    def save(self, path: str | Path) -> None:
        """Write the edited scene."""
        self.file.write(path, self.gaussians())

    def gaussians(self) -> Gaussians:
        """What would be saved; without gradient."""
        return Gaussians(**{k: v.detach().cpu() for k, v in self.values().items()})

    def values(self) -> dict[str, Tensor]:
        """The fields of Gaussians as they are now, differentiable in what may change."""
        found = dict(self._base)
        for f, now in self._now.items():
            moved = (now - self._start[f]) * self._unit.get(f, 1.0)
            every = isinstance(self._free, slice)
            found[f] = self._base[f] + moved if every else self._base[f].index_add(0, self._free, moved)
        return found

    def fingerprint(self) -> dict[str, object]:
        """Digests and settings that a resumed run must find unchanged."""
        cameras = b"".join(x.numpy().tobytes() for c in self.cameras for x in (c.viewmat, c.k))
        parts = {"splats": self.file.encode(self.file.gaussians), "cameras": cameras}
        digests = {k: hashlib.sha256(v).hexdigest() for k, v in parts.items()}
        masks = hashlib.sha256(b"".join(m.numpy().tobytes() for m in self._masks)).hexdigest() if self._masks else None
        return {**digests, "masks": masks, **asdict(self.config), "rasterizer": self.rasterizer.__module__}

    def sample_view(self, *, generator: torch.Generator) -> int:
        """The same camera for `view_every` steps; all of them, shuffled, before one comes again.

        It takes a generator of the step's own, as the editor makes them: consecutive steps have consecutive seeds. So
        the seed says where in the sequence a step is, and a resumed run goes on with the camera that it had. How many
        steps the first camera lasts depends on the run's seed.
        """
        return view_at(generator.initial_seed(), self.config.view_every, len(self.cameras))

    def latents(self, prior: Prior, view: int) -> Latents:
        image = self.render(self.cameras[view])
        return prior.encode(self._masked(image, view) if self._masks else image)

    @torch.no_grad()
    def source_latents(self, prior: Prior, view: int) -> Latents:
        if view not in self._sources:
            self._sources[view] = prior.encode(self._look(self._base, self.cameras[view]))
        return self._sources[view]

    def param_groups(self) -> list[ParamGroup]:
        return [ParamGroup(g, [self._now[f] for f in FIELDS[g] if f in self._now]) for g in GROUPS]

    @torch.no_grad()
    def project(self) -> None:
        """Unit quaternions, where they moved."""
        if "quats" in self._now:
            now, start = self._now["quats"], self._start["quats"]
            now.copy_(torch.where((now != start).any(1, keepdim=True), normalize(now, dim=1), now))

    @torch.no_grad()
    def preview(self, prior: Prior) -> Images:
        """The scene from one camera, or from four spread over the list, at the first one's size."""
        count, (first, *_) = min(self.config.shown, len(self.cameras)), self.cameras
        if count < 4:
            return self.render(first)
        some = [self.cameras[i * (len(self.cameras) - 1) // 3] for i in range(4)]
        views = [self.render(c.fitted(first.height, first.width)) for c in some]
        return torch.cat([torch.cat(views[:2], 3), torch.cat(views[2:], 3)], 2)

    def render(self, camera: Camera) -> Images:
        """(1, 3, H, W) in [0, 1], differentiable in what may change."""
        return self._look(self.values(), camera)

    def _look(self, values: dict[str, Tensor], camera: Camera) -> Images:
        drawn, _, _ = self.rasterizer(
            means=values["means"],
            quats=values["quats"],
            scales=values["scales"].exp(),
            opacities=values["opacities"][:, 0].sigmoid(),
            colors=torch.cat([values["dc"][:, None], values["rest"]], 1),
            viewmats=camera.viewmat[None].to(self.device),
            Ks=camera.k[None].to(self.device),
            width=camera.width,
            height=camera.height,
            sh_degree=self.degree,
            packed=False,
            backgrounds=self._ground,
        )
        return drawn.permute(0, 3, 1, 2).clamp(0, 1)

    def _masked(self, image: Images, view: int) -> Images:
        """The image where the view's mask is white, the source elsewhere."""
        with torch.no_grad():
            source = self._look(self._base, self.cameras[view])
        return hold(image, source, self._masks[view].to(image) / 255, HELD)

    def _within(self, means: Float[Tensor, "n 3"]) -> Tensor | slice:
        """Numbers of the gaussians whose centres lie in the region. Raises InputError if there are none."""
        region = self.config.region
        if region is None:
            return slice(None)
        found = inside(means, region).nonzero()[:, 0]
        if not len(found):
            ends = np.percentile(means.cpu().numpy(), (5, 95), axis=0)
            span = ", ".join(f"{low:.3g} ... {high:.3g}" for low, high in ends.T)
            raise InputError(f"no gaussian lies in the region {region}: most of the scene is in x, y, z = {span}")
        return found

    @torch.no_grad()
    def _seen(self, which: Tensor | slice) -> bool:
        """Whether one of these gaussians' centres is in a camera's picture."""
        points = self._base["means"][which]
        return any(in_view(camera, points) for camera in self.cameras)


def in_view(camera: Camera, points: Float[Tensor, "n 3"]) -> bool:
    """Whether one of the points is in the camera's picture."""
    view, k = camera.viewmat.to(points), camera.k.to(points)
    seen = (points @ view[:3, :3].T + view[:3, 3]) @ k.T
    at, depth = seen[:, :2] / seen[:, 2:].clamp(min=1e-6), seen[:, 2:]
    side = at.new_tensor([camera.width, camera.height])
    return bool(((depth > 0.01) & (at > 0) & (at < side)).all(1).any())


def inside(points: Float[Tensor, "n 3"], region: Sequence[float]) -> Bool[Tensor, " n"]:
    """Which of them lie in a sphere (centre, radius) or a box (two opposite corners)."""
    first, second = points.new_tensor(region[:3]), points.new_tensor(region[3:])
    if len(second) == 1:
        return (points - first).norm(dim=1) <= second
    return ((points >= torch.minimum(first, second)) & (points <= torch.maximum(first, second))).all(1)


def extent(cameras: Sequence[Camera], means: Float[Tensor, "n 3"]) -> float:
    """1.1 x the largest distance of a camera from their mean (3DGS); with one camera, its distance to the scene."""
    places = torch.stack([torch.linalg.inv(c.viewmat)[:3, 3] for c in cameras])
    radius = 1.1 * float((places - places.mean(0)).norm(dim=1).max())
    return radius if radius > 1e-6 else max(1e-6, float((means.median(0).values - places[0]).norm()))
