"""LoRA and textual inversion: small files that change a pipeline's networks, or add words to its tokenizers.

A LoRA is fused once it is loaded: steps cost what they cost without, and hooks find the modules that they know. Where
weights are quantized it stays beside them, as a sum would be rounded to their few bits.
"""

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from cpds.errors import InputError
from cpds.hub import PICKLES, only_cached, reason
from cpds.priors.options import PriorOptions, split_colon, weight_of

RUN_NAME, PRIOR_NAME = "dreambooth.json", "prior"  # in a folder of cpds dreambooth: its settings, and a whole prior
LORA_NAME, EMBEDS_NAME = "pytorch_lora_weights.safetensors", "learned_embeds.safetensors"  # diffusers' own


def adapt(pipeline: Any, network: str, parts: Collection[str], options: PriorOptions) -> None:
    """Give those `parts` of a pipeline that were just opened what `options` says of LoRA and textual inversion.

    `network` denoises. InputError for files that do not fit, and families that have none.
    """
    kind = type(pipeline).__name__
    if options.textual_inversion and not hasattr(pipeline, "load_textual_inversion"):
        raise InputError(f"textual_inversion is for families with CLIP, and a {kind} takes none: leave it out")
    if options.lora and not hasattr(pipeline, "load_lora_weights"):
        raise InputError(f"lora: diffusers loads none for a {kind}: leave it out")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what does not fit, which is raised below
        if "text_encoder" in parts:
            for text in options.textual_inversion:
                add_words(pipeline, text)
        for i, text in enumerate(options.lora):
            add_lora(pipeline, network, parts, text, f"lora_{i}")
    weights = {f"lora_{i}": weight_of(text) for i, text in enumerate(options.lora)}
    for part in parts if weights else ():
        set_weights(getattr(pipeline, part), weights, fuse=part != network or not is_quantized(options))


def is_quantized(options: PriorOptions) -> bool:
    """Whether the weights of the network that denoises have few bits."""
    return options.quantize != "none" or (options.transformer or "").endswith(".gguf")


def add_lora(pipeline: Any, network: str, parts: Collection[str], text: str, name: str) -> None:
    """A LoRA's layers for `parts`, as the adapter `name`; not yet with its weight."""
    file = file_of(text, "lora", LORA_NAME)
    unfit = f"lora {split_colon(text)[0]} does not fit a {type(pipeline).__name__}"
    settings: dict[str, Any] = {"return_lora_metadata": True, "return_alphas": True}  # alphas: FLUX.1 alone is asked
    if network == "unet" and "text_encoder_2" in pipeline.components:
        settings["unet_config"] = pipeline.unet.config  # SDXL's blocks have other names in other programs
    try:
        state, *alphas, metadata = pipeline.lora_state_dict(str(file), **settings)
    except Exception as err:  # of a dozen kinds, for each of the formats that are converted
        raise InputError(f"lora {file} cannot be read ({reason(err)}): give a .safetensors file of a LoRA") from err
    if not any("lora" in key or "lokr" in key for key in state):
        raise InputError(f"lora {file} holds no LoRA: give a file that was saved as one")
    known = (network, "text_encoder", "text_encoder_2")
    if not any(key.startswith(f"{part}.") for key in state for part in known):
        raise InputError(f"{unfit}: it has nothing for its {network} or text encoders; take one of the prior's family")
    given = {"network_alphas": alphas[0] if alphas else None, "adapter_name": name, "metadata": metadata}
    for part in known:
        wanted = sum(key.startswith(f"{part}.") for key in state)
        if part not in parts or not wanted:
            continue
        module = getattr(pipeline, part)
        try:
            if part == network:
                module.load_lora_adapter(state, prefix=part, **given)
            else:
                pipeline.load_lora_into_text_encoder(state, text_encoder=module, prefix=part, **given)
            taken = sum(name in key.split(".") for key, _ in module.named_parameters())
            if taken < wanted:
                raise ValueError(f"its {part} has a place for {taken} of {wanted} tensors")
        except Exception as err:  # of peft's and torch's kinds
            why = "its tensors have other shapes" if isinstance(err, RuntimeError) else reason(err)
            raise InputError(f"{unfit} ({why}): take one of the prior's family") from err


def set_weights(module: Any, weights: Mapping[str, float], *, fuse: bool) -> None:
    """Let the adapters of a network take part by these weights: W + sum of weight * scale * B A."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers: list[Any] = [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]
    for layer in layers:
        for name, weight in weights.items():
            layer.set_scale(name, weight)
        layer.set_adapter(list(weights))
        if fuse:
            layer.merge(adapter_names=list(weights))
    if fuse and layers:
        remove_layers(module)


def remove_layers(module: Any) -> None:
    """Put a network's own layers back in the place of those that hold adapters, as they are."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(module.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            module.set_submodule(name, layer.get_base_layer())
    del module.peft_config
    module._hf_peft_config_loaded = False


def add_words(pipeline: Any, text: str) -> None:
    """A learned word for the tokenizer and text encoder, or the two pairs of them where it was learned for both."""
    from safetensors.torch import load_file

    file = file_of(text, "textual_inversion", EMBEDS_NAME)
    name, word = split_colon(text)
    try:
        learned = load_file(file)
        for suffix, key in encoders_of(learned):
            token = word or (file.stem if key in ("clip_l", "clip_g", "emb_params") else key)
            module, tokenizer = (getattr(pipeline, part + suffix) for part in ("text_encoder", "tokenizer"))
            pipeline.load_textual_inversion({token: learned[key]}, text_encoder=module, tokenizer=tokenizer)
    except Exception as err:
        raise InputError(
            f"textual_inversion {name} cannot be used ({reason(err)}): take a file of the prior's family, with a word "
            "that it does not have yet"
        ) from err


def encoders_of(learned: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Suffix of the text encoder and name of each of a file's tensors. ValueError where it holds something else."""
    both = [("", "clip_l"), ("_2", "clip_g")]
    if set(learned) == {"clip_l", "clip_g"}:
        return both
    if len(learned) != 1:
        raise ValueError(f"it holds {len(learned)} tensors instead of one, or clip_l and clip_g")
    return [("", next(iter(learned)))]


def file_of(text: str, what: str, usual: str) -> Path:
    """The .safetensors file that one of `lora` or `textual_inversion` names, fetched from the hub if it must be."""
    name, _ = split_colon(text)
    path = Path(name)
    if path.suffix in PICKLES and path.is_file():
        raise InputError(f"{what} {name} is a pickle, which can run any program when it is read: give a .safetensors")
    if path.is_file():
        return path
    if path.is_dir():
        if usual == LORA_NAME and (path / RUN_NAME).is_file() and not (path / usual).is_file():
            whole = (path / PRIOR_NAME).is_dir()
            remedy = f"it holds a whole prior: take {path / PRIOR_NAME} as prior" if whole else "resume it first"
            raise InputError(f"{what} folder {name} is a run of cpds dreambooth that has no {usual}: {remedy}")
        return path / chosen((file.name for file in path.glob("*.safetensors")), usual, f"{what} folder {name}")
    owner, _, rest = name.partition("/")
    model, _, file = rest.partition("/")
    if not model or path.is_absolute() or name.startswith("."):
        raise InputError(f"{what} {name} does not exist: check the path, or give a hub name (owner/model)")
    return hub_file(f"{owner}/{model}", file, usual, what)


@cache
def hub_file(repository: str, file: str, usual: str, what: str) -> Path:
    """A file of a model on the hub: the one named, else its only .safetensors or the usual one."""
    from huggingface_hub import hf_hub_download, list_repo_files

    named = f"{what} {repository}"
    if offline := only_cached(repository, file or usual, named):
        file = file or usual
    try:
        if not file:
            listed = (name for name in list_repo_files(repository) if name.endswith(".safetensors"))
            file = chosen(listed, usual, named)
        return Path(hf_hub_download(repository, file, local_files_only=offline))
    except InputError:
        raise
    except Exception as err:  # of one of three HTTP libraries
        raise InputError(
            f"{named} has no {file} that can be fetched ({reason(err)}): name a file of it, {repository}/FILE"
        ) from err


def chosen(names: Iterable[str], usual: str, what: str) -> str:
    """The usual one of some files, or the only one. InputError where neither is there."""
    found: Sequence[str] = sorted(names)
    if usual in found or len(found) == 1:
        return usual if usual in found else found[0]
    several = f" but {', '.join(found[:4])}" if found else ""
    raise InputError(f"{what} holds no {usual}{several}: name the .safetensors file itself")
