"""What a diffusion prior must offer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from cpds.schedule import NoiseSchedule
from cpds.types import Features, Images, Latents, Timesteps


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts, one row each: named tensors (b, ...) that a prior makes and it alone reads.

    A UNet's are embeds; others add pooled embeddings, attention masks, or ids.
    """

    tensors: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def split(self, sizes: Sequence[int]) -> list["Conditioning"]:
        """Parts of these many prompts."""
        parts = {name: x.split(list(sizes)) for name, x in self.tensors.items()}
        return [Conditioning({name: x[i] for name, x in parts.items()}) for i in range(len(sizes))]

    def repeat(self, batch: int) -> "Conditioning":
        """Every prompt repeated for its share of a batch of views."""
        return Conditioning({k: x.repeat_interleave(batch // len(self), 0) for k, x in self.tensors.items()})

    @staticmethod
    def cat(parts: Sequence["Conditioning"]) -> "Conditioning":
        """All rows of the parts, which hold the same tensors."""
        return Conditioning({name: torch.cat([part[name] for part in parts]) for name in parts[0].tensors})


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
    image_size: int  # px of the images that it was trained on
    size_multiple: int  # px; sides of its images must be multiples of this
    feature_width: int  # channels of the widest tapped self-attention
    parameters: int  # of the network that denoises
    fingerprint: str  # what a saved run remembers it by

    def encode(self, images: Images) -> Latents:
        """Latents (mean, scaled) of RGB images in [0, 1]; differentiable."""
        ...

    def decode(self, latents: Latents) -> Images:
        """RGB images in [0, 1]."""
        ...

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts; warns and names what is cut where one is longer than the text encoder takes."""
        ...

    def denoise(self, x_t: Latents, t: Timesteps, conditioning: Conditioning, *, tap: bool = False) -> Prediction:
        """Noise prediction of one branch (no guidance); with `tap` also the self-attention outputs.

        Gradients, where enabled, reach `x_t` through the features alone: nothing after the last tap is recorded.
        """
        ...
