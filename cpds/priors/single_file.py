"""Single-file checkpoints: what kind of model a .safetensors file holds, seen from its tensors' names and shapes."""

import os
from pathlib import Path

import torch

from cpds.errors import InputError
from cpds.hub import PICKLES, reason
from cpds.priors.source import model_type

# by diffusers' names for what a file holds, the hub's model of that kind, which has its configs and other parts
KINDS = {
    "v1": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "v2": "stabilityai/stable-diffusion-2-1",
    "xl_base": "stabilityai/stable-diffusion-xl-base-1.0",
    "sd3": "stabilityai/stable-diffusion-3-medium-diffusers",
    "sd35_large": "stabilityai/stable-diffusion-3.5-large",
    "sd35_medium": "stabilityai/stable-diffusion-3.5-medium",
    "flux-dev": "black-forest-labs/FLUX.1-dev",
    "flux-schnell": "black-forest-labs/FLUX.1-schnell",
    "z-image-turbo": "Tongyi-MAI/Z-Image-Turbo",
}
AUTOENCODER = "first_stage_model."  # what the names of an autoencoder's tensors begin with
TEXT_ENCODERS = ("cond_stage_model.", "conditioner.embedders.", "text_encoders.")


def is_single_file(name: str) -> bool:
    """Whether `name` is a checkpoint of one file. InputError for one of another kind, and for pickles."""
    if not os.path.isfile(name):
        return False
    suffix = Path(name).suffix
    if suffix in PICKLES:
        raise InputError(
            f"prior {name!r} is a pickle, which can run any program when it is read: convert it where you trust it, "
            'python -c "import sys, torch, safetensors.torch as s; d = torch.load(sys.argv[1], weights_only=True); '
            "s.save_file({k: v.contiguous().clone() for k, v in d.get('state_dict', d).items() if "
            f'torch.is_tensor(v)}}, sys.argv[2])" {Path(name).name} {Path(name).stem}.safetensors'
        )
    if suffix == ".gguf":
        raise InputError(
            f"prior {name!r} is a GGUF file, which holds the denoising network alone: name the whole prior, a folder "
            "or a hub name, and give the file as transformer"
        )
    if suffix != ".safetensors":
        raise InputError(
            f"prior {name!r} is a file: give a .safetensors checkpoint, a local folder or a name on the "
            "Hugging Face hub (owner/model)"
        )
    return True


def kind_of(name: str, *, configs: str | None) -> tuple[str, bool]:
    """Where a file's configs are, and whether it holds an autoencoder and text encoders too.

    `configs`, if given, or the hub's model of its kind. InputError for what is no such file, or of no known kind.
    """
    from safetensors import safe_open

    try:
        with safe_open(name, "pt") as file:
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118 (it is no mapping)
    except Exception as err:  # of the library's own kinds
        raise InputError(f"prior {name!r} is not a .safetensors checkpoint ({reason(err)}): download it again") from err
    whole = all(any(key.startswith(start) for key in shapes) for start in (AUTOENCODER, TEXT_ENCODERS))
    if configs is not None:
        return configs, whole
    kind = model_type({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
    if kind == "v1" and not any("diffusion_model" in key for key in shapes):
        kind = "nothing"  # v1 is what diffusers says where it recognizes nothing
    if kind not in KINDS:
        raise InputError(
            f"prior {name!r} holds no model of a known family (but {kind}): give a checkpoint of Stable Diffusion 1.x, "
            "2.x, XL, 3 or 3.5, FLUX.1 or Z-Image, or say with prior_config whose parts fit (a LoRA is no prior)"
        )
    return KINDS[kind], whole
