"""What a training run leaves on disk, and the networks in it."""

from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor
from transformers import CLIPTokenizer

from cpds.errors import InputError
from scripts.emoji_prior.networks import build_tokenizer


def save(state: object, path: Path) -> None:
    """Write the file completely or not at all."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


class Trained(NamedTuple):
    """The networks of a finished training."""

    autoencoder: dict[str, Tensor]
    scaling_factor: float
    denoiser: dict[str, Tensor]
    tokenizer: CLIPTokenizer
    about: str  # for the model card


def load_trained(start: Path) -> Trained:
    """Weights of a run folder (averaged), or of a folder in diffusers' layout. InputError for another folder."""
    if (start / "model_index.json").exists():
        pipeline = StableDiffusionPipeline.from_pretrained(start, safety_checker=None, torch_dtype=torch.float32)
        parts = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
        denoiser = {f"{name}.{k}": v for name, part in parts.items() for k, v in part.state_dict().items()}
        factor, tokenizer = pipeline.vae.config["scaling_factor"], pipeline.tokenizer
        return Trained(pipeline.vae.state_dict(), factor, denoiser, tokenizer, "the prior that shipped before")
    files = [f"{name}.pt" for name in ("autoencoder", "denoiser", "latents")]
    if missing := [name for name in files if not (start / name).is_file()]:
        raise InputError(f"{start} holds no finished training run, as {missing[0]} is missing: finish it first")
    states = {name: torch.load(start / f"{name}.pt", map_location="cpu") for name in ("autoencoder", "denoiser")}
    factor = torch.load(start / "latents.pt", mmap=True)["scaling_factor"]
    steps = {name: state["step"] for name, state in states.items()}
    about = f"a run of {steps['autoencoder']} steps of the autoencoder, {steps['denoiser']} of the denoiser"
    tokenizer = build_tokenizer([], start / "tokenizer")
    return Trained(states["autoencoder"]["average"], factor, states["denoiser"]["average"], tokenizer, about)
