"""Cameras of other sizes; deferred back-propagation, on a model that keeps activations where tiny-cuda-nn does."""

from types import SimpleNamespace
from typing import Any, ClassVar
from weakref import WeakSet

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("nerfstudio", exc_type=(ImportError, OSError))
pytest.importorskip("open3d", exc_type=(ImportError, OSError))  # wants libraries of the system
from nerfstudio.cameras.cameras import Cameras

from nerf_plugin.rays import render_rays
from nerf_plugin.rendering import camera_at, seeded

SIDE = 32


class Activations:
    """What a layer keeps for its backward pass."""

    living: ClassVar["WeakSet[Activations]"] = WeakSet()

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.living.add(self)


class Native(torch.autograd.Function):
    """y = x w, whose context holds x as an attribute, as tiny-cuda-nn's native context does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.native, ctx.w = Activations(x.clone()), w.detach()
        return x @ w

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        return gradients[0] @ ctx.w.T, ctx.native.values.T @ gradients[0]


class Field(nn.Module):
    """A colour for each ray from its direction and a random number, as stratified samples are."""

    collider = None

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
        self.most = 0

    def forward(self, rays: Any) -> dict[str, Tensor]:
        x = torch.cat([rays.directions, torch.rand_like(rays.directions[:, :1])], 1)
        rgb = Native.apply(x, self.w).sigmoid()  # pyright: ignore[reportOptionalMemberAccess]
        self.most = max(self.most, sum(len(a.values) for a in Activations.living))
        return {"rgb": rgb}

    def get_metrics_dict(self, outputs: Any, batch: Any) -> dict[str, Tensor]:
        return {}

    def get_loss_dict(self, outputs: Any, batch: Any, metrics: Any) -> dict[str, Tensor]:
        return {"size": outputs["rgb"].square().mean()}


def rendered(chunk: int, defer: bool) -> SimpleNamespace:
    """A view's image, losses, the parameter's gradient and the most rays whose activations lived at a time."""
    Activations.living.clear()
    model, pose = Field(), torch.eye(4)[None, :3]
    camera = Cameras(pose, 1.2 * SIDE, 1.2 * SIDE, SIDE / 2, SIDE / 2, SIDE, SIDE)
    with seeded(1, torch.device("cpu")):
        image, losses = render_rays(model, camera, chunk, defer)
    weights = torch.randn(image.shape, generator=torch.Generator().manual_seed(2))
    ((image * weights).sum() + losses["size"]).backward()
    return SimpleNamespace(image=image, loss=losses["size"], gradient=model.w.grad, most=model.most)


def test_activations_that_torch_does_not_know_of_live_for_a_chunk() -> None:
    deferred, direct = rendered(64, True), rendered(64, False)
    assert direct.most == SIDE**2  # the stand-in does keep them
    assert deferred.most == 64


def test_and_the_gradient_is_the_direct_one() -> None:
    deferred, direct = rendered(100, True), rendered(100, False)
    assert torch.equal(deferred.image, direct.image)
    assert torch.equal(deferred.loss, direct.loss)
    assert direct.gradient.abs().max() > 0.1
    assert torch.allclose(deferred.gradient, direct.gradient, rtol=1e-5, atol=1e-6)


def test_resized_cameras_see_the_same(edited: dict[str, Any]) -> None:
    pipeline = edited["cpds"].pipeline
    camera = pipeline.datamanager.train_dataset.cameras[:1]
    small = camera_at(camera, 10, 5)
    wide = camera.generate_rays(camera_indices=0, keep_shape=True).directions
    rays = small.generate_rays(camera_indices=0, keep_shape=True).directions
    assert rays.shape == (10, 5, 3)
    center = torch.nn.functional.normalize(wide[4:6, 4:8].mean((0, 1)), dim=0)  # of the 2 x 4 px that it covers
    assert torch.allclose(rays[2, 1], center, atol=2e-3)
