"""The images of a personalization: instances as latents, class images that the prior makes, and sample sheets."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from cpds.errors import InputError
from cpds.guidance_scale import chosen_scale
from cpds.images import open_image, png, resized, side_by_side, to_pil
from cpds.priors.base import Conditioning, Prior
from cpds.runs import write_atomic
from cpds.sdedit import ddim, descending, noisiest
from cpds.types import Images, Latents

SAMPLING_STEPS, FEW_STEPS = 25, 4
GUIDANCE = 7.5  # of samples, where it is classifier-free


def side_of(prior: Prior, resolution: int | None) -> int:
    """px: the images' side, a multiple that the prior can take. InputError for one that is none."""
    side, multiple = resolution or prior.image_size, prior.size_multiple
    if side % multiple:
        raise InputError(f"resolution must be a multiple of {multiple} for this prior, got {side}")
    return side


def square(image: Images, side: int) -> Float[Tensor, "b 3 {side} {side}"]:
    """The middle of an image at `side` x `side` px."""
    short = min(image.shape[-2:])
    top, left = ((length - short) // 2 for length in image.shape[-2:])
    return resized(image[..., top : top + short, left : left + short], (side, side))


@torch.no_grad()
def encoded(prior: Prior, files: Sequence[Path], side: int) -> Latents:
    """The latents of image files, cropped to squares, on the CPU."""
    return torch.cat([prior.encode(square(open_image(file), side)).cpu() for file in files])


@torch.no_grad()
def sampled(
    prior: Prior, noise: Latents, conditioning: Conditioning, null: Conditioning, guidance_scale: float | None
) -> Images:
    """Samples by DDIM, on the CPU; priors of few steps take few, without guidance (else None: what is usual)."""
    few = prior.guidance == "none"
    grid = descending(noisiest(prior.schedule), FEW_STEPS if few else SAMPLING_STEPS)
    scale = 1.0 if few else chosen_scale(prior, "target", guidance_scale, GUIDANCE)
    z = ddim(prior, noise.to(prior.device), grid, conditioning, null, scale)
    return prior.decode(z).cpu()


def noise_like(z: Latents, seed: int) -> Float[Tensor, "1 c h w"]:
    """Of one image, seeded, on the CPU."""
    return torch.randn(1, *z.shape[1:], generator=torch.Generator().manual_seed(seed))


def class_files(folder: Path, count: int) -> list[Path]:
    return [folder / f"{i:06d}.png" for i in range(count)]


def make_class_images(
    prior: Prior, prompt: str, files: Sequence[Path], side: int, guidance_scale: float | None, seed: int
) -> None:
    """Those of `files` that are not there yet, each seeded by `seed` and its number."""
    missing = [file for file in files if not file.exists()]
    if not missing:
        return
    missing[0].parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        like = prior.encode(torch.zeros(1, 3, side, side))
        conditioning, null = prior.embed([prompt]), prior.embed([""])
    for file in missing:
        noise = noise_like(like, seed * 1_000_003 + int(file.stem))
        image = sampled(prior, noise, conditioning, null, guidance_scale)
        write_atomic(file, png(to_pil(image)))


def sheet(images: Tensor) -> Image.Image:
    """Images side by side."""
    return side_by_side([to_pil(image) for image in images.split(1)])
