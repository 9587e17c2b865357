"""`cpds splats`: edit a Gaussian-splat scene by prompt. Nothing heavy is imported before it runs."""

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from cpds.apps.cli.args import EMBEDDED_NOTE, EditArgs, SplatPreset
from cpds.apps.cli.jobs import Job, find_jobs
from cpds.apps.cli.running import Opened, run_jobs
from cpds.config import EditConfig, require
from cpds.presets import PRESETS
from cpds.terminal import print_loading, print_status
from representations.splats.config import SplatConfig


@dataclass(frozen=True, kw_only=True)
class _Source:
    scene: tyro.conf.Positional[Path]
    """The scene: a .ply as 3D Gaussian splatting and nerfstudio's ns-export write it."""
    cameras: Path
    """The views: 3DGS's cameras.json, a COLMAP model (sparse/0), transforms.json, or a folder with one of these."""


@dataclass(frozen=True, kw_only=True)
class SplatArgs(EditArgs, _Source):
    """Edit a Gaussian-splat scene (.ply of 3DGS) by prompt, as seen by its cameras."""

    preset: SplatPreset = "cpds-splats"  # pyright: ignore[reportInvalidTypeForm, reportIncompatibleVariableOverride]
    """Settings to start from; --method alone starts from that method's own. Other flags change single settings."""
    frame: Path | None = None
    """dataparser_transforms.json, for scenes that nerfstudio trained (3DGS's need none): how it moved the cameras."""
    masks: Path | None = None
    """Folder of masks, one for each camera and named like its image, white where the edit may show."""
    ply_every: int = 0
    """Steps between two scenes of the trajectory; 0 writes the last one alone."""
    views: tyro.conf.OmitArgPrefixes[SplatConfig] = field(default_factory=lambda: SplatConfig())
    edit: tyro.conf.OmitArgPrefixes[EditConfig] = field(default_factory=lambda: PRESETS["cpds-splats"])


def run_splats(args: SplatArgs) -> int:
    """Every edit of `cpds splats`. All inputs are checked before the first step."""
    args.check("scene")
    require(args.ply_every >= 0, f"ply_every must be >= 0, got {args.ply_every}")
    print_loading()

    jobs = find_jobs("splats", args, "scene", lambda path: [path])
    if not jobs.jobs:
        return 0

    from cpds.priors.load import load_prior
    from cpds.threads import choose_threads
    from representations.cameras import Frame, read_cameras
    from representations.masks import find_masks
    from representations.splats.ply import SplatFile
    from representations.splats.scene import SplatScene

    file = SplatFile.read(args.scene)
    cameras = read_cameras(args.cameras, None if args.frame is None else Frame.read(args.frame))
    masks = [] if args.masks is None else find_masks(args.masks, cameras)
    if args.prior is None:
        print_status(EMBEDDED_NOTE)
    prior = load_prior(args.prior, device=args.device, options=args.prior_options)
    choose_threads(prior)

    def opened(job: Job) -> Opened:
        return Opened(SplatScene(file, cameras, prior, args.views, masks=masks), export_every=args.ply_every)

    return run_jobs(jobs, prior, opened)
