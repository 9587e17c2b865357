"""Where a pipeline's networks lie and how they run: offloading, tiling, attention kernels, compilation."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from cpds.errors import InputError
from cpds.hub import only_cached
from cpds.priors.hooks import Tap
from cpds.priors.options import PriorOptions
from cpds.priors.source import opening

SWITCH = "_attention_backend"  # what a processor of diffusers has whose kernel can be chosen


def place(pipeline: Any, network: str, taps: Sequence[Tap], device: torch.device, options: PriorOptions) -> Any | None:
    """Freeze the pipeline's networks and bring them to where they run; the tiny autoencoder, if one is to encode."""
    parts: dict[str, Any] = {n: part for n, part in pipeline.components.items() if isinstance(part, nn.Module)}
    for part in parts.values():
        part.eval().requires_grad_(False)
    net, vae = parts[network], parts["vae"]
    if options.vae_tiling:
        vae.enable_tiling()
    if options.vae_slicing:
        vae.enable_slicing()
    if options.attention_backend is not None:
        set_attention(net, options.attention_backend)
    if options.compile:
        compile_blocks(net, taps, fullgraph=options.offload != "group")  # whose hooks, in each layer, break graphs
    tiny = None if options.tiny_vae is None else tiny_autoencoder(options.tiny_vae, vae, device)
    if options.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
        return tiny
    if options.offload == "group":
        net.enable_group_offload(device, offload_type="leaf_level", use_stream=device.type == "cuda")
    for name, part in parts.items():
        if not (name == network and (options.offload == "group" or options.quantize.startswith("bnb"))):
            part.to(device)
    return tiny


def fits(modules: Sequence[nn.Module], device: torch.device) -> bool:
    """Whether a CUDA device has room for all weights of `modules`, and a quarter more."""
    if device.type != "cuda":
        return True
    size = sum(x.numel() * x.element_size() for module in modules for x in module.parameters())
    return size * 1.25 < torch.cuda.mem_get_info(device)[0]


def set_attention(net: Any, backend: str) -> None:
    """InputError for a kernel that diffusers does not know, that is not installed, or that the network cannot have."""
    from diffusers.models.attention_dispatch import AttentionBackendName

    known = [name.value for name in AttentionBackendName if not name.value.startswith("_")]  # others: for experts
    if backend.lower() not in {name.value for name in AttentionBackendName}:
        raise InputError(f"attention_backend {backend!r} is not known: take one of {', '.join(known)}, or leave it out")
    if backend != "native" and not any(hasattr(getattr(m, "processor", None), SWITCH) for m in net.modules()):
        raise InputError(
            f"attention_backend {backend!r} would do nothing: diffusers changes the attention of a "
            f"{type(net).__name__} by no name; leave it out"
        )
    try:
        net.set_attention_backend(backend)
    except Exception as err:  # of its own kind for each kernel
        why = str(err).splitlines()[0]
        raise InputError(f"attention_backend {backend!r} cannot be used here: {why} Or leave it out") from err


def compile_blocks(net: Any, taps: Sequence[Tap], *, fullgraph: bool = True) -> None:
    """torch.compile of the blocks that the network repeats, as diffusers' compile_repeated_blocks does it.

    A compiled block calls no hooks: those that hold a tapped attention stay as they are.
    """
    tapped = {id(tap.attention) for tap in taps}
    names = getattr(net, "_repeated_blocks", None) or getattr(net, "_no_split_modules", None) or ()
    blocks = [m for m in net.modules() if type(m).__name__ in names]
    for block in blocks:
        if not any(id(module) in tapped for module in block.modules()):
            block.compile(fullgraph=fullgraph)


def tiny_autoencoder(name: str, vae: Any, device: torch.device) -> Any:
    """An AutoencoderTiny with latents of `vae`'s shape. InputError if it cannot be loaded, or does not fit."""
    from diffusers import AutoencoderTiny

    what = f"tiny_vae {name!r}"
    offline = os.path.isdir(name) or only_cached(name, "config.json", what)
    settings = {"torch_dtype": vae.dtype, "use_safetensors": True, "local_files_only": offline}
    with opening(what):
        tiny: Any = AutoencoderTiny.from_pretrained(name, **settings)
    found = tiny.config.latent_channels, 2 ** (len(tiny.config.encoder_block_out_channels) - 1)
    wanted = vae.config.latent_channels, 2 ** (len(vae.config.block_out_channels) - 1)
    if found != wanted:
        raise InputError(
            f"tiny_vae {name} makes latents of {found[0]} channels for every {found[1]} px, and the prior's have "
            f"{wanted[0]} for every {wanted[1]}: take the one of its family"
        )
    return tiny.to(device).eval().requires_grad_(False)
