"""UNet priors: Stable Diffusion 1.x and 2.x, the embedded prior, which has the same layout, and SDXL."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cpds.errors import InputError
from cpds.priors.base import Conditioning
from cpds.priors.diffusers_prior import DiffusersPrior, discrete_schedule
from cpds.priors.hooks import Tap, self_attentions
from cpds.schedule import NoiseSchedule, filled
from cpds.types import Latents, Timesteps


class UNetPrior(DiffusersPrior):
    """Stable Diffusion 1.x and 2.x (epsilon and v), SD-Turbo and the embedded prior: one text encoder, which stays."""

    pipelines = ("StableDiffusionPipeline",)
    network, half, large = "unet", torch.float16, False

    @property
    def unet(self) -> Any:
        return self.net

    @property
    def text_encoder(self) -> Any:
        return self.pipeline.text_encoder

    @property
    def tokenizer(self) -> Any:
        return self.pipeline.tokenizer

    def make_schedule(self, scheduler: Any) -> NoiseSchedule:
        return discrete_schedule(scheduler, self.fingerprint)

    def find_taps(self) -> list[tuple[int, Tap]]:
        taps = self_attentions(self.net)
        if not taps:
            raise InputError(
                f"prior {self.fingerprint} has no self-attention in its up blocks, which cds and cpds need"
            )
        return [(tap.attention.to_out[0].out_features, tap) for tap in taps]

    def sides(self) -> tuple[int, int]:
        """The UNet halves the sides once less than it has scales."""
        down = 2 ** (len(self.net.config.block_out_channels) - 1)
        return self.net.config.sample_size * self.vae_factor, self.vae_factor * down

    def is_few_step(self) -> bool:
        """SD-Turbo and SDXL-Turbo come with an Euler scheduler whose steps trail, and predict epsilon."""
        scheduler = self.pipeline.scheduler
        euler = type(scheduler).__name__.startswith("Euler") and scheduler.config.timestep_spacing == "trailing"
        return (euler and self.schedule.parameterization == "epsilon") or super().is_few_step()

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Conditioning:
        for prompt in prompts:
            self.warn_if_cut(prompt)
        return self._read(prompts)

    def encode_prompt(self, pipeline: Any, prompt: str) -> Conditioning:
        return self._read([prompt])

    def _read(self, prompts: Sequence[str]) -> Conditioning:
        return Conditioning({"embeds": self.text_encoder(self.ids(prompts).to(self.device))[0].float()})

    def ids(self, prompts: Sequence[str]) -> Tensor:
        """(b, n) tokens, cut and padded to what the text encoder takes."""
        _, longest = self.reader()
        return self.tokenizer(
            self.pipeline.maybe_convert_prompt(list(prompts), self.tokenizer),  # words of several vectors
            padding="max_length",
            max_length=longest,
            truncation=True,
            return_tensors="pt",
        ).input_ids

    def reader(self) -> tuple[Any, int]:
        longest = min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)
        return self.tokenizer, longest

    def predict(self, x_t: Latents, t: Timesteps, conditioning: Conditioning) -> Tensor:
        return self.net(x_t, filled(t, self.device), conditioning["embeds"].to(self.net.dtype)).sample


class SDXLPrior(UNetPrior):
    """SDXL and SDXL-Turbo: two text encoders, and micro-conditioning on sizes (Podell 2023, Sec. 2.2).

    The image counts as uncropped and of the size that it has. Where the pipeline says force_zeros_for_empty_prompt the
    unconditional prompt is zeros, else the encoding of "".
    """

    pipelines = ("StableDiffusionXLPipeline",)
    needs = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    large = True
    upcasts_vae = True

    embed = DiffusersPrior.embed

    def reader(self) -> tuple[Any, int]:
        return self.pipeline.tokenizer, self.pipeline.tokenizer.model_max_length

    def encode_prompt(self, pipeline: Any, prompt: str) -> Conditioning:
        """The unconditional one is what the pipeline takes where no negative prompt is given."""
        embeds, null, pooled, null_pooled = pipeline.encode_prompt(
            prompt, device=pipeline.text_encoder.device, do_classifier_free_guidance=not prompt
        )
        if not prompt:
            embeds, pooled = null, null_pooled
        return Conditioning({"embeds": embeds.float(), "pooled": pooled.float()})

    def predict(self, x_t: Latents, t: Timesteps, conditioning: Conditioning) -> Tensor:
        height, width = (side * self.vae_factor for side in x_t.shape[-2:])
        time_ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=x_t.dtype, device=x_t.device)
        added = {"text_embeds": conditioning["pooled"].to(x_t), "time_ids": time_ids.expand(len(x_t), -1)}
        return self.net(x_t, filled(t, self.device), conditioning["embeds"].to(x_t), added_cond_kwargs=added).sample
