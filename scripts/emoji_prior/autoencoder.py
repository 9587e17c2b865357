"""Training of the autoencoder on crops, and the latents of all training images."""

import random
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from scripts.emoji_prior.checkpoints import load_trained, save
from scripts.emoji_prior.loop import TrainingLoop
from scripts.emoji_prior.networks import SIDE, build_autoencoder
from scripts.emoji_prior.settings import TrainConfig


def gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical differences of neighbouring pixels."""
    return x[..., :, 1:] - x[..., :, :-1], x[..., 1:, :] - x[..., :-1, :]


def train_autoencoder(config: TrainConfig, images: Tensor) -> Any:
    """Fit L1 + MSE + gradient L1 on crops; noise on unit-variance latents makes them smooth."""
    torch.manual_seed(config.seed)
    vae = build_autoencoder(config).to(config.device, memory_format=torch.channels_last)
    if config.start:
        vae.load_state_dict(load_trained(config.start).autoencoder)
        vae.encoder.requires_grad_(not config.keep_encoder)
        vae.quant_conv.requires_grad_(not config.keep_encoder)
    loop = TrainingLoop(config, "autoencoder", vae, config.autoencoder_steps, config.autoencoder_lr, 0.998)

    def reconstruct(x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        z = vae.encode(x).latent_dist.mean
        return vae.decode(z + 0.1 * noise).sample, z

    mine, device_type = loop.processes.share(config.autoencoder_batch), torch.device(config.device).type
    crop, factor = SIDE // 2, 2 ** (len(config.autoencoder_channels) - 1)

    def loss_of(rng: random.Random, generator: torch.Generator) -> Tensor:
        crops = []
        for i in torch.randint(len(images), (config.autoencoder_batch,), generator=generator).tolist():
            top, left = rng.randrange(SIDE - crop + 1), rng.randrange(SIDE - crop + 1)
            crops.append(images[i, :, top : top + crop, left : left + crop])
        x = torch.stack(crops[mine]).to(config.device).float().div(127.5).sub(1)
        x = x.contiguous(memory_format=torch.channels_last)
        size = (config.autoencoder_batch, config.latent_channels, crop // factor, crop // factor)
        noise = torch.randn(size, generator=generator)[mine].to(config.device)
        with torch.autocast(device_type, torch.bfloat16):
            y, z = reconstruct(x, noise)
        y, z = y.float(), z.float()
        edges = sum((a - b).abs().mean() for a, b in zip(gradients(x), gradients(y), strict=True))
        mean, var = z.mean((0, 2, 3)), z.var((0, 2, 3))
        standard = mean.square().mean() + (var - 1).square().mean()
        return (x - y).abs().mean() + mse_loss(x, y) + edges + 0.01 * standard

    loop.train(loss_of, lambda: None)
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def encode_pool(config: TrainConfig, vae: Any, images: Tensor) -> Tensor:
    """Latents of every image, scaled to unit variance (the factor goes into the autoencoder's config)."""
    path = config.out / "latents.pt"
    if path.exists():
        state = torch.load(path)
        vae.register_to_config(scaling_factor=state["scaling_factor"])
        return state["latents"]
    parts = []
    for batch in images.split(64):
        x = batch.to(config.device).float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)
        with torch.autocast(torch.device(config.device).type, torch.bfloat16):
            parts.append(vae.encode(x).latent_dist.mean.float().cpu())
    latents = torch.cat(parts)
    factor = load_trained(config.start).scaling_factor if config.start else 1 / latents.std().item()
    vae.register_to_config(scaling_factor=factor)
    latents = (latents * factor).half()
    save({"latents": latents, "scaling_factor": factor}, path)
    return latents
