"""What priors of all families have in common; a family is a subclass that says in what it differs.

A family names its pipelines, and gives: the network's call (`predict`), its schedule, its taps, the sides of an image
in latents and tokens, and its encoding of a prompt (`encode_prompt`) with the tokenizer that cuts it. Latent scaling,
precision, placing, caching of prompts and the way to epsilon are here.
"""

import gc
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from cpds.errors import InputError
from cpds.priors.base import Conditioning, GuidanceKind, Prediction
from cpds.priors.hooks import Tap, capture
from cpds.priors.memory import fits, place
from cpds.priors.options import PLAIN, PriorOptions
from cpds.priors.source import Source
from cpds.schedule import NoiseSchedule
from cpds.types import Images, Latents, Timesteps

FEW_STEP_SCHEDULERS = ("LCMScheduler", "TCDScheduler")


class DiffusersPrior:
    """Prior over a diffusers pipeline's networks, frozen; latents in and out are float32."""

    pipelines: ClassVar[tuple[str, ...]]  # classes that are of this family
    network: ClassVar[str] = "transformer"  # the part that denoises
    needs: ClassVar[tuple[str, ...]] = ("text_encoder", "tokenizer")  # parts beside it, the VAE and the scheduler
    half: ClassVar[torch.dtype] = torch.bfloat16  # what auto takes on CUDA
    fp16: ClassVar[bool] = True  # whether activations fit float16
    large: ClassVar[bool] = True  # text encoders are worth dropping
    upcasts_vae: ClassVar[bool] = False  # whether the VAE must be float32 where its config says force_upcast
    takes_tiny_vae: ClassVar[bool] = True  # whose latents are the network's own
    patch: ClassVar[int] = 2  # sides of a token, in latent cells

    def __init__(
        self,
        pipeline: Any,
        device: torch.device,
        fingerprint: str,
        source: Source | None = None,
        options: PriorOptions = PLAIN,
    ) -> None:
        """`source` is for text encoders that `pipeline` was opened without, each time a new prompt comes."""
        self.pipeline, self.device, self.fingerprint = pipeline, device, fingerprint
        self._source, self._encoded = source, dict[str, Conditioning]()
        self.net, self.vae = getattr(pipeline, self.network), pipeline.vae
        if self.net.dtype == torch.float16 and not self.fp16:
            warnings.warn(f"prior {fingerprint}: fp16 overflows in networks of this family; take bf16", stacklevel=2)
        if self.upcasts_vae and self.vae.dtype == torch.float16 and self.vae.config.get("force_upcast"):
            self.vae.to(torch.float32)
        self.schedule = self.make_schedule(pipeline.scheduler)
        self.parameters = sum(x.numel() for x in self.net.parameters())
        taps = self.find_taps()
        self._taps = [tap for _, tap in taps]
        self.feature_width = max((width for width, _ in taps), default=0)
        few_step = self.is_few_step() if options.few_step is None else options.few_step
        self.guidance: GuidanceKind = "none" if few_step else self.guidance_kind()
        self.vae_factor = 2 ** (len(self.vae.config.block_out_channels) - 1)  # px of a latent cell's side
        self.image_size, self.size_multiple = self.sides()
        if options.tiny_vae is not None and not self.takes_tiny_vae:
            raise InputError(
                f"tiny_vae {options.tiny_vae}: prior {fingerprint} is of a family without one: leave it out"
            )
        self._weights_move = options.offload == "group"
        self._encoder = place(pipeline, self.network, self._taps, device, options)

    # What a family says

    def make_schedule(self, scheduler: Any) -> NoiseSchedule:
        raise NotImplementedError

    def find_taps(self) -> list[tuple[int, Tap]]:
        """Channels and place of each self-attention that the contrastive loss looks at, in the order they run."""
        raise NotImplementedError

    def sides(self) -> tuple[int, int]:
        """px: image_size and size_multiple."""
        return self.net.config.sample_size * self.vae_factor, self.vae_factor * self.patch

    def guidance_kind(self) -> GuidanceKind:
        """Of one that takes any number of steps."""
        return "classifier-free"

    def is_few_step(self) -> bool:
        """Whether it was distilled to few steps, as far as its configs say."""
        return type(self.pipeline.scheduler).__name__ in FEW_STEP_SCHEDULERS

    def encode_prompt(self, pipeline: Any, prompt: str) -> Conditioning:
        """One row, by a pipeline that has its text encoders, where these are; "" is the unconditional prompt."""
        raise NotImplementedError

    def reader(self) -> tuple[Any, int]:
        """The tokenizer that reads furthest, and the number of tokens, special ones too, that it may give."""
        raise NotImplementedError

    def predict(self, x_t: Latents, t: Timesteps, conditioning: Conditioning) -> Tensor:
        """The network's output (b, c, h, w): what the schedule's parameterization says."""
        raise NotImplementedError

    def normalized(self, z: Tensor) -> Tensor:
        """The latents that the network knows, of the autoencoder's: (z - shift) * scale."""
        return (z - (self.vae.config.get("shift_factor") or 0.0)) * self.vae.config.scaling_factor

    def denormalized(self, z: Tensor) -> Tensor:
        """The autoencoder's latents."""
        return z / self.vae.config.scaling_factor + (self.vae.config.get("shift_factor") or 0.0)

    # What all do

    def encode(self, images: Images) -> Latents:
        encoder = self._encoder or self.vae
        found = encoder.encode((2 * images - 1).to(self.device, encoder.dtype))
        if self._encoder is not None:  # tiny autoencoders give what the network knows
            return found.latents.float()
        return self.normalized(found.latent_dist.mean.float())

    def decode(self, latents: Latents) -> Images:
        x = self.denormalized(latents).to(self.vae.dtype)
        return (self.vae.decode(x).sample.float() / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Conditioning:
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._encoded]
        if new:
            reading = self.with_text_encoders()
            for prompt in new:  # one by one: an encoding does not depend on what else is asked
                self.warn_if_cut(prompt)
                row = self.encode_prompt(reading, prompt)
                self._encoded[prompt] = Conditioning({k: x.to(self.device) for k, x in row.tensors.items()})
            del reading
            gc.collect()
        return Conditioning.cat([self._encoded[prompt] for prompt in prompts])

    def with_text_encoders(self) -> Any:
        """The pipeline, or where it was opened without text encoders one that has them until it is let go of."""
        if self._source is None:
            return self.pipeline
        parts = {self.network: self.net, "vae": self.vae, "scheduler": self.pipeline.scheduler}
        pipeline = self._source.open(**parts)
        tokenizers = {part: x for part, x in pipeline.components.items() if part.startswith("tokenizer")}
        self.pipeline.register_modules(**tokenizers)  # they may have learned words, which `reader` is to know
        encoders = [getattr(pipeline, part).eval().requires_grad_(False) for part in self._source.text_encoders]
        if fits(encoders, self.device):  # else they read on the CPU, in seconds
            for encoder in encoders:
                encoder.to(self.device)
        return pipeline

    def warn_if_cut(self, prompt: str) -> None:
        """Name what a prompt loses that is longer than the text encoder takes."""
        tokenizer, longest = self.reader()
        ids = tokenizer(prompt).input_ids
        if len(ids) > longest:
            special = tokenizer.num_special_tokens_to_add()
            lost = tokenizer.decode(ids[longest - 1 : -1]).strip()
            warnings.warn(
                f"prompt is longer than the {longest - special} tokens the text encoder takes; cut: {lost!r}",
                stacklevel=4,
            )

    def denoise(self, x_t: Latents, t: Timesteps, conditioning: Conditioning, *, tap: int = 0) -> Prediction:
        grid = (x_t.shape[-2] // self.patch, x_t.shape[-1] // self.patch)
        with capture(self._taps if tap else [], grid, samples=tap, weights_move=self._weights_move) as features:
            output = self.predict(x_t.to(self.net.dtype), t, conditioning)
        with torch.no_grad():
            eps = self.schedule.to_epsilon(output.float(), x_t, t)
        return Prediction(eps, tuple(features))


def discrete_schedule(scheduler: Any, fingerprint: str) -> NoiseSchedule:
    """Of a scheduler that has alpha-bar. InputError for a prediction that is neither epsilon nor v."""
    parameterization = scheduler.config.get("prediction_type")
    if parameterization not in ("epsilon", "v_prediction"):
        raise InputError(
            f"prior {fingerprint} predicts {parameterization!r}: priors must predict epsilon or v_prediction"
        )
    if not hasattr(scheduler, "alphas_cumprod"):
        raise InputError(
            f"prior {fingerprint} has a scheduler of type {type(scheduler).__name__}, which has no alpha-bar: take a "
            "prior with another"
        )
    return NoiseSchedule.from_alpha_bar(scheduler.alphas_cumprod, parameterization)
