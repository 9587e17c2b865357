"""Splatfacto that runs on any device, and whose gaussians stay as many as they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from shlex import quote
from typing import Any, cast

import torch
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.splatfacto import RGB2SH, SplatfactoModel, SplatfactoModelConfig
from torch import Tensor
from torch.nn import Parameter

from cpds.errors import InputError
from nerf_plugin.base_run import parse_dataset
from nerf_plugin.exits import exit_on_input_error
from nerf_plugin.rendering import camera_at
from representations.pinhole import OPENGL
from representations.splats.rasterize import rasterizer_for

MIN_POINTS = 4  # each takes its size from its three neighbours


@dataclass
class SplatTrainerConfig(TrainerConfig):
    """nerfstudio's, for splats that start from the points of a sparse cloud: none are added while they train."""

    def save_config(self) -> None:
        """ns-train does this first: a run that cannot be leaves nothing behind."""
        with exit_on_input_error():
            self.require_points()
        super().save_config()

    def require_points(self) -> None:
        """Raise InputError where training would silently start from random gaussians."""
        pipeline = cast(Any, self.pipeline)
        if pipeline.model.random_init or self.load_dir or self.load_checkpoint:
            return
        data = pipeline.datamanager.data or pipeline.datamanager.dataparser.data
        try:
            points = parse_dataset(pipeline.datamanager.dataparser, data).metadata.get("points3D_xyz", ())
        except ImportError as err:
            raise InputError(
                f"nerfstudio reads the points of {data} with open3d, which cannot be loaded ({err}): install what it "
                "lacks of the system (Debian, Ubuntu: libegl1 libgl1 libxcb1 libusb-1.0-0)"
            ) from err
        except EOFError:  # nerfstudio offers to convert COLMAP's points, and nobody is there to answer
            points = ()
        if len(points) >= MIN_POINTS:
            return
        folder = data if data.is_dir() else data.parent
        export = f"ns-export pointcloud --load-config outputs/.../config.yml --output-dir {quote(str(folder))} "
        raise InputError(
            f"dataset {data} has no sparse point cloud to start from, and {pipeline.model.num_random} random gaussians "
            f"make a poor scene: train nerfacto on it, make points of that with {export}--num-points 5000 "
            f"--normal-method open3d --save-world-frame True, then "
            f"python -m nerf_plugin.points {quote(str(folder))}; "
            "or set pipeline.model.random_init True to start from random gaussians all the same"
        )


@dataclass
class CpdsSplatModelConfig(SplatfactoModelConfig):
    """Splatfacto's settings; those of its densification are not used."""

    _target: type = field(default_factory=lambda: CpdsSplatModel)


class FixedCount:
    """In the place of gsplat's densification: nothing is added and nothing removed."""

    absgrad = False

    def step_pre_backward(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing."""

    def step_post_backward(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing."""


class CpdsSplatModel(SplatfactoModel):
    """Rasterized by gsplat on CUDA and by our own rasterizer elsewhere, where the stock model does not run."""

    config: CpdsSplatModelConfig
    training_background: Tensor | None = None  # in the place of random colors

    def populate_modules(self) -> None:
        points = self.seed_points
        if points is not None:
            self.seed_points = (points[0], points[1][:0])  # the stock model would send their colors to CUDA
        super().populate_modules()
        if points is not None and len(points[1]) and not self.config.random_init:
            rgb = points[1] / 255
            colors = RGB2SH(rgb) if self.config.sh_degree > 0 else torch.logit(rgb, eps=1e-10)
            self.gauss_params["features_dc"] = Parameter(colors.float())
        self.strategy = FixedCount()

    def _get_background_color(self) -> Tensor:
        if self.training and self.training_background is not None:
            return self.training_background.to(self.device)
        return super()._get_background_color()

    def get_outputs(self, camera: Any) -> dict[str, Any]:
        """rgb (H, W, 3), depth and accumulation (H, W, 1) and the background, before one camera."""
        poses = self.camera_optimizer.apply_to_camera(camera) if self.training else camera.camera_to_worlds
        cropped = None if self.training or self.crop_box is None else self.crop_box.within(self.means).reshape(-1)
        downscale = self._get_downscale_factor()
        height, width = int(camera.height) // downscale, int(camera.width) // downscale
        if cropped is not None and not bool(cropped.any()):
            return self.get_empty_outputs(width, height, self.background_color)  # pyright: ignore[reportReturnType]
        values = {k: v if cropped is None else v[cropped] for k, v in self.gauss_params.items()}
        colors, degree = torch.cat([values["features_dc"][:, None], values["features_rest"]], 1), self.config.sh_degree
        if degree == 0:
            colors = colors[:, 0].sigmoid()
        elif self.training:
            degree = min(self.step // self.config.sh_degree_interval, degree)
        drawn, alpha, self.info = rasterizer_for(self.device)(
            means=values["means"],
            quats=values["quats"],
            scales=values["scales"].exp(),
            opacities=values["opacities"][:, 0].sigmoid(),
            colors=colors,
            viewmats=viewmats(poses),
            Ks=camera_at(camera, height, width).get_intrinsics_matrices().to(poses),
            width=width,
            height=height,
            packed=False,
            render_mode="RGB+ED",
            sh_degree=degree if self.config.sh_degree > 0 else None,
            rasterize_mode=self.config.rasterize_mode,
        )
        background = self._get_background_color()
        rgb = (drawn[0, ..., :3] + (1 - alpha[0]) * background).clamp(0, 1)
        depth = torch.where(alpha[0] > 0, drawn[0, ..., 3:], drawn[..., 3:].detach().max())
        if not self.training:
            background = background.expand(height, width, 3)
        return {"rgb": rgb, "depth": depth, "accumulation": alpha[0], "background": background}


def viewmats(camera_to_worlds: Tensor) -> Tensor:
    """World to camera in OpenCV's axes (c, 4, 4), from nerfstudio's camera to world in OpenGL's (c, 3, 4)."""
    bottom = camera_to_worlds.new_tensor([[[0, 0, 0, 1]]]).expand(len(camera_to_worlds), 1, 4)
    return OPENGL.to(camera_to_worlds) @ torch.linalg.inv(torch.cat([camera_to_worlds, bottom], 1))
