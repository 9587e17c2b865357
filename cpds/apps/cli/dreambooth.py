"""`cpds dreambooth`: teach a prior a subject from a few images. Nothing heavy is imported before it runs."""

import os
from dataclasses import dataclass
from pathlib import Path

from cpds.apps.cli.args import PriorArgs, part
from cpds.personalize.config import DreamBoothConfig
from cpds.terminal import print_loading, print_result, print_status


@dataclass(frozen=True, kw_only=True)
class DreamBoothArgs(PriorArgs, DreamBoothConfig):
    """Teach a prior one subject from a few images of it (DreamBooth, Ruiz 2023).

    The result goes into --lora (or with --full into --prior) of every command. On several GPUs:
    accelerate launch scripts/dreambooth.py with the same flags. Of the prior's options those that save memory while
    editing (low_memory, offload, quantize, torch_dtype) are not for training: take --gradient_checkpointing and
    --mixed_precision bf16."""

    instances: Path
    """Image, or folder of some images, of the subject."""
    save_path: Path
    """Folder for the result, checkpoints, the log and sample sheets."""
    class_folder: Path | None = None
    """Folder where class images are kept; those that it lacks are made. Default: class in save_path."""
    resume: bool = False
    """Go on where the checkpoint in save_path ends: the same command once more, --steps may be more."""


def run_dreambooth(args: DreamBoothArgs) -> int:
    """Train, and print where the result is."""
    config = part(DreamBoothConfig, args)
    print_loading()

    from cpds.personalize.place import SETTINGS
    from cpds.personalize.run import dreambooth
    from cpds.session import EditStopped

    main = os.environ.get("RANK", "0") == "0"  # of several processes the first
    try:
        result = dreambooth(
            args.instances,
            args.save_path,
            config,
            prior=args.prior,
            options=args.prior_options,
            device=args.device,
            class_folder=args.class_folder,
            resume=args.resume,
        )
    except KeyboardInterrupt as stop:
        if not (args.save_path / SETTINGS).is_file():
            raise
        after, code = (f" after step {stop.step}", stop.exit_code) if isinstance(stop, EditStopped) else ("", 130)
        if main:
            print_status(f"Stopped{after}; the same command with --resume goes on where this one ended")
        return code
    if main:
        print_result(result)
    return 0
