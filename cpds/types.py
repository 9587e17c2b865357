"""Shapes used throughout: b batch, c latent channels, h w latent sides, n tokens or patches, d feature width."""

from jaxtyping import Float, Real
from torch import Tensor

Latents = Float[Tensor, "b c h w"]
Images = Float[Tensor, "b 3 H W"]  # RGB in [0, 1]
Timesteps = Real[Tensor, " b"]  # of a NoiseSchedule: whole numbers, or real ones where it is a flow
Features = Float[Tensor, "b _d _h _w"]  # one self-attention layer's output, laid out as an image; layers differ
TappedFeatures = Float[Tensor, "_b _d _h _w"]  # the same, of some of a batch
Patches = Float[Tensor, "n d"]  # unit-length rows
Scalar = Float[Tensor, ""]
