"""A tiny pipeline of every family, of the real classes with random weights, saved in folders of their own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from conftest import build_pipeline, build_tokenizer
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

from cpds.priors.diffusers_prior import DiffusersPrior
from cpds.priors.load import load_prior

CHAT = (
    "{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}<|assistant|>"
    "{% if enable_thinking is defined and not enable_thinking %}<|quiet|>{% endif %}"
)
SPECIAL = ["<pad>", "</s>", "<|user|>", "<|end|>", "<|assistant|>", "<|quiet|>"]


def vae(latent_channels: int = 4, **settings: Any) -> AutoencoderKL:
    """Of 4 px a latent cell."""
    blocks: dict[str, Any] = {
        "block_out_channels": (4, 8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
    }
    return AutoencoderKL(
        latent_channels=latent_channels,
        layers_per_block=1,
        norm_num_groups=4,
        **blocks,
        **{"scaling_factor": 0.5} | settings,
    )


def tiny_vae(folder: Path, scales: int = 3, channels: int = 4) -> Path:
    """The folder of a tiny autoencoder, by default one with latents like those of `vae`."""
    torch.manual_seed(1)
    blocks: Any = {"encoder_block_out_channels": (8,) * scales, "decoder_block_out_channels": (8,) * scales}
    layers: Any = {"num_encoder_blocks": (1,) * scales, "num_decoder_blocks": (1,) * scales}
    AutoencoderTiny(**blocks, **layers, latent_channels=channels).save_pretrained(folder)
    return folder


def clip(kind: type, tokens: int) -> Any:
    """Two layers of 16 channels, as the last but one is read; projected to 8."""
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "projection_dim": 8}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    return kind(CLIPTextConfig(vocab_size=tokens, num_attention_heads=2, max_position_embeddings=32, **sizes, **ids))


def letters(*, end: bool) -> PreTrainedTokenizerFast:
    """Every byte is a token; with `end` a text ends in </s>, as T5's does. It has a chat template, as Qwen's has."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({w: i for i, w in enumerate([*SPECIAL, *alphabet])}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    if end:
        core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names: dict[str, Any] = {"pad_token": "<pad>", "eos_token": "</s>", "additional_special_tokens": SPECIAL[2:]}
    made = PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=512, **names)
    made.chat_template = CHAT
    return made


def t5() -> dict[str, Any]:
    sizes: dict[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return {"text": T5EncoderModel(T5Config(vocab_size=300, **sizes)).eval(), "tokenizer": letters(end=True)}


def qwen(kind: type, layers: int) -> dict[str, Any]:
    sizes: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": layers, "head_dim": 4}
    config = Qwen3Config(vocab_size=300, num_attention_heads=2, num_key_value_heads=1, pad_token_id=0, **sizes)
    return {"text_encoder": kind(config).eval(), "tokenizer": letters(end=False)}


def two_clips(folder: Path, first: type = CLIPTextModel) -> dict[str, Any]:
    tokenizer = build_tokenizer(folder / "_tokenizer")
    both = {
        "text_encoder": clip(first, len(tokenizer)),
        "text_encoder_2": clip(CLIPTextModelWithProjection, len(tokenizer)),
    }
    return {**both, "tokenizer": tokenizer, "tokenizer_2": tokenizer}


def ddim() -> DDIMScheduler:
    return DDIMScheduler(1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, timestep_spacing="trailing")


def sdxl(folder: Path, *, zeros: bool = True) -> Any:
    """Of two scales, the lower one with two layers in each spatial transformer."""
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=4,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 8,
    )
    parts = {**two_clips(folder), "unet": unet, "vae": vae(), "scheduler": ddim()}
    return diffusers.StableDiffusionXLPipeline(**parts, force_zeros_for_empty_prompt=zeros, add_watermarker=False)


def sd3(folder: Path, *, with_t5: bool = True) -> Any:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        num_layers=4,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=16,
        out_channels=4,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    third = t5() if with_t5 else {"text": None, "tokenizer": None}
    return diffusers.StableDiffusion3Pipeline(
        **two_clips(folder, CLIPTextModelWithProjection),
        text_encoder_3=third["text"],
        tokenizer_3=third["tokenizer"],
        transformer=transformer,
        vae=vae(shift_factor=0.06),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def flux(folder: Path, *, guidance: bool = True) -> Any:
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=guidance,
        axes_dims_rope=(4, 4, 8),
    )
    second = t5()
    both = two_clips(folder)
    return diffusers.FluxPipeline(
        text_encoder=both["text_encoder"],
        tokenizer=both["tokenizer"],
        text_encoder_2=second["text"],
        tokenizer_2=second["tokenizer"],
        transformer=transformer,
        vae=vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0 if guidance else 1.0, use_dynamic_shifting=guidance),
    )


def flux2(folder: Path, *, distilled: bool = False) -> Any:
    transformer = diffusers.Flux2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    autoencoder = diffusers.AutoencoderKLFlux2(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    )
    autoencoder.bn.running_mean.normal_()
    autoencoder.bn.running_var.uniform_(0.5, 2)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    parts = {**qwen(Qwen3ForCausalLM, 28), "transformer": transformer, "vae": autoencoder, "scheduler": scheduler}
    return diffusers.Flux2KleinPipeline(**parts, is_distilled=distilled)


def pixart(folder: Path) -> Any:
    transformer = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=4,
        cross_attention_dim=16,
        sample_size=8,
        caption_channels=32,
        use_additional_conditions=False,
    )
    text = t5()
    return diffusers.PixArtSigmaPipeline(text["tokenizer"], text["text"], vae(), transformer, ddim())


def z_image(folder: Path) -> Any:
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=4,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=8,
        axes_dims=[8, 4, 4],
        axes_lens=[1024, 32, 32],
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    autoencoder = vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False)
    return diffusers.ZImagePipeline(scheduler, autoencoder, **qwen(Qwen3Model, 3), transformer=transformer)


def turbo(folder: Path) -> Any:
    """SD-Turbo: an SD pipeline whose scheduler says so."""
    pipeline = build_pipeline(folder)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    return pipeline


BUILDERS: dict[str, Callable[[Path], Any]] = {
    "sd": build_pipeline,
    "turbo": turbo,
    "sdxl": sdxl,
    "sd3": sd3,
    "sd3-without-t5": lambda folder: sd3(folder, with_t5=False),
    "flux-dev": flux,
    "flux-schnell": lambda folder: flux(folder, guidance=False),
    "flux2": flux2,
    "pixart": pixart,
    "z-image": z_image,
}


class Family:
    """One family's folder, and what is loaded from it once."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder / f"tiny-{name}"
        torch.manual_seed(0)
        BUILDERS[name](folder / "build").save_pretrained(self.folder)
        absent = {"text_encoder_3": None, "tokenizer_3": None} if name == "sd3-without-t5" else {}
        self.pipeline = diffusers.DiffusionPipeline.from_pretrained(self.folder, local_files_only=True, **absent)
        self.pipeline.set_progress_bar_config(disable=True)
        loaded = load_prior(self.folder, device="cpu")
        assert isinstance(loaded, DiffusersPrior)
        self.prior = loaded


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Family]:
    """Families by name, each built at its first use."""
    built: dict[str, Family] = {}

    def get(name: str) -> Family:
        if name not in built:
            built[name] = Family(name, tmp_path_factory.mktemp(name))
        return built[name]

    return get
