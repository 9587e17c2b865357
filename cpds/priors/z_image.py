"""Z-Image priors: one stream of image and text tokens, time that runs the other way, and an output of opposite sign."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from cpds.priors.base import Conditioning
from cpds.priors.chat import warn_if_chat_is_cut
from cpds.priors.hooks import Tap, middle
from cpds.priors.transformer import FlowPrior
from cpds.types import Latents, Timesteps

LONGEST = 512  # tokens of a prompt with its template


class ZImagePrior(FlowPrior):
    """Z-Image and Z-Image-Turbo. Their pipeline's guidance_scale s is 1 less than ours: v + s (v - v_null)."""

    pipelines = ("ZImagePipeline",)

    def find_taps(self) -> list[tuple[int, Tap]]:
        taps = middle([Tap(layer.attention) for layer in self.net.layers])
        return [(self.net.config.dim, tap) for tap in taps]

    def sides(self) -> tuple[int, int]:
        """1024 px is the pipeline's default, which no config names."""
        return 128 * self.vae_factor, self.vae_factor * self.patch

    def warn_if_cut(self, prompt: str) -> None:
        warn_if_chat_is_cut(self.pipeline.tokenizer, prompt, LONGEST, enable_thinking=True)

    def encode_prompt(self, pipeline: Any, prompt: str) -> Conditioning:
        """Padded to LONGEST, so that rows can be joined; `length` says how many tokens the network is to see."""
        (embeds,), _ = pipeline.encode_prompt(
            prompt, device=pipeline.text_encoder.device, do_classifier_free_guidance=False, max_sequence_length=LONGEST
        )
        length = torch.tensor([len(embeds)])
        return Conditioning({"embeds": pad(embeds.float(), (0, 0, 0, LONGEST - len(embeds)))[None], "length": length})

    def predict(self, x_t: Latents, t: Timesteps, conditioning: Conditioning) -> Tensor:
        rows = zip(conditioning["embeds"].to(x_t), conditioning["length"].tolist(), strict=True)
        output = self.net(
            list(x_t.unsqueeze(2).unbind(0)), 1 - self.sigma(t), [embeds[:length] for embeds, length in rows]
        ).sample
        return -torch.stack(output).squeeze(2)
