"""What a diffusion prior must offer, and how one is loaded by name or path."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from cpds.errors import InputError
from cpds.hub import only_cached
from cpds.schedule import NoiseSchedule
from cpds.types import Features, Images, Latents, Timesteps

INDEX = "model_index.json"  # that a pipeline's folder begins with
EMBEDDED = Path(__file__).parent / "assets" / "prior"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Text:
    """Encoded prompts, one row each."""

    embeds: Float[Tensor, "b n d"]

    def __add__(self, other: "Text") -> "Text":
        return Text(torch.cat([self.embeds, other.embeds]))

    def expand(self, batch: int) -> "Text":
        """Every prompt repeated for its share of a batch of views."""
        return Text(self.embeds.repeat_interleave(batch // len(self.embeds), 0))


@dataclass(frozen=True)
class Prediction:
    """One branch's raw noise prediction, and the tapped self-attention outputs in the network's order."""

    eps: Latents
    features: tuple[Features, ...] = ()


@runtime_checkable
class Prior(Protocol):
    """A frozen text-conditional latent diffusion model."""

    schedule: NoiseSchedule
    device: torch.device
    native_side: int  # px of the pictures that it was trained on
    multiple: int  # px; sides of its pictures must be multiples of this
    feature_width: int  # channels of the widest tapped self-attention
    parameters: int  # of the network that denoises
    identity: str  # what a saved run remembers it by

    def encode(self, images: Images) -> Latents:
        """Latents (mean, scaled) of RGB pictures in [0, 1]; differentiable."""
        ...

    def decode(self, latents: Latents) -> Images:
        """RGB pictures in [0, 1]."""
        ...

    def embed(self, prompts: Sequence[str]) -> Text:
        """Encode prompts; warns and names what is cut where one is longer than the text encoder takes."""
        ...

    def denoise(self, x_t: Latents, t: Timesteps, text: Text, *, tap: bool = False) -> Prediction:
        """Noise prediction of one branch (no guidance); with `tap` also the self-attention outputs.

        Gradients, where enabled, reach `x_t` through the features alone: nothing after the last tap is recorded.
        """
        ...


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
    from cpds import diffusion

    where = resolve_device(device)
    chosen = DTYPES.get(dtype, torch.float16 if where.type == "cuda" else torch.float32)
    name = str(name_or_path or EMBEDDED)
    if here := os.path.isdir(name):  # False, unlike Path.is_dir, for a name too long
        check_folder(Path(name))
    offline = here or only_cached(name, INDEX, f"prior {name!r}")
    return diffusion.UNetPrior.load(name, where, chosen, offline=offline)


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
