"""UNet priors through diffusers: Stable Diffusion 1.x and 2.x, and the embedded prior, which has the same layout."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cpds.errors import InputError
from cpds.hub import reason
from cpds.priors.base import Conditioning, Prediction
from cpds.priors.hooks import capture, self_attentions
from cpds.schedule import NoiseSchedule
from cpds.types import Images, Latents, Timesteps

SUPPORTED = "StableDiffusionPipeline"


class UNetPrior:
    """Prior over a `StableDiffusionPipeline`'s networks, frozen; latents in and out are float32."""

    def __init__(self, pipeline: Any, device: torch.device, fingerprint: str) -> None:
        self.unet, self.vae, self.text_encoder = pipeline.unet, pipeline.vae, pipeline.text_encoder
        self.tokenizer = pipeline.tokenizer
        for network in (self.unet, self.vae, self.text_encoder):
            network.to(device).eval().requires_grad_(False)
        self.device, self.fingerprint = device, fingerprint
        settings = pipeline.scheduler.config
        parameterization = settings.prediction_type
        if parameterization not in ("epsilon", "v_prediction"):
            raise InputError(
                f"prior {fingerprint} predicts {parameterization!r}: priors must predict epsilon or v_prediction"
            )
        self.schedule = NoiseSchedule.from_alpha_bar(pipeline.scheduler.alphas_cumprod, parameterization)
        down = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.image_size = self.unet.config.sample_size * down
        self.size_multiple = down * 2 ** (len(self.unet.config.block_out_channels) - 1)
        self.parameters = sum(x.numel() for x in self.unet.parameters())
        self._taps = self_attentions(self.unet)
        if not self._taps:
            raise InputError(f"prior {fingerprint} has no self-attention in its up blocks, which cds and cpds need")
        self.feature_width = max(attention.to_out[0].out_features for _, attention in self._taps)

    @classmethod
    def load(cls, name: str, device: torch.device, dtype: torch.dtype, *, offline: bool = False) -> "UNetPrior":
        """From a local folder or the hub (`offline`: its cache). InputError if it is not there or of another family."""
        quieten()
        from diffusers import StableDiffusionPipeline

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # deprecations: for us, not for users
                index: Any = StableDiffusionPipeline.load_config(name, local_files_only=offline)
                family = index.get("_class_name") if isinstance(index, dict) else None
                if family != SUPPORTED:
                    raise TypeError(f"it is a {family}, not a {SUPPORTED}")
                pipeline = StableDiffusionPipeline.from_pretrained(
                    name,
                    local_files_only=offline,
                    torch_dtype=dtype,
                    safety_checker=None,
                    feature_extractor=None,
                    image_encoder=None,
                    requires_safety_checker=False,
                )
            for part in ("unet", "vae", "text_encoder"):
                if any(x.is_meta for x in getattr(pipeline, part).parameters()):
                    raise ValueError(f"the weights of its {part} are incomplete")
        except torch.OutOfMemoryError:
            raise
        except Exception as err:  # the libraries raise a dozen kinds for damaged files
            raise InputError(
                f"prior {name!r} cannot be loaded: give a local folder or a hub name of a Stable Diffusion 1.x or 2.x "
                f"pipeline ({reason(err)})"
            ) from err
        return cls(pipeline, device, f"{fingerprint_of(name)} {str(dtype).removeprefix('torch.')}")

    def encode(self, images: Images) -> Latents:
        x = (2 * images - 1).to(self.device, self.vae.dtype)
        return self.vae.encode(x).latent_dist.mean.float() * self.vae.config.scaling_factor

    def decode(self, latents: Latents) -> Images:
        x = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        return (self.vae.decode(x).sample.float() / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Conditioning:
        longest = min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)
        for prompt in prompts:
            ids = self.tokenizer(prompt).input_ids
            if len(ids) > longest:
                lost = self.tokenizer.decode(ids[longest - 1 : -1]).strip()
                warnings.warn(
                    f"prompt is longer than the {longest - 2} tokens the text encoder takes; cut: {lost!r}",
                    stacklevel=2,
                )
        ids = self.tokenizer(
            list(prompts), padding="max_length", max_length=longest, truncation=True, return_tensors="pt"
        ).input_ids
        return Conditioning({"embeds": self.text_encoder(ids.to(self.device))[0].float()})

    def denoise(self, x_t: Latents, t: Timesteps, conditioning: Conditioning, *, tap: bool = False) -> Prediction:
        dtype = self.unet.dtype
        with capture(self._taps if tap else []) as features:
            output = self.unet(x_t.to(dtype), t.to(self.device), conditioning["embeds"].to(dtype)).sample
        with torch.no_grad():
            eps = self.schedule.to_epsilon(output.float(), x_t, t)
        return Prediction(eps, tuple(f.float() for f in features))


def quieten() -> None:
    """Keep the libraries' notes and bars off the terminal: what matters is raised."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity(transformers_logging.CRITICAL)  # first: importing diffusers makes it speak
    transformers_logging.disable_progress_bar()
    from diffusers.utils import logging

    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()


def fingerprint_of(name: str) -> str:
    """A name that stays the same for the same weights: the hub name, or a digest of a local folder's files."""
    import hashlib

    folder = Path(name)
    if not folder.is_dir():
        return name
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*/*")):
        if file.suffix in (".json", ".safetensors", ".bin", ".txt"):
            with file.open("rb") as stream:
                digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return f"{folder.name}@{digest.hexdigest()[:16]}"
