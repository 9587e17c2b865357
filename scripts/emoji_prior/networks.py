"""The networks of the embedded prior: autoencoder, tokenizer, and UNet with text encoder, in diffusers' classes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.upsampling import Upsample2D
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from cpds.config import require

SIDE = 128  # px
MAX_TOKENS = 32


@dataclass(frozen=True)
class Sizes:
    """How wide the networks are; a resumed run, and one that starts from another, needs them unchanged."""

    autoencoder_channels: tuple[int, ...] = (16, 32, 64, 128)
    """Width of the autoencoder at each of its four scales."""
    latent_channels: int = 8
    """Channels of the latent (at 1/8 of the side)."""
    channels: tuple[int, ...] = (64, 160)
    """Width of the denoiser at each scale (16x16, 8x8, ...)."""
    layers: int = 2
    """Residual blocks of the denoiser at each scale, each followed by attention; on the way up there is one more."""
    text_width: int = 128
    """Width of the text encoder, and of the denoiser's cross-attention."""


def build_autoencoder(sizes: Sizes) -> Any:
    """Convolutions only, so that what is learnt on crops holds for whole images."""
    make: Any = AutoencoderKL  # its hints ask for 1-tuples
    scales = len(sizes.autoencoder_channels)
    return make(
        latent_channels=sizes.latent_channels,
        block_out_channels=sizes.autoencoder_channels,
        down_block_types=("DownEncoderBlock2D",) * scales,
        up_block_types=("UpDecoderBlock2D",) * scales,
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=SIDE,
    )


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's schedule, with DDIM's sampler."""
    scheduler = DDIMScheduler(1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, set_alpha_to_one=False)
    scheduler.register_to_config(steps_offset=1)
    return scheduler


def build_tokenizer(corpus: list[str], folder: Path) -> CLIPTokenizer:
    """A byte-level BPE vocabulary of the captions, in CLIP's file format; made once, a resumed run keeps it."""
    files = folder / "vocab.json", folder / "merges.txt"
    if not files[1].exists():
        train_bpe(corpus, folder)
    return CLIPTokenizer(vocab=str(files[0]), merges=str(files[1]), model_max_length=MAX_TOKENS)


def train_bpe(corpus: list[str], folder: Path) -> None:
    """Write vocab.json and merges.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Digits(True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    # first every byte, alone and at a word's end, so that any prompt can be written
    letters = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=2000,
            special_tokens=["<|startoftext|>", "<|endoftext|>", *sorted(f"{c}</w>" for c in letters)],
            initial_alphabet=sorted(letters),
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    bpe.model.save(str(folder))


def carry_embeddings(embeddings: Tensor, finished: CLIPTokenizer, tokenizer: CLIPTokenizer) -> Tensor:
    """Rows for another vocabulary: a shared token keeps its row, a new one gets the mean of its old pieces'."""
    known, rows = finished.get_vocab(), []
    for token in sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__):
        text = token.removesuffix("</w>")
        ids = [known[token]] if token in known else finished(text, add_special_tokens=False).input_ids
        rows.append(embeddings[ids].mean(0))
    return torch.stack(rows)


class Denoiser(nn.Module):
    """UNet and text encoder as one trainable module."""

    def __init__(self, sizes: Sizes, tokenizer: Any) -> None:
        super().__init__()
        scales = len(sizes.channels)
        make: Any = UNet2DConditionModel  # its hints ask for 1-tuples
        self.unet = make(
            sample_size=SIDE // 8,
            in_channels=sizes.latent_channels,
            out_channels=sizes.latent_channels,
            layers_per_block=sizes.layers,
            block_out_channels=sizes.channels,
            down_block_types=("CrossAttnDownBlock2D",) * scales,
            up_block_types=("CrossAttnUpBlock2D",) * scales,
            cross_attention_dim=sizes.text_width,
            attention_head_dim=tuple(c // 32 for c in sizes.channels),  # diffusers reads this as the head count
            norm_num_groups=32,
        )
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=sizes.text_width,
                intermediate_size=4 * sizes.text_width,
                projection_dim=sizes.text_width,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=MAX_TOKENS,
                bos_token_id=0,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )

    def forward(self, x: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        return self.unet(x, t, self.text_encoder(ids).last_hidden_state).sample


def deepen(denoiser: Mapping[str, Tensor], model: Denoiser) -> dict[str, Tensor]:
    """Weights for `model` with which it computes what those of a denoiser of fewer layers do (Net2Net, Chen 2016).

    Added layers pass on what they get. They follow the old ones on the way down; on the way up they follow the first,
    which is the one that changes the width. InputError where `model` has fewer layers.
    """
    had = 1 + max(int(key.split(".")[4]) for key in denoiser if key.startswith("unet.down_blocks.0.resnets."))
    added = model.unet.config["layers_per_block"] - had
    require(added >= 0, f"a denoiser of {had} layers cannot become one of {had + added}: take {had} or more")

    def place(layer: re.Match) -> str:
        return f"{layer[1]}{int(layer[2]) + (added if layer[2] != '0' else 0)}."

    weights = {
        re.sub(r"^(unet\.up_blocks\.\d+\.(?:resnets|attentions)\.)(\d+)\.", place, key): value
        for key, value in denoiser.items()
    }
    for key, value in model.state_dict().items():
        if key in weights:
            continue
        weights[key] = value.clone()
        if re.search(r"\.(conv2|proj_out|conv_shortcut)\.", key):
            weights[key].zero_()
        if key.endswith("conv_shortcut.weight"):  # what comes from below passes, what comes from the way down does not
            weights[key][:, : len(value), 0, 0] = torch.eye(len(value))
    return weights


def repeat_pixels(unet: UNet2DConditionModel) -> None:
    """Upsample by repetition: compiled on CPU in bf16, the backward pass of torch 2.13's interpolate gives zeros."""

    def repeat(module: nn.Module, args: tuple) -> tuple:
        return (args[0].repeat_interleave(2, -1).repeat_interleave(2, -2), *args[1:])

    for module in unet.modules():
        if isinstance(module, Upsample2D):
            module.interpolate = False
            module.register_forward_pre_hook(repeat)
