"""Pictures in and out: whatever a user's file holds becomes RGB in [0, 1], and results become PNG, strip and GIF."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

from cpds.errors import InputError
from cpds.types import Images

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
SMALLEST, LARGEST = 16, 16384  # px, sides of a source picture
LONGEST = 4096  # px, longer side while editing


def find_pictures(path: Path) -> list[Path]:
    """The file itself, or a folder's pictures by name. InputError if there are none."""
    return find_files(path, SUFFIXES, "picture", "--img_path")


def find_files(path: Path, suffixes: Sequence[str], kind: str, flag: str) -> list[Path]:
    """The file itself, or a folder's files of a kind by name. InputError, which names the `flag`, if there are none."""
    try:
        if not path.is_dir():
            if not path.exists():
                raise InputError(f"{kind} {path} does not exist: check {flag}")
            return [path]
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in suffixes and p.is_file())
    except OSError as err:  # no permission, a name too long
        raise InputError(f"{path} cannot be read ({err.strerror}): check {flag}") from err
    if not found:
        raise InputError(f"folder {path} holds no {kind}: it needs {', '.join(suffixes)} files")
    return found


def open_picture(path: Path) -> Images:
    """RGB (1, 3, H, W) in [0, 1], upright as its EXIF says; alpha is laid over white, 16-bit grey is scaled down.

    Raises InputError for files that are missing, damaged, no picture, or of a size that cannot be worked on.
    """
    try:
        with Image.open(path) as file:
            check_sides(path, *file.size)
            file.load()
            picture = ImageOps.exif_transpose(file)
    except FileNotFoundError as err:
        raise InputError(f"picture {path} does not exist: check the path") from err
    except UnidentifiedImageError as err:
        raise InputError(f"{path} is not a picture that can be read: give a {', '.join(SUFFIXES)} file") from err
    except Image.DecompressionBombError as err:
        raise InputError(f"picture {path} has too many pixels to be held ({err}): scale it down first") from err
    except (OSError, SyntaxError, ValueError) as err:
        if isinstance(err, InputError):
            raise
        raise InputError(f"picture {path} is damaged or cannot be read ({err}): save it again") from err
    return to_tensor(to_rgb(picture))


def check_sides(path: Path, width: int, height: int) -> None:
    """Raise InputError for pictures that are too small to edit or too large to hold."""
    size = f"{width}x{height}"
    if min(width, height) < SMALLEST:
        raise InputError(f"picture {path} is {size} px: it must be at least {SMALLEST}x{SMALLEST}")
    if max(width, height) > LARGEST:
        raise InputError(f"picture {path} is {size} px: its sides may be at most {LARGEST}, scale it down first")


def to_rgb(picture: Image.Image) -> Image.Image:
    """Any Pillow mode as RGB."""
    if picture.mode.startswith(("I", "F")):  # 16 or 32 bits a pixel, grey
        values = np.asarray(picture, dtype=np.float64)
        top = 65535.0 if picture.mode.startswith("I;16") or values.max() > 255 else 255.0
        return Image.fromarray((values / top * 255).clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        ground = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(ground, layer).convert("RGB")
    return picture.convert("RGB")


def to_tensor(picture: Image.Image) -> Images:
    """An RGB picture as (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


def open_mask(path: Path, like: Images) -> Float[Tensor, "1 1 H W"]:
    """White = edit. InputError unless it has the picture's size."""
    mask = open_picture(path).mean(1, keepdim=True)
    if mask.shape[-2:] != like.shape[-2:]:
        ours, theirs = (f"{x.shape[-1]}x{x.shape[-2]}" for x in (mask, like))
        raise InputError(f"mask {path} is {ours} px but the picture is {theirs}: make them the same size")
    return mask


def working_size(height: int | float, width: int | float, short: int, multiple: int) -> tuple[int, int]:
    """(h, w) with shorter side near `short`, the aspect ratio kept, both rounded to `multiple`. InputError if huge."""
    scale = short / min(height, width)
    h, w = (max(multiple, round(side * scale / multiple) * multiple) for side in (height, width))
    if max(h, w) > LONGEST:
        raise InputError(
            f"{width:g}x{height:g} px would be edited at {w}x{h} px, over {LONGEST}: crop it or lower --resolution"
        )
    return h, w


def resized(images: Float[Tensor, "b c h w"], size: Sequence[int]) -> Float[Tensor, "b c H W"]:
    """Pictures or masks in [0, 1] at `size` (H, W), bicubic; larger ones are smoothed first."""
    return interpolate(images, tuple(size), mode="bicubic", antialias=True).clamp(0, 1)


def to_pil(images: Images) -> Image.Image:
    """The first of a batch as an 8-bit RGB picture."""
    return Image.fromarray((images[0] * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy())


def png(picture: Image.Image) -> bytes:
    """The picture as PNG bytes."""
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def strip(pictures: Sequence[Image.Image], gap: int = 8) -> Image.Image:
    """Pictures of one size side by side on white."""
    w, h = pictures[0].size
    row = Image.new("RGB", (len(pictures) * (w + gap) - gap, h), "white")
    for i, picture in enumerate(pictures):
        row.paste(picture, (i * (w + gap), 0))
    return row


def gif(pictures: Sequence[Image.Image], frame_ms: int = 100, last_ms: int = 1200, side: int = 512) -> bytes:
    """An endless animation, the last picture held; pictures larger than `side` are scaled down."""
    frames = [p.copy() for p in pictures]
    for frame in frames:
        frame.thumbnail((side, side))
    buffer = BytesIO()
    times = [frame_ms] * (len(frames) - 1) + [last_ms]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)
    return buffer.getvalue()
