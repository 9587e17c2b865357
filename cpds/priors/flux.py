"""FLUX.1 and FLUX.2 priors, whose networks take latents as tokens with coordinates: double, then single blocks."""

from typing import Any

import torch
from torch import Tensor

from cpds.priors.base import Conditioning, GuidanceKind
from cpds.priors.chat import warn_if_chat_is_cut
from cpds.priors.hooks import Tap, middle
from cpds.priors.transformer import FlowPrior
from cpds.types import Latents, Timesteps


def flux_taps(net: Any) -> list[tuple[int, Tap]]:
    """Attention of both kinds of blocks as one depth: double ones give (image, text), single ones [text, image]."""
    blocks = [*net.transformer_blocks, *net.single_transformer_blocks]
    return [(net.inner_dim, tap) for tap in middle([Tap(block.attn, text_first=True) for block in blocks])]


class FluxPrior(FlowPrior):
    """FLUX.1: T5 for tokens, CLIP-L pooled. Of dev guidance is an input of the network, schnell takes none."""

    pipelines = ("FluxPipeline",)
    needs = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")

    def find_taps(self) -> list[tuple[int, Tap]]:
        return flux_taps(self.net)

    def sides(self) -> tuple[int, int]:
        return self.pipeline.default_sample_size * self.vae_factor, self.vae_factor * self.patch

    def guidance_kind(self) -> GuidanceKind:
        return "embedded" if self.net.config.guidance_embeds else "classifier-free"

    def reader(self) -> tuple[Any, int]:
        """dev was trained with 512 tokens, schnell with 256."""
        return self.pipeline.tokenizer_2, 512 if self.net.config.guidance_embeds else 256

    def encode_prompt(self, pipeline: Any, prompt: str) -> Conditioning:
        embeds, pooled, _ = pipeline.encode_prompt(
            prompt, None, device=pipeline.text_encoder.device, max_sequence_length=self.reader()[1]
        )
        return Conditioning({"embeds": embeds.float(), "pooled": pooled.float()})

    def predict(self, x_t: Latents, t: Timesteps, conditioning: Conditioning) -> Tensor:
        b, c, h, w = x_t.shape
        embeds, guidance = conditioning["embeds"].to(x_t), None
        if self.net.config.guidance_embeds:
            guidance = conditioning.tensors.get("guidance", torch.ones(b, device=self.device))
        cells = x_t.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # b c h/2 2 w/2 2
        output = self.net(
            hidden_states=cells.permute(0, 2, 4, 1, 3, 5).reshape(b, -1, 4 * c),
            timestep=self.sigma(t),
            guidance=guidance,
            encoder_hidden_states=embeds,
            pooled_projections=conditioning["pooled"].to(x_t),
            txt_ids=torch.zeros(embeds.shape[1], 3, device=self.device),
            img_ids=coordinates(h // 2, w // 2, (1, 2), 3, self.device),
        ).sample
        cells = output.view(b, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return cells.reshape(b, c, h, w)


class Flux2Prior(FlowPrior):
    """FLUX.2 klein: three layers of Qwen3 side by side; latents of 2 x 2 cells, by the VAE's batch statistics."""

    pipelines = ("Flux2KleinPipeline",)
    patch = 1  # latents are cells already
    takes_tiny_vae = False

    def find_taps(self) -> list[tuple[int, Tap]]:
        return flux_taps(self.net)

    def sides(self) -> tuple[int, int]:
        return self.pipeline.default_sample_size * self.vae_factor, 2 * self.vae_factor

    def is_few_step(self) -> bool:
        return bool(self.pipeline.config.is_distilled) or super().is_few_step()

    def warn_if_cut(self, prompt: str) -> None:
        warn_if_chat_is_cut(self.pipeline.tokenizer, prompt, 512, enable_thinking=False)

    def encode_prompt(self, pipeline: Any, prompt: str) -> Conditioning:
        embeds, ids = pipeline.encode_prompt(prompt, device=pipeline.text_encoder.device)
        return Conditioning({"embeds": embeds.float(), "ids": ids})

    def predict(self, x_t: Latents, t: Timesteps, conditioning: Conditioning) -> Tensor:
        b, c, h, w = x_t.shape
        output = self.net(
            hidden_states=x_t.flatten(2).transpose(1, 2),
            timestep=self.sigma(t),
            guidance=None,
            encoder_hidden_states=conditioning["embeds"].to(x_t),
            txt_ids=conditioning["ids"],
            img_ids=coordinates(h, w, (1, 2), 4, self.device).expand(b, -1, -1),
        ).sample
        return output.transpose(1, 2).reshape(b, c, h, w)

    def normalized(self, z: Tensor) -> Tensor:
        cells = z.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 1, 3, 5, 2, 4)
        mean, std = self._statistics(z)
        return (cells.flatten(1, 3) - mean) / std

    def denormalized(self, z: Tensor) -> Tensor:
        mean, std = self._statistics(z)
        cells = (z * std + mean).unflatten(1, (-1, 2, 2)).permute(0, 1, 4, 2, 5, 3)
        return cells.flatten(4, 5).flatten(2, 3)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel (1, c, 1, 1)."""
        bn = self.vae.bn
        mean, variance = (x.view(1, -1, 1, 1).to(like) for x in (bn.running_mean, bn.running_var))
        return mean, (variance + self.vae.config.batch_norm_eps).sqrt()


def coordinates(height: int, width: int, axes: tuple[int, int], count: int, device: torch.device) -> Tensor:
    """(height * width, count) float32: row and column of each token on two of `count` axes, 0 on the others."""
    ids = torch.zeros(height, width, count, device=device)
    ids[..., axes[0]] = torch.arange(height, device=device)[:, None]
    ids[..., axes[1]] = torch.arange(width, device=device)
    return ids.flatten(0, 1)
