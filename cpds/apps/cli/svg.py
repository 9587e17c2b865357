"""`cpds svg`: edit vector graphics by prompt. Nothing heavy is imported before it runs."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from cpds.apps.cli.args import EMBEDDED_NOTE, EditArgs, SvgPreset
from cpds.apps.cli.jobs import Job, find_jobs
from cpds.apps.cli.running import Opened, run_jobs, tell_skipped
from cpds.config import EditConfig, require
from cpds.errors import InputError
from cpds.presets import PRESETS
from cpds.terminal import print_loading, print_result, print_status, warn
from svg.config import SvgConfig

if TYPE_CHECKING:
    from svg.image import SvgImage


@dataclass(frozen=True, kw_only=True)
class _Source:
    svg_path: Path
    """SVG (.svg or .svgz), or folder of SVGs; those that cannot be edited are skipped and listed at the end, with exit
    code 1."""


@dataclass(frozen=True, kw_only=True)
class SvgArgs(EditArgs, _Source):
    """Edit an SVG, or every SVG of a folder, by prompt; the document stays the user's own."""

    preset: SvgPreset = "cpds-svg"  # pyright: ignore[reportInvalidTypeForm, reportIncompatibleVariableOverride]
    """Settings to start from; --method alone starts from that method's own. Other flags change single settings."""
    mask: Path | None = None
    """Image laid over the page, read as that of `cpds image`: white may change, black and transparent are held."""
    rasterizer: Literal["torch", "diffvg"] = "torch"
    """What draws the page while it is edited; diffvg must have been built from its source."""
    svg_every: int = 50
    """Steps between two SVGs of the trajectory; 0 writes the last one alone."""
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """Say what may change, what stays and how long it will take, and stop before the edit."""
    scene: tyro.conf.OmitArgPrefixes[SvgConfig] = field(default_factory=lambda: SvgConfig())
    edit: tyro.conf.OmitArgPrefixes[EditConfig] = field(default_factory=lambda: PRESETS["cpds-svg"])


def run_svg(args: SvgArgs) -> int:
    """Every edit of `cpds svg`. All inputs are checked before the first step."""
    args.check("drawing")
    require(args.svg_every >= 0, f"svg_every must be >= 0, got {args.svg_every}")
    print_loading()

    from cpds.images import find_files, working_size
    from cpds.masks import edit_mask
    from svg.document import Document

    jobs = find_jobs("svg", args, "svg_path", lambda path: find_files(path, (".svg", ".svgz"), "SVG"))
    if not jobs.jobs:
        return 0
    mask = edit_mask(args.mask) if args.mask else None

    from cpds.polish import require_latents
    from cpds.priors.load import load_prior
    from cpds.threads import choose_threads
    from svg.fading import prepared
    from svg.image import SvgImage
    from svg.rasterizer import Rasterizer, make_rasterizer
    from svg.selection import chosen
    from svg.summary import Summary, text_is_lost
    from svg.timing import estimate, measured_steps

    still = [group for group, rate in args.edit.group_lrs.items() if rate == 0]
    documents: dict[Path, Document] = {}
    rasterizers: dict[Path, Rasterizer] = {}
    skipped: dict[Path, str] = {}
    for path in dict.fromkeys(job.source for job in jobs.jobs):
        try:
            document = prepared(Document.open(path), args.scene)
            rasterizers[path] = make_rasterizer(document, args.rasterizer)  # says what it cannot draw
            chosen(document, args.scene, still)
        except InputError as err:
            if path == args.svg_path:
                raise
            skipped[path] = str(err)
            continue
        documents[path] = document
        if warning := document.warning():
            blind = "; its text is not drawn meanwhile, for want of fonts" if text_is_lost(document) else ""
            warn(f"{path.name}: {warning}{blind}")
    if not documents and args.resume is None:
        raise InputError(f"no SVG of {args.svg_path} can be edited: {'; '.join(list(skipped.values())[:3])}")
    if args.prior is None:
        print_status(EMBEDDED_NOTE)
    prior = load_prior(args.prior, device=args.device, options=args.prior_options)
    choose_threads(prior)
    short = args.scene.resolution or prior.image_size
    sizes = {p: working_size(d.height, d.width, short, prior.size_multiple) for p, d in documents.items()}

    def image_of(path: Path) -> "SvgImage":
        return SvgImage(documents[path], prior, args.scene, mask, rasterizers[path])

    for path, document in documents.items():
        summary = Summary.of(document, args.scene, sizes[path], still)
        if args.dry_run or summary.large:
            tell = print_result if args.dry_run else print_status
            for line in summary.lines():
                tell(f"{path.name}: {line}")
            image = image_of(path)
            if args.edit.polish:
                require_latents(image)
            print_status(f"{path.name}: measuring a step ...")
            prompts = (args.prompt + args.scene.suffix, args.target_prompt[0] + args.scene.suffix)
            tell(f"{path.name}: {estimate(measured_steps(image, prior, prompts, args.edit))}")
    if args.dry_run:
        tell_skipped(skipped)
        return int(bool(skipped))

    if not (args.scene.colors_first or args.edit.redraw_steps):
        print_status("cpds: note: colors_first has no effect here: redraw_steps is 0, so that no image is followed")
    last = {job.source: job for job in jobs.jobs}

    def opened(job: Job) -> Opened:
        image = image_of(job.source)
        if job is last[job.source]:
            del rasterizers[job.source]  # which keeps images of what is not edited
        return Opened(image, export_every=args.svg_every, changes=image.changes)

    try:
        code = run_jobs(jobs._replace(skipped=skipped), prior, opened, args.scene.suffix)
    finally:
        tell_skipped(skipped)
    return code or int(bool(skipped))
