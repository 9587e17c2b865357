"""The edit as a pipeline of nerfstudio: a training view, the prior's guidance, losses for nerfstudio's own trainer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from cpds.config import GuidanceConfig, require
from cpds.editor import step_generator
from cpds.errors import InputError
from cpds.guidance import Guidance
from cpds.guidance_scale import guidance_note
from cpds.images import to_pil, to_tensor
from cpds.objectives.losses import pull
from cpds.presets import PRESETS
from cpds.rendered import hold
from cpds.state import fetched
from cpds.terminal import print_status
from cpds.types import Images, Latents
from nerf_plugin.base_run import RunStart
from nerf_plugin.bounds import HOLD_AT, EditBounds, outside_psnr
from nerf_plugin.controls import PromptField
from nerf_plugin.outputs import comparison, gradient_image, log_images, save
from nerf_plugin.region import Region
from nerf_plugin.rendering import seeded
from nerf_plugin.scene_pipeline import ScenePipeline, ScenePipelineConfig
from representations.cameras import view_at

JITTER = 1 << 40  # tells the seed of a ray's samples from that of the step's noise
VIEWS_PER_SEED = 1_000_003  # runs of other seeds see the views in another order


@dataclass
class CpdsPipelineConfig(ScenePipelineConfig):
    """How a scene is edited."""

    _target: type = field(default_factory=lambda: CpdsPipeline)
    prompt: str = ""
    """What the scene shows."""
    guidance: GuidanceConfig = field(default_factory=lambda: PRESETS["cpds-splats"].guidance)
    """How the edit direction is found."""
    source: Literal["image", "render"] = "render"
    """What a view is compared with: the dataset's image of it, or the base scene's render."""
    preset: str | None = None
    """Settings by name: cpds-nerf (what stands here when none is named), pds-nerf, cds-nerf, dds-nerf, sds-nerf or
    pds-nerf-paper; of splats cpds-splats, ..., pds-splats-paper. It sets the guidance, max_num_iterations, view_every
    and the optimizers' learning rates, but for those that are given other than by default."""
    masks: Path | None = None
    """Folder of images named like the training images, white where the scene may change; masks that the dataset lists
    mean something else (which pixels to train on), and are not read."""
    region: tuple[float, ...] | None = None
    """Sphere (x y z radius) or box (x y z x y z) in which the scene may change, without masks; where there are both,
    both must allow it. In the scene's own coordinates, as nerfstudio's viewer and exports have them, which a run prints
    when it begins: its dataparser has moved, rotated and scaled those of transforms.json."""
    view_every: int = 1
    """Steps for which one view is kept; the paper's is 10 (PDS, Koo 2024)."""
    loss_weight: float = 1.0
    """Weight of the guidance beside the model's own losses."""
    log_every: int = 100
    """Steps between two comparisons in comparisons/ and in TensorBoard; 0 leaves them out."""

    def check(self) -> None:
        require(bool(self.prompt.strip()), "the prompt is empty: say what the scene shows (pipeline.prompt)")
        super().check()
        require(self.view_every >= 1, f"view_every must be >= 1, got {self.view_every}")
        weight = self.loss_weight
        require(0 < weight < math.inf, f"loss_weight must be > 0 and finite, got {weight}")
        require(self.log_every >= 0, f"log_every must be >= 0, got {self.log_every}")
        require(self.masks is None or self.masks.is_dir(), f"masks {self.masks} is no folder: check pipeline.masks")
        if self.region is not None:
            Region(self.region)


class CpdsPipeline(ScenePipeline):
    """Each step renders a training view and asks the prior in which direction the edit lies."""

    config: CpdsPipelineConfig

    def __init__(self, config: CpdsPipelineConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, config.guidance.guidance_scale, *args, **kwargs)
        self.prompt_field = PromptField("Prompt", config.prompt)

    def get_extra_state(self) -> dict[str, Any]:
        guidance = getattr(self, "guidance", None)
        selector = {"selector": guidance.selectors[0].state()} if guidance else {}
        return {**super().get_extra_state(), **selector, "prompt": self.prompt_field.prompt}

    def setup(self, start: RunStart) -> None:
        super().setup(start)
        config, model = self.config, self.model
        optimizer: Any = model.camera_optimizer
        optimizer.config = replace(optimizer.config, mode="off")  # the views have it in them
        self.renderer.fix_sampling()
        if start.resumed:
            self.prompt_field.value = self.saved["prompt"]
        self.prompts = self.prompt_field.prompt, self.target_field.prompt
        self.guidance = Guidance(self.prior, *self.prompts, config.guidance, steps=start.steps, seed=start.seed)
        scale = self.guidance.config.guidance_scale
        if scale is not None and not start.resumed:
            self.scale_slider.value = scale
        if note := guidance_note(config.guidance, self.prior):
            print_status(f"ns-train: note: {note}")
        if start.resumed and self.saved["selector"]:
            state = {k: v.to(self.prior.device) for k, v in self.saved["selector"].items()}
            self.guidance.selectors[0].load_state(state)
        self._sources: dict[int, Image.Image] = {}
        self._source_latents: dict[int, Latents] = {}
        region = None if config.region is None else Region(config.region)
        masks = self.views.masks(config.masks) if config.masks else None
        self.bounds = EditBounds(self.base, self.views, region, masks, start.folder / "region")
        self.bounds.confine(self.saved)

    def source_image(self, view: int) -> Images:
        """What a view is compared with, on the CPU: the dataset's image, or the scene's render when the run began."""
        if self.config.source == "image":
            return self.views.image(view)
        if view not in self._sources:
            self._sources[view] = to_pil(super().source_image(view))  # 8 bits, as the file
        return to_tensor(self._sources[view])

    def source_latents(self, view: int) -> Latents:
        """`source_image` as the prior encodes it."""
        if view not in self._source_latents:
            with torch.no_grad():
                self._source_latents[view] = self.prior.encode(self.source_image(view).to(self.prior.device))
        return self._source_latents[view]

    def apply_viewer_changes(self) -> None:
        """Take over what was changed in the viewer."""
        prompts = self.prompt_field.prompt, self.target_field.prompt
        if prompts != self.prompts:
            self.guidance.set_prompts([prompts[0]], [prompts[1]])
            self.prompts = prompts
        if self.scale_slider.value != self.guidance.config.guidance_scale:
            self.guidance.config = replace(self.guidance.config, guidance_scale=self.scale_slider.value)

    def get_train_loss_dict(self, step: int) -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
        """One edit step; the loss whose gradient is the guidance, and the model's own."""
        self.apply_viewer_changes()
        done = step - self.run.first
        view = view_at(self.run.seed * VIEWS_PER_SEED + done, self.config.view_every, len(self.views))
        generator = step_generator(self.run.seed, done)
        mask, source = self.bounds.mask(view), self.source_latents(view)  # first: may render the base scene
        editable = mask[0, 0, ..., None] > 0 if mask is not None and self.bounds.region else None
        with seeded(generator.initial_seed() ^ JITTER, self.device):
            image, losses = self.renderer.render(self.views.cameras[view], editable)
        image.register_hook(partial(self.on_image_gradient, view, done, image.detach()))
        metrics, masked = {}, image
        if mask is not None:
            unedited, mask = self.source_image(view).to(image), mask.to(image)
            metrics = {"outside_psnr": outside_psnr(image.detach(), unedited, 1 - mask)}
            masked = hold(image, unedited, mask, HOLD_AT)
        latents = self.prior.encode(masked.to(self.prior.device))
        result = self.guidance.step(source, latents, done, generator)
        loss = pull(latents, self.config.loss_weight * result.gradient).to(self.device)
        metrics |= fetched(result.metrics | {f"{name} loss": x for name, x in result.losses.items()})
        return {"rgb": masked}, {"guidance": loss, **losses}, metrics

    def on_image_gradient(self, view: int, done: int, image: Images, gradient: Images) -> None:
        """Show a step's view, and the gradient that reached it. Raises InputError where it is not finite."""
        if not bool(torch.isfinite(gradient).all()):
            raise InputError(
                f"step {done + 1} gave NaN or infinite gradients and was not applied: lower guidance_scale or the "
                "learning rates, or use pipeline.torch_dtype fp32"
            )
        every = self.config.log_every
        logged = bool(every) and (done + 1) % every == 0
        if not logged and not (self.comparison_view.installed and done % 10 == 0):
            return
        images = [self.source_image(view), image.cpu(), gradient_image(gradient.cpu())]
        self.comparison_view.show(comparison(images[:2]))
        if logged:
            save(self.run.folder / "comparisons" / f"{done + 1:06d}.png", comparison(images))
            log_images(images, self.run.first + done)
