"""How a prior is loaded: precision, memory and speed, by the names that diffusers has for them. No torch here."""

import math
import os
import re
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, Literal

from cpds.config import require, require_choices

FEW_STEP_NAMES = re.compile(
    r"(?i:turbo|schnell|lightning)(?![a-z])"
    r"|(?<![A-Za-z])(?i:lcm)(?![A-Za-z])"
    r"|(?i:hyper)(?:[-_ ]?(?i:sd|flux|vae|fp|bf|v?\d)|(?![-_ ]?[A-Za-z]))"  # Hyper-SD, and no hyper-detail
)
BACKENDS = {"bnb": "bitsandbytes", "torchao": "torchao"}  # what a quantization's name begins with, and its package


@dataclass(frozen=True, kw_only=True)
class PriorOptions:
    """What of a prior is kept where, and in which precision. None of it is needed for a prior that fits."""

    torch_dtype: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """Precision of the prior. auto: fp32 on the CPU; on CUDA fp16 for UNets, bf16 for transformers, which overflow."""
    low_memory: bool = False
    """For a prior that does not fit: offload group (where there is CUDA, unless offload says model), VAE tiling and
    slicing, half precision on the CPU too (bf16) unless torch_dtype is set, and no text encoders kept."""
    offload: Literal["none", "model", "group"] = "none"
    """What waits in the CPU's memory until it runs: nothing; whole models (fast, saves what does not run at the time);
    or single layers of the denoising network (slower, saves most)."""
    vae_tiling: bool = False
    """Encode and decode large images tile by tile."""
    vae_slicing: bool = False
    """Encode and decode the images of a batch one by one."""
    attention_backend: str | None = None
    """Which program computes the attention of FLUX.1, FLUX.2 and Z-Image, by diffusers' name. native is PyTorch's own,
    as without this option; flash, sage and xformers need their packages: flash-attn, sageattention, xformers."""
    compile: bool = False
    """torch.compile of the denoising network's repeated blocks, those aside whose features are tapped."""
    quantize: Literal["none", "bnb_4bit", "bnb_8bit", "torchao_int4", "torchao_int8", "torchao_fp8"] = "none"
    """Weights of the denoising network in fewer bits, by bitsandbytes (bnb) or torchao."""
    transformer: str | None = None
    """A file (.safetensors or .gguf) whose denoising network, a UNet too, takes the place of the prior's own."""
    tiny_vae: str | None = None
    """Tiny autoencoder (madebyollin/taesd, taesdxl, taesd3, taef1, or a folder) that encodes images instead of the
    prior's own: renders then cost little. Results are decoded by the prior's own."""
    prior_config: str | None = None
    """Where a prior that is a single file takes configs, tokenizers and lacking parts from: a folder in diffusers'
    layout or a hub name. Default: the model of its kind that diffusers knows."""
    keep_text_encoders: bool = False
    """Keep text encoders in memory for prompts that change while an edit runs. (Small ones always stay.)"""
    lora: tuple[str, ...] = ()
    """LoRA files (.safetensors), their folders or hub names (owner/model, or owner/model/file.safetensors), each with a
    weight after a colon if that is not 1: style.safetensors:0.7. Several add up."""
    textual_inversion: tuple[str, ...] = ()
    """Files of learned words (.safetensors), their folders or hub names, each with the word that stands for it in
    prompts after a colon, if that is not to be the file's own: cat.safetensors:<cat>."""
    few_step: bool | None = None
    """Whether the prior was distilled to few steps, so that guidance must be 1. Default: seen from its configs, and
    the names of prior, transformer and LoRA (turbo, schnell, lightning, hyper-sd, lcm)."""

    def __post_init__(self) -> None:
        require_choices(self)
        for name in ("attention_backend", "transformer", "tiny_vae", "prior_config"):
            require(getattr(self, name) != "", f"{name} is empty: leave it out, or say which")
        for name in ("lora", "textual_inversion"):
            require(all(getattr(self, name)), f"one of {name} is empty: leave it out, or say which")
        for text in self.lora:
            weight_of(text)

    def resolved(self, device: str) -> "PriorOptions":
        """With what low_memory stands for on a device of this type (cpu, cuda, mps), and offload checked.

        InputError for an offload that the device cannot have.
        """
        require(
            self.offload == "none" or device != "cpu",
            f"offload {self.offload} moves weights between a GPU and the CPU, and the device is {device}: take a GPU, "
            "or offload none",
        )
        require(
            not self.quantize.startswith("bnb") or device == "cuda",
            f"quantize {self.quantize} needs a CUDA device, and the device is {device}: take torchao_int8, or none",
        )
        if not self.low_memory:
            return self
        return replace(
            self,
            offload="group" if self.offload == "none" and device == "cuda" else self.offload,
            torch_dtype="bf16" if self.torch_dtype == "auto" and device == "cpu" else self.torch_dtype,
            vae_tiling=True,
            vae_slicing=True,
            keep_text_encoders=False,
        )

    @property
    def changed(self) -> str:
        """What of it, files aside, decides results, in words, for a run to remember."""
        weights = "" if self.quantize == "none" else f" quantize={self.quantize}"
        return weights + (" vae_tiling" if self.vae_tiling else "")


def split_colon(text: str) -> tuple[str, str]:
    """A name, and what follows its last colon, if anything; a colon of an existing path is none."""
    name, _, rest = ("", "", "") if os.path.exists(text) else text.rpartition(":")
    return (name, rest) if name else (text, "")


def located(text: str) -> str:
    """The same with an absolute path, if it names a file or folder that is here."""
    name, rest = split_colon(text)
    return text if not os.path.exists(name) else os.path.abspath(name) + (f":{rest}" if rest else "")


def is_few_step_name(name: str) -> bool:
    """Whether the last part of a path or hub name is that of a model distilled to few steps."""
    return FEW_STEP_NAMES.search(PurePath(name).name) is not None


def with_located_prior(args: Any) -> Any:
    """A command's arguments, where the prior and the files of its options that are here have absolute paths."""
    single = {name: getattr(args, name) for name in ("prior", "transformer", "tiny_vae", "prior_config")}
    single = {name: value and located(value) for name, value in single.items()}
    several = {name: tuple(map(located, getattr(args, name))) for name in ("lora", "textual_inversion")}
    return replace(args, **single, **several)


def weight_of(lora: str) -> float:
    """The weight that one of `lora` names, else 1. InputError for what is no number."""
    name, text = split_colon(lora)
    try:
        weight = float(text or 1)
    except ValueError:
        weight = math.nan
    require(math.isfinite(weight), f"lora {name} has the weight {text!r}, which is no number: give one, {name}:0.7")
    return weight


PLAIN = PriorOptions()
