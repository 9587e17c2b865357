"""Every kind of image file against what plain numpy makes of its pixels; comparisons and animations read back."""

import struct
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cpds.errors import InputError
from cpds.image_files import EXTERNAL, decode
from cpds.images import SourceImage, find_images, gif, open_image, open_source, png, side_by_side, to_pil

H, W = 18, 23
RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (H, W), dtype=np.uint8)
RGB = RNG.integers(0, 256, (H, W, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (H, W), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (H, W), dtype=np.uint16)
DARK = RNG.integers(0, 256, (H, W), dtype=np.uint16)  # 16 bits, nearly black
BITS = RNG.integers(0, 2, (H, W), dtype=np.uint8)
INDEX = RNG.integers(0, 8, (H, W), dtype=np.uint8)
COLOURS = RNG.integers(0, 256, (8, 3), dtype=np.uint8)
CLEAR = np.array([0, 255, 128, 40, 255, 255, 0, 90], dtype=np.uint8)  # alpha of each palette entry


def three(gray: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(gray, float)[..., None], 3, axis=2)


def over_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Composite of 8-bit colors over white: c a + 255 (1 - a)."""
    a = np.asarray(alpha, float)[..., None] / 255
    return rgb * a + 255 * (1 - a)


def palette() -> Image.Image:
    image = Image.frombytes("P", (W, H), INDEX.tobytes())
    image.putpalette(COLOURS.tobytes())
    return image


def cmyk() -> tuple[Image.Image, np.ndarray]:
    inks = np.full((H, W, 4), (40, 90, 160, 30), np.uint8)  # flat: JPEG keeps it
    light = 255 - inks.astype(float)
    return Image.fromarray(inks, "CMYK"), light[..., :3] * light[..., 3:] / 255


def first_of(form: str) -> bytes:
    buffer = BytesIO()
    frames = [Image.fromarray(np.full((H, W, 3), c, np.uint8)) for c in (200, 10, 90)]
    frames[0].save(buffer, form, save_all=True, append_images=frames[1:], duration=50, lossless=True)
    return buffer.getvalue()


def png16(channels: int) -> bytes:
    """A PNG of 16 bits a channel, RGB or RGBA, which Pillow reads but does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = np.random.default_rng(1).integers(0, 65536, (H, W * channels), dtype=np.uint16).astype(">u2")
    header = struct.pack(">IIBBBBB", W, H, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def saved(image: Image.Image, form: str = "png", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


CASES: dict[str, tuple[bytes, np.ndarray, float]] = {  # file, pixels 0 … 255, tolerance in steps of 8 bits
    "RGB png": (saved(Image.fromarray(RGB)), RGB, 0),
    "RGB bmp": (saved(Image.fromarray(RGB), "bmp"), RGB, 0),
    "RGB webp, lossless": (saved(Image.fromarray(RGB), "webp", lossless=True), RGB, 0),
    "RGB jpeg, flat": (saved(Image.new("RGB", (W, H), (20, 200, 90)), "jpeg"), np.full((H, W, 3), (20, 200, 90)), 2),
    "gray png": (saved(Image.fromarray(GRAY)), three(GRAY), 0),
    "gray jpeg, flat": (saved(Image.new("L", (W, H), 77), "jpeg"), np.full((H, W, 3), 77), 1),
    "gray with one clear value": (
        saved(Image.fromarray(GRAY), transparency=int(GRAY[0, 0])),
        over_white(three(GRAY), np.where(np.equal(GRAY, GRAY[0, 0]), 0, 255)),
        0,
    ),
    "RGB with one clear color": (
        saved(Image.fromarray(RGB), transparency=tuple(map(int, RGB[3, 4]))),
        over_white(RGB, np.where(np.equal(RGB, RGB[3, 4]).all(-1), 0, 255)),
        0,
    ),
    "LA png": (saved(Image.fromarray(np.dstack([GRAY, ALPHA]), "LA")), over_white(three(GRAY), ALPHA), 1),
    "RGBA png": (saved(Image.fromarray(np.dstack([RGB, ALPHA]))), over_white(RGB, ALPHA), 1),
    "RGBA webp, lossless": (
        saved(Image.fromarray(np.dstack([RGB, ALPHA])), "webp", lossless=True, exact=True),
        over_white(RGB, ALPHA),
        1,
    ),
    "palette": (saved(palette()), COLOURS[INDEX], 0),
    "palette with one clear entry": (
        saved(palette(), transparency=2),
        over_white(COLOURS[INDEX], np.where(INDEX == 2, 0, 255)),
        0,
    ),
    "palette with an alpha each": (
        saved(palette(), transparency=CLEAR.tobytes()),
        over_white(COLOURS[INDEX], CLEAR[INDEX]),
        1,
    ),
    "16-bit gray png": (saved(Image.fromarray(DEEP)), three(DEEP / 65535 * 255), 0.5),
    "16-bit gray png, dark": (saved(Image.fromarray(DARK)), three(DARK / 65535 * 255), 0.5),
    "32-bit gray tiff": (saved(Image.fromarray(DEEP.astype(np.int32)), "tiff"), three(DEEP / DEEP.max() * 255), 1),
    "float tiff, 0 to 1": (saved(Image.fromarray((GRAY / 255).astype(np.float32)), "tiff"), three(GRAY), 0.5),
    "float tiff, 0 to 255": (saved(Image.fromarray(GRAY.astype(np.float32)), "tiff"), three(GRAY), 0.5),
    "16-bit gray with one clear value": (
        saved(Image.fromarray(DEEP), transparency=int(DEEP[0, 0])),
        over_white(three(DEEP / 65535 * 255), np.where(np.equal(DEEP, DEEP[0, 0]), 0, 255)),
        0.5,
    ),
    "1-bit png": (saved(Image.fromarray(BITS * 255).convert("1")), three(BITS * 255), 0),
    "CMYK jpeg": (saved(cmyk()[0], "jpeg", quality=100), cmyk()[1], 3),
    "animated gif": (first_of("gif"), np.full((H, W, 3), 200), 1),
    "animated webp": (first_of("webp"), np.full((H, W, 3), 200), 1),
    "animated png": (first_of("png"), np.full((H, W, 3), 200), 0),
}


@pytest.mark.parametrize("name", CASES)
def test_pixels(tmp_path: Path, name: str) -> None:
    content, want, tolerance = CASES[name]
    (tmp_path / "image").write_bytes(content)
    got = open_image(tmp_path / "image")
    assert got.shape == (1, 3, H, W)
    assert got.dtype == torch.float32
    assert np.abs(got[0].permute(1, 2, 0).double().numpy() * 255 - want).max() <= tolerance + 1e-4


UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # EXIF orientation: from the stored rows to the upright ones
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("form", ["png", "webp"])
def test_exif_orientation(tmp_path: Path, orientation: int, form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / "turned", form, exif=exif, lossless=True)
    got = open_image(tmp_path / "turned")[0].permute(1, 2, 0)
    np.testing.assert_array_equal((got * 255).round().byte().numpy(), UPRIGHT[orientation](RGB))


def test_folders_are_listed_in_order_and_without_strangers(tmp_path: Path) -> None:
    images = ["a.webp", "b.PNG", "c.bmp", "d.jpeg", "e.jpg", "f.gif", "g.TIF", "h.tiff", "i.avif", "j.heic"]
    strangers = ["notes.txt", "._a.png", ".hidden.jpg", ".png", "data.h5", "clip.mpg", "drawing.svg", "paper.pdf"]
    for name in reversed([*images, *strangers]):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    with pytest.warns(UserWarning, match=r"6 of 16 are passed over .*: clip.mpg, data.h5, drawing.svg and 3 more$"):
        assert [p.name for p in find_images(tmp_path)] == images
    for name in ("notes.txt", "._a.png"):
        assert find_images(tmp_path / name) == [tmp_path / name]  # a file is taken at its word


def test_whatever_can_be_opened_by_name_is_found_in_a_folder(tmp_path: Path) -> None:
    suffixes = {suffix: form for suffix, form in Image.registered_extensions().items() if form in Image.SAVE}
    opened = []
    for suffix in suffixes:
        try:
            Image.new("RGB", (32, 32), "teal").save(tmp_path / f"x{suffix}")
            open_image(tmp_path / f"x{suffix}")
        except (OSError, ValueError):  # this format cannot be written, or not in RGB
            (tmp_path / f"x{suffix}").unlink(missing_ok=True)
        else:
            opened.append(f"x{suffix}")
    assert {"x.png", "x.gif", "x.tif", "x.jp2", "x.tga", "x.ppm"} <= set(opened)
    assert [p.name for p in find_images(tmp_path)] == sorted(opened)
    assert not EXTERNAL & {suffixes[Path(name).suffix] for name in opened}


def test_png_keeps_every_step_of_8_bits(tmp_path: Path) -> None:
    pixels = torch.from_numpy(RGB).permute(2, 0, 1)[None].float() / 255
    (tmp_path / "copy.png").write_bytes(png(to_pil(pixels)))
    assert torch.equal(open_image(tmp_path / "copy.png"), pixels)
    beyond = to_pil(torch.tensor([-1.0, 0.5, 2.0]).view(1, 3, 1, 1))
    assert beyond.getpixel((0, 0)) == (0, 128, 255)


def test_comparisons_lay_images_side_by_side() -> None:
    parts = [Image.fromarray(RGB), Image.fromarray(255 - RGB), Image.fromarray(RGB)]
    row = np.asarray(Image.open(BytesIO(png(side_by_side(parts, gap=5)))))
    assert row.shape == (H, 3 * W + 2 * 5, 3)
    for i, part in enumerate(parts):
        np.testing.assert_array_equal(row[:, i * (W + 5) : i * (W + 5) + W], np.asarray(part))
    assert (row[:, W : W + 5] == 255).all()


@pytest.mark.parametrize(
    ("size", "shown"),
    [((W, H), (W, H)), ((1200, 300), (512, 128)), ((90, 600), (77, 512))],  # as it is; scaled down, wide and tall
)
def test_gif_holds_every_frame_and_rests_on_the_last(size: tuple[int, int], shown: tuple[int, int]) -> None:
    frames = [Image.new("RGB", size, (c, 255 - c, 40)) for c in (0, 60, 120, 250)]
    with Image.open(BytesIO(gif(frames))) as movie:
        assert (movie.n_frames, movie.info["loop"]) == (4, 0)
        assert abs(movie.size[0] - shown[0]) <= 1
        assert movie.size[1] == shown[1]
        times = []
        for i, frame in enumerate(frames):
            movie.seek(i)
            times.append(movie.info["duration"])
            got, want = movie.convert("RGB").getpixel((1, 1)), frame.getpixel((1, 1))
            assert max(abs(g - w) for g, w in zip(got, want, strict=True)) <= 8
    assert times == [100, 100, 100, 1200]
    assert frames[0].size == size  # the images given are left alone


# ---- what of a file its result keeps, and what is printed of the rest


def file_of(content: bytes, folder: Path) -> Path:
    (folder / "file").write_bytes(content)
    return folder / "file"


def exif(**tags: object) -> Image.Exif:
    made = Image.Exif()
    for tag, value in {"orientation": 1, **tags}.items():
        made[{"orientation": 0x0112, "make": 0x010F}[tag]] = value
    return made


def commented() -> PngInfo:
    info = PngInfo()
    info.add_text("prompt", "a cat")
    return info


NOTES: dict[str, tuple[bytes, list[str]]] = {
    "plain": (saved(Image.fromarray(RGB)), []),
    "opaque RGBA": (saved(Image.fromarray(np.dstack([RGB, np.full_like(GRAY, 255)]))), []),
    "turned, nothing else in its EXIF": (saved(Image.fromarray(RGB), exif=exif(orientation=6)), []),
    "one page": (saved(Image.fromarray(RGB), "tiff"), []),
    "alpha": (CASES["RGBA png"][0], ["edited over white, and keeps its transparency"]),
    "palette": (CASES["palette with one clear entry"][0], ["keeps its transparency"]),
    "animated gif": (first_of("gif"), ["an animation with 3 frames: the first is taken"]),
    "animated webp": (first_of("webp"), ["an animation with 3 frames: the first is taken"]),
    "animated png": (first_of("png"), ["an animation with 3 frames: the first is taken"]),
    "pages": (first_of("tiff"), ["3 pages: the first is taken"]),
    "camera": (saved(Image.fromarray(RGB), "jpeg", exif=exif(make="Canon")), ["not copied", "EXIF"]),
    "comment": (saved(Image.fromarray(RGB), pnginfo=commented()), ["not copied", "comments"]),
    "16-bit gray": (CASES["16-bit gray png"][0], ["more than 8 bits a channel"]),
    "16-bit RGB": (png16(3), ["more than 8 bits a channel"]),
    "16-bit RGBA": (png16(4), ["more than 8 bits a channel", "keeps its transparency"]),
    "CMYK": (saved(cmyk()[0], "jpeg"), ["CMYK colors are converted to sRGB"]),
    "damaged profile": (saved(Image.fromarray(RGB), icc_profile=b"nonsense" * 30), ["color profile cannot be used"]),
}


@pytest.mark.parametrize("name", NOTES)
def test_what_a_result_will_lack_is_printed(tmp_path: Path, name: str) -> None:
    content, words = NOTES[name]
    message = "; ".join(open_source(file_of(content, tmp_path)).notes)
    assert all(word in message for word in words)
    assert bool(message) == bool(words)


def test_the_libraries_warnings_stay_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", H * W - 1)  # Pillow warns of more, and refuses twice as much
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode(file_of(saved(Image.fromarray(RGB)), tmp_path))


def straight(image: SourceImage, edited: np.ndarray) -> np.ndarray:
    """The PNG of an edit, which is given as pixels, read back."""
    pixels = torch.from_numpy(edited.astype(np.float32)).permute(2, 0, 1)[None] / 255
    with Image.open(BytesIO(image.png(pixels))) as result:
        return np.asarray(result)


TRANSPARENT = ["LA png", "RGBA png", "RGBA webp, lossless", *(n for n in CASES if n.startswith("palette with"))]


@pytest.mark.parametrize("name", TRANSPARENT)
def test_a_result_keeps_the_alpha_and_colors_that_nobody_edited(tmp_path: Path, name: str) -> None:
    file = file_of(CASES[name][0], tmp_path)
    source = open_source(file)
    same = straight(source, (source.image * 255)[0].permute(1, 2, 0).numpy())
    with Image.open(file) as own:
        np.testing.assert_array_equal(same, np.asarray(own.convert("RGBA")))


def test_an_edit_of_a_transparent_image_looks_over_white_as_it_was_made(tmp_path: Path) -> None:
    source = open_source(file_of(CASES["RGBA png"][0], tmp_path))
    edited = over_white(RGB.astype(float), ALPHA)
    painted = (slice(4, 12), slice(5, 15))
    edited[painted] = over_white(255.0 - RGB, ALPHA)[painted]  # an edit that alpha can show
    result = straight(source, edited.round())
    np.testing.assert_array_equal(result[..., 3], ALPHA)
    assert np.abs(over_white(result[..., :3], ALPHA) - edited).max() <= 1.5  # three roundings
    clear = result[ALPHA == 0][:, :3]
    np.testing.assert_array_equal(clear, RGB[ALPHA == 0])  # where nothing shows the file's colors stay


def test_what_is_wholly_transparent_is_no_source(tmp_path: Path) -> None:
    file = file_of(saved(Image.new("RGBA", (W, H), (200, 0, 0, 0))), tmp_path)
    with pytest.raises(InputError, match="transparent everywhere: there is nothing to edit"):
        open_source(file)


def test_an_opaque_image_gives_a_plain_png(tmp_path: Path) -> None:
    source = open_source(file_of(saved(Image.fromarray(RGB)), tmp_path))
    assert source.png(source.image) == png(Image.fromarray(RGB))
    assert source.digest() is None


def test_a_batch_is_no_image() -> None:
    with pytest.raises(ValueError, match="2 images cannot be made one"):
        to_pil(torch.zeros(2, 3, 4, 4))


def test_a_file_that_may_not_be_read_is_not_told_as_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:  # root may read every file
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(InputError, match=r"a\.png cannot be read \(Permission denied\): check its permissions"):
        decode(tmp_path / "a.png")
