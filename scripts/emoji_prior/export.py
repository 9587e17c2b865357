"""Write a trained prior in diffusers' layout, with samples and a model card: the folder that ships.

    python -m scripts.emoji_prior.export --run runs/prior --out cpds/assets/prior

`python -m scripts.emoji_prior.train --export` does the same at its end.
"""

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor, nn

from scripts.emoji_prior.checkpoints import load_trained
from scripts.emoji_prior.icons import BACKGROUNDS, Icons, concepts, held_out_pairs, load_icons
from scripts.emoji_prior.networks import Denoiser, Sizes, build_autoencoder, build_scheduler, repeat_pixels
from scripts.emoji_prior.packages import PACKAGES, STYLES
from scripts.program import run_program

SHEET_PROMPTS = [
    "a cat face on a blue background",
    "a dog face on a blue background",
    "a pig face on a yellow background",
    "a flat fox face on a green background",
    "a panda face in noto style on a pink background",
    "a 3d lion on a purple background",
    "a blob cat face on a white background",
    "a red apple on a light blue background",
    "a tomato on a light blue background",
    "a strawberry in flat style on a white background",
    "a banana on a teal background",
    "a hamburger on a grey background",
    "a red heart on a white background",
    "a blue heart on a white background",
    "a 3d green heart on a black background",
    "a sunflower on a purple background",
    "a house on a green background",
    "a red car on a grey background",
    "a robot face on an orange background",
    "a grinning face on a blue background",
    "a basketball on a pink background",
    "a small star at the top left on a black background",
    "a butterfly on a yellow background",
    "an alarm clock in twemoji style on a brown background",
]


@torch.no_grad()
def sample(model, vae, tokenizer, scheduler, prompts: list[str], guidance: float = 4.0, steps: int = 25, seed: int = 0):
    """DDIM samples (n, 3, h, w) in [0, 1] for the prompts, with classifier-free guidance."""
    device = model.unet.device
    ids = tokenizer(prompts + [""] * len(prompts), padding="max_length", truncation=True, return_tensors="pt")
    text = model.text_encoder(ids.input_ids.to(device)).last_hidden_state
    side = model.unet.config.sample_size
    x = torch.randn(
        (len(prompts), model.unet.config.in_channels, side, side), generator=torch.Generator().manual_seed(seed)
    ).to(device)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        cond, uncond = model.unet(torch.cat([x, x]), t, text).sample.chunk(2)
        x = scheduler.step(uncond + guidance * (cond - uncond), t, x).prev_sample
    return (vae.decode(x / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1).cpu()


def grid(images: Tensor, columns: int) -> Image.Image:
    """Images (n, 3, h, w) in [0, 1] as one sheet, row by row; n must be a multiple of `columns`."""
    n, _, h, w = images.shape
    sheet = images.view(n // columns, columns, 3, h, w).permute(0, 3, 1, 4, 2).reshape(n // columns * h, columns * w, 3)
    return Image.fromarray((sheet * 255).round().byte().numpy())


def sample_sheet(model, vae, tokenizer, scheduler) -> Image.Image:
    """One sample per prompt of `SHEET_PROMPTS`."""
    return grid(sample(model, vae, tokenizer, scheduler, SHEET_PROMPTS), 8)


def export(folder: Path, model, vae, tokenizer, scheduler, icons: Icons, facts: Mapping[str, object]) -> None:
    """Write the pipeline in diffusers' layout (fp16 safetensors), its held-out pairs, sample sheet and model card.

    `facts` (about the training) go into the card. The folder is replaced at once, when everything is written.
    """
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    sheet = sample_sheet(model, vae, tokenizer, scheduler)
    pipeline = StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=model.text_encoder.half(),
        tokenizer=tokenizer,
        unet=model.unet.half(),
        scheduler=scheduler,
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(part)
    # stored in half precision, but loaded like the other networks where no dtype is asked for
    encoder = part / "text_encoder" / "config.json"
    encoder.write_text(json.dumps(json.loads(encoder.read_text()) | {"dtype": "float32"}, indent=2))
    tokenizer.backend_tokenizer.model.save(str(part / "tokenizer"))  # vocab.json and merges.txt for older readers
    sheet.save(part / "samples.png", optimize=True)
    pairs = sorted(held_out_pairs())
    (part / "held_out.json").write_text(json.dumps(pairs, indent=0))
    (part / "README.md").write_text(card(icons, len(pairs), facts))
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def card(icons: Icons, held_out: int, facts: Mapping[str, object]) -> str:
    """The model card."""
    data = "\n".join(
        f"| `@iconify-json/{name}` {p.version} | {p.style} | {icons.style.count(p.style)} | {p.licence} | {p.authors} |"
        for name, p in PACKAGES.items()
    )
    training = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    known = ", ".join(words[0] for words in concepts().values())
    return (
        (Path(__file__).parent / "card.md")
        .read_text()
        .format(
            n_concepts=len(concepts()),
            n_icons=len(icons),
            data=data,
            training=training,
            backgrounds=", ".join(BACKGROUNDS),
            styles=", ".join(STYLES),
            held_out=held_out,
            known=known,
        )
    )


def sizes_of(model: Denoiser, vae: nn.Module) -> str:
    """Numbers of parameters, for the card."""
    parts = {"UNet": model.unet, "text encoder": model.text_encoder, "autoencoder": vae}
    return ", ".join(f"{k} {sum(p.numel() for p in part.parameters()) / 1e6:.1f} M" for k, part in parts.items())


@dataclass(frozen=True)
class ExportConfig(Sizes):
    """What to export; the sizes must be those of the training."""

    run: Path = Path("runs/prior")
    """Folder of a finished training run."""
    out: Path = Path("cpds/assets/prior")
    """Folder to write; it is replaced."""


def main(config: ExportConfig) -> None:
    trained, vae = load_trained(config.run), build_autoencoder(config).to(memory_format=torch.channels_last)
    model = Denoiser(config, trained.tokenizer)
    vae.load_state_dict(trained.autoencoder)
    model.load_state_dict(trained.denoiser)
    vae.register_to_config(scaling_factor=trained.scaling_factor)
    model.unet.to(memory_format=torch.channels_last)
    repeat_pixels(model.unet)
    facts = {"parameters": sizes_of(model, vae), "trained in": trained.about}
    icons = load_icons(list(concepts()))
    export(config.out, model.eval(), vae.eval(), trained.tokenizer, build_scheduler(), icons, facts)


if __name__ == "__main__":
    sys.exit(run_program(main, ExportConfig, __doc__))
