"""`cpds image`: edit pictures by prompt. Nothing heavy is imported before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from cpds.apps.cli.shared import (
    EMBEDDED_NOTE,
    ImagePreset,
    Job,
    Opened,
    asked,
    require_request,
    run_jobs,
    tell_skipped,
)
from cpds.config import EditConfig
from cpds.errors import InputError
from cpds.presets import PRESETS
from cpds.terminal import print_loading, print_status

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ImageArgs:
    """Edit a picture, or every picture of a folder, by prompt."""

    img_path: Path
    """Picture, or folder of pictures: jpg, png, webp, bmp, gif, tiff, avif, and whatever else Pillow opens (of several
    frames or pages the first). Hidden files are passed over; pictures that cannot be edited are skipped and listed at
    the end, with exit code 1. Results keep transparency and colour profile, not EXIF or other metadata."""
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
    """Picture of the source's size, used as a layer mask: white may change, black and transparent are held, and grey
    lets that share of the change through (mid-grey: half). Painted in a single colour on a transparent layer, the
    paint says what may change."""
    resolution: int | None = None
    """Shorter side while editing, in px. Default: what the prior was trained on. Pictures so long that the longer side
    would be over 4096 px get a smaller shorter side: as many pixels as at 4096 px."""
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
    """Every edit of `cpds image`; 1 if some of a folder's pictures were skipped. Inputs are checked before any step."""
    require_request(args, "picture")
    print_loading()

    from cpds.images import find_images, open_source, to_pil, working_size
    from cpds.masks import edit_mask

    edits = asked("image", args, "img_path", find_images)
    if not edits.jobs:
        return 0
    mask = edit_mask(args.mask) if args.mask else None
    checked = check_sources(args, [job.source for job in edits.jobs], mask)

    from cpds.priors.load import load_prior
    from cpds.threads import choose_threads
    from representations.latent import LatentImage, LatentImageConfig

    config = LatentImageConfig(args.resolution, args.keep_unchanged)
    checked.announce()
    if args.prior is None:
        print_status(EMBEDDED_NOTE)
    prior = load_prior(args.prior, device=args.device, dtype=args.torch_dtype)
    choose_threads(prior)
    short = args.resolution or prior.image_size
    usual, _ = working_size(1, 1, short, prior.size_multiple)
    for path, (height, width) in checked.sizes.items():
        h, w = working_size(height, width, short, prior.size_multiple)
        if min(h, w) < usual:
            print_status(f"cpds: note: {path}: it is so long that it is edited at {w}x{h} px")

    def opened(job: Job) -> Opened:
        image = LatentImage.of(open_source(job.source), prior, config, mask)
        return Opened(image, to_pil(image.image))

    try:
        code = run_jobs(edits._replace(skipped=checked.skipped), prior, opened)
    finally:
        tell_skipped(checked.skipped)
    return code or int(bool(checked.skipped))


@dataclass
class Checked:
    """What opening every source once has shown."""

    sizes: dict[Path, tuple[int, int]] = field(default_factory=dict)  # of those that can be edited: height, width
    skipped: dict[Path, str] = field(default_factory=dict)  # why the others cannot
    notes: dict[str, list[Path]] = field(default_factory=dict)  # what is not as in the file -> whose

    def announce(self) -> None:
        """Say what will be different from the files, and how many are skipped."""
        for note, paths in self.notes.items():
            whose = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
            print_status(f"cpds: note: {whose}: {note}")
        if self.skipped:
            some = f"{len(self.skipped)} of {len(self.skipped) + len(self.sizes)}"
            print_status(f"cpds: note: {some} pictures are skipped and listed at the end")


def check_sources(args: ImageArgs, paths: Sequence[Path], mask: Tensor | None) -> Checked:
    """Open every source, keeping none in memory. InputError for a sole file that fails, or if all of a new run do."""
    from cpds.images import open_source
    from cpds.masks import fitting

    checked = Checked()
    for path in dict.fromkeys(paths):
        try:
            source = open_source(path)
            if mask is not None and args.mask is not None:
                fitting(mask, args.mask, source.image)
        except InputError as err:
            if path == args.img_path:
                raise
            checked.skipped[path] = str(err)
            continue
        checked.sizes[path] = (source.image.shape[-2], source.image.shape[-1])
        for note in source.notes:
            checked.notes.setdefault(note, []).append(path)
    if not checked.sizes and args.resume is None:
        reasons = list(checked.skipped.values())
        more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        raise InputError(f"no picture of {args.img_path} can be edited: {'; '.join(reasons[:3])}{more}")
    return checked
