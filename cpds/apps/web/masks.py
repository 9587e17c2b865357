"""A mask that was painted over an image, as the file that an edit reads."""

from pathlib import Path
from typing import Any

from cpds.apps.web.visitors import Visitor

SIDE = 1024  # px, the longest of what is painted on
PAINT = (225, 29, 72)


def canvas(source: Path, visitor: Visitor) -> Path:
    """An image as it is painted on: upright, and no larger than a page needs."""
    from PIL import Image, ImageOps

    with Image.open(source) as file:
        file.draft("RGB", (SIDE, SIDE))
        image = ImageOps.exif_transpose(file).convert("RGB")
    image.thumbnail((SIDE, SIDE))
    place = visitor.place("canvas.png")
    image.save(place)
    return place


def painted_mask(painted: dict[str, Any] | None, source: Path, visitor: Visitor) -> Path | None:
    """The mask of an editor's layers (RGBA), at the source's size; None where nothing was painted."""
    from PIL import Image, ImageChops, ImageOps

    covers = [layer.getchannel("A") for layer in (painted or {}).get("layers", []) if layer.mode == "RGBA"]
    if not any(cover.getbbox() for cover in covers):
        return None
    cover = covers[0]
    for other in covers[1:]:
        cover = ImageChops.lighter(cover, other)
    with Image.open(source) as file:
        size = ImageOps.exif_transpose(file).size
    mask = Image.new("RGBA", size, PAINT)
    mask.putalpha(cover.resize(size))
    place = visitor.place("mask.png")
    mask.save(place)
    return place
