"""`cpds dreambooth`: teach a prior a subject from a few images. Nothing heavy is imported before it runs."""

import os
from dataclasses import dataclass, fields
from pathlib import Path

from cpds.personalize.config import DreamBoothConfig
from cpds.terminal import print_loading, print_result


@dataclass(frozen=True, kw_only=True)
class DreamBoothArgs(DreamBoothConfig):
    """Teach a prior one subject from a few images of it (DreamBooth, Ruiz 2023).

    The result goes into --lora (or with --full into --prior) of every command. On several GPUs:
    accelerate launch scripts/dreambooth.py with the same flags."""

    instances: Path
    """Image, or folder of some images, of the subject."""
    save_path: Path
    """Folder for the result, checkpoints, the log and sample sheets."""
    class_folder: Path | None = None
    """Folder where class images are kept; those that it lacks are made. Default: class in save_path."""
    prior: str | None = None
    """Diffusion prior: a Hugging Face name, a local folder in diffusers' layout or a single .safetensors checkpoint.
    Default: the embedded prior."""
    prior_config: str | None = None
    """Where a prior that is a single file takes configs, tokenizers and lacking parts from."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    resume: bool = False
    """Go on where the checkpoint in save_path ends: the same command once more, --steps may be more."""


def run_dreambooth(args: DreamBoothArgs) -> int:
    """Train, and print where the result is."""
    print_loading()

    from cpds.personalize.run import dreambooth

    result = dreambooth(
        args.instances,
        args.save_path,
        DreamBoothConfig(**{f.name: getattr(args, f.name) for f in fields(DreamBoothConfig)}),
        prior=args.prior,
        prior_config=args.prior_config,
        device=args.device,
        class_folder=args.class_folder,
        resume=args.resume,
    )
    if os.environ.get("RANK", "0") == "0":  # of several processes the first
        print_result(result)
    return 0
