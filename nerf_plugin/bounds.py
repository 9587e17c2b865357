"""Where an edit may change a scene: in a region, and where the views' masks are white."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cpds.config import require
from cpds.terminal import print_result
from cpds.types import Images
from nerf_plugin.base_scene import BaseScene
from nerf_plugin.region import Region, extent
from nerf_plugin.rendering import camera_at, pixel_rays
from nerf_plugin.views import Views

Mask = Float[Tensor, "1 1 H W"]
HOLD_AT = 0.003  # difference of colors at which a pixel is pulled back as strongly as the guidance pulls the mean pixel


class EditBounds:
    """Both must allow a change; without either all may change. `folder` is where a region's masks are kept."""

    def __init__(
        self, base: BaseScene, views: Views, region: Region | None, masks: Sequence[Mask] | None, folder: Path
    ) -> None:
        self.base, self.views, self.region, self.masks, self.folder = base, views, region, masks, folder
        self._visible: dict[int, UInt8[Tensor, "1 1 H W"]] = {}

    def confine(self, saved: dict[str, Any]) -> None:
        """Print where the scene is, and hold it outside of the region. Raises InputError for an empty region."""
        renderer, cameras, region = self.base.renderer, self.views.cameras, self.region
        points = renderer.points([camera_at(c, 8, 8) for c in cameras])
        where = f"{renderer.content}: {extent(points)} (nine tenths of them)"
        centers = torch.cat([c.camera_to_worlds[:, :3, 3] for c in cameras])
        print_result(f"the scene, in its own coordinates: {where}; its cameras: {extent(centers, 1.0)}")
        if region is None:
            return
        seen = any(bool(region.entered(*pixel_rays(c)).isfinite().any()) for c in cameras)
        require(seen, f"no view looks at the region, {region}: choose another; the scene has {where}")
        require(
            renderer.confine(region, saved),
            f"nothing lies in the region, {region}: choose another; the scene has {where}",
        )

    def mask(self, view: int) -> Mask | None:
        """Where a view may change (1): its mask, and what of the region it sees before the base scene's surface."""
        mask = None if self.masks is None else self.masks[view]
        if self.region is None:
            return mask
        if view not in self._visible:
            file = self.folder / f"{self.views.names[view]}.png"
            image = self.base.image(file, lambda: self.visible(self.views.cameras[view]))
            self._visible[view] = (image[:, :1] * 255).round().byte()
        visible = self._visible[view] / 255
        return visible if mask is None else visible * mask

    def visible(self, camera: Any) -> Images:
        """1 where a camera's rays enter the region before they meet a surface."""
        assert self.region is not None
        before = self.region.entered(*pixel_rays(camera)) < self.base.renderer.depth_eval(camera)
        return before.float().expand(1, 3, -1, -1)


def outside_psnr(image: Images, source: Images, outside: Mask) -> float:
    """dB between two images where `outside` is 1; 100 where they are equal, or nothing is outside."""
    error = (outside * (image - source).square()).mean() / outside.mean().clamp(min=1e-4)
    return float(-10 * error.clamp(min=1e-10).log10())
