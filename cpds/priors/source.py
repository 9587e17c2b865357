"""Where a prior's pipeline comes from: a folder, the hub or a single file, opened by diffusers in whole or in part."""

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from cpds.errors import InputError, MissingExtra
from cpds.hub import PICKLES, reason
from cpds.priors.adapters import adapt
from cpds.priors.options import BACKENDS, PLAIN, PriorOptions

INDEX = "model_index.json"  # that a pipeline's folder begins with
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
LARGE = 2**28  # bytes of a file from which on its digest is of samples
SAMPLE = 2**23  # bytes, of its beginning, middle and end


@dataclass(frozen=True)
class Source:
    """A pipeline that `open` makes: `name` is a folder, a hub name or a .safetensors file, `index` names its parts.

    `configs` is where a single file's configs come from. `offline`: from the hub's cache alone.
    """

    name: str
    index: Mapping[str, Any]
    network: str  # the part that denoises
    dtype: torch.dtype
    offline: bool = False
    configs: str | None = None
    whole: bool = True  # whether a single file holds more than the network that denoises
    options: PriorOptions = PLAIN

    @property
    def text_encoders(self) -> tuple[str, ...]:
        """The parts that read prompts."""
        return tuple(part for part, kind in self._parts.items() if part.startswith("text_encoder") and kind[0])

    @property
    def _parts(self) -> dict[str, list[Any]]:
        """Library and class of each part; none of one that the pipeline is without."""
        return {part: kind for part, kind in self.index.items() if isinstance(kind, list)}

    def open(self, **given: Any) -> Any:
        """The pipeline; parts in `given` are taken as they are (None: left out). InputError if it cannot be loaded."""
        quieten()
        import diffusers

        given = {part: None for part, kind in self._parts.items() if part in UNUSED or not kind[0]} | given
        if "safety_checker" in given:
            given["requires_safety_checker"] = False
        kind = getattr(diffusers, self.index["_class_name"])
        with opening(f"prior {self.name!r}"):
            if self.network not in given and (self.options.transformer or not self.whole):
                given[self.network] = self._network()
            common = {"torch_dtype": self.dtype, "local_files_only": self.offline, **given}
            if self.configs is not None and self.whole:
                pipeline = kind.from_single_file(self.name, config=self.configs, **common)
            else:
                if self.network not in given and self.options.quantize != "none":
                    common["quantization_config"] = self._quantization()
                pipeline = kind.from_pretrained(self.configs or self.name, use_safetensors=True, **common)
            for part in (self.network, "vae", *self.text_encoders):
                network = getattr(pipeline, part)
                if part not in given and any(x.is_meta for x in network.parameters()):
                    raise ValueError(f"the weights of its {part} are incomplete")
        adapt(pipeline, self.network, {self.network, *self.text_encoders} - given.keys(), self.options)
        return pipeline

    def _network(self) -> Any:
        """The network that denoises, from a file of its own."""
        import diffusers

        where = self.configs or self.name
        file = self.options.transformer or self.name
        kind = getattr(diffusers, self._parts[self.network][1])
        settings: dict[str, Any] = {"torch_dtype": self.dtype, "local_files_only": self.offline}
        if Path(file).suffix in PICKLES:
            raise InputError(f"transformer {file} is a pickle, which can run any program when it is read: convert it")
        if file.endswith(".gguf"):
            require_package("gguf", f"{file} is a GGUF file")
            settings["quantization_config"] = diffusers.GGUFQuantizationConfig(compute_dtype=self.dtype)
        return kind.from_single_file(file, config=where, subfolder=self.network, **settings)

    def _quantization(self) -> Any:
        from diffusers import PipelineQuantizationConfig

        name = self.options.quantize
        backend, bits = name.split("_")
        require_package(BACKENDS[backend], f"quantize {name}")
        settings: dict[str, Any] = {
            "bnb_4bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": self.dtype},
            "bnb_8bit": {"load_in_8bit": True},
        }.get(name, {})
        if backend == "torchao":
            quantization = import_module("torchao.quantization")

            kinds = {"int4": "Int4WeightOnlyConfig", "int8": "Int8WeightOnlyConfig", "fp8": "Float8WeightOnlyConfig"}
            settings["quant_type"] = getattr(quantization, kinds[bits])()
        return PipelineQuantizationConfig(
            quant_backend="torchao" if backend == "torchao" else f"bitsandbytes_{bits}",
            quant_kwargs=settings,
            components_to_quantize=[self.network],
        )


def load_index(name: str, *, offline: bool) -> dict[str, Any]:
    """The index of a pipeline on the hub, or in its cache."""
    quieten()
    from diffusers import DiffusionPipeline

    with opening(f"prior {name!r}"):
        index = DiffusionPipeline.load_config(name, local_files_only=offline)
    assert isinstance(index, dict)
    return index


def model_type(tensors: dict[str, torch.Tensor]) -> str:
    """diffusers' name for the model that a checkpoint with these tensors holds; only their shapes are looked at."""
    quieten()
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type

    try:
        return infer_diffusers_model_type(tensors)
    except Exception:  # it looks for what files of a kind have, where they have it
        return "nothing"


def require_package(name: str, what: str) -> None:
    """MissingExtra unless `name` can be imported."""
    from importlib.util import find_spec

    if find_spec(name) is None:
        raise MissingExtra(f"{what} needs the package {name}, which is not installed: pip install {name}")


@contextmanager
def opening(what: str) -> Iterator[None]:
    """Warnings off, and an InputError for whatever the libraries raise, who have a dozen kinds for damaged files.

    `what` is opened, in a message's words.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations: for us, not for users
            yield
    except (torch.OutOfMemoryError, InputError):
        raise
    except Exception as err:
        raise InputError(f"{what} cannot be loaded ({reason(err)}): check that it is whole") from err


def quieten() -> None:
    """Keep the libraries' notes and bars off the terminal: what matters is raised."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity(transformers_logging.CRITICAL)  # first: importing diffusers makes it speak
    transformers_logging.disable_progress_bar()
    from diffusers.utils import logging

    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()


def fingerprint_of(name: str) -> str:
    """A name that stays the same for the same weights: the hub name, or a digest of a file or a folder's files.

    A pipeline's files lie in the folders of its parts, a single network's in its own. Of files above LARGE their size
    and three samples are read, else 24 GB would take a minute.
    """
    import hashlib

    if not os.path.exists(name):
        return name
    place = Path(os.path.abspath(name))
    depth = "*/*" if (place / INDEX).is_file() else "*"
    digest = hashlib.sha256()
    for file in sorted(place.glob(depth)) if place.is_dir() else [place]:
        if file.suffix in (".json", ".safetensors", ".bin", ".txt", ".model", ".gguf"):
            digest.update(file.name.encode() + _digest_of(file))
    return f"{place.name}@{digest.hexdigest()[:16]}"


def _digest_of(file: Path) -> bytes:
    import hashlib

    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= LARGE:
            return hashlib.file_digest(stream, "sha256").digest()
        digest = hashlib.sha256(str(size).encode())
        for start in (0, (size - SAMPLE) // 2, size - SAMPLE):
            stream.seek(start)
            digest.update(stream.read(SAMPLE))
    return digest.digest()


def read_index(file: Path) -> dict[str, Any]:
    """A pipeline's index. InputError for what is none."""
    try:
        listed = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        raise InputError(f"{file} is not valid JSON: download the prior again") from err
    if not isinstance(listed, dict):
        raise InputError(f"{file} is not a JSON object: download the prior again")
    return listed
