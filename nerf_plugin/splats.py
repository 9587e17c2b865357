"""Scenes of Gaussian splats: splatfacto."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cpds.types import Images
from nerf_plugin.region import Region
from nerf_plugin.rendering import SceneRenderer, deferred, evaluating, pixel_rays


class SplatRenderer(SceneRenderer):
    """A splatfacto. Its background is one color, in training too, where splatfacto draws a new one at each step."""

    content = "its gaussians"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.background = model.training_background = model.background_color.clone()

    def render(self, camera: Any, editable: Tensor | None = None) -> tuple[Images, dict[str, Tensor]]:
        self.model.set_crop(None)  # these two may be the viewer's
        self.model.set_background(self.background)
        return render_splats(self.model, camera.to(self.model.device)), {}

    def depth(self, camera: Any) -> Float[Tensor, "H W"]:
        """Infinite where gaussians cover less than half."""
        outputs = self.model.get_outputs(camera)
        cosine = pixel_rays(camera)[1] @ -camera.camera_to_worlds[0, :3, 2]  # its depth is along the axis of view
        return torch.where(outputs["accumulation"] > 0.5, outputs["depth"], torch.inf)[..., 0] / cosine

    def points(self, cameras: Sequence[Any]) -> Float[Tensor, "n 3"]:
        return self.model.means.detach()

    def confine(self, region: Region, saved: dict[str, Any]) -> bool:
        """By the gaussians that were inside when the edit began: they may have moved."""
        means = self.model.means.detach()
        inside = saved.setdefault("inside", region.contains(means).cpu()).to(means.device)
        confine_gaussians(list(self.model.gauss_params.values()), inside)
        return bool(inside.any())

    def fix_sampling(self) -> None:
        """Nothing is sampled."""


def render_splats(model: Any, camera: Any, defer: bool = True) -> Images:
    """A view (1, 3, H, W) in [0, 1] of a splat model, all at once: it is the guidance that needs the memory."""

    def render() -> Tensor:
        with evaluating(model):  # one background, all harmonics
            return model.get_outputs(camera)["rgb"]

    image: Any = deferred(render) if defer and torch.is_grad_enabled() else render()
    return image.permute(2, 0, 1)[None].clamp(0, 1)


def confine_gaussians(parameters: Sequence[Tensor], inside: Bool[Tensor, " n"]) -> None:
    """Leave gaussians that are not `inside` as they are, to the last bit: no gradient, and so no step of Adam's."""
    for x in parameters:
        x.register_hook(lambda gradient: gradient * inside.view(-1, *[1] * (gradient.ndim - 1)))
