"""Icons for scenes: by name and style from the icon packages, or any PNG or SVG with a transparent background."""

import difflib
import subprocess
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from cpds.config import require
from cpds.errors import InputError, MissingExtra
from cpds.images import check_sides
from scripts.emoji_prior.icons import concepts, with_article
from scripts.emoji_prior.packages import PACKAGES, STYLES, cache_dir, fetch_package, svg_sources

OPAQUE_MIN = 0.005  # share of an image that must be opaque: less is no icon


@dataclass(frozen=True)
class Icon:
    """A square image with straight alpha in [0, 1], what captions call it, and where it comes from."""

    rgba: Float[Tensor, "4 h h"]
    noun: str
    origin: dict[str, str]

    def caption(self, background: str) -> str:
        """A prompt for the scene."""
        return f"{with_article(self.noun)} on {with_article(background)} background"


def find_icon(name: str, style: str, side: int) -> Icon:
    """By name and style, downloaded with npm unless cached; a name that ends in .png or .svg is a file.

    Raises InputError where there is no such icon or it cannot be had.
    """
    if name.lower().endswith((".png", ".svg")):
        return open_icon(Path(name), side)
    require(style in STYLES, f"style must be one of {', '.join(STYLES)}, got {style!r}")
    package = next(key for key, package in PACKAGES.items() if package.style == style)
    try:
        sources = svg_sources(fetch_package(package, cache_dir()))
    except InputError as err:
        raise InputError(f"{err}, or give an image") from err
    except (OSError, subprocess.CalledProcessError, StopIteration) as err:
        raise InputError(
            f"the icons of style {style} cannot be downloaded with npm ({err}): go online once, or give an image"
        ) from err
    if name not in sources:
        near = ", ".join(difflib.get_close_matches(name, sources, 3)) or "none is near"
        raise InputError(f"style {style} has no icon {name!r}: look at its spelling ({near})")
    words = concepts().get(name, [name.replace("-", " ")])
    found = PACKAGES[package]
    origin = {"icon": name, "style": style, "licence": found.licence, "authors": found.authors}
    return Icon(to_square(rendered(sources[name], side)), words[0], origin)


def open_icon(path: Path, side: int) -> Icon:
    """From a file, all of its canvas, centred in a square. Raises InputError unless it is partly transparent."""
    try:
        if path.suffix.lower() == ".svg":
            image = rendered(path.read_text(), side)
        else:
            with Image.open(path) as file:
                check_sides(path, *file.size)
                image = file.convert("RGBA")
    except InputError:
        raise
    except FileNotFoundError as err:
        raise InputError(f"image {path} does not exist: check the path") from err
    except UnidentifiedImageError as err:
        raise InputError(f"{path} is not an image that can be read: give a .png or .svg file") from err
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as err:
        raise InputError(f"image {path} cannot be read ({err}): save it again as .png or .svg") from err
    rgba = to_square(image)
    opaque = float((rgba[3] > 0.5).float().mean())
    require(float(rgba[3].min()) < 0.5, f"image {path} has no transparent background: alpha gives the outline")
    require(opaque >= OPAQUE_MIN, f"image {path} is almost entirely transparent ({opaque:.1%} opaque)")
    return Icon(rgba, path.stem.replace("-", " ").replace("_", " ").strip(), {"image": path.name})


def rendered(svg: str, side: int) -> Image.Image:
    """An SVG rendered `side` px wide. Raises ValueError where it cannot be parsed."""
    try:
        import resvg_py
    except ImportError as err:
        raise MissingExtra("icons are rendered with resvg: pip install -e '.[train]'") from err
    return Image.open(BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=side)))).convert("RGBA")


def to_square(image: Image.Image) -> Float[Tensor, "4 h h"]:
    """Centred on a square transparent canvas, in [0, 1]."""
    longest = max(image.size)
    square = ImageOps.pad(image, (longest, longest), color=(0, 0, 0, 0))
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255
