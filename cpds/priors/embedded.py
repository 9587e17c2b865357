"""The embedded prior without diffusers and transformers, which take longer to import than a first edit takes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cpds.priors.networks import Autoencoder, Config, Network, UNet
from cpds.priors.options import PLAIN, PriorOptions
from cpds.priors.text import TextEncoder, Tokenizer
from cpds.priors.unet import UNetPrior

EMBEDDED = Path(__file__).parents[1] / "assets" / "prior"


@dataclass
class Scheduler:
    """Of a pipeline: as much as a prior asks of it."""

    config: Config

    @property
    def alphas_cumprod(self) -> Tensor:
        """alpha-bar, in float32 as the network was trained; beta is "scaled_linear"."""
        c = self.config
        betas = torch.linspace(c.beta_start**0.5, c.beta_end**0.5, c.num_train_timesteps, dtype=torch.float32) ** 2
        return (1.0 - betas).cumprod(0)


@dataclass
class Pipeline:
    """What diffusers' pipeline of the embedded prior holds."""

    unet: UNet
    vae: Autoencoder
    text_encoder: TextEncoder
    tokenizer: Tokenizer
    scheduler: Scheduler

    @property
    def components(self) -> dict[str, Any]:
        return vars(self)


class EmbeddedPrior(UNetPrior):
    """The embedded prior, to the last bit what diffusers makes of its folder."""

    pipelines = ()  # its folder is a StableDiffusionPipeline, which UNetPrior loads

    def ids(self, prompts: Sequence[str]) -> Tensor:
        return self.tokenizer.fitted(prompts)


def suffices(options: PriorOptions) -> bool:
    """Whether nothing is asked for that diffusers has to do; precision and few_step may be."""
    return replace(options, torch_dtype=PLAIN.torch_dtype, few_step=PLAIN.few_step) == PLAIN


def open_embedded(dtype: torch.dtype, folder: Path = EMBEDDED) -> Pipeline:
    """The networks with their weights, on the CPU."""
    text_encoder = _loaded(TextEncoder, folder / "text_encoder", "model", dtype)
    return Pipeline(
        _loaded(UNet, folder / "unet", "diffusion_pytorch_model", dtype),
        _loaded(Autoencoder, folder / "vae", "diffusion_pytorch_model", dtype),
        text_encoder,
        Tokenizer(folder / "tokenizer", text_encoder.config.max_position_embeddings),
        Scheduler(_config(folder / "scheduler" / "scheduler_config.json")),
    )


def _config(file: Path) -> Config:
    return Config(json.loads(file.read_text()))


def _loaded(kind: type[Any], folder: Path, weights: str, dtype: torch.dtype) -> Any:
    with torch.device("meta"):
        network: Network = kind(_config(folder / "config.json"))
    tensors = {name: nn.Parameter(x.to(dtype)) for name, x in load_file(folder / f"{weights}.safetensors").items()}
    network.load_state_dict(tensors, assign=True)
    return network
