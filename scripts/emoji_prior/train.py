"""Train the embedded prior: a small text-conditional latent diffusion model of emoji icons, in diffusers' layout.

    python -m scripts.emoji_prior.train --out runs/prior                          # everything, resumes where it stopped
    python -m scripts.emoji_prior.train --out runs/prior --denoiser-steps 20000   # longer; may be changed on resume
    python -m scripts.emoji_prior.train --out runs/prior --export cpds/assets/prior
    python -m scripts.emoji_prior.train --out runs/next --start cpds/assets/prior # go on from others' weights

The learning rate warms up, stays, and falls to zero over the last steps: to end a run early, resume it with fewer.

Three stages, each with checkpoints in `out`: draw pictures (icons.py), fit the autoencoder on random crops of them, fit
denoiser and text encoder together on the autoencoder's latents. bf16 autocast on CPU and GPU alike.
"""

import hashlib
import json
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import tyro
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from transformers import CLIPTokenizer

from scripts.emoji_prior.collages import Collage, collage_caption, draw_collage, random_collage
from scripts.emoji_prior.export import export, sample_sheet
from scripts.emoji_prior.icons import Icons, Scene, caption, concepts, draw, held_out_pairs, load_icons, random_scene
from scripts.emoji_prior.networks import (
    MAX_TOKENS,
    SIDE,
    Denoiser,
    Sizes,
    build_autoencoder,
    build_tokenizer,
    carry_embeddings,
    repeat_pixels,
)

TOKENS = "text_encoder.embeddings.token_embedding.weight"


@dataclass(frozen=True)
class Config(Sizes):
    """Settings of the training run; step counts may change on resume."""

    out: Path = Path("runs/prior")
    """Folder for checkpoints, samples and the log."""
    start: Path | None = None
    """Begin with the networks of this finished run, or of this prior in diffusers' layout, of the same sizes. Token
    embeddings are carried over by the text they stand for."""
    keep_encoder: bool = False
    """With `start`: train the autoencoder's decoder alone, so that latents stay what they were."""
    export: Path | None = None
    """Write the finished pipeline and its model card here."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Torch device."""
    seed: int = 0
    """Seeds pictures, initial weights and batches."""
    renders_per_icon: int = 32
    """Pictures drawn of each icon alone on a plain background."""
    collages: float = 0.3
    """Share of pictures with other backgrounds, or with two or three icons."""
    autoencoder_steps: int = 3000
    """Optimizer steps of the autoencoder."""
    autoencoder_batch: int = 32
    """Random crops of 64 px in one of its steps."""
    denoiser_steps: int = 10000
    """Optimizer steps of denoiser and text encoder."""
    batch: int = 48
    """Pictures in a step."""
    lr: float = 1e-3
    """AdamW learning rate of the denoiser; linear warm-up, constant, then linear to zero."""
    autoencoder_lr: float = 1e-3
    """The same of the autoencoder."""
    decay: float = 0.3
    """Share of the steps over which the learning rate falls to zero."""
    caption_dropout: float = 0.1
    """Share of captions replaced by the empty one, for classifier-free guidance."""
    save_every: int = 500
    """Steps between checkpoints."""
    save_minutes: float = 10
    """Minutes after which a checkpoint is written all the same."""
    compile: bool = True
    """Compile the denoiser (needs a C compiler on CPU)."""


Drawn = Scene | Collage


def random_pool(config: Config, icons: Icons) -> list[Drawn]:
    """What the training pictures show; held-out pairs never appear."""
    held_out = held_out_pairs()
    rng = random.Random(config.seed)
    keep = [i for i in range(len(icons)) if (icons.concept[i], icons.style[i]) not in held_out]
    pool: list[Drawn] = [random_scene(i, rng) for i in keep for _ in range(config.renders_per_icon)]
    by_style = {style: [i for i in keep if icons.style[i] == style] for style in set(icons.style)}
    for n in range(round(len(pool) * config.collages / (1 - config.collages))):
        first = keep[n % len(keep)]  # every icon equally often
        others = by_style[icons.style[first]] if rng.random() < 0.7 else keep
        pool.append(random_collage([first, *rng.choices(others, k=n % 3)], rng))
    return pool


def draw_pool(config: Config, icons: Icons) -> tuple[Tensor, list[Drawn]]:
    """All training pictures (n, 3, SIDE, SIDE) uint8 and what they show."""
    pool = random_pool(config, icons)
    path = config.out / "pictures.pt"
    shown = [drawn.scenes if isinstance(drawn, Collage) else (drawn,) for drawn in pool]
    names = [
        ([(icons.concept[s.icon], icons.style[s.icon]) for s in scenes], asdict(drawn))
        for scenes, drawn in zip(shown, pool, strict=True)
    ]
    digest = hashlib.sha256(json.dumps(names).encode()).hexdigest()
    if path.exists():
        made = torch.load(path, mmap=True)
        if made["digest"] == digest:
            return made["pictures"], pool

    def pixels(drawn: Drawn) -> Tensor:
        picture, _ = draw(icons, drawn, SIDE) if isinstance(drawn, Scene) else draw_collage(icons, drawn, SIDE)
        return (picture * 255).round().byte()

    pictures = torch.stack([pixels(drawn) for drawn in pool])
    save({"pictures": pictures, "digest": digest}, path)
    (config.out / "latents.pt").unlink(missing_ok=True)  # those of other pictures
    return pictures, pool


def save(state: object, path: Path) -> None:
    """Write whole or not at all."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical differences of neighbouring pixels."""
    return x[..., :, 1:] - x[..., :, :-1], x[..., 1:, :] - x[..., :-1, :]


def rate(step: int, steps: int, decay: float, warmup: int = 100) -> float:
    """Learning-rate factor: linear warm-up, constant, linear to zero over the last `decay` of the steps."""
    return min(1.0, (step + 1) / warmup, max(0.0, (steps - step) / (decay * steps)))


class Finished(NamedTuple):
    """Trained networks to begin from."""

    autoencoder: dict[str, Tensor]
    scaling_factor: float
    denoiser: dict[str, Tensor]
    tokenizer: CLIPTokenizer
    about: str  # for the model card


def finished(start: Path) -> Finished:
    """Weights of a run folder (averaged), or of a folder in diffusers' layout."""
    if (start / "model_index.json").exists():
        pipeline = StableDiffusionPipeline.from_pretrained(start, safety_checker=None, torch_dtype=torch.float32)
        parts = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
        denoiser = {f"{name}.{k}": v for name, part in parts.items() for k, v in part.state_dict().items()}
        factor, tokenizer = pipeline.vae.config["scaling_factor"], pipeline.tokenizer
        return Finished(pipeline.vae.state_dict(), factor, denoiser, tokenizer, "the prior that shipped before")
    states = {name: torch.load(start / f"{name}.pt", map_location="cpu") for name in ("autoencoder", "denoiser")}
    factor = torch.load(start / "latents.pt", mmap=True)["scaling_factor"]
    steps = {name: state["step"] for name, state in states.items()}
    about = f"an earlier run: {steps['autoencoder']} steps of the autoencoder, {steps['denoiser']} of the denoiser"
    tokenizer = build_tokenizer([], start / "tokenizer")
    return Finished(states["autoencoder"]["average"], factor, states["denoiser"]["average"], tokenizer, about)


class Run:
    """The loop both networks share: optimizer, schedule, moving average, log and checkpoints."""

    def __init__(self, config: Config, name: str, module: nn.Module, steps: int, lr: float, momentum: float) -> None:
        self.config, self.name, self.module, self.steps = config, name, module, steps
        self.lr, self.momentum = lr, momentum
        self.optimizer = torch.optim.AdamW(module.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.01)
        self.average = {k: v.detach().clone() for k, v in module.state_dict().items()}
        self.step = 0
        self.path = config.out / f"{name}.pt"
        if self.path.exists():
            state = torch.load(self.path, map_location=config.device)
            module.load_state_dict(state["module"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average, self.step = state["average"], state["step"]

    def __call__(
        self, loss_of: Callable[[random.Random, torch.Generator], Tensor], on_save: Callable[[], None]
    ) -> None:
        """Train until `steps`, then leave the averaged weights in the module."""
        began, since, total, saved = time.time(), self.step, 0.0, time.time()
        while self.step < self.steps:
            # every step has its own seed, so that a resumed run sees the same batches
            seed = hash((self.config.seed, self.name == "denoiser", self.step))
            loss = loss_of(random.Random(seed), torch.Generator().manual_seed(seed % 2**63))
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * rate(self.step, self.steps, self.config.decay)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
            self.optimizer.step()
            self.step += 1
            mix = min(self.momentum, self.step / (self.step + 10))
            with torch.no_grad():
                for key, value in self.module.state_dict().items():
                    self.average[key].lerp_(value, 1 - mix) if value.is_floating_point() else None
            total += loss.item()
            if self.step % 50 == 0:
                pace = (time.time() - began) / (self.step - since)
                line = f"{self.name} {self.step}/{self.steps} loss {total / 50:.4f} {pace:.2f} s/step"
                print(line, flush=True)
                total = 0.0
            regular = self.step % self.config.save_every == 0 or self.step == self.steps
            if regular or time.time() - saved > 60 * self.config.save_minutes:
                state = {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}
                save({**state, "average": self.average, "step": self.step}, self.path)
                saved = time.time()
                if regular:
                    on_save()
        self.module.load_state_dict(self.average)


def train_autoencoder(config: Config, pictures: Tensor) -> Any:
    """Fit L1 + MSE + gradient L1 on crops; noise on unit-variance latents makes them smooth."""
    torch.manual_seed(config.seed)
    vae = build_autoencoder(config).to(config.device, memory_format=torch.channels_last)
    if config.start:
        vae.load_state_dict(finished(config.start).autoencoder)
        vae.encoder.requires_grad_(not config.keep_encoder)
        vae.quant_conv.requires_grad_(not config.keep_encoder)
    run = Run(config, "autoencoder", vae, config.autoencoder_steps, config.autoencoder_lr, 0.998)

    def reconstruct(x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        z = vae.encode(x).latent_dist.mean
        return vae.decode(z + 0.1 * noise).sample, z

    crop, factor = SIDE // 2, 2 ** (len(config.autoencoder_channels) - 1)

    def loss_of(rng: random.Random, generator: torch.Generator) -> Tensor:
        crops = []
        for i in torch.randint(len(pictures), (config.autoencoder_batch,), generator=generator).tolist():
            top, left = rng.randrange(SIDE - crop + 1), rng.randrange(SIDE - crop + 1)
            crops.append(pictures[i, :, top : top + crop, left : left + crop])
        x = torch.stack(crops).to(config.device).float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)
        size = (config.autoencoder_batch, config.latent_channels, crop // factor, crop // factor)
        noise = torch.randn(size, generator=generator).to(config.device)
        with torch.autocast(config.device, torch.bfloat16):
            y, z = reconstruct(x, noise)
        y, z = y.float(), z.float()
        edges = sum((a - b).abs().mean() for a, b in zip(gradients(x), gradients(y), strict=True))
        mean, var = z.mean((0, 2, 3)), z.var((0, 2, 3))
        standard = mean.square().mean() + (var - 1).square().mean()
        return (x - y).abs().mean() + mse_loss(x, y) + edges + 0.01 * standard

    run(loss_of, lambda: None)
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def encode_pool(config: Config, vae: Any, pictures: Tensor) -> Tensor:
    """Latents of every picture, scaled to unit variance (the factor goes into the autoencoder's config)."""
    path = config.out / "latents.pt"
    if path.exists():
        state = torch.load(path)
        vae.register_to_config(scaling_factor=state["scaling_factor"])
        return state["latents"]
    parts = []
    for batch in pictures.split(64):
        x = batch.to(config.device).float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)
        with torch.autocast(config.device, torch.bfloat16):
            parts.append(vae.encode(x).latent_dist.mean.float().cpu())
    latents = torch.cat(parts)
    factor = finished(config.start).scaling_factor if config.start else 1 / latents.std().item()
    vae.register_to_config(scaling_factor=factor)
    latents = (latents * factor).half()
    save({"latents": latents, "scaling_factor": factor}, path)
    return latents


def loss_weight(alpha_bar: Tensor) -> Tensor:
    """Weight of a noise-prediction error: min-SNR (Hang 2023, gamma 5) below, a v-prediction's 1/alpha_bar above.

    Unweighted, the noisy timesteps at which the caption decides the picture hardly count: their errors are tiny.
    """
    snr = alpha_bar / (1 - alpha_bar)
    return snr.clamp(max=5) / snr / alpha_bar.clamp(min=0.05)


def train_denoiser(
    config: Config, icons: Icons, latents: Tensor, pool: list[Drawn], vae: Any
) -> tuple[Denoiser, CLIPTokenizer, DDIMScheduler]:
    """Noise prediction on SD's scaled-linear schedule."""
    words = concepts()

    def describe(drawn: Drawn, rng: random.Random) -> str:
        say = caption if isinstance(drawn, Scene) else collage_caption
        return say(icons, drawn, words, rng)  # pyright: ignore[reportArgumentType]

    rng = random.Random(config.seed)
    corpus = [describe(drawn, rng) for drawn in pool]
    tokenizer = build_tokenizer(corpus, config.out / "tokenizer")
    scheduler = DDIMScheduler(1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, set_alpha_to_one=False)
    scheduler.register_to_config(steps_offset=1)
    alpha_bar = scheduler.alphas_cumprod
    torch.manual_seed(config.seed)
    model = Denoiser(config, tokenizer).to(config.device)
    if config.start:
        start = finished(config.start)
        embeddings = carry_embeddings(start.denoiser[TOKENS], start.tokenizer, tokenizer)
        model.load_state_dict(start.denoiser | {TOKENS: embeddings})
    model.unet.to(memory_format=torch.channels_last)
    run = Run(config, "denoiser", model, config.denoiser_steps, config.lr, 0.9995)
    repeat_pixels(model.unet)
    forward = torch.compile(model) if config.compile else model

    def loss_of(rng: random.Random, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(latents), (config.batch,), generator=generator)
        texts = ["" if rng.random() < config.caption_dropout else describe(pool[i], rng) for i in chosen.tolist()]
        ids = tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
        z = latents[chosen].float()
        # one timestep from each of `batch` equal strata: less variance than independent draws
        t = ((torch.arange(config.batch) + torch.rand(config.batch, generator=generator)) * 1000 / config.batch).long()
        noise = torch.randn(z.shape, generator=generator)
        a = alpha_bar[t].view(-1, 1, 1, 1)
        x = a.sqrt() * z + (1 - a).sqrt() * noise
        x = x.to(config.device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(config.device, torch.bfloat16):
            eps = forward(x, t.to(config.device), ids.input_ids.to(config.device))
        weight = loss_weight(alpha_bar[t]).to(config.device)
        error = (eps.float() - noise.to(config.device)).square().mean((1, 2, 3))
        return (weight * error).mean() / weight.mean()

    def show() -> None:
        trained = {k: v.clone() for k, v in model.state_dict().items()}
        model.load_state_dict(run.average)
        sample_sheet(model.eval(), vae, tokenizer, scheduler).save(config.out / f"samples-{run.step:06d}.png")
        model.load_state_dict(trained)
        model.train()

    run(loss_of, show)
    return model.eval(), tokenizer, scheduler


def millions(module: nn.Module) -> str:
    return f"{sum(p.numel() for p in module.parameters()) / 1e6:.1f} M"


def main(config: Config) -> None:
    config.out.mkdir(parents=True, exist_ok=True)
    icons = load_icons(list(concepts()))
    pictures, pool = draw_pool(config, icons)
    print(f"{len(pictures)} pictures of {len(set(icons.concept))} concepts", flush=True)
    vae = train_autoencoder(config, pictures)
    latents = encode_pool(config, vae, pictures)
    model, tokenizer, scheduler = train_denoiser(config, icons, latents, pool, vae)
    if config.export:
        facts = {"started from": finished(config.start).about} if config.start else {}
        facts |= {
            "parameters": f"UNet {millions(model.unet)}, text encoder {millions(model.text_encoder)}, "
            f"autoencoder {millions(vae)}",
            "autoencoder": f"{config.autoencoder_steps} steps of {config.autoencoder_batch} crops of 64 px"
            + (", decoder alone" if config.start and config.keep_encoder else ""),
            "denoiser": f"{config.denoiser_steps} steps of {config.batch}, {len(pictures)} pictures, AdamW {config.lr}",
            "device": f"{config.device}, bf16",
        }
        export(config.export, model, vae, tokenizer, scheduler, icons, facts)


if __name__ == "__main__":
    main(tyro.cli(Config))
