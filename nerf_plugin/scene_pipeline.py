"""A trained scene and a prior as a pipeline of nerfstudio: what editing and refining have in common."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.splatfacto import SplatfactoModel
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.viewer.viewer_elements import ViewerSlider

from cpds.config import require, require_choices
from cpds.images import working_size
from cpds.priors.base import Prior
from cpds.priors.load import load_prior, resolve_device
from cpds.priors.options import PLAIN, PriorOptions
from cpds.terminal import print_result, print_status
from cpds.threads import choose_threads
from cpds.types import Images
from nerf_plugin.base_run import RunStart
from nerf_plugin.base_scene import BaseScene
from nerf_plugin.controls import ComparisonView, PromptField, hide
from nerf_plugin.outputs import progress, save_video, save_views, trajectory
from nerf_plugin.rays import RayRenderer
from nerf_plugin.rendering import SceneRenderer
from nerf_plugin.splats import SplatRenderer
from nerf_plugin.views import Views

RENDERED = ("source", "region", "images")  # folders of a run, filled while it goes


@dataclass
class ScenePipelineConfig(VanillaPipelineConfig):
    """What editing and refining have in common."""

    target_prompt: Annotated[str, tyro.conf.arg(aliases=["--pipeline.trg-prompt"])] = ""
    """What the scene should become."""
    prior: str | None = None
    """Hugging Face name, local folder in diffusers' layout or single .safetensors checkpoint; none takes the embedded
    prior."""
    prior_options: Annotated[PriorOptions, tyro.conf.arg(name="")] = PLAIN  # pipeline.lora, not …prior_options.lora
    """How the prior is loaded."""
    guidance_device: str | None = None
    """Where the prior runs (cuda:1, ...); none takes the scene's device."""
    resolution: int | None = None
    """Shorter side of the views that the prior sees, in px; none takes what it was trained on."""
    rays_per_chunk: int = 4096
    """Rays of a nerfacto scene that are rendered at a time: memory grows with this, not with the view's size."""
    turntable_frames: int = 60
    """Frames of the video past all training views that is made at the end where ffmpeg is; 0 leaves it out."""

    def check(self) -> None:
        """Raise InputError for values that cannot be used."""
        require_choices(self)
        require(
            bool(self.target_prompt.strip()),
            "the target prompt is empty: say what the scene should become (pipeline.target_prompt)",
        )
        require(self.resolution is None or self.resolution >= 16, f"resolution must be >= 16 px, got {self.resolution}")
        require(self.rays_per_chunk >= 1, f"rays_per_chunk must be >= 1, got {self.rays_per_chunk}")
        require(self.turntable_frames >= 0, f"turntable_frames must be >= 0, got {self.turntable_frames}")
        if self.guidance_device is not None:
            resolve_device(self.guidance_device)


class ScenePipeline(VanillaPipeline):
    """A trained scene, its training views and a prior. The prior and the sources are no part of its state."""

    config: ScenePipelineConfig
    renderer: SceneRenderer

    def __init__(self, config: ScenePipelineConfig, guidance_scale: float | None, *args: Any, **kwargs: Any) -> None:
        """`guidance_scale` as it was given; else `setup`, which knows the prior, sets what is usual for that."""
        super().__init__(config, *args, **kwargs)
        self.target_field = PromptField("Target prompt", config.target_prompt)
        given = guidance_scale or 0.0
        self.scale_slider = ViewerSlider("Guidance scale", given, 0.0, max(100.0, given), 0.5)
        self.comparison_view = ComparisonView()
        self.saved: dict[str, Any] = {"first_step": 0}  # beside the scene, as the checkpoint has it

    def get_param_groups(self) -> dict[str, list[Any]]:
        """The scene's; cameras stay where they are."""
        return {k: v for k, v in super().get_param_groups().items() if k != "camera_opt"}

    def get_extra_state(self) -> dict[str, Any]:
        """What a run needs beside the scene to go on."""
        return {**self.saved, "target_prompt": self.target_field.prompt, "scale": self.scale_slider.value}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.saved = state

    def setup(self, start: RunStart) -> None:
        """Load the prior and place the views. Raises InputError."""
        model: Any = self.model
        self.run = start
        if start.resumed:  # the viewer may have changed them
            self.target_field.value, self.scale_slider.value = self.saved["target_prompt"], self.saved["scale"]
        kept = self.saved if start.resumed else {"base": str(start.checkpoint)}
        self.saved = {**kept, "first_step": start.first}
        model.camera_optimizer.requires_grad_(False)
        splats = isinstance(model, SplatfactoModel)
        self.renderer = SplatRenderer(model) if splats else RayRenderer(model, self.config.rays_per_chunk)
        self.base = BaseScene(self.renderer, Path(self.saved.get("base", "step-0.ckpt")), start.resumed)
        self.prior: Prior = load_prior(
            self.config.prior,
            device=self.config.guidance_device or str(self.device),
            options=self.config.prior_options,
        )
        if self.prior.guidance == "none":
            hide(self.scale_slider)
        choose_threads(self.prior)
        self.views = Views(self.datamanager, self.renderer.background, self.view_size)
        self.views.move(model.camera_optimizer)

    def view_size(self, height: int, width: int) -> Sequence[int]:
        """(H, W) at which a training view of another size is rendered: what the prior works at."""
        short = self.config.resolution or self.prior.image_size
        return working_size(height, width, short, self.prior.size_multiple)

    def prepare(self) -> None:
        """What takes its time before the first step, when nothing is left to refuse."""
        if not self.run.resumed:
            for folder in RENDERED:  # of a run of this name that was stopped before its first checkpoint
                for file in (self.run.folder / folder).glob("*.png"):
                    file.unlink()

    def forget_earlier(self) -> None:
        """Remove what only checkpoints before the latest needed."""

    def source_image(self, view: int) -> Images:
        """What a view is compared with, on the CPU: the scene's render of it when the run began."""
        file = self.run.folder / "source" / f"{self.views.names[view]}.png"
        return self.base.image(file, lambda: self.render_eval(view))

    def render_eval(self, view: int) -> Images:
        """A training view of the scene as it is now, as people see it."""
        return self.renderer.render_eval(self.views.cameras[view])

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        self.lock = training_callback_attributes.trainer.train_lock  # pyright: ignore[reportOptionalMemberAccess]
        finish = TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], self.finish)
        return [*super().get_training_callbacks(training_callback_attributes), finish]

    def finish(self, step: int) -> None:
        """All views, before/after pairs and the video past them, in eval_outputs/."""
        folder, count = self.run.folder / "eval_outputs", self.config.turntable_frames
        with self.lock:  # the viewer renders too
            save_views(folder, self.views.names, self.source_image, self.render_eval)
            if count and shutil.which("ffmpeg"):
                cameras = trajectory(self.views.cameras, count)
                frames = [
                    self.renderer.render_eval(cameras[i : i + 1]).cpu()
                    for i in progress(len(cameras), "rendering the video")
                ]
                save_video(folder / "turntable.mp4", frames)
            elif count:
                print_status("no turntable.mp4: install ffmpeg to get one")
        print_result(f"views and before/after pairs: {folder}")
