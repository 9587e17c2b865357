"""`cpds image`: edit images by prompt. Nothing heavy is imported before it runs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cpds.apps.cli.args import EMBEDDED_NOTE, EditArgs, ImagePreset
from cpds.apps.cli.jobs import Job, find_jobs
from cpds.apps.cli.running import Opened, run_jobs, tell_skipped
from cpds.errors import InputError
from cpds.terminal import print_loading, print_status

if TYPE_CHECKING:
    from torch import Tensor

    from cpds.images import SourceImage

KEPT = 10_000_000  # pixels, of images that are decoded once and kept until they are edited; others are decoded again


@dataclass(frozen=True, kw_only=True)
class _Source:
    img_path: Path
    """Image, or folder of images: jpg, png, webp, bmp, gif, tiff, avif, and whatever else Pillow opens (of several
    frames or pages the first). Of a folder, hidden files are passed over, and with a warning folders and files that do
    not end as images; images that cannot be edited are skipped and listed at the end, with exit code 1. Results keep
    transparency and color profile, not EXIF or other metadata."""


@dataclass(frozen=True, kw_only=True)
class ImageArgs(EditArgs, _Source):
    """Edit an image, or every image of a folder, by prompt."""

    preset: ImagePreset = "cpds"  # pyright: ignore[reportInvalidTypeForm, reportIncompatibleVariableOverride]
    """Settings to start from; --method alone starts from that method's own. Other flags change single settings."""
    mask: Path | None = None
    """Image of the source's size, used as a layer mask: white may change, black and transparent are held, and gray
    lets that share of the change through (mid-gray: half). Painted in a single color on a transparent layer, the
    paint says what may change."""
    resolution: int | None = None
    """Shorter side while editing, in px. Default: what the prior was trained on. Images so long that the longer side
    would be over 4096 px get a smaller shorter side: as many pixels as at 4096 px."""
    keep_unchanged: bool = True
    """Take pixels that the edit did not touch from the source instead of from the autoencoder."""


def run_image(args: ImageArgs) -> int:
    """Every edit of `cpds image`; 1 if some of a folder's images were skipped. Inputs are checked before any step."""
    args.check("image")
    print_loading()

    from cpds.images import find_images, to_pil, working_size
    from cpds.masks import edit_mask

    jobs = find_jobs("image", args, "img_path", find_images)
    if not jobs.jobs:
        return 0
    mask = edit_mask(args.mask) if args.mask else None
    checked = check_sources(args, [job.source for job in jobs.jobs], mask)

    from cpds.priors.load import load_prior
    from cpds.threads import choose_threads
    from representations.latent import LatentImage, LatentImageConfig

    config = LatentImageConfig(args.resolution, args.keep_unchanged)
    checked.announce()
    if args.prior is None:
        print_status(EMBEDDED_NOTE)
    prior = load_prior(args.prior, device=args.device, options=args.prior_options)
    choose_threads(prior)
    short = args.resolution or prior.image_size
    usual, _ = working_size(1, 1, short, prior.size_multiple)
    for path, (height, width) in checked.sizes.items():
        h, w = working_size(height, width, short, prior.size_multiple)
        if min(h, w) < usual:
            print_status(f"cpds: note: {path}: it is so long that it is edited at {w}x{h} px")

    def opened(job: Job) -> Opened:
        image = LatentImage.of(checked.open(job.source), prior, config, mask)
        return Opened(image, to_pil(image.image))

    try:
        code = run_jobs(jobs._replace(skipped=checked.skipped), prior, opened)
    finally:
        tell_skipped(checked.skipped)
    return code or int(bool(checked.skipped))


@dataclass
class Checked:
    """What opening every source once has shown."""

    sizes: dict[Path, tuple[int, int]] = field(default_factory=dict)  # of those that can be edited: height, width
    skipped: dict[Path, str] = field(default_factory=dict)  # why the others cannot
    notes: dict[str, list[Path]] = field(default_factory=dict)  # what is not as in the file -> whose
    kept: dict[Path, "SourceImage"] = field(default_factory=dict)  # as many as take up little memory

    def open(self, path: Path) -> "SourceImage":
        """The image, decoded again only if it was not kept."""
        from cpds.images import open_source

        return self.kept[path] if path in self.kept else open_source(path)

    def announce(self) -> None:
        """Say what will be different from the files, and how many are skipped."""
        for note, paths in self.notes.items():
            whose = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
            print_status(f"cpds: note: {whose}: {note}")
        if self.skipped:
            some = f"{len(self.skipped)} of {len(self.skipped) + len(self.sizes)}"
            print_status(f"cpds: note: {some} images are skipped and listed at the end")


def check_sources(args: ImageArgs, paths: Sequence[Path], mask: "Tensor | None") -> Checked:
    """Open every source, keeping few in memory. InputError for a sole file that fails, or if all of a new run do."""
    from cpds.images import open_source
    from cpds.masks import fitting

    checked, pixels = Checked(), 0
    for path in dict.fromkeys(paths):
        try:
            source = open_source(path)
            if mask is not None and args.mask is not None:
                fitting(mask, args.mask, source.image)
        except InputError as err:
            if path == args.img_path:
                if path.suffix.lower() in (".svg", ".svgz"):
                    raise InputError(f"{path} is an SVG, not an image: edit it with cpds svg") from err
                raise
            checked.skipped[path] = str(err)
            continue
        checked.sizes[path] = (source.image.shape[-2], source.image.shape[-1])
        pixels += source.image[0, 0].numel()
        if pixels <= KEPT:
            checked.kept[path] = source
        for note in source.notes:
            checked.notes.setdefault(note, []).append(path)
    if not checked.sizes and args.resume is None:
        reasons = list(checked.skipped.values())
        more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        raise InputError(f"no image of {args.img_path} can be edited: {'; '.join(reasons[:3])}{more}")
    return checked
