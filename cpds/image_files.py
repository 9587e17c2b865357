"""Image files: found in folders, decoded upright, and whatever is wrong with one told in a sentence."""

import warnings
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cpds.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")  # the usual ones
NOT_HERE = (".heic", ".heif", ".jxl")  # images too, which Pillow cannot open by itself: refused, not overlooked
EXTERNAL = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}  # Pillow names these but leaves them to other programs
LAYERED = {"MPO", "PSD"}  # their further "frames" are depth maps, gain maps and layers
SMALLEST, LARGEST = 16, 16384  # px, sides of a source image
DESCRIPTIVE = {270, 271, 272, 306, 315, 33432, 34665, 34853}  # EXIF: title, camera, date … copyright, place


def image_suffixes() -> set[str]:
    """Suffixes of every format that Pillow opens here, and of those images that it does not."""
    registered = Image.registered_extensions().items()
    opened = {*Image.OPEN, "MPO"} - EXTERNAL  # the JPEG reader opens MPO
    return {suffix for suffix, form in registered if form in opened} | set(NOT_HERE)


def find_images(path: Path) -> list[Path]:
    """The file itself, or a folder's image files by name. InputError if there are none."""
    return find_files(path, image_suffixes(), "image", SUFFIXES)


def find_files(path: Path, suffixes: Collection[str], kind: str, named: Collection[str] | None = None) -> list[Path]:
    """The file itself, or a folder's files of a kind by name, hidden ones (.name) left out.

    Warns of what else is there. Raises InputError, which names the suffixes (`named` of them), if there are none.
    """
    try:
        if not path.is_dir():
            if not path.exists():
                raise InputError(f"{kind} {path} does not exist: check the path")
            return [path]
        there = sorted(p for p in path.iterdir() if not p.name.startswith("."))
        found = [p for p in there if p.suffix.lower() in suffixes and p.is_file()]
    except OSError as err:  # no permission, a name too long
        raise InputError(f"{path} cannot be read ({err.strerror}): check the path") from err
    if not found:
        raise InputError(f"folder {path} holds no {kind}: it needs {', '.join(named or suffixes)} files")
    if others := sorted({p.name for p in there} - {p.name for p in found}):
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        warnings.warn(
            f"{path}: {len(others)} of {len(there)} are passed over (folders, or without the ending of an {kind}): "
            f"{', '.join(others[:3])}{more}",
            stacklevel=2,
        )
    return found


def decode(path: Path, kind: str = "image") -> tuple[Image.Image, list[str]]:
    """The image, 8 bits a channel, upright as its EXIF says, and notes on what of the file it leaves out.

    `kind` is what messages call it.
    Raises InputError for files that are missing, damaged, no image, or of a size that cannot be worked on.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, on sizes and metadata: both are checked here
            with Image.open(path) as file:
                check_sides(path, *file.size, kind)
                deep = file.mode[0] in "IF" or any(";16" in str(tile[-1]) for tile in file.tile)
                file.load()
                image = eight_bit(ImageOps.exif_transpose(file))
                notes = ["of its more than 8 bits a channel the result has 8"] if deep else []
                return image, [*notes, *left_out(file)]
    except InputError:
        raise
    except FileNotFoundError as err:
        raise InputError(f"{kind} {path} does not exist: check the path") from err
    except IsADirectoryError as err:
        raise InputError(f"{kind} {path} is a folder: name a file") from err
    except PermissionError as err:
        raise InputError(f"{kind} {path} cannot be read ({err.strerror}): check its permissions") from err
    except UnidentifiedImageError as err:
        raise InputError(f"{path} is not an image that can be read: give a {', '.join(SUFFIXES)} file") from err
    except Image.DecompressionBombError as err:
        raise InputError(f"{kind} {path} has too many pixels to be held ({err}): scale it down first") from err
    except Exception as err:  # Pillow's readers raise a dozen kinds for damaged files
        what = str(err) or type(err).__name__
        raise InputError(f"{kind} {path} is damaged or cannot be read ({what}): save it again") from err


def check_sides(path: Path, width: int, height: int, kind: str = "image") -> None:
    """Raise InputError for images that are too small to edit or too large to hold."""
    size = f"{width}x{height}"
    if min(width, height) < SMALLEST:
        raise InputError(f"{kind} {path} is {size} px: it must be at least {SMALLEST}x{SMALLEST}")
    if max(width, height) > LARGEST:
        raise InputError(f"{kind} {path} is {size} px: its sides may be at most {LARGEST}, scale it down first")


def left_out(file: Image.Image) -> Iterator[str]:
    """What of an open file its decoded image leaves out: further frames, and metadata."""
    frames = getattr(file, "n_frames", 1)
    if frames > 1 and file.format not in LAYERED:
        what = "it has {} pages" if file.format == "TIFF" else "it is an animation with {} frames"
        yield f"{what.format(frames)}: the first is taken"
    text = {*getattr(file, "text", ()), *(["comment"] if file.info.get("comment") else [])}
    metadata = {
        "EXIF (camera, date, place)": DESCRIPTIVE & set(file.getexif()),
        "XMP": file.info.get("xmp"),
        "comments": text - {"XML:com.adobe.xmp", "Software"},
    }
    if dropped := [name for name, there in metadata.items() if there]:
        yield f"not copied into the result: {', '.join(dropped)}"


def eight_bit(image: Image.Image) -> Image.Image:
    """Gray of 16 or 32 bits scaled down to 8, its transparent value to alpha; other images as they are."""
    if image.mode[0] not in "IF":
        return image
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    if image.mode.startswith("I;16"):
        top = 65535.0
    else:  # no range is given: the first of these that holds all values; floats may be 0 … 1
        tops = [1.0, 255.0, 65535.0, values.max()][image.mode == "I" :]
        top = next(t for t in tops if values.max() <= t)
    gray = Image.fromarray((values / top * 255).clip(0, 255).round().astype(np.uint8))
    if isinstance(clear := image.info.get("transparency"), int):
        gray.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    gray.info["icc_profile"] = image.info.get("icc_profile")
    return gray
