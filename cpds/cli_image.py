"""`cpds image`: edit pictures by prompt. Nothing heavy is imported before it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from cpds.cli_runs import (
    EMBEDDED_NOTE,
    ImagePreset,
    Job,
    Opened,
    asked,
    require_request,
    run_jobs,
)
from cpds.config import EditConfig
from cpds.presets import PRESETS
from cpds.terminal import say, say_loading


@dataclass(frozen=True)
class ImageArgs:
    """Edit a picture, or every picture of a folder, by prompt."""

    img_path: Path
    """Picture or folder of pictures (jpg, jpeg, png, webp, bmp)."""
    prompt: str
    """What the picture shows."""
    trg_prompt: tuple[str, ...]
    """What it should become; several prompts give one edit each."""
    save_path: Path | None = None
    """Run folder for results (with several edits: the folder of run folders). Default: a new folder in runs/."""
    preset: ImagePreset = "cpds"  # pyright: ignore[reportInvalidTypeForm]
    """Settings to start from; --method alone starts from that method's own. Other flags change single settings."""
    prior: str | None = None
    """Diffusion prior: a Hugging Face name or a local folder in diffusers' layout. Default: the embedded prior."""
    mask: Path | None = None
    """Picture of the source's size, white where the edit may happen."""
    resolution: int | None = None
    """Shorter side while editing, in px. Default: what the prior was trained on."""
    keep_unchanged: bool = True
    """Take pixels that the edit did not touch from the source instead of from the autoencoder."""
    resume: Path | None = None
    """Go on with the run(s) in this folder, which hold all other flags; --num_inference_steps may make them longer."""
    checkpoint_every: int = 10
    """Steps between two checkpoints: at most so many are lost when the run is killed."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    torch_dtype: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """Precision of the prior. auto: fp16 on CUDA, else fp32."""
    edit: tyro.conf.OmitArgPrefixes[EditConfig] = field(default_factory=lambda: PRESETS["cpds"])


def run_image(args: ImageArgs) -> int:
    """Every edit of `cpds image`. All inputs are checked before the first step."""
    require_request(args, "picture")
    say_loading()

    from cpds.pictures import find_pictures, open_mask, open_picture, to_pil, working_size

    edits = asked("image", args, "img_path", find_pictures)
    if not edits.jobs:
        return 0
    sizes = set()
    for path in dict.fromkeys(job.source for job in edits.jobs):  # every file is tried, none kept in memory
        image = open_picture(path)
        sizes.add(tuple(image.shape[-2:]))
        if args.mask:
            open_mask(args.mask, image)

    from cpds.prior import load_prior
    from representations.latent import LatentImage, LatentImageConfig

    config = LatentImageConfig(args.resolution, args.keep_unchanged)
    if args.prior is None:
        say(EMBEDDED_NOTE)
    prior = load_prior(args.prior, device=args.device, dtype=args.torch_dtype)
    for height, width in sizes:
        working_size(height, width, args.resolution or prior.native_side, prior.multiple)

    def opened(job: Job) -> Opened:
        image = LatentImage.open(job.source, prior, config, args.mask)
        return Opened(image, to_pil(image.image))

    return run_jobs(edits, prior, opened)
