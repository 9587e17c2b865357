"""What a diffusion prior must offer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from cpds.alike import Alike
from cpds.schedule import NoiseSchedule
from cpds.types import Images, Latents, TappedFeatures, Timesteps

# How a prior is guided: by mixing predictions with and without the prompt (classifier-free), by a scale that its
# network takes as an input (FLUX.1 dev), or not at all, as it was distilled to few steps.
GuidanceKind = Literal["classifier-free", "embedded", "none"]


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

    def distinct(self, same: Alike) -> "Conditioning":
        """Those of rows that are the same only once."""
        return Conditioning({k: same.distinct(x) for k, x in self.tensors.items()})

    def repeat(self, batch: int) -> "Conditioning":
        """Every prompt repeated for its share of a batch of views."""
        return Conditioning({k: x.repeat_interleave(batch // len(self), 0) for k, x in self.tensors.items()})

    def at_scale(self, guidance_scale: float) -> "Conditioning":
        """The same prompts with the scale that a network with embedded guidance reads as `guidance` (b)."""
        like = next(iter(self.tensors.values()))
        scale = torch.full((len(self),), guidance_scale, dtype=torch.float32, device=like.device)
        return Conditioning({**self.tensors, "guidance": scale})

    @staticmethod
    def cat(parts: Sequence["Conditioning"]) -> "Conditioning":
        """All rows of the parts, which hold the same tensors."""
        return Conditioning({name: torch.cat([part[name] for part in parts]) for name in parts[0].tensors})


@dataclass(frozen=True)
class Prediction:
    """Raw noise predictions, and the tapped self-attention outputs in the network's order."""

    eps: Latents
    features: tuple[TappedFeatures, ...] = ()


@runtime_checkable
class Prior(Protocol):
    """A frozen text-conditional latent diffusion model."""

    schedule: NoiseSchedule
    device: torch.device
    image_size: int  # px of the images that it was trained on
    size_multiple: int  # px; sides of its images must be multiples of this
    feature_width: int  # channels of the widest tapped self-attention
    parameters: int  # of the network that denoises
    guidance: GuidanceKind
    fingerprint: str  # what a saved run remembers it by

    def encode(self, images: Images) -> Latents:
        """Latents (mean, scaled) of RGB images in [0, 1]; differentiable."""
        ...

    def decode(self, latents: Latents) -> Images:
        """RGB images in [0, 1]."""
        ...

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts; warns and names what is cut where one is longer than the text encoder takes.

        The empty prompt is the unconditional one, whatever a family takes for that.
        """
        ...

    def denoise(self, x_t: Latents, t: Timesteps, conditioning: Conditioning, *, tap: int = 0) -> Prediction:
        """Noise prediction of each sample, guided only as far as `guidance` is embedded; of the first `tap` samples
        also the self-attention outputs (of others too, if that is easier: they are not looked at).

        Gradients, where enabled, reach `x_t` through the features alone: nothing after the last tap is recorded.
        """
        ...
