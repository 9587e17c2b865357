"""Gaussian splats as something to edit, view by view; the edit goes back into the .ply that it came from.

Each parameter is in units of its own, so that one learning rate serves any scene: positions in the extent of the
cameras, the higher spherical harmonics in twentieths (3DGS, Kerbl 2023, gives them a twentieth of the constant one's
learning rate), all others as a .ply holds them. What has not moved goes back to the last bit. Nothing is added and
nothing removed. A region names the gaussians that may change; masks say where in each view the edit may show.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from cpds.errors import InputError
from cpds.images import working_size
from cpds.rendered import fingerprint
from cpds.representation import ImageSpec, Mask, ParamGroup
from cpds.types import Images
from representations.cameras import Camera, Frame, read_cameras, view_at
from representations.masks import find_masks, fitted_mask
from representations.splats.config import GROUPS, GroupName, SplatConfig
from representations.splats.ply import Gaussians, SplatFile
from representations.splats.rasterize import Rasterizer, rasterizer_for
from representations.splats.region import numbers_inside

FIELDS: dict[GroupName, tuple[str, ...]] = {  # of Gaussians
    "xyz": ("means",),
    "color": ("dc", "rest"),
    "opacity": ("opacities",),
    "scale": ("scales",),
    "rotation": ("quats",),
}
LEARNING_RATES: dict[GroupName, float] = {  # of Adam, in the units above
    "xyz": 6.4e-4,
    "color": 0.04,
    "opacity": 0.02,
    "scale": 0.004,
    "rotation": 0.002,
}


class SplatScene:
    """A scene under edit. Views are numbers of cameras. Raises InputError where no camera sees anything."""

    preset = "cpds-splats"
    suffix = "ply"
    hold_at: float | None = 0.02

    def __init__(
        self,
        file: SplatFile,
        cameras: Sequence[Camera],
        spec: ImageSpec,
        config: SplatConfig | None = None,
        masks: Sequence[Path] = (),
        rasterizer: Rasterizer | None = None,
    ) -> None:
        self.file, self.config, self.device = file, config or SplatConfig(), spec.device
        self.rasterizer = rasterizer or rasterizer_for(self.device)
        if not cameras:
            raise InputError("there is no camera: give at least one")
        short = self.config.resolution or spec.image_size
        sizes = [working_size(float(c.height), float(c.width), short, spec.size_multiple) for c in cameras]
        self.cameras = [c.fitted(*size) for c, size in zip(cameras, sizes, strict=True)]
        self._poses = {id(c): self._pose(c) for c in self.cameras}
        self._masks = [fitted_mask(m, c, *size) for m, c, size in zip(masks, cameras, sizes, strict=bool(masks))]
        self._source = {k: v.to(self.device) for k, v in vars(file.gaussians).items()}
        self._degree = file.gaussians.degree
        self._background = torch.tensor([self.config.background], device=self.device)
        means, region = self._source["means"], self.config.region
        self._editable = slice(None) if region is None else numbers_inside(means, region)
        self._units = {"means": extent(cameras, file.gaussians.means), "rest": 1 / 20}
        fields = [field for group in GROUPS if group in self.config.optimize for field in FIELDS[group]]
        self._start = {
            f: self._source[f][self._editable] / self._units.get(f, 1.0) for f in fields if self._source[f].numel()
        }
        self._parameters = {f: x.clone().requires_grad_() for f, x in self._start.items()}
        self._require_something_to_edit()

    @classmethod
    def open(
        cls,
        path: str | Path,
        cameras: str | Path,
        spec: ImageSpec,
        config: SplatConfig | None = None,
        frame: str | Path | None = None,
        masks: str | Path | None = None,
    ) -> SplatScene:
        """From a .ply, its cameras and, for what nerfstudio trained, its dataparser_transforms.json.

        `masks` is a folder with one for each camera. Raises InputError if one of them cannot be used.
        """
        views = read_cameras(cameras, None if frame is None else Frame.read(frame))
        files = () if masks is None else find_masks(masks, views)
        return cls(SplatFile.read(path), views, spec, config, files)

    def export(self) -> bytes:
        """The edited scene as a .ply."""
        return self.file.encode(self.gaussians())

    def save(self, path: str | Path) -> None:
        """Write the edited scene."""
        self.file.write(path, self.gaussians())

    def gaussians(self) -> Gaussians:
        """What would be saved; without gradient."""
        return Gaussians(**{k: v.detach().cpu() for k, v in self._edited().items()})

    def fingerprint(self) -> dict[str, str]:
        cameras = b"".join(x.numpy().tobytes() for c in self.cameras for x in (c.viewmat, c.k))
        return fingerprint(
            splats=self.file.encode(self.file.gaussians),
            cameras=cameras,
            masks=b"".join(m.numpy().tobytes() for m in self._masks) if self._masks else None,
            config=self.config,
            rasterizer=self.rasterizer.__module__,
        )

    def sample_view(self, step: int, generator: torch.Generator) -> int:
        """The same camera for `view_every` steps; all of them, shuffled, before one comes again."""
        return view_at(step, self.config.view_every, len(self.cameras))

    def render(self, view: int) -> Images:
        """(1, 3, H, W) in [0, 1], differentiable in what may change."""
        return self._rasterize(self._edited(), self.cameras[view])

    @torch.no_grad()
    def render_source(self, view: int) -> Images:
        """The same view of the scene as it was."""
        return self._rasterize(self._source, self.cameras[view])

    def mask(self, view: int) -> Mask | None:
        """Where the edit may show; None: everywhere."""
        return self._masks[view] / 255 if self._masks else None

    def param_groups(self) -> list[ParamGroup]:
        """All groups; those that may not change are empty."""
        tensors = {g: [self._parameters[f] for f in FIELDS[g] if f in self._parameters] for g in GROUPS}
        return [ParamGroup(g, tensors[g], LEARNING_RATES[g]) for g in GROUPS]

    @torch.no_grad()
    def project(self) -> None:
        """Unit quaternions, where they moved."""
        if "quats" in self._parameters:
            now, start = self._parameters["quats"], self._start["quats"]
            now.copy_(torch.where((now != start).any(1, keepdim=True), normalize(now, dim=1), now))

    @torch.no_grad()
    def preview(self) -> Images:
        """The scene from one camera, or from four spread over the list, at the first one's size."""
        edited, count = self._edited(), len(self.cameras)
        first = self.cameras[0]
        if min(self.config.shown, count) < 4:
            return self._rasterize(edited, first)
        four = [self.cameras[i * (count - 1) // 3].fitted(first.height, first.width) for i in range(4)]
        images = [self._rasterize(edited, camera) for camera in four]
        return torch.cat([torch.cat(images[:2], 3), torch.cat(images[2:], 3)], 2)

    def _edited(self) -> dict[str, Tensor]:
        """The fields of Gaussians as they are now, differentiable in what may change."""
        fields = dict(self._source)
        for f, now in self._parameters.items():
            moved = (now - self._start[f]) * self._units.get(f, 1.0)
            everything = isinstance(self._editable, slice)
            fields[f] = fields[f] + moved if everything else fields[f].index_add(0, self._editable, moved)
        return fields

    def _pose(self, camera: Camera) -> tuple[Float[Tensor, "1 4 4"], Float[Tensor, "1 3 3"]]:
        return camera.viewmat[None].to(self.device), camera.k[None].to(self.device)

    def _rasterize(self, fields: dict[str, Tensor], camera: Camera) -> Images:
        viewmats, Ks = self._poses.get(id(camera)) or self._pose(camera)
        render, _, _ = self.rasterizer(
            means=fields["means"],
            quats=fields["quats"],
            scales=fields["scales"].exp(),
            opacities=fields["opacities"][:, 0].sigmoid(),
            colors=torch.cat([fields["dc"][:, None], fields["rest"]], 1),
            viewmats=viewmats,
            Ks=Ks,
            width=camera.width,
            height=camera.height,
            sh_degree=self._degree,
            packed=False,
            backgrounds=self._background,
        )
        return render.permute(0, 3, 1, 2).clamp(0, 1)

    def _require_something_to_edit(self) -> None:
        """Raise InputError where no camera sees what may change, or masks leave nothing of it."""
        count, means = len(self.cameras), self._source["means"]
        if not any(camera.sees(means) for camera in self.cameras):
            raise InputError(
                f"none of the {count} cameras sees a gaussian: the scene and the cameras lie in different axes; "
                "for an export of nerfstudio's pass its dataparser_transforms.json too"
            )
        if not any(camera.sees(means[self._editable]) for camera in self.cameras):
            raise InputError(f"none of the {count} cameras sees the region {self.config.region}: move it")
        if self._masks and not any(mask.any() for mask in self._masks):
            raise InputError(f"all {count} masks are black, so that nothing may change: white is what may")


def extent(cameras: Sequence[Camera], means: Float[Tensor, "n 3"]) -> float:
    """1.1 x the largest distance of a camera from their mean (3DGS); with one camera, its distance to the scene."""
    centres = torch.stack([torch.linalg.inv(c.viewmat)[:3, 3] for c in cameras])
    radius = 1.1 * float((centres - centres.mean(0)).norm(dim=1).max())
    return radius if radius > 1e-6 else max(1e-6, float((means.median(0).values - centres[0]).norm()))
