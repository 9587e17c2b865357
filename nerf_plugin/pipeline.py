"""The edit as a pipeline of nerfstudio: a training view, the prior's guidance, losses for nerfstudio's own trainer."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.splatfacto import SplatfactoModel
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils import writer
from nerfstudio.utils.colors import get_color
from nerfstudio.viewer.viewer_elements import ViewerSlider
from torch import Tensor

from cpds.config import GuidanceConfig, require
from cpds.editor import step_generator
from cpds.errors import InputError
from cpds.guidance import Guidance
from cpds.images import working_size
from cpds.presets import PRESETS
from cpds.priors.base import Prior
from cpds.priors.load import load_prior, resolve_device
from cpds.threads import choose_threads
from cpds.types import Images, Latents
from nerf_plugin.controls import BeforeAfter, Prompt
from nerf_plugin.holding import held, outside_psnr, share_appearance
from nerf_plugin.records import around, gradient_picture, progress, save, save_video, save_views, side_by_side
from nerf_plugin.region import ANYWHERE, Region, confine_field, confine_gaussians, span
from nerf_plugin.rendering import camera_at, distances, evaluating, lines, render_rays, render_splats, seeded
from nerf_plugin.sources import BaseScene
from nerf_plugin.trainer import Start
from nerf_plugin.views import Views
from representations.cameras import view_at

DRAWN = ("source", "region", "pictures")  # folders of a run
JITTER = 1 << 40  # tells the seed of a ray's samples from that of the step's noise


@dataclass
class ScenePipelineConfig(VanillaPipelineConfig):
    """What editing and refining have in common."""

    trg_prompt: str = ""
    """What the scene should become."""
    prior: str | None = None
    """Folder in diffusers' layout, or a name on the Hugging Face hub; none takes the embedded prior."""
    torch_dtype: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """Precision of the prior; auto takes fp16 on CUDA and fp32 elsewhere."""
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
        require(
            bool(self.trg_prompt.strip()),
            "the target prompt is empty: say what the scene should become (--pipeline.trg-prompt)",
        )
        require(self.resolution is None or self.resolution >= 16, f"resolution must be >= 16 px, got {self.resolution}")
        require(self.rays_per_chunk >= 1, f"rays_per_chunk must be >= 1, got {self.rays_per_chunk}")
        require(self.turntable_frames >= 0, f"turntable_frames must be >= 0, got {self.turntable_frames}")
        if self.guidance_device is not None:
            resolve_device(self.guidance_device)


@dataclass
class CpdsPipelineConfig(ScenePipelineConfig):
    """How a scene is edited."""

    _target: type = field(default_factory=lambda: CpdsPipeline)
    prompt: str = ""
    """What the scene shows."""
    guidance: GuidanceConfig = field(default_factory=lambda: PRESETS["cpds-splats"].guidance)
    """How the edit direction is found."""
    source: Literal["picture", "render"] = "render"
    """What a view is compared with: the dataset's picture of it, or the base scene's render."""
    preset: str | None = None
    """Settings by name: cpds-nerf (what stands here when none is named), pds-nerf, cds-nerf, dds-nerf, sds-nerf or
    pds-nerf-paper; of splats cpds-splats, ..., pds-splats-paper. It sets the guidance, max-num-iterations, view-every
    and the optimizers' learning rates, but for those that are given other than by default."""
    masks: Path | None = None
    """Folder of pictures named like the training pictures, white where the scene may change; masks that the dataset
    lists say something else (which pixels to train on), and are not read."""
    region: Region = ANYWHERE
    """Where in the scene it may change, without masks; where there are both, both must allow it."""
    view_every: int = 1
    """Steps for which one view is kept; the paper's is 10 (PDS, Koo 2024)."""
    loss_weight: float = 1.0
    """Weight of the guidance beside the model's own losses."""
    log_every: int = 100
    """Steps between two strips in strips/ and in TensorBoard; 0 leaves them out."""

    def check(self) -> None:
        require(bool(self.prompt.strip()), "the prompt is empty: say what the scene shows (--pipeline.prompt)")
        super().check()
        require(self.view_every >= 1, f"view_every must be >= 1, got {self.view_every}")
        weight = self.loss_weight
        require(0 < weight < math.inf, f"loss_weight must be > 0 and finite, got {weight}")
        require(self.log_every >= 0, f"log_every must be >= 0, got {self.log_every}")
        require(self.masks is None or self.masks.is_dir(), f"masks {self.masks} is no folder: check --pipeline.masks")
        self.region.check()


def ground_of(model: Any) -> Float[Tensor, " 3"]:
    """The colour behind the scene, and behind transparent pictures; black where a model has none of its own."""
    if isinstance(model, SplatfactoModel):
        return model.background_color.clone()
    chosen = model.renderer_rgb.background_color
    return get_color(chosen) if chosen in ("black", "white") else torch.zeros(3)


class ScenePipeline(VanillaPipeline):
    """A trained scene, its training views and a prior. The prior and the sources are no part of its state."""

    config: ScenePipelineConfig

    def __init__(self, config: ScenePipelineConfig, scale: float, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.target_field = Prompt("Target prompt", config.trg_prompt)
        self.scale_slider = ViewerSlider("Guidance scale", scale, 0.0, max(100.0, scale), 0.5)
        self.now_and_then = BeforeAfter()
        self.saved: dict[str, Any] = {"first_step": 0}  # beside the scene, as the checkpoint has it

    def get_param_groups(self) -> dict[str, list[Any]]:
        """The scene's; cameras stay where they are."""
        return {k: v for k, v in super().get_param_groups().items() if k != "camera_opt"}

    def get_extra_state(self) -> dict[str, Any]:
        """What a run needs beside the scene to go on."""
        return {**self.saved, "trg_prompt": self.target_field.said(), "scale": self.scale_slider.value}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.saved = state

    def begin(self, start: Start) -> None:
        """Load the prior and look at the views. Raises InputError."""
        model: Any = self.model
        self.run = start
        if start.resumed:  # the viewer may have changed them
            self.target_field.value, self.scale_slider.value = self.saved["trg_prompt"], self.saved["scale"]
        before = self.saved if start.resumed else {"base": str(start.checkpoint)}
        self.saved = {**before, "first_step": start.first}
        model.camera_optimizer.requires_grad_(False)
        share_appearance(model)
        self.base = BaseScene(model, Path(self.saved.get("base", "step-0.ckpt")), start.resumed)
        self.prior: Prior = load_prior(
            self.config.prior, device=self.config.guidance_device or str(self.device), dtype=self.config.torch_dtype
        )
        choose_threads(self.prior)
        self.ground = model.ground = ground_of(model)
        if not isinstance(model, SplatfactoModel) and model.renderer_rgb.background_color == "random":
            model.renderer_rgb.background_color = self.ground
        self.views = self.seen_as()
        for view, camera in enumerate(self.views.cameras):  # where training found them to be
            camera.metadata = {"cam_idx": view}
            camera.camera_to_worlds = model.camera_optimizer.apply_to_camera(camera).detach()
            camera.metadata = None

    def seen_as(self) -> Views:
        """The training views, at the size that the prior works at."""
        short = self.config.resolution or self.prior.image_size
        return Views(self.datamanager, self.ground, lambda h, w: working_size(h, w, short, self.prior.size_multiple))

    def prepare(self) -> None:
        """What takes its time before the first step, when nothing is left to refuse."""
        if not self.run.resumed:
            for folder in DRAWN:  # of a run of this name that was stopped before its first checkpoint
                for file in (self.run.folder / folder).glob("*.png"):
                    file.unlink()

    def source_file(self, view: int) -> Path:
        """Where the render is kept."""
        return self.run.folder / "source" / f"{self.views.names[view]}.png"

    def before(self, view: int) -> Images:
        """What a view is compared with: the scene's render of it when the run began."""
        return self.base.kept(self.source_file(view), lambda: self.look(view))

    def render(self, camera: Any, free: Tensor | None = None) -> tuple[Images, dict[str, Tensor]]:
        """What a camera sees, differentiable in the scene, and losses of the model's own where it is in training mode.

        `free` (H, W, 1) are the pixels that a region holds back to itself.
        """
        camera = camera.to(self.device)
        if isinstance(self.model, SplatfactoModel):
            self.model.set_crop(None)  # these two may be the viewer's
            self.model.set_background(self.ground)
            return render_splats(self.model, camera), {}
        return render_rays(self.model, camera, self.config.rays_per_chunk, free=free)

    @torch.no_grad()
    def look(self, view: int) -> Images:
        """A training view as people see it."""
        return self.frame(self.views.cameras[view])

    @torch.no_grad()
    def frame(self, camera: Any) -> Images:
        """What any camera sees, from the near plane on that training has."""
        with evaluating(self.model):
            return self.render(camera)[0]

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        self.lock = training_callback_attributes.trainer.train_lock  # pyright: ignore[reportOptionalMemberAccess]
        finish = TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], self.finish)
        return [*super().get_training_callbacks(training_callback_attributes), finish]

    def finish(self, step: int) -> None:
        """All views, before/after pairs and the video past them, in eval_outputs/."""
        place, count = self.run.folder / "eval_outputs", self.config.turntable_frames
        with self.lock:  # the viewer renders too
            save_views(place, self.views.names, self.before, self.look)
            if count and shutil.which("ffmpeg"):
                way = around(self.views.cameras, count)
                frames = [self.frame(way[i : i + 1]).cpu() for i in progress(len(way), "rendering the video")]
                save_video(place / "turntable.mp4", frames)
            elif count:
                print("no turntable.mp4: install ffmpeg to get one", file=sys.stderr)
        print(f"views and before/after pairs: {place}")


class CpdsPipeline(ScenePipeline):
    """Each step looks at the scene through a training camera and asks the prior which way the edit lies."""

    config: CpdsPipelineConfig

    def __init__(self, config: CpdsPipelineConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, config.guidance.guidance_scale, *args, **kwargs)
        self.prompt_field = Prompt("Prompt", config.prompt)

    def get_extra_state(self) -> dict[str, Any]:
        guidance = getattr(self, "guidance", None)
        selector = {"selector": guidance.selectors[0].state()} if guidance else {}
        return {**super().get_extra_state(), **selector, "prompt": self.prompt_field.said()}

    def begin(self, start: Start) -> None:
        super().begin(start)
        model: Any = self.model
        model.camera_optimizer.config = replace(model.camera_optimizer.config, mode="off")  # the views have it in them
        if hasattr(model, "proposal_sampler"):  # chunks of a view must not differ in what they train
            model.proposal_sampler.update_sched = lambda step: -1
        config = self.config
        if start.resumed:
            self.prompt_field.value = self.saved["prompt"]
        self.said = (self.prompt_field.said(), self.target_field.said())
        self.guidance = Guidance(self.prior, *self.said, config.guidance, steps=start.steps, seed=start.seed)
        if start.resumed and self.saved["selector"]:
            state = {k: v.to(self.prior.device) for k, v in self.saved["selector"].items()}
            self.guidance.selectors[0].load_state(state)
        self.masks = self.views.masks(config.masks) if config.masks else None
        self.source_latents: dict[int, Latents] = {}
        self.limit()

    def before(self, view: int) -> Images:
        return self.views.picture(view) if self.config.source == "picture" else super().before(view)

    def limit(self) -> None:
        """Hold the scene outside of the region, and say where things are. Raises InputError for an empty region."""
        model: Any = self.model
        region, splats = self.config.region, isinstance(model, SplatfactoModel)
        points = model.means.detach() if splats else self.surfaces([camera_at(c, 8, 8) for c in self.views.cameras])
        where = f"{'its gaussians' if splats else 'what its views show'}: {span(points)} (nine tenths of them)"
        cameras = torch.cat([c.camera_to_worlds[:, :3, 3] for c in self.views.cameras])
        print(f"the scene, in its own coordinates: {where}; its cameras: {span(cameras, 1.0)}")
        if not region:
            return
        seen = any(bool(region.entered(*lines(c)).isfinite().any()) for c in self.views.cameras)
        require(seen, f"no view looks at the region, {region}: choose another; the scene has {where}")
        if not splats:
            confine_field(model.field, region)
            return
        inside = region.contains(model.means.detach())
        inside = self.saved.setdefault("inside", inside.cpu()).to(inside.device)  # of gaussians that may have moved
        require(
            bool(inside.any()), f"there is no gaussian in the region, {region}: choose another; the scene has {where}"
        )
        confine_gaussians(list(model.gauss_params.values()), inside)

    def surfaces(self, cameras: Sequence[Any]) -> Float[Tensor, "n 3"]:
        """The points that the pixels of cameras show."""
        rays = [(*lines(c), self.depth(c)) for c in cameras]
        return torch.cat([(o + d[..., None] * v).flatten(0, 1).cpu() for o, v, d in rays])

    @torch.no_grad()
    def depth(self, camera: Any) -> Float[Tensor, "H W"]:
        """How far from the camera the first surface lies in each pixel, on the CPU."""
        with evaluating(self.model):
            return distances(self.model, camera.to(self.device), self.config.rays_per_chunk).cpu()

    def mask(self, view: int) -> Float[Tensor, "1 1 H W"] | None:
        """Where a view may change (1): its mask, and what of the region it sees before the base scene's surface."""
        found, region = None if self.masks is None else self.masks[view], self.config.region
        if not region:
            return found
        file, camera = self.run.folder / "region" / f"{self.views.names[view]}.png", self.views.cameras[view]

        def meets() -> Images:
            return (region.entered(*lines(camera)) < self.depth(camera)).float().expand(1, 3, -1, -1)

        met = self.base.kept(file, meets)[:, :1]
        return met if found is None else met * found

    def listen(self) -> None:
        """Take over what was changed in the viewer."""
        asked = (self.prompt_field.said(), self.target_field.said())
        if asked != self.said:
            self.guidance.say([asked[0]], [asked[1]])
            self.said = asked
        if self.scale_slider.value != self.guidance.config.guidance_scale:
            self.guidance.config = replace(self.guidance.config, guidance_scale=self.scale_slider.value)

    def get_train_loss_dict(self, step: int) -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
        """One edit step; the losses of the guidance and the model's own."""
        self.listen()
        done = step - self.run.first
        generator = step_generator(self.run.seed, done)
        view = view_at(generator.initial_seed(), self.config.view_every, len(self.views))
        mask = self.mask(view)  # first, as the source: they may have to be rendered from the base scene
        if view not in self.source_latents:
            with torch.no_grad():
                self.source_latents[view] = self.prior.encode(self.before(view).to(self.prior.device))
        free = mask[0, 0, ..., None] > 0 if mask is not None and self.config.region else None
        with seeded(generator.initial_seed() ^ JITTER, self.device):
            image, losses = self.render(self.views.cameras[view], free)
        image.register_hook(partial(self.seen, view, done, image.detach()))
        kept = {}
        if mask is not None:
            source, mask = self.before(view).to(image), mask.to(image)
            kept = {"outside_psnr": outside_psnr(image.detach(), source, 1 - mask)}
            image = held(image, source, mask)
        latents = self.prior.encode(image.to(self.prior.device))
        latents.register_hook(lambda gradient: self.config.loss_weight * gradient)
        terms = self.guidance.step(self.source_latents[view], latents, done, generator)
        return {"rgb": image}, {k: v.to(self.device) for k, v in (terms.losses | losses).items()}, terms.metrics | kept

    def seen(self, view: int, done: int, image: Images, gradient: Images) -> None:
        """Show a step's view, and the gradient that reached it. Raises InputError where it is not finite."""
        if not bool(torch.isfinite(gradient).all()):
            raise InputError(
                f"step {done + 1} gave NaN or infinite gradients and was not applied: lower guidance_scale or the step "
                "sizes, or use --pipeline.torch-dtype fp32"
            )
        every = self.config.log_every
        logged = bool(every) and (done + 1) % every == 0
        if logged or (self.now_and_then.shown and done % 10 == 0):
            row = [self.before(view), image.cpu(), gradient_picture(gradient.cpu())]
            self.now_and_then.show(side_by_side(row[:2]))
        if logged:
            save(self.run.folder / "strips" / f"{done + 1:06d}.png", side_by_side(row))
            writer.put_image("source | edit | gradient", torch.cat(row, 3)[0].permute(1, 2, 0), self.run.first + done)
