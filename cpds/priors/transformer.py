"""Transformer priors whose networks take latents as images: Stable Diffusion 3 and 3.5, and PixArt-Sigma."""

import math
from typing import Any

import torch
from torch import Tensor

from cpds.priors.base import Conditioning
from cpds.priors.diffusers_prior import DiffusersPrior, discrete_schedule
from cpds.priors.hooks import Tap, middle
from cpds.schedule import NoiseSchedule, filled
from cpds.types import Latents, Timesteps


class FlowPrior(DiffusersPrior):
    """A flow: the network is asked at sigma itself, of whatever real timestep, and predicts noise minus latents."""

    fp16 = False

    def make_schedule(self, scheduler: Any) -> NoiseSchedule:
        """A shift that depends on the image's size is taken at its largest, which is what large images have."""
        config = scheduler.config
        return NoiseSchedule.flow(
            config.num_train_timesteps,
            math.exp(config.max_shift) if config.get("use_dynamic_shifting") else config.shift,
        )

    def sigma(self, t: Timesteps) -> Tensor:
        """Of each of a batch, float32, where the network is."""
        return filled(self.schedule.at(t)[1].float(), self.device)


class SD3Prior(FlowPrior):
    """SD3 and SD3.5: CLIP-L and CLIP-G side by side, then T5 (which a pipeline may lack); joint attention."""

    pipelines = ("StableDiffusion3Pipeline",)
    needs = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")

    def find_taps(self) -> list[tuple[int, Tap]]:
        taps = middle([Tap(block.attn) for block in self.net.transformer_blocks])
        return [(self.net.inner_dim, tap) for tap in taps]

    def reader(self) -> tuple[Any, int]:
        """T5 reads 256 tokens, CLIP the first 77 of them."""
        t5 = self.pipeline.tokenizer_3
        return (t5, 256) if t5 is not None else (self.pipeline.tokenizer, self.pipeline.tokenizer_max_length)

    def encode_prompt(self, pipeline: Any, prompt: str) -> Conditioning:
        embeds, _, pooled, _ = pipeline.encode_prompt(
            prompt, None, None, device=pipeline.text_encoder.device, do_classifier_free_guidance=False
        )
        return Conditioning({"embeds": embeds.float(), "pooled": pooled.float()})

    def predict(self, x_t: Latents, t: Timesteps, conditioning: Conditioning) -> Tensor:
        return self.net(
            hidden_states=x_t,
            timestep=1000 * self.sigma(t),
            encoder_hidden_states=conditioning["embeds"].to(x_t),
            pooled_projections=conditioning["pooled"].to(x_t),
        ).sample


class PixArtPrior(DiffusersPrior):
    """PixArt-Sigma: T5 with a mask; predicts epsilon, and a variance that is left aside."""

    pipelines = ("PixArtSigmaPipeline",)
    half = torch.float16
    upcasts_vae = True

    def make_schedule(self, scheduler: Any) -> NoiseSchedule:
        return discrete_schedule(scheduler, self.fingerprint)

    def find_taps(self) -> list[tuple[int, Tap]]:
        taps = middle([Tap(block.attn1) for block in self.net.transformer_blocks])
        return [(self.net.inner_dim, tap) for tap in taps]

    def reader(self) -> tuple[Any, int]:
        return self.pipeline.tokenizer, 300

    def encode_prompt(self, pipeline: Any, prompt: str) -> Conditioning:
        embeds, mask, _, _ = pipeline.encode_prompt(
            prompt, do_classifier_free_guidance=False, device=pipeline.text_encoder.device
        )
        return Conditioning({"embeds": embeds.float(), "mask": mask})

    def predict(self, x_t: Latents, t: Timesteps, conditioning: Conditioning) -> Tensor:
        output = self.net(
            x_t,
            encoder_hidden_states=conditioning["embeds"].to(x_t),
            encoder_attention_mask=conditioning["mask"],
            timestep=filled(t, self.device),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample
        return output[:, : x_t.shape[1]]
