"""Peak memory of one edit step on a nerfacto scene, with a prior of Stable Diffusion 1.5's size (random weights).

    for side in 256 384 512; do python -m benchmarks.scene_memory --side $side; done
    python -m benchmarks.scene_memory --side 128 --direct        # all rays with gradient at once
    python -m benchmarks.scene_memory --side 128 --render-only   # without the prior

A process a row, because memory that was once resident stays so. The scene is nerfacto's standard size, 400 samples a
ray, in its torch implementation.
"""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import tyro
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.models.nerfacto import NerfactoModelConfig

from cpds.editor import step_generator
from cpds.guidance import Guidance
from cpds.presets import PRESETS
from cpds.priors.base import Conditioning
from cpds.priors.load import DTYPES
from cpds.priors.unet import UNetPrior
from cpds.types import Images, Latents
from nerf_plugin.hash_encoding import encode_in_c
from nerf_plugin.rays import render_rays

HALVES = (("Down", "En"), ("Up", "De"))


@dataclass(frozen=True)
class Config:
    """One row."""

    side: int = 512
    """px of the view."""
    rays_per_chunk: int = 4096
    """Rays with gradient at a time."""
    direct: bool = False
    """Keep the whole view's graph instead of rendering it again."""
    render_only: bool = False
    """Leave the prior out: the gradient in the image is a constant."""
    dtype: str = "fp32"
    """Precision of the prior."""
    device: str = "cpu"
    """cpu or cuda."""


class WithoutText(UNetPrior):
    """Needs no text encoder: every prompt is the same noise."""

    def embed(self, prompts: Any) -> Conditioning:
        noise = torch.randn(1, 77, 768, generator=torch.Generator().manual_seed(0))
        return Conditioning({"embeds": noise.expand(len(prompts), 77, 768).to(self.device)})


def prior(device: torch.device, dtype: torch.dtype) -> UNetPrior:
    """The networks of Stable Diffusion 1.5, untrained."""
    unet_config: Any = {
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    }
    blocks = {f"{half.lower()}_block_types": (f"{half}{kind}coderBlock2D",) * 4 for half, kind in HALVES}
    vae_config: Any = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, **blocks}
    with torch.device("meta"):
        networks: list[Any] = [UNet2DConditionModel(sample_size=64, **unet_config), AutoencoderKL(**vae_config)]
    for network in networks:
        network.to_empty(device=device).to(dtype)
        for x in network.parameters():
            torch.nn.init.normal_(x, std=0.01)
    unet, vae = networks
    parts = {"unet": unet, "vae": vae, "text_encoder": torch.nn.Identity(), "tokenizer": None}
    return WithoutText(SimpleNamespace(**parts, scheduler=DDIMScheduler()), device, "random weights")


def guidance_of(model_prior: UNetPrior) -> Callable[[Images], tuple[Latents, Latents]]:
    """A step's latents of an image, and the gradient in them."""
    guidance = Guidance(model_prior, "a", "b", PRESETS["cpds"].guidance, steps=10)

    def guide(image: Images) -> tuple[Latents, Latents]:
        latents = model_prior.encode(image)
        return latents, guidance.step(latents.detach(), latents, 0, step_generator(0, 0)).gradient

    return guide


def peak(device: torch.device) -> float:
    """GiB that were needed at most."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main(config: Config) -> None:
    device = torch.device(config.device)
    box = SceneBox(torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
    settings = NerfactoModelConfig(implementation="torch", use_appearance_embedding=False)
    model: Any = settings.setup(scene_box=box, num_train_data=1, metadata={}, device=config.device)
    model.to(device).train()
    model.proposal_sampler.update_sched = lambda step: -1
    pose = torch.tensor([[[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1.5]]])
    half = config.side / 2
    camera = Cameras(pose, 1.2 * config.side, 1.2 * config.side, half, half, config.side, config.side).to(device)
    encode_in_c(model)
    guide = None if config.render_only else guidance_of(prior(device, DTYPES[config.dtype]))
    before = peak(device)
    began = time.perf_counter()
    image, losses = render_rays(model, camera, config.rays_per_chunk, not config.direct)
    rendered = peak(device)
    latents, gradient = (image, torch.ones_like(image)) if guide is None else guide(image)
    torch.autograd.backward([latents, *losses.values()], [gradient, *map(torch.ones_like, losses.values())])
    seconds = time.perf_counter() - began
    print(
        f"| {config.side} | {'all' if config.direct else config.rays_per_chunk} | {before:.2f} | {rendered:.2f} "
        f"| {peak(device):.2f} | {seconds:.0f} |"
    )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
