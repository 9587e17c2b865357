"""Priors loaded by name or path, on a device: the family is that of the pipeline which the index names."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cpds.errors import InputError
from cpds.hub import PICKLES, only_cached
from cpds.priors.adapters import EMBEDS_NAME, LORA_NAME, PRIOR_NAME, file_of
from cpds.priors.base import Prior
from cpds.priors.diffusers_prior import DiffusersPrior
from cpds.priors.embedded import EMBEDDED, EmbeddedPrior, open_embedded, suffices
from cpds.priors.flux import Flux2Prior, FluxPrior
from cpds.priors.options import PLAIN, PriorOptions, is_few_step_name, split_colon, weight_of
from cpds.priors.single_file import is_single_file, kind_of
from cpds.priors.source import INDEX, Source, fingerprint_of, load_index, read_index
from cpds.priors.transformer import PixArtPrior, SD3Prior
from cpds.priors.unet import SDXLPrior, UNetPrior
from cpds.priors.z_image import ZImagePrior

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
FAMILIES: dict[str, type[DiffusersPrior]] = {
    pipeline: family
    for family in (UNetPrior, SDXLPrior, SD3Prior, FluxPrior, Flux2Prior, PixArtPrior, ZImagePrior)
    for pipeline in family.pipelines
}


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


def load_prior(name_or_path: str | Path | None = None, *, device: str = "auto", options: PriorOptions = PLAIN) -> Prior:
    """Load a prior of any family: None for the embedded one, a local folder in diffusers' layout, a single-file
    checkpoint (.safetensors), or a name on the Hugging Face hub.

    The embedded one has no diffusers pipeline, unless an option needs it or its folder, EMBEDDED, is named. Raises
    InputError for anything that cannot be loaded.
    """
    where = resolve_device(device)
    options = options.resolved(where.type)
    name = str(name_or_path or EMBEDDED)
    configs, whole = None, True
    if is_single_file(name):
        configs, whole = kind_of(name, configs=options.prior_config)
        index, offline = index_of(configs, f"configs {configs!r} of prior {name!r}")
    elif options.prior_config is not None:
        raise InputError(f"prior_config is for a prior that is a single file, and {name!r} is none: leave it out")
    else:
        index, offline = index_of(name, f"prior {name!r}")
    if options.few_step is None and any(map(is_few_step_name, [os.path.abspath(name), *networks_of(options)])):
        options = replace(options, few_step=True)
    family = family_of(index, name)
    dtype = DTYPES.get(options.torch_dtype, family.half if where.type == "cuda" else torch.float32)
    source = Source(name, index, family.network, dtype, offline, configs, whole, options)
    fingerprint = f"{fingerprint_of(name)} {str(dtype).removeprefix('torch.')}{options.changed}{files_of(options)}"
    if name_or_path is None and suffices(options):
        return EmbeddedPrior(open_embedded(dtype), where, fingerprint, options=options)
    if not family.large or options.keep_text_encoders:
        return family(source.open(), where, fingerprint, options=options)
    pipeline = source.open(**dict.fromkeys(source.text_encoders))
    return family(pipeline, where, fingerprint, source, options)


def networks_of(options: PriorOptions) -> list[str]:
    """Names of what takes the place of the denoising network, or changes it."""
    lora = [str(file_of(text, "lora", LORA_NAME)) for text in options.lora]
    return [*filter(None, [options.transformer]), *options.lora, *lora]


def files_of(options: PriorOptions) -> str:
    """What options name, for a fingerprint: digests of the files, of LoRA and learned words with weights and words."""
    single = {name: getattr(options, name) for name in ("transformer", "tiny_vae", "prior_config")}
    usual = {"lora": LORA_NAME, "textual_inversion": EMBEDS_NAME}
    found = [f" {what}={fingerprint_of(name)}" for what, name in single.items() if name is not None]
    found += [
        f" {what}={fingerprint_of(str(file_of(text, what, name)))}:{weight_of(text) if what == 'lora' else word}"
        for what, name in usual.items()
        for text in getattr(options, what)
        for word in [split_colon(text)[1]]
    ]
    return "".join(found)


def index_of(name: str, what: str) -> tuple[dict[str, Any], bool]:
    """A pipeline's index, and whether the hub is not to be asked for the rest. InputError if there is none."""
    if os.path.isdir(name):  # False, unlike Path.is_dir, for a name too long
        return check_folder(Path(name)), True
    offline = only_cached(name, INDEX, what)
    return load_index(name, offline=offline), offline


def check_folder(folder: Path) -> dict[str, Any]:
    """A folder's index. InputError unless `folder` holds a pipeline with every component that its index lists, none of
    them as a pickle."""
    index = folder / INDEX
    if not index.is_file():
        inner = folder / PRIOR_NAME
        remedy = str(inner) if (inner / INDEX).is_file() else "a folder in diffusers' layout"
        raise InputError(f"prior folder {folder} has no {INDEX}: give {remedy}")
    listed = read_index(index)
    for part, kind in listed.items():
        needed = isinstance(kind, list) and kind[0] is not None and part not in ("safety_checker", "feature_extractor")
        files = list((folder / part).glob("*")) if needed else []
        if needed and not files:
            raise InputError(f"prior folder {folder} lacks its component {part}: download the prior again")
        pickles = [file for file in files if file.suffix in PICKLES]
        if pickles and not any(file.suffix == ".safetensors" for file in files):
            raise InputError(
                f"prior folder {folder} holds {part}/{min(pickles).name}, a pickle, which can run any program when it "
                'is read: convert the folder where you trust it, python -c "import sys, diffusers; diffusers.'
                f'DiffusionPipeline.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])" {folder.name} '
                f"{folder.name}-safetensors"
            )
    return listed


def family_of(index: dict[str, Any], name: str) -> type[DiffusersPrior]:
    """The class for a pipeline with this index. InputError where none is."""
    pipeline = index.get("_class_name")
    if not isinstance(pipeline, str) or pipeline not in FAMILIES:
        raise InputError(
            f"prior {name!r} cannot be loaded: it is a {pipeline}, and the families are {', '.join(FAMILIES)}"
        )
    family = FAMILIES[pipeline]
    for part in (family.network, "vae", "scheduler", *family.needs):
        kind = index.get(part)
        if not isinstance(kind, list) or kind[0] is None:
            raise InputError(f"prior {name!r} cannot be loaded: its index lists no {part}, which a {pipeline} needs")
    return family
