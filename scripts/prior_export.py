"""What becomes of a trained prior: sample sheets, and the folder that ships, with its model card."""

import torch
from PIL import Image
from torch import Tensor

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


def export(folder, model, vae, tokenizer, scheduler, icons) -> None:
    raise SystemExit("later")
