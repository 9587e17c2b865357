"""Priors of known sizes with random weights, and the same at toy sizes: for measuring what a step costs."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import diffusers
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import nn

from cpds.priors.base import Conditioning
from cpds.priors.diffusers_prior import DiffusersPrior
from cpds.priors.flux import FluxPrior
from cpds.priors.options import PriorOptions
from cpds.priors.transformer import SD3Prior
from cpds.priors.unet import SDXLPrior, UNetPrior
from scripts.prior_sizes import CONFIGS


@dataclass(frozen=True)
class Size:
    """A network and its autoencoder, as scripts/prior_sizes.py has them, and the text that conditions it."""

    network: str
    vae: str
    family: type[DiffusersPrior]
    text: dict[str, tuple[int, ...]]  # of a prompt, by name
    toy: dict[str, Any]  # what the network has smaller
    toy_text: dict[str, tuple[int, ...]]


TOY_UNET = {"sample_size": 8, "layers_per_block": 1, "block_out_channels": (8, 16), "norm_num_groups": 4}
TOY_VAE = {"block_out_channels": (4, 8, 8), "layers_per_block": 1, "norm_num_groups": 4} | {
    f"{half}_block_types": (f"{kind}coderBlock2D",) * 3 for half, kind in (("down", "DownEn"), ("up", "UpDe"))
}
BLOCKS = {"down": "CrossAttnDownBlock2D", "up": "CrossAttnUpBlock2D"}
SizeName = Literal["SD1.5", "SDXL", "SD3.5-medium", "FLUX.1-dev"]
SIZES: dict[SizeName, Size] = {
    "SD1.5": Size(
        *("sd1", "sd-vae", UNetPrior),
        {"embeds": (77, 768)},
        {**TOY_UNET, "cross_attention_dim": 16, "attention_head_dim": 2}
        | {f"{half}_block_types": (kind,) * 2 for half, kind in BLOCKS.items()},
        {"embeds": (7, 16)},
    ),
    "SDXL": Size(
        *("sdxl", "sd-vae", SDXLPrior),
        {"embeds": (77, 2048), "pooled": (1280,)},
        {
            **{**TOY_UNET, "cross_attention_dim": 16, "attention_head_dim": 2, "transformer_layers_per_block": (1, 2)},
            **{"down_block_types": ("DownBlock2D", BLOCKS["down"]), "up_block_types": (BLOCKS["up"], "UpBlock2D")},
            **{"addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 6 * 4 + 8},
        },
        {"embeds": (7, 16), "pooled": (8,)},
    ),
    "SD3.5-medium": Size(
        *("sd3.5-medium", "vae-16", SD3Prior),
        {"embeds": (333, 4096), "pooled": (2048,)},
        {
            **{"sample_size": 8, "num_layers": 4, "attention_head_dim": 8, "num_attention_heads": 2},
            **{"joint_attention_dim": 16, "caption_projection_dim": 16, "pooled_projection_dim": 8},
            **{"pos_embed_max_size": 16, "dual_attention_layers": (0,)},
        },
        {"embeds": (7, 16), "pooled": (8,)},
    ),
    "FLUX.1-dev": Size(
        *("flux-dev", "vae-16", FluxPrior),
        {"embeds": (512, 4096), "pooled": (768,)},
        {
            **{"num_layers": 2, "num_single_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2},
            **{"joint_attention_dim": 16, "pooled_projection_dim": 8, "axes_dims_rope": (4, 4, 8)},
        },
        {"embeds": (7, 16), "pooled": (8,)},
    ),
}


def networks(size: Size, toy: bool) -> tuple[nn.Module, nn.Module]:
    """The one that denoises and the autoencoder, on the meta device."""
    with torch.device("meta"):
        kind, settings = CONFIGS[size.network]
        net = getattr(diffusers, kind)(**settings | (size.toy if toy else {}))
        kind, settings = CONFIGS[size.vae]
        return net, getattr(diffusers, kind)(**settings | (TOY_VAE if toy else {}))


def weights(size: Size, toy: bool, bits: int) -> int:
    """Bytes of both networks."""
    return sum(x.numel() for net in networks(size, toy) for x in net.parameters()) * bits // 8


class WithoutText:
    """Of a prior that needs no text encoder: every prompt is noise of its own."""

    device: torch.device
    text: Mapping[str, tuple[int, ...]]

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        rows = {name: [noise(prompt, *shape) for prompt in prompts] for name, shape in self.text.items()}
        return Conditioning({name: torch.stack(each).to(self.device) for name, each in rows.items()})


def noise(prompt: str, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(prompt.encode())))


def prior_of(
    size: Size, toy: bool, device: torch.device, dtype: torch.dtype, options: PriorOptions
) -> DiffusersPrior:  # fmt: skip
    """With random weights, made where they are to be."""
    torch.manual_seed(0)
    net, vae = (filled(each, device, dtype) for each in networks(size, toy))
    flow = size.vae == "vae-16"
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0) if flow else DDIMScheduler()
    parts = {size.family.network: net, "vae": vae, "scheduler": scheduler}
    pipeline = SimpleNamespace(**parts, components=parts, default_sample_size=8 if toy else 128)
    family: Any = type(size.family.__name__, (WithoutText, size.family), {"text": size.toy_text if toy else size.text})
    return family(pipeline, device, "random weights", options=options)


@torch.no_grad()
def filled(net: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Matrices of normal numbers that keep a signal's size, norms as they begin, no biases."""
    net = nn.Module.to(net, dtype).to_empty(device=device)  # diffusers' own `to` warns
    for name, x in [*net.named_parameters(), *net.named_buffers()]:
        if x.ndim > 1:
            x.normal_(std=x[0].numel() ** -0.5)
        else:
            x.fill_(1.0 if name.endswith("weight") else 0.0)
    return net
