"""What an edit asks of a trained scene, whichever kind it is; and what both kinds need to answer.

Deferred back-propagation: a view is rendered in chunks that keep nothing but their colors; when the guidance's
gradient comes back, chunk after chunk is rendered again, with gradient this time. The numbers are those of rendering
all at once (ARF, Zhang 2022; here through torch.utils.checkpoint, which replays the sampling noise too).

The checkpoint is the reentrant one, which builds no graph at first. The other one builds it and drops the tensors that
were given to `save_for_backward`: tiny-cuda-nn keeps its activations elsewhere, and every chunk's would stay. Gradients
are to be had by `backward()` alone then, not by `torch.autograd.grad`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cpds.types import Images
from nerf_plugin.region import Region


class SceneRenderer(ABC):
    """A scene that nerfstudio trained. Cameras are one at a time, at the size wanted, on any device."""

    content: str
    """What `points` are, in words."""
    background: Float[Tensor, " 3"]
    """The color behind the scene, and behind transparent images."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @abstractmethod
    def render(self, camera: Any, editable: Tensor | None = None) -> tuple[Images, dict[str, Tensor]]:
        """A view (1, 3, H, W) in [0, 1], differentiable in the scene, and in training mode the model's own losses.

        `editable` (H, W, 1) are the pixels that may change where a region confines the edit.
        """

    @abstractmethod
    def depth(self, camera: Any) -> Float[Tensor, "H W"]:
        """How far along its ray each pixel's first surface lies; may be infinite where there is none."""

    @abstractmethod
    def points(self, cameras: Sequence[Any]) -> Float[Tensor, "n 3"]:
        """Where the scene is."""

    @abstractmethod
    def confine(self, region: Region, saved: dict[str, Any]) -> bool:
        """Change nothing outside of the region from now on; whether anything can be inside.

        What a resumed run must know of it goes into `saved`.
        """

    @abstractmethod
    def fix_sampling(self) -> None:
        """While an edit runs, do not change how the scene is sampled."""

    @contextmanager
    def loaded_sampling(self) -> Iterator[None]:
        """Sample as when the scene was loaded, meanwhile."""
        yield

    @torch.no_grad()
    def render_eval(self, camera: Any) -> Images:
        """A view as people see it, from the near plane on that training has."""
        with evaluating(self.model):
            return self.render(camera)[0]

    @torch.no_grad()
    def depth_eval(self, camera: Any) -> Float[Tensor, "H W"]:
        """`depth` in eval mode, on the CPU."""
        with evaluating(self.model):
            return self.depth(camera.to(self.model.device)).cpu()


def camera_at(camera: Any, height: int, width: int) -> Any:
    """The cameras at another size, each axis scaled on its own."""
    found = copy(camera)
    across, down = width / camera.width, height / camera.height
    found.fx, found.cx = camera.fx * across, camera.cx * across
    found.fy, found.cy = camera.fy * down, camera.cy * down
    found.width, found.height = torch.full_like(camera.width, width), torch.full_like(camera.height, height)
    return found


def pixel_rays(camera: Any) -> tuple[Float[Tensor, "H W 3"], Float[Tensor, "H W 3"]]:
    """Origins and unit directions of the rays through a camera's pixels."""
    rays = camera.generate_rays(camera_indices=0, keep_shape=True)
    return rays.origins, rays.directions


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's global randomness from `seed`, and what it was before when done: models draw from nothing else."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """The model in eval mode, and back in the mode that it was in."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def deferred(render: Callable[..., Any], *args: Any) -> Any:
    """`render(*args)`, whose graph is built only when the gradient has come back, and is gone after it.

    A tensor among `args` tells whose random numbers are replayed: those of its device, beside the CPU's.
    """
    live = torch.ones((), requires_grad=True)  # without an input that wants gradient there would be none
    return checkpoint(lambda _, *given: render(*given), live, *args, use_reentrant=True)
