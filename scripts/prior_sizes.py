"""Count the parameters of priors at their own size, from their configs, on the meta device, where nothing is allocated.

    python scripts/prior_sizes.py            # writes cpds/assets/priors.json, which `cpds priors` reads

MODELS are names that are known to be good, with what their pages say of licences; CONFIGS hold what their published
configs have different from the classes' defaults. To add one, add its lines here and run this.
"""

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

OUT = Path(__file__).parents[1] / "cpds/assets/priors.json"
SD_UNET = {"block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2}
SD3 = {"joint_attention_dim": 4096, "pooled_projection_dim": 2048, "attention_head_dim": 64}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
CLIP_H = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
VAE_16 = {**VAE, "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "clip-l": ("CLIPTextModel", CLIP_L),
    "clip-l-projected": ("CLIPTextModelWithProjection", {**CLIP_L, "projection_dim": 768}),
    "clip-g": ("CLIPTextModelWithProjection", {**CLIP_G, "projection_dim": 1280}),
    "clip-h": ("CLIPTextModel", CLIP_H),
    "t5-xxl": (
        "T5EncoderModel",
        {"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "feed_forward_proj": "gated-gelu"},
    ),
    "qwen3-4b": (
        "Qwen3ForCausalLM",
        {
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "tie_word_embeddings": True,
        },
    ),
    "sd-vae": ("AutoencoderKL", VAE),
    "vae-16": ("AutoencoderKL", VAE_16),
    "flux2-vae": ("AutoencoderKLFlux2", {}),
    "sd1": (
        "UNet2DConditionModel",
        {**SD_UNET, "cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64},
    ),
    "sd2": (
        "UNet2DConditionModel",
        {
            **SD_UNET,
            "cross_attention_dim": 1024,
            "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
            "sample_size": 64,
        },
    ),
    "sdxl": (
        "UNet2DConditionModel",
        {
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
            "use_linear_projection": True,
            "sample_size": 128,
        },
    ),
    "sd3.5-medium": (
        "SD3Transformer2DModel",
        {
            **SD3,
            "num_layers": 24,
            "num_attention_heads": 24,
            "caption_projection_dim": 1536,
            "pos_embed_max_size": 384,
            "dual_attention_layers": tuple(range(13)),
            "qk_norm": "rms_norm",
        },
    ),
    "sd3.5-large": (
        "SD3Transformer2DModel",
        {
            **SD3,
            "num_layers": 38,
            "num_attention_heads": 38,
            "caption_projection_dim": 2432,
            "pos_embed_max_size": 192,
            "qk_norm": "rms_norm",
        },
    ),
    "flux-dev": ("FluxTransformer2DModel", {"guidance_embeds": True}),
    "flux-schnell": ("FluxTransformer2DModel", {}),
    "flux2-klein-4b": (
        "Flux2Transformer2DModel",
        {
            "num_layers": 5,
            "num_single_layers": 20,
            "num_attention_heads": 24,
            "joint_attention_dim": 7680,
            "guidance_embeds": False,
        },
    ),
    "pixart-sigma": (
        "PixArtTransformer2DModel",
        {"caption_channels": 4096, "interpolation_scale": 2, "use_additional_conditions": False},
    ),
    "z-image": ("ZImageTransformer2DModel", {}),
}
SD3_TEXT = ("clip-l-projected", "clip-g", "t5-xxl")
FLUX_TEXT = ("clip-l", "t5-xxl")
# name, family, pipeline, licence, gated, note; then its network, its VAE and its text encoders in CONFIGS
MODELS: list[tuple[str, str, str, str, bool, str, str, str, tuple[str, ...]]] = [
    (
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        *("SD 1.x", "StableDiffusionPipeline", "CreativeML Open RAIL-M", False, ""),
        *("sd1", "sd-vae", ("clip-l",)),
    ),
    (
        "stabilityai/sd-turbo",
        *("SD 2.x", "StableDiffusionPipeline", "Stability Community", False, "few steps, without guidance"),
        *("sd2", "sd-vae", ("clip-h",)),
    ),
    (
        "stabilityai/stable-diffusion-xl-base-1.0",
        *("SDXL", "StableDiffusionXLPipeline", "Open RAIL++-M", False, ""),
        *("sdxl", "sd-vae", ("clip-l", "clip-g")),
    ),
    (
        "stabilityai/sdxl-turbo",
        *("SDXL", "StableDiffusionXLPipeline", "Stability Community", False, "few steps, without guidance"),
        *("sdxl", "sd-vae", ("clip-l", "clip-g")),
    ),
    (
        "stabilityai/stable-diffusion-3.5-medium",
        *("SD3", "StableDiffusion3Pipeline", "Stability Community", True, "recommended"),
        *("sd3.5-medium", "vae-16", SD3_TEXT),
    ),
    (
        "stabilityai/stable-diffusion-3.5-large",
        *("SD3", "StableDiffusion3Pipeline", "Stability Community", True, ""),
        *("sd3.5-large", "vae-16", SD3_TEXT),
    ),
    (
        "black-forest-labs/FLUX.1-dev",
        *("FLUX.1", "FluxPipeline", "FLUX.1 dev, non-commercial", True),
        "guidance is an input of the network",
        *("flux-dev", "vae-16", FLUX_TEXT),
    ),
    (
        "black-forest-labs/FLUX.1-schnell",
        *("FLUX.1", "FluxPipeline", "Apache-2.0", True, "few steps, without guidance"),
        *("flux-schnell", "vae-16", FLUX_TEXT),
    ),
    (
        "black-forest-labs/FLUX.2-klein-base-4B",
        *("FLUX.2", "Flux2KleinPipeline", "Apache-2.0", False, "recommended"),
        *("flux2-klein-4b", "flux2-vae", ("qwen3-4b",)),
    ),
    (
        "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
        *("PixArt-Sigma", "PixArtSigmaPipeline", "Open RAIL++-M", False, ""),
        *("pixart-sigma", "sd-vae", ("t5-xxl",)),
    ),
    (
        "Tongyi-MAI/Z-Image",
        *("Z-Image", "ZImagePipeline", "Apache-2.0", False, "its pipeline's guidance_scale is 1 less than ours"),
        *("z-image", "vae-16", ("qwen3-4b",)),
    ),
    (
        "Tongyi-MAI/Z-Image-Turbo",
        *("Z-Image", "ZImagePipeline", "Apache-2.0", False, "few steps, without guidance"),
        *("z-image", "vae-16", ("qwen3-4b",)),
    ),
]


def on_meta(name: str) -> torch.nn.Module:
    """A network of CONFIGS without weights."""
    kind, settings = CONFIGS[name]
    with torch.device("meta"):
        if hasattr(transformers, kind):
            made = getattr(transformers, kind)
            return made(made.config_class(**settings))
        return getattr(diffusers, kind)(**settings)


def counted(name: str) -> dict[str, int]:
    """Parameters, and those of the largest single layer, which group offload has on the card at a time."""
    net = on_meta(name)
    layers = (sum(x.numel() for x in m.parameters(recurse=False)) for m in net.modules())
    return {"parameters": sum(x.numel() for x in net.parameters()), "largest_layer": max(layers)}


def table() -> list[dict[str, Any]]:
    """A row for each of MODELS."""
    sizes = {name: counted(name) for name in CONFIGS}
    rows = []
    for name, family, pipeline, licence, gated, note, network, vae, text in MODELS:
        row = {"name": name, "family": family, "pipeline": pipeline, "licence": licence, "gated": gated, "note": note}
        row |= {"config": network, **sizes[network], "vae": sizes[vae]["parameters"]}
        rows.append({**row, "text_encoders": sum(sizes[part]["parameters"] for part in text)})
    return rows


if __name__ == "__main__":
    OUT.write_text(json.dumps(table(), indent=1) + "\n")
