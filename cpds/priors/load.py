"""Priors loaded by name or path, on a device."""

import json
import os
from pathlib import Path
from typing import Literal

import torch

from cpds.errors import InputError
from cpds.hub import only_cached
from cpds.priors.base import Prior
from cpds.priors.unet import UNetPrior

INDEX = "model_index.json"  # that a pipeline's folder begins with
EMBEDDED = Path(__file__).parents[1] / "assets" / "prior"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def resolve_device(device: str) -> torch.device:
    """'auto' takes CUDA, else MPS, else the CPU; others are checked for presence."""
    if device == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(kind)
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).item()
    except (RuntimeError, AssertionError, NotImplementedError) as err:
        cards = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        present = ["auto", "cpu", *(["mps"] if torch.backends.mps.is_available() else []), *cards]
        raise InputError(f"device {device!r} is not usable here: take {', '.join(present)}") from err
    return chosen


def load_prior(
    name_or_path: str | Path | None = None,
    *,
    device: str = "auto",
    dtype: Literal["auto", "fp32", "fp16", "bf16"] = "auto",
) -> Prior:
    """Load a prior: None for the embedded one, a local folder in diffusers' layout, or a name on the Hugging Face hub.

    `dtype` auto is fp16 on CUDA and fp32 elsewhere. Raises InputError for anything that cannot be loaded.
    """
    where = resolve_device(device)
    chosen = DTYPES.get(dtype, torch.float16 if where.type == "cuda" else torch.float32)
    name = str(name_or_path or EMBEDDED)
    if here := os.path.isdir(name):  # False, unlike Path.is_dir, for a name too long
        check_folder(Path(name))
    offline = here or only_cached(name, INDEX, f"prior {name!r}")
    return UNetPrior.load(name, where, chosen, offline=offline)


def check_folder(folder: Path) -> None:
    """Raise InputError unless `folder` holds a pipeline with every component that its index lists."""
    index = folder / INDEX
    if not index.is_file():
        raise InputError(f"prior folder {folder} has no {INDEX}: give a folder in diffusers' layout")
    try:
        listed = json.loads(index.read_text())
    except (OSError, ValueError, RecursionError) as err:
        raise InputError(f"{index} is not valid JSON: download the prior again") from err
    if not isinstance(listed, dict):
        raise InputError(f"{index} is not a JSON object: download the prior again")
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        if part in listed and not any((folder / part).glob("*")):
            raise InputError(f"prior folder {folder} lacks its component {part}: download the prior again")
