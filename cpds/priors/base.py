"""What a diffusion prior must offer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from cpds.schedule import NoiseSchedule
from cpds.types import Features, Images, Latents, Timesteps


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts, one row each."""

    embeds: Float[Tensor, "b n d"]

    def __add__(self, other: "Conditioning") -> "Conditioning":
        return Conditioning(torch.cat([self.embeds, other.embeds]))

    def expand(self, batch: int) -> "Conditioning":
        """Every prompt repeated for its share of a batch of views."""
        return Conditioning(self.embeds.repeat_interleave(batch // len(self.embeds), 0))


@dataclass(frozen=True)
class Prediction:
    """One branch's raw noise prediction, and the tapped self-attention outputs in the network's order."""

    eps: Latents
    features: tuple[Features, ...] = ()


@runtime_checkable
class Prior(Protocol):
    """A frozen text-conditional latent diffusion model."""

    schedule: NoiseSchedule
    device: torch.device
    image_size: int  # px of the pictures that it was trained on
    size_multiple: int  # px; sides of its pictures must be multiples of this
    feature_width: int  # channels of the widest tapped self-attention
    parameters: int  # of the network that denoises
    fingerprint: str  # what a saved run remembers it by

    def encode(self, images: Images) -> Latents:
        """Latents (mean, scaled) of RGB pictures in [0, 1]; differentiable."""
        ...

    def decode(self, latents: Latents) -> Images:
        """RGB pictures in [0, 1]."""
        ...

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts; warns and names what is cut where one is longer than the text encoder takes."""
        ...

    def denoise(self, x_t: Latents, t: Timesteps, text: Conditioning, *, tap: bool = False) -> Prediction:
        """Noise prediction of one branch (no guidance); with `tap` also the self-attention outputs.

        Gradients, where enabled, reach `x_t` through the features alone: nothing after the last tap is recorded.
        """
        ...
