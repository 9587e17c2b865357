"""Scenes that render rays: nerfacto."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.utils.colors import get_color
from torch import Tensor

from cpds.types import Images
from nerf_plugin.hash_encoding import encode_in_c
from nerf_plugin.region import Region
from nerf_plugin.rendering import SceneRenderer, deferred, pixel_rays


class RayRenderer(SceneRenderer):
    """A nerfacto, at most `chunk` of whose rays are rendered with gradient at a time."""

    content = "what its views show"

    def __init__(self, model: Any, chunk: int) -> None:
        super().__init__(model)
        self.chunk = chunk
        share_appearance(model)
        encode_in_c(model)
        color = model.renderer_rgb.background_color
        self.background = get_color(color) if color in ("black", "white") else torch.zeros(3)
        if color == "random":
            model.renderer_rgb.background_color = self.background

    def render(self, camera: Any, editable: Tensor | None = None) -> tuple[Images, dict[str, Tensor]]:
        return render_rays(self.model, camera.to(self.model.device), self.chunk, editable=editable)

    def depth(self, camera: Any) -> Float[Tensor, "H W"]:
        rays = clip_near(self.model.collider, camera.generate_rays(camera_indices=0, keep_shape=True)).flatten()
        parts = [self.model(rays[i : i + self.chunk])["depth"] for i in range(0, len(rays), self.chunk)]
        return torch.cat(parts).view(int(camera.height), int(camera.width))

    def points(self, cameras: Sequence[Any]) -> Float[Tensor, "n 3"]:
        """What the cameras' pixels show."""
        rays = [(*pixel_rays(camera), self.depth_eval(camera)) for camera in cameras]
        return torch.cat([(o + depth[..., None] * d).flatten(0, 1).cpu() for o, d, depth in rays])

    def confine(self, region: Region, saved: dict[str, Any]) -> bool:
        confine_field(self.model.field, region)
        return True

    def fix_sampling(self) -> None:
        """Chunks of a view must not differ in whether they train the proposal networks: none of them does."""
        self.model.proposal_sampler.update_sched = lambda step: -1

    @contextmanager
    def loaded_sampling(self) -> Iterator[None]:
        """The proposal sampler's annealing is no part of a checkpoint, and steps change it."""
        sampler = self.model.proposal_sampler
        anneal = sampler._anneal
        sampler.set_anneal(1.0)
        try:
            yield
        finally:
            sampler.set_anneal(anneal)


def render_rays(
    model: Any, camera: Any, chunk: int, defer: bool = True, editable: Tensor | None = None
) -> tuple[Images, dict[str, Tensor]]:
    """A view (1, 3, H, W) in [0, 1] of a model that renders rays, and in training mode the losses that it asks for.

    `camera` is one camera at the size wanted. At most `chunk` rays are rendered with gradient at a time, unless `defer`
    is off; a view that fits is rendered once. `editable` (H, W, 1), where given, are those that `confine_field` means.
    """
    height, width = int(camera.height), int(camera.width)
    rays = clip_near(model.collider, camera.generate_rays(camera_indices=0, keep_shape=True))
    if editable is not None:
        rays.metadata["editable"] = editable.to(rays.origins.device)
    names: list[str] = []

    def render(start: int, _device: Tensor) -> tuple[Tensor, Tensor]:
        part = rays.get_row_major_sliced_ray_bundle(start, start + chunk)
        outputs = model(part)
        losses = own_losses(model, outputs) if model.training else {}
        names[:] = losses
        share = len(part) / (height * width)
        return outputs["rgb"], share * torch.stack(list(losses.values())) if losses else outputs["rgb"].new_zeros(0)

    starts = range(0, height * width, chunk)
    again = defer and torch.is_grad_enabled() and len(starts) > 1
    parts: list[Any] = [deferred(render, s, rays.origins) if again else render(s, rays.origins) for s in starts]
    image = torch.cat([rgb for rgb, _ in parts]).view(1, height, width, 3).permute(0, 3, 1, 2)
    return image.clamp(0, 1), dict(zip(names, torch.stack([loss for _, loss in parts]).sum(0), strict=True))


def clip_near(collider: Any, rays: Any) -> Any:
    """The rays with the near plane of training, whatever the mode.

    nerfstudio's own renders begin at the camera, where training never saw the floaters: a source with them and an edit
    without would not show the same scene.
    """
    if collider is None:
        return rays
    training = collider.training
    collider.train()
    try:
        return collider(rays)
    finally:
        collider.train(training)


def own_losses(model: Any, outputs: dict[str, Any]) -> dict[str, Tensor]:
    """What the model asks for beside likeness to an image: that its proposals follow its density, and the like."""
    batch = {"image": outputs["rgb"].detach()}
    found = model.get_loss_dict(outputs, batch, model.get_metrics_dict(outputs, batch))
    return {k: v for k, v in found.items() if k != "rgb_loss"}


def confine_field(field: Any, region: Region) -> None:
    """Stop the gradient of nerfacto's `field` outside of the region, on rays whose metadata calls them "editable".

    What those rays show behind and before the region is then no part of the edit. The other rays keep their gradient,
    which pulls them back to the source.
    """
    forward = field.forward

    def confined(ray_samples: Any, **kwargs: Any) -> dict[FieldHeadNames, Tensor]:
        found, editable = forward(ray_samples, **kwargs), (ray_samples.metadata or {}).get("editable")
        if editable is None:
            return found
        kept = region.contains(ray_samples.frustums.get_positions())[..., None] | ~editable
        names = (FieldHeadNames.DENSITY, FieldHeadNames.RGB)
        return found | {k: torch.where(kept, found[k], found[k].detach()) for k in names}

    field.forward = confined


def share_appearance(model: Any) -> None:
    """Give every view the appearance that nerfstudio evaluates with: the mean embedding, or zeros; and freeze it."""
    embedding = model.field.embedding_appearance
    if embedding is None:
        return
    weight = embedding.embedding.weight.requires_grad_(False)
    if not model.field.use_average_appearance_embedding:
        weight.zero_()
    elif not torch.equal(weight, weight[:1].expand_as(weight)):  # once: the mean of equal rows is rounded
        weight.copy_(weight.mean(0).expand_as(weight))
