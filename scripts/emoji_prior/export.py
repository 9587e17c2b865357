"""What becomes of a trained prior: sample sheets, and the folder that ships, with its model card."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor

from scripts.emoji_prior.icons import BACKGROUNDS, PACKAGES, STYLES, Icons, concepts, held_out_pairs

CARD = """# The embedded prior of CPDS

A small text-conditional latent diffusion model of emoji icons on plain backgrounds, in diffusers' folder layout. It is
what `cpds` uses where no `--prior` is given: enough to try, test and measure every method on a CPU, offline.

    from diffusers import StableDiffusionPipeline
    pipeline = StableDiffusionPipeline.from_pretrained("cpds/assets/prior", safety_checker=None)
    pipeline("a cat face on a blue background", height=128, width=128, guidance_scale=4).images[0].save("cat.png")

![samples](samples.png)

## What it knows

{n_concepts} things, each alone on a plain background, at 128 px: {known}.

Captions read like "a cat face on a blue background". They may name a drawing style ({styles}), as in "a flat cat face"
or "a cat face in flat style", a background ({backgrounds}), a size (small, large) and a place ("at the top left").

## Data

{n_icons} icons, rendered with resvg; a concept is drawn in four to six styles.

| package | style word | icons | licence | by |
|---|---|---|---|---|
{data}

The pictures were drawn at random sizes (0.6 to 0.95 of the side), places and background colours. {held_out}
(concept, style) pairs were left out of training; `held_out.json` lists them, for benchmarks of what it never saw.

## Training

| | |
|---|---|
{figures}

scripts/emoji_prior/train.py makes it; autoencoder (8x down), CLIP-type text encoder with a vocabulary of its own, and
UNet with self- and cross-attention at two scales were all trained from scratch, noise prediction on Stable
Diffusion's schedule.

## Limits

It draws icons, not photographs, and nothing outside the list above. Fine lines come out soft. Some concepts are drawn
better than others; text and counting do not work.

## Licence

The weights are under the project's licence (Apache-2.0). The icons are under the licences named above: Noto Emoji
by Google Inc. (Apache-2.0), Fluent Emoji by Microsoft Corporation (MIT), Twemoji by Twitter, Inc. and contributors
(CC BY 4.0), Emoji One 2 / EmojiTwo (CC BY 4.0). They were rasterised, resized and set on coloured backgrounds.
"""

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
    """Pictures (n, 3, h, w) in [0, 1] as one sheet, row by row; n must be a multiple of `columns`."""
    n, _, h, w = images.shape
    sheet = images.view(n // columns, columns, 3, h, w).permute(0, 3, 1, 4, 2).reshape(n // columns * h, columns * w, 3)
    return Image.fromarray((sheet * 255).round().byte().numpy())


def sample_sheet(model, vae, tokenizer, scheduler) -> Image.Image:
    """One sample per prompt of `SHEET_PROMPTS`."""
    return grid(sample(model, vae, tokenizer, scheduler, SHEET_PROMPTS), 8)


def export(folder: Path, model, vae, tokenizer, scheduler, icons: Icons, facts: Mapping[str, object]) -> None:
    """Write the pipeline in diffusers' layout (fp16 safetensors), its held-out pairs, sample sheet and model card.

    `facts` (training figures) go into the card. The folder is replaced as a whole, once everything is written.
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
    figures = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    known = ", ".join(words[0] for words in concepts().values())
    return CARD.format(
        n_concepts=len(concepts()),
        n_icons=len(icons),
        data=data,
        figures=figures,
        backgrounds=", ".join(BACKGROUNDS),
        styles=", ".join(STYLES),
        held_out=held_out,
        known=known,
    )
