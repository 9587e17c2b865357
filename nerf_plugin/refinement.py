"""Refinement of an edited scene: its training pictures become what SDEdit makes of its views, one after the other.

Iterative dataset update (Instruct-NeRF2NeRF, Haque 2023) with SDEdit (Meng 2022), after PDS (Koo 2024, Sec. 4.2).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cpds.config import require
from cpds.editor import step_generator
from cpds.images import open_image, png, resized, to_pil, working_size
from cpds.presets import PDS_REFINE_NERF
from cpds.sdedit import sdedit
from cpds.types import Images
from nerf_plugin.pipeline import ScenePipeline, ScenePipelineConfig
from nerf_plugin.records import progress, save, side_by_side
from nerf_plugin.trainer import Start
from nerf_plugin.views import Views
from representations.latent import changed

TOUCHED = (0.03, 0.1)  # difference of colours from which SDEdit counts as having changed a pixel


@dataclass
class RefinePipelineConfig(ScenePipelineConfig):
    """How a scene is refined; by default the paper's schedule."""

    _target: type = field(default_factory=lambda: RefinePipeline)
    guidance_scale: float = PDS_REFINE_NERF.guidance_scale
    """Classifier-free guidance of the denoising."""
    negative_prompt: str = ""
    """What the unconditional branch is told instead of nothing."""
    denoising_steps: int = PDS_REFINE_NERF.denoising_steps
    """Steps of a whole denoising."""
    skip: tuple[float, float] = PDS_REFINE_NERF.skip
    """Share of them that is skipped, drawn from this range: the more, the closer to the view."""
    keep_unchanged: bool = True
    """Take pixels that SDEdit did not touch from the view as it was before refining, not from the autoencoder."""
    update_every: int = PDS_REFINE_NERF.every
    """Training steps between two pictures that are replaced."""

    def check(self) -> None:
        super().check()
        low, high = self.skip
        require(self.guidance_scale >= 0, f"guidance_scale must be >= 0, got {self.guidance_scale}")
        require(self.denoising_steps >= 1, f"denoising_steps must be >= 1, got {self.denoising_steps}")
        require(0 <= low <= high < 1, f"skip must be two shares, 0 <= low <= high < 1, got {self.skip}")
        require(self.update_every >= 1, f"update_every must be >= 1, got {self.update_every}")
        held = getattr(self.datamanager, "train_num_images_to_sample_from", -1)
        require(held == -1, f"refining replaces pictures in memory, all of them: leave sample_from at -1, got {held}")


class RefinePipeline(ScenePipeline):
    """Trains the scene as it was trained, on its own views, which SDEdit sharpens."""

    config: RefinePipelineConfig

    def __init__(self, config: RefinePipelineConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, config.guidance_scale, *args, **kwargs)

    def begin(self, start: Start) -> None:
        super().begin(start)
        self.uncond = self.prior.embed([self.config.negative_prompt])
        self.said = ""

    def seen_as(self) -> Views:
        """The training views at their own size: the scene trains on pictures of it, however little the prior sees."""
        return Views(self.datamanager, self.ground, lambda h, w: (h, w))

    def prepare(self) -> None:
        super().prepare()
        for view in progress(len(self.views), "rendering the views to refine"):
            file = self.picture_file(view)
            replace_picture(self.datamanager, view, open_image(file) if file.is_file() else self.before(view))

    def get_train_loss_dict(self, step: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Replace a picture when its turn has come, and train on all of them."""
        turn, rest = divmod(step - self.run.first, self.config.update_every)
        if rest == 0:
            view = turn % len(self.views)
            picture = self.refined(view, step - self.run.first)
            save(self.picture_file(view), png(to_pil(picture)))
            replace_picture(self.datamanager, view, picture)
            self.now_and_then.show(side_by_side([self.before(view), picture]))
        return super().get_train_loss_dict(step)

    def picture_file(self, view: int) -> Path:
        """Where what a view's picture became is kept."""
        return self.run.folder / "pictures" / f"{self.views.names[view]}.png"

    @torch.no_grad()
    def refined(self, view: int, done: int) -> Images:
        """What SDEdit makes of a view of the scene as it is now."""
        if self.target_field.said() != self.said:  # at first, and when the viewer changed it
            self.said = self.target_field.said()
            self.text = self.prior.embed([self.said])
        generator = step_generator(self.run.seed, done)
        low, high = self.config.skip
        skip = low + (high - low) * float(torch.rand(1, generator=generator))
        shown = self.look(view).to(self.prior.device)
        short = self.config.resolution or self.prior.image_size
        size = working_size(shown.shape[2], shown.shape[3], short, self.prior.size_multiple)
        before = self.prior.encode(resized(shown, size))
        after = sdedit(
            self.prior,
            before,
            self.text,
            self.uncond,
            guidance_scale=float(self.scale_slider.value),
            steps=self.config.denoising_steps,
            skip=skip,
            generator=generator,
        )
        edited, base = self.prior.decode(after), self.before(view).to(shown)
        touched = torch.ones_like(edited[:, :1])
        if self.config.keep_unchanged:
            touched = changed(self.prior.decode(before), edited, *TOUCHED)
        return sharpened(edited, touched, shown, base).cpu()


def sharpened(
    edited: Float[Tensor, "1 3 h w"],
    touched: Float[Tensor, "1 1 h w"],
    shown: Float[Tensor, "1 3 H W"],
    base: Float[Tensor, "1 3 H W"],
) -> Float[Tensor, "1 3 H W"]:
    """A picture at a view's own size from what SDEdit made of it, `edited` (1, 3, h, w), at the prior's.

    Where SDEdit `touched` a pixel (1) it is that picture's, and elsewhere `base`'s (1, 3, H, W), the view before
    refining. What is finer than the prior sees comes from the view as it is now, `shown`, or from `base`.
    """
    small, full = edited.shape[-2:], base.shape[-2:]
    coarse = resized(base, small)
    coarse = coarse + touched * (edited - coarse)
    before, now = (x - resized(resized(x, small), full) for x in (base, shown))
    return (resized(coarse, full) + torch.lerp(before, now, resized(touched, full))).clamp(0, 1)


def replace_picture(datamanager: Any, view: int, image: Images) -> None:
    """Train on `image` where the dataset's picture of a view was; it takes that one's size and kind."""
    if hasattr(datamanager, "cached_train"):
        cached = datamanager.cached_train[view]
        cached["image"] = like(cached["image"], image)
        return
    batch = datamanager.train_image_dataloader.cached_collated_batch
    row = batch["image_idx"].tolist().index(view)
    batch["image"][row] = like(batch["image"][row], image)


def like(old: Tensor, image: Images) -> Tensor:
    """(H, W, c) as `old`, opaque, from a picture of any size."""
    fitted = resized(image, old.shape[:2])[0].permute(1, 2, 0)
    if old.shape[2] == 4:
        fitted = torch.cat([fitted, torch.ones_like(fitted[..., :1])], 2)
    return (fitted * 255).round().to(old) if old.dtype == torch.uint8 else fitted.to(old)
