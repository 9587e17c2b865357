"""`cpds splats`: edit a Gaussian-splat scene by prompt. Nothing heavy is imported before it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from cpds.apps.cli.shared import (
    EMBEDDED_NOTE,
    Job,
    Opened,
    SplatPreset,
    asked,
    require_request,
    run_jobs,
)
from cpds.config import EditConfig, require
from cpds.presets import PRESETS
from cpds.terminal import print_loading, print_status
from representations.splats.config import SplatConfig


@dataclass(frozen=True)
class SplatArgs:
    """Edit a Gaussian-splat scene (.ply of 3DGS) by prompt, as seen by its cameras."""

    scene: tyro.conf.Positional[Path]
    """The scene: a .ply as 3D Gaussian splatting and nerfstudio's ns-export write it."""
    cameras: Path
    """The views: 3DGS's cameras.json, a COLMAP model (sparse/0), transforms.json, or a folder with one of these."""
    prompt: str
    """What the scene shows."""
    trg_prompt: tuple[str, ...]
    """What it should become; several prompts give one edit each."""
    frame: Path | None = None
    """dataparser_transforms.json, for scenes that nerfstudio trained (3DGS's need none): how it moved the cameras."""
    masks: Path | None = None
    """Folder of masks, one for each camera and named like its picture, white where the edit may show."""
    save_path: Path | None = None
    """Run folder for results (with several edits: the folder of run folders). Default: a new folder in runs/."""
    preset: SplatPreset = "cpds-splats"  # pyright: ignore[reportInvalidTypeForm]
    """Settings to start from; --method alone starts from that method's own. Other flags change single settings."""
    prior: str | None = None
    """Diffusion prior: a Hugging Face name or a local folder in diffusers' layout. Default: the embedded prior."""
    ply_every: int = 0
    """Steps between two scenes of the way; 0 writes the last one alone."""
    resume: Path | None = None
    """Go on with the run(s) in this folder, which hold all other flags; --num_inference_steps may make them longer."""
    checkpoint_every: int = 10
    """Steps between two checkpoints: at most so many are lost when the run is killed."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    torch_dtype: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """Precision of the prior. auto: fp16 on CUDA, else fp32."""
    views: tyro.conf.OmitArgPrefixes[SplatConfig] = field(default_factory=lambda: SplatConfig())
    edit: tyro.conf.OmitArgPrefixes[EditConfig] = field(default_factory=lambda: PRESETS["cpds-splats"])


def run_splats(args: SplatArgs) -> int:
    """Every edit of `cpds splats`. All inputs are checked before the first step."""
    require_request(args, "scene")
    require(args.ply_every >= 0, f"ply_every must be >= 0, got {args.ply_every}")
    print_loading()

    edits = asked("splats", args, "scene", lambda path: [path])
    if not edits.jobs:
        return 0

    from cpds.callbacks import Exports
    from cpds.images import to_pil
    from cpds.priors.load import load_prior
    from cpds.runs import RunFolder
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
    prior = load_prior(args.prior, device=args.device, dtype=args.torch_dtype)
    choose_threads(prior)

    def opened(job: Job) -> Opened:
        scene = SplatScene(file, cameras, prior, args.views, masks=masks)
        exports = Exports(RunFolder(job.folder), scene.encode, "ply", args.ply_every)
        return Opened(scene, to_pil(scene.preview(prior)), [exports])

    return run_jobs(edits, prior, opened)
