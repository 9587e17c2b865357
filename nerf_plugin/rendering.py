"""Views of a scene, differentiable in it, on a bounded budget of memory.

Deferred back-propagation: a view is rendered in chunks of rays that keep nothing but their colours; when the
guidance's gradient comes back, chunk after chunk is rendered again, with gradient this time. The numbers are those of
rendering all at once (ARF, Zhang 2022; here through torch.utils.checkpoint, which replays the sampling noise too).

The checkpoint is the reentrant one, which builds no graph at first. The other one builds it and drops the tensors that
were given to `save_for_backward`: tiny-cuda-nn keeps its activations elsewhere, and every chunk's would stay. Gradients
are to be had by `backward()` alone then, not by `torch.autograd.grad`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cpds.types import Images


def camera_at(camera: Any, height: int, width: int) -> Any:
    """The cameras at another size, each axis scaled on its own."""
    found = copy(camera)
    across, down = width / camera.width, height / camera.height
    found.fx, found.cx = camera.fx * across, camera.cx * across
    found.fy, found.cy = camera.fy * down, camera.cy * down
    found.width, found.height = torch.full_like(camera.width, width), torch.full_like(camera.height, height)
    return found


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's global randomness from `seed`, and what it was before when done: models draw from nothing else."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """The model in eval mode, and back in the mode that it was in."""
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)


def deferred(render: Callable[..., Any], *given: Any) -> Any:
    """`render(*given)`, whose graph is built only when the gradient has come back, and is gone after it.

    A tensor among `given` tells whose random numbers are replayed: those of its device, beside the CPU's.
    """
    live = torch.ones((), requires_grad=True)  # without an input that wants gradient there would be none
    return checkpoint(lambda _, *args: render(*args), live, *given, use_reentrant=True)


def render_rays(
    model: Any, camera: Any, chunk: int, defer: bool = True, free: Tensor | None = None
) -> tuple[Images, dict[str, Tensor]]:
    """A view (1, 3, H, W) in [0, 1] of a model that renders rays, and in training mode the losses that it asks for.

    `camera` is one camera at the size wanted. At most `chunk` rays are rendered with gradient at a time, unless `defer`
    is off; a view that fits is rendered once. `free` (H, W, 1), where given, are rays that `confine_field` confines.
    """
    height, width = int(camera.height), int(camera.width)
    rays = as_trained(model.collider, camera.generate_rays(camera_indices=0, keep_shape=True))
    if free is not None:
        rays.metadata["free"] = free.to(rays.origins.device)
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


def as_trained(collider: Any, rays: Any) -> Any:
    """The rays with the near plane of training, whatever the mode.

    nerfstudio's own renders begin at the camera, where training never saw what floats: a source with that fog and an
    edit without it would not show the same scene.
    """
    if collider is None:
        return rays
    before = collider.training
    collider.train()
    try:
        return collider(rays)
    finally:
        collider.train(before)


def own_losses(model: Any, outputs: dict[str, Any]) -> dict[str, Tensor]:
    """What the model asks for beside likeness to a picture: that its proposals follow its density, and the like."""
    batch = {"image": outputs["rgb"].detach()}
    found = model.get_loss_dict(outputs, batch, model.get_metrics_dict(outputs, batch))
    return {k: v for k, v in found.items() if k != "rgb_loss"}


def render_splats(model: Any, camera: Any, defer: bool = True) -> Images:
    """A view (1, 3, H, W) in [0, 1] of a splat model, all at once: it is the guidance that needs the memory."""

    def render() -> Tensor:
        with evaluating(model):  # one background, all harmonics
            return model.get_outputs(camera)["rgb"]

    image: Any = deferred(render) if defer and torch.is_grad_enabled() else render()
    return image.permute(2, 0, 1)[None].clamp(0, 1)


def lines(camera: Any) -> tuple[Tensor, Tensor]:
    """Where the rays of a camera's pixels begin, and their unit directions, (H, W, 3) each."""
    rays = camera.generate_rays(camera_indices=0, keep_shape=True)
    return rays.origins, rays.directions


def distances(model: Any, camera: Any, chunk: int) -> Tensor:
    """How far along its ray each pixel's first surface lies (H, W); infinite where gaussians cover less than half."""
    if hasattr(model, "gauss_params"):
        outputs = model.get_outputs(camera)
        cosine = lines(camera)[1] @ -camera.camera_to_worlds[0, :3, 2]  # its depth is along the axis of view
        return torch.where(outputs["accumulation"] > 0.5, outputs["depth"], torch.inf)[..., 0] / cosine
    rays = as_trained(model.collider, camera.generate_rays(camera_indices=0, keep_shape=True)).flatten()
    parts = [model(rays[i : i + chunk])["depth"] for i in range(0, len(rays), chunk)]
    return torch.cat(parts).view(int(camera.height), int(camera.width))
