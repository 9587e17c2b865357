"""Training of UNet and text encoder together, on the autoencoder's latents."""

import random
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from transformers import CLIPTokenizer

from scripts.emoji_prior.checkpoints import load_trained
from scripts.emoji_prior.export import sample_sheet
from scripts.emoji_prior.icons import Icons, concepts
from scripts.emoji_prior.loop import TrainingLoop
from scripts.emoji_prior.networks import (
    MAX_TOKENS,
    Denoiser,
    build_scheduler,
    build_tokenizer,
    carry_embeddings,
    deepen,
    repeat_pixels,
)
from scripts.emoji_prior.pool import Drawn, describe
from scripts.emoji_prior.processes import Processes
from scripts.emoji_prior.settings import TrainConfig

TOKENS = "text_encoder.embeddings.token_embedding.weight"


def loss_weight(alpha_bar: Tensor) -> Tensor:
    """Weight of a noise-prediction error: min-SNR (Hang 2023, gamma 5) below, a v-prediction's 1/alpha_bar above.

    Unweighted, the noisy timesteps at which the caption decides the image hardly count: their errors are tiny.
    """
    snr = alpha_bar / (1 - alpha_bar)
    return snr.clamp(max=5) / snr / alpha_bar.clamp(min=0.05)


def warp(u: Tensor, middle: float) -> Tensor:
    """Uniform shares to timesteps in [0, 1] of density 1 / (1 + middle cos(2 pi u)). With 0: as they are."""
    return u + middle * (2 * torch.pi * u).sin() / (2 * torch.pi)


def train_denoiser(
    config: TrainConfig, icons: Icons, latents: Tensor, pool: Sequence[Drawn], weights: Tensor, vae: Any
) -> tuple[Denoiser, CLIPTokenizer, DDIMScheduler]:
    """Noise prediction on SD's scaled-linear schedule. `weights`: how often each image of the pool is drawn, (n,)."""
    words = concepts()
    rng = random.Random(config.seed)
    corpus = [describe(icons, drawn, words, rng) for drawn in pool]
    with Processes(config.device).state.main_process_first():
        tokenizer = build_tokenizer(corpus, config.out / "tokenizer")
    scheduler = build_scheduler()
    alpha_bar = scheduler.alphas_cumprod
    torch.manual_seed(config.seed)
    model = Denoiser(config, tokenizer).to(config.device)
    if config.start:
        start = load_trained(config.start)
        embeddings = carry_embeddings(start.denoiser[TOKENS], start.tokenizer, tokenizer)
        model.load_state_dict(deepen(start.denoiser | {TOKENS: embeddings}, model))
    model.unet.to(memory_format=torch.channels_last)
    loop = TrainingLoop(config, "denoiser", model, config.denoiser_steps, config.lr, 0.9995)
    repeat_pixels(model.unet)
    mine, device_type = loop.processes.share(config.batch), torch.device(config.device).type
    processors = model.unet.attn_processors
    if device_type == "cpu":  # whose fused attention has a slow backward pass: a third of a step's time
        model.unet.set_attn_processor(AttnProcessor())
    forward = torch.compile(model) if config.compile else model

    def loss_of(rng: random.Random, generator: torch.Generator) -> Tensor:
        chosen = weights.multinomial(config.batch, replacement=True, generator=generator)
        texts = [
            "" if rng.random() < config.caption_dropout else describe(icons, pool[i], words, rng)
            for i in chosen.tolist()
        ]
        ids = tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
        z = latents[chosen].float()
        # one timestep from each of `batch` equal strata: less variance than independent draws
        u = (torch.arange(config.batch) + torch.rand(config.batch, generator=generator)) / config.batch
        t = (1000 * warp(u, config.middle)).long()
        noise = torch.randn(z.shape, generator=generator)
        a = alpha_bar[t].view(-1, 1, 1, 1)
        x = a.sqrt() * z + (1 - a).sqrt() * noise
        x = x[mine].to(config.device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device_type, torch.bfloat16):
            eps = forward(x, t[mine].to(config.device), ids.input_ids[mine].to(config.device))
        of_error = loss_weight(alpha_bar[t]).to(config.device)
        error = (eps.float() - noise[mine].to(config.device)).square().mean((1, 2, 3))
        return (of_error[mine] * error).mean() / of_error.mean()

    def save_samples() -> None:
        trained = {k: v.clone() for k, v in model.state_dict().items()}
        model.load_state_dict(loop.average)
        sample_sheet(model.eval(), vae, tokenizer, scheduler).save(config.out / f"samples-{loop.step:06d}.png")
        model.load_state_dict(trained)
        model.train()

    loop.train(loss_of, save_samples)
    model.unet.set_attn_processor(processors)
    return model.eval(), tokenizer, scheduler
