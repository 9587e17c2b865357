"""Training a scene on other images than it was trained on: its views, redrawn by the prior.

Of an edited scene they are what SDEdit (Meng 2022) makes of its views, one after the other: iterative dataset update
(Instruct-NeRF2NeRF, Haque 2023) after PDS (Koo 2024, Sec. 4.2). Or they are the views' own edits, of a scene that was
not edited before: all at once, and of one noise, so that they agree on new shapes, which SDEdit's do not; in rounds,
each from views of the scene as the last one left it, they agree the more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import huber_loss

from cpds.config import EditConfig, require
from cpds.editor import edit, step_generator
from cpds.guidance_scale import chosen_scale, require_guidance, require_negative_prompt, require_scales
from cpds.images import open_image, png, resized, to_pil
from cpds.presets import PDS_REFINE_NERF, PRESETS
from cpds.sdedit import sdedit
from cpds.state import preview_of
from cpds.types import Images
from nerf_plugin.base_run import RunStart
from nerf_plugin.controls import hide
from nerf_plugin.outputs import comparison, progress, save
from nerf_plugin.scene_pipeline import ScenePipeline, ScenePipelineConfig
from representations.latent import LatentImage, LatentImageConfig, changed

VIEW_EDIT = replace(PRESETS["cpds-long"], num_inference_steps=12)  # with more the prior draws new shapes larger
DELTA = 0.05  # difference of colors up to which views that disagree are averaged
CHANGED = (0.03, 0.1)  # differences of colors at which a pixel begins to count as SDEdit's work, and does in full


@dataclass
class RefinePipelineConfig(ScenePipelineConfig):
    """How a scene is refined; by default the paper's schedule."""

    _target: type = field(default_factory=lambda: RefinePipeline)
    redraw: Literal["sdedit", "edit"] = "sdedit"
    """What the training images become: SDEdit's of the views as they are when their turn comes; or the edits of all
    views as pictures, by `edit`, before the first step and at each further round's."""
    prompt: str = ""
    """What the scene shows (edit)."""
    edit: EditConfig = field(default_factory=lambda: VIEW_EDIT)
    """How views are edited as pictures; all with the run's seed, so that they see the same noise (edit)."""
    rounds: int = 1
    """Times that all views are edited, after equal numbers of steps, each time as the scene shows them then (edit)."""
    guidance_scale: float | None = None
    """Guidance of the denoising (sdedit). Default: the paper's 15; 5.5 where the prior's network takes it as an input
    (FLUX.1 dev), 1 where it was distilled to few steps (Turbo, schnell)."""
    negative_prompt: str = ""
    """What the unconditional branch is told instead of nothing (sdedit)."""
    denoising_steps: int = PDS_REFINE_NERF.denoising_steps
    """Steps of a denoising from pure noise (sdedit)."""
    skip: tuple[float, float] = PDS_REFINE_NERF.skip
    """Share of them that is skipped, drawn from this range: the more, the closer to the view (sdedit)."""
    keep_unchanged: bool = True
    """Take pixels that were not changed from the view as it was before refining, not from the autoencoder."""
    update_every: int = PDS_REFINE_NERF.every
    """Training steps between two images that are replaced (sdedit)."""

    def check(self) -> None:
        super().check()
        told = bool(self.prompt.strip())
        require(told or self.redraw != "edit", "the prompt is empty: say what the scene shows (pipeline.prompt)")
        require(self.edit.seed == 0, f"edit.seed is not read, got {self.edit.seed}: give the run's, machine.seed")
        require(self.rounds >= 1, f"rounds must be >= 1, got {self.rounds}")
        low, high = self.skip
        scale = self.guidance_scale
        require(scale is None or 0 <= scale < math.inf, f"guidance_scale must be >= 0 and finite, got {scale}")
        require(self.denoising_steps >= 1, f"denoising_steps must be >= 1, got {self.denoising_steps}")
        require(0 <= low <= high < 1, f"skip must be two shares, 0 <= low <= high < 1, got {self.skip}")
        require(self.update_every >= 1, f"update_every must be >= 1, got {self.update_every}")
        count = getattr(self.datamanager, "train_num_images_to_sample_from", -1)
        require(
            count == -1,
            "refining replaces images in memory, all of them: leave "
            f"pipeline.datamanager.train_num_images_to_sample_from at -1, got {count}",
        )


class RefinePipeline(ScenePipeline):
    """Trains the scene as it was trained, on its own views, redrawn."""

    config: RefinePipelineConfig

    def __init__(self, config: RefinePipelineConfig, *args: Any, **kwargs: Any) -> None:
        guided = config.edit.guidance if config.redraw == "edit" else config
        super().__init__(config, guided.guidance_scale, *args, **kwargs)

    def setup(self, start: RunStart) -> None:
        super().setup(start)
        if not start.resumed:
            self.scale_slider.value = self.first_scale()
            self.saved["images"] = {}  # views that were redrawn: at which step, or in which round
        if self.config.redraw == "edit" and self.config.rounds == 1:  # which is over before the first step
            hide(self.target_field)
            hide(self.scale_slider)
        self.uncond = self.prior.embed([self.config.negative_prompt])
        model: Any = self.model
        if self.config.redraw == "edit" and hasattr(model, "rgb_loss"):  # nerfacto's; splatfacto's is L1 already
            model.rgb_loss = RobustLoss()
        self.target_prompt = ""  # that `target_text` encodes

    def first_scale(self) -> float:
        """The guidance that a run begins with. Raises InputError for what the prior cannot follow."""
        if self.config.redraw == "edit":
            guidance = self.config.edit.guidance
            require_guidance(self.prior, guidance)
            return chosen_scale(self.prior, "target", guidance.guidance_scale, guidance.default_guidance[0])
        require_scales(self.prior, self.config.guidance_scale)
        require_negative_prompt(self.prior, self.config.negative_prompt)
        return chosen_scale(self.prior, "target", self.config.guidance_scale, PDS_REFINE_NERF.guidance_scale)

    def view_size(self, height: int, width: int) -> tuple[int, int]:
        """Its own: the scene trains on images of that size, however little the prior sees."""
        return height, width

    def prepare(self) -> None:
        super().prepare()
        if self.config.redraw == "edit" and not self.run.resumed:
            self.edit_views(0)
            return
        for view in progress(len(self.views), "rendering the views to refine"):
            made = self.saved["images"].get(view)
            image = self.source_image(view) if made is None else open_image(self.image_file(view, made))
            self.views.replace_image(view, image)

    def edit_views(self, number: int) -> None:
        """Train on edits of all views from now on, of a round by its number.

        A round by its number has its noise. The prompt and guidance in the viewer are read when it begins.
        """
        target = self.target_field.prompt
        guidance = replace(self.config.edit.guidance, guidance_scale=float(self.scale_slider.value))
        config = replace(self.config.edit, guidance=guidance, seed=self.run.seed + number)
        edits = [self.edited(view, number, target, config) for view in progress(len(self.views), "editing the views")]
        for view, image in enumerate(edits):
            self.train_on(image, view, number)

    def train_on(self, image: Images, view: int, made: int) -> None:
        """Train on an image of a view from now on, made at a step or in a round.

        Those before it stay for the checkpoints that a run may go on from.
        """
        save(self.image_file(view, made), png(to_pil(image)))
        self.views.replace_image(view, image)
        self.saved["images"][view] = made

    def forget_earlier(self) -> None:
        kept = {self.image_file(view, made) for view, made in self.saved["images"].items()}
        for file in (self.run.folder / "images").glob("*.png"):
            if file not in kept:
                file.unlink()

    def get_train_loss_dict(self, step: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Replace an image when its turn has come, and train on all of them."""
        done = step - self.run.first
        if self.config.redraw == "sdedit" and done % self.config.update_every == 0:
            view = done // self.config.update_every % len(self.views)
            image = self.refined(view, done)
            self.train_on(image, view, done)
            self.comparison_view.show(comparison([self.source_image(view), image]))
        steps = -(-self.run.steps // self.config.rounds)
        if self.config.redraw == "edit" and done and done % steps == 0:
            self.edit_views(done // steps)
        return super().get_train_loss_dict(step)

    def image_file(self, view: int, made: int) -> Path:
        """Where a view's refined image is kept, by the step or the round that made it."""
        return self.run.folder / "images" / f"{self.views.names[view]}-{made:06d}.png"

    def apply_viewer_changes(self) -> None:
        """Take over a prompt that was changed in the viewer; the first one, at first."""
        if self.target_field.prompt != self.target_prompt:
            self.target_prompt = self.target_field.prompt
            self.target_text = self.prior.embed([self.target_prompt])

    def edited(self, view: int, number: int, target_prompt: str, config: EditConfig) -> Images:
        """What a round's edit makes of a view of the scene as it is now, on the CPU.

        What the scene has not changed since the run began is as it was then.
        """
        base, keep = self.source_image(view), self.config.keep_unchanged
        shown = self.render_eval(view).cpu() if number else base
        picture = LatentImage(shown, self.prior, LatentImageConfig(self.config.resolution, keep))
        image = preview_of(edit(picture, self.prior, self.config.prompt, target_prompt, config)).cpu()
        return torch.lerp(base, image, changed(base, image)) if number and keep else image

    @torch.no_grad()
    def refined(self, view: int, done: int) -> Images:
        """What SDEdit makes of a view of the scene as it is now, on the CPU."""
        self.apply_viewer_changes()
        generator = step_generator(self.run.seed, done)
        low, high = self.config.skip
        skip = low + (high - low) * float(torch.rand(1, generator=generator))
        image = self.render_eval(view).to(self.prior.device)
        size = super().view_size(image.shape[2], image.shape[3])
        latents = self.prior.encode(resized(image, size))
        denoised = sdedit(
            self.prior,
            latents,
            self.target_text,
            self.uncond,
            guidance_scale=float(self.scale_slider.value),
            steps=self.config.denoising_steps,
            skip=skip,
            generator=generator,
        )
        edited, source = self.prior.decode(denoised), self.source_image(view).to(image)
        weight = torch.ones_like(edited[:, :1])
        if self.config.keep_unchanged:
            weight = changed(self.prior.decode(latents), edited, *CHANGED)
        return at_full_size(edited, weight, image, source).cpu()


class RobustLoss(torch.nn.Module):
    """The mean squared error where colors differ by less than DELTA, linear beyond (Huber 1964).

    Edits of views disagree. A mean of them is a haze; where they differ much this tends to what most of them show.
    """

    def forward(self, image: Tensor, wanted: Tensor) -> Float[Tensor, ""]:
        return 2 * huber_loss(image, wanted, delta=DELTA)


def at_full_size(
    edited: Float[Tensor, "1 3 h w"],
    weight: Float[Tensor, "1 1 h w"],
    image: Float[Tensor, "1 3 H W"],
    source: Float[Tensor, "1 3 H W"],
) -> Float[Tensor, "1 3 H W"]:
    """A refined view at its own size from what SDEdit made of it, `edited` (1, 3, h, w), at the prior's.

    Pixels are `edited`'s by `weight`, and else those of `source` (1, 3, H, W), the view before refining. What is finer
    than the prior sees comes from `image`, the view as it is now, or from `source`.
    """
    small, full = edited.shape[-2:], source.shape[-2:]
    coarse = resized(source, small)
    coarse = coarse + weight * (edited - coarse)
    fine_source, fine_image = (x - resized(resized(x, small), full) for x in (source, image))
    return (resized(coarse, full) + torch.lerp(fine_source, fine_image, resized(weight, full))).clamp(0, 1)
