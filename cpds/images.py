"""Images in and out: whatever a user's file holds becomes RGB in [0, 1], and results become PNG and GIF."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from cpds.color_profile import ColorProfile
from cpds.errors import InputError
from cpds.image_files import SUFFIXES, check_sides, decode, find_files, find_images
from cpds.types import Images

__all__ = ["SUFFIXES", "check_sides", "find_files", "find_images"]

GONE = 32  # of 255: change of a color from which on nothing of the old one remains
OVERSHOOT = 0.5  # beyond [0, 1]: bicubic resizing adds up to 0.45
LONGEST = 4096  # px, longer side while editing with the shorter side as asked


@dataclass(frozen=True)
class SourceImage:
    """An image file as it is edited, and what its result shall have in common with it."""

    image: Images  # (1, 3, H, W) in [0, 1]: sRGB, transparency laid over white
    notes: tuple[str, ...]  # what of the file the result will not have, or has in another way
    srgb: Image.Image  # straight RGB, without the white
    colors: Image.Image  # the same in the file's own profile
    alpha: Image.Image | None
    profile: ColorProfile | None

    @property
    def visible(self) -> Float[Tensor, "1 1 H W"] | None:
        """1 where the file is not wholly transparent, 0 where it is; None where it is opaque."""
        return None if self.alpha is None else torch.from_numpy(numbers(self.alpha) > 0).float()[None, None]

    def editable(self, mask: Float[Tensor, "1 1 H W"] | None) -> Float[Tensor, "1 1 H W"] | None:
        """Where the mask allows an edit and the file shows anything; None: everywhere."""
        if (visible := self.visible) is None:
            return mask
        return visible if mask is None else mask * visible.to(mask)

    def png(self, edited: Images) -> bytes:
        """An edit of `image` as PNG with the file's alpha and color profile; colors that are equal keep their bytes.

        Over white it looks as `edited`: with C = a F + (1 - a) white, the color is F' = F + (C' - C) / a. In the
        file's profile P it is P(F') and, of what sRGB could not hold of the file's color, a rest that falls with the
        change: none from GONE on.
        """
        after = to_pil(edited)
        if self.alpha is not None:
            alpha = numbers(self.alpha)[..., None] / 255
            change = (numbers(after) - numbers(to_pil(self.image))) / alpha.clip(1 / 255)
            after = nearest(numbers(self.srgb) + np.where(alpha > 0, change, 0))
        if self.profile is not None:
            change = np.abs(numbers(after) - numbers(self.srgb)).max(-1, keepdims=True)
            new, old = (numbers(self.profile.from_srgb(x)) for x in (after, self.srgb))
            after = nearest(new + (numbers(self.colors) - old) * (1 - change / GONE).clip(0))
        if self.alpha is not None:
            after.putalpha(self.alpha)
        return png(after, self.profile and self.profile.data)

    def digest(self) -> str | None:
        """Changes with whatever `png` adds to an edit; None where that is nothing."""
        if self.alpha is None and self.profile is None:
            return None
        parts = [self.colors.tobytes(), self.alpha.tobytes() if self.alpha else b"", self.profile and self.profile.data]
        return hashlib.sha256(b"|".join(part or b"" for part in parts)).hexdigest()


def numbers(image: Image.Image) -> np.ndarray:
    """Pixels of 8 bits that can be subtracted."""
    return np.asarray(image, dtype=np.float64)


def nearest(pixels: np.ndarray) -> Image.Image:
    """The 8-bit image nearest to pixels of 0 … 255."""
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def open_source(path: Path) -> SourceImage:
    """An image file to be edited: any format, mode and color profile that Pillow reads.

    Raises InputError for files that are missing, damaged, no image, or of a size that cannot be worked on.
    """
    file, notes = decode(path)
    colors, alpha = split_alpha(file)
    srgb, profile = colors, None
    if data := file.info.get("icc_profile"):
        try:
            profile = ColorProfile(data)
            srgb = profile.to_srgb({"RGB": colors, "L": colors.convert("L"), "CMYK": file}[profile.mode])
        except ValueError:
            profile = None
            notes.append("its color profile cannot be used and is left out: colors may look different")
    if file.mode == "CMYK" or (profile is not None and not profile.works_both_ways):
        notes.append(f"its {profile.mode.replace('L', 'gray') if profile else file.mode} colors are converted to sRGB")
        colors, profile = srgb, None
    if alpha is not None:
        if alpha.getextrema() == (0, 0):
            raise InputError(f"image {path} is transparent everywhere: there is nothing to edit")
        notes.append("it is edited over white, and keeps its transparency: nothing is edited where it is transparent")
    return SourceImage(to_tensor(over_white(srgb, alpha)), tuple(notes), srgb, colors, alpha, profile)


def open_image(path: Path) -> Images:
    """sRGB (1, 3, H, W) in [0, 1], upright as its EXIF says; alpha is laid over white, 16-bit gray is scaled down.

    Raises InputError for files that are missing, damaged, no image, or of a size that cannot be worked on.
    """
    return open_source(path).image


def split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Straight RGB, and alpha where any pixel is not opaque."""
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        alpha = layer.getchannel("A")
        if alpha.getextrema() != (255, 255):
            return layer.convert("RGB"), alpha
    return image.convert("RGB"), None


def over_white(colors: Image.Image, alpha: Image.Image | None) -> Image.Image:
    """Straight RGB composited over white."""
    if alpha is None:
        return colors
    layer = colors.copy()
    layer.putalpha(alpha)
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def require_images(images: object) -> None:
    """InputError unless this is a float tensor (b, 3, H, W) of values in [0, 1], give or take what resizing adds."""
    wanted = "images must be a float tensor (b, 3, H, W) with values in [0, 1]"
    if not isinstance(images, torch.Tensor):
        raise InputError(f"{wanted}, got a {type(images).__name__}")
    if images.ndim != 4 or images.shape[1] != 3 or not images.numel() or not images.is_floating_point():
        kind = str(images.dtype).removeprefix("torch.")
        raise InputError(f"{wanted}, got {tuple(images.shape)} of {kind}: permute it, or divide 8 bits by 255")
    low, high = (float(x) for x in images.detach().aminmax())
    if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):  # NaN is in no range
        raise InputError(f"{wanted}, got values from {low:g} to {high:g}: scale it to that range")


def to_tensor(image: Image.Image) -> Images:
    """An RGB image as (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def working_size(height: int | float, width: int | float, short: int, multiple: int) -> tuple[int, int]:
    """(h, w) with shorter side near `short`, the aspect ratio kept, both rounded to `multiple`.

    An image that would be longer than LONGEST gets a smaller shorter side, so that it has as many pixels as one of
    LONGEST x `short`, if no side falls below `multiple`. InputError for a `short` over LONGEST.
    """
    if short > LONGEST:
        raise InputError(f"the shorter side while editing may be at most {LONGEST} px, got {short}: lower resolution")
    scale = short / min(height, width)
    if max(height, width) * scale > LONGEST + multiple / 2:
        scale = (LONGEST * short / (height * width)) ** 0.5
    h, w = (max(multiple, round(side * scale / multiple) * multiple) for side in (height, width))
    return h, w


def resized(images: Float[Tensor, "b c h w"], size: Sequence[int]) -> Float[Tensor, "b c H W"]:
    """Images or masks in [0, 1] at `size` (H, W), bicubic; larger ones are smoothed first."""
    return interpolate(images, tuple(size), mode="bicubic", antialias=True).clamp(0, 1)


def to_pil(images: Images) -> Image.Image:
    """A batch of one as an 8-bit RGB image. ValueError for more: none shall be lost."""
    if len(images) != 1:
        raise ValueError(f"{len(images)} images cannot be made one: take them one by one, images.split(1)")
    return Image.fromarray((images[0] * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy())


def png(image: Image.Image, icc_profile: bytes | None = None) -> bytes:
    """The image as PNG bytes."""
    buffer = BytesIO()
    image.save(buffer, "PNG", icc_profile=icc_profile)
    return buffer.getvalue()


def side_by_side(images: Sequence[Image.Image], gap: int = 8) -> Image.Image:
    """Images of one size side by side on white."""
    w, h = images[0].size
    row = Image.new("RGB", (len(images) * (w + gap) - gap, h), "white")
    for i, image in enumerate(images):
        row.paste(image, (i * (w + gap), 0))
    return row


def gif(images: Sequence[Image.Image], frame_ms: int = 100, last_ms: int = 1200, side: int = 512) -> bytes:
    """An endless animation, the last image held; images larger than `side` are scaled down."""
    frames = [p.copy() for p in images]
    for frame in frames:
        frame.thumbnail((side, side))
    buffer = BytesIO()
    times = [frame_ms] * (len(frames) - 1) + [last_ms]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)
    return buffer.getvalue()
