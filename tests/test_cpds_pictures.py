"""Every kind of picture file against what plain numpy makes of its pixels; strips and animations read back."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cpds.errors import InputError
from cpds.pictures import find_pictures, gif, open_mask, open_picture, png, strip, to_pil

H, W = 18, 23
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (H, W), dtype=np.uint8)
RGB = RNG.integers(0, 256, (H, W, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (H, W), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (H, W), dtype=np.uint16)
DARK = RNG.integers(0, 256, (H, W), dtype=np.uint16)  # 16 bits, nearly black
BITS = RNG.integers(0, 2, (H, W), dtype=np.uint8)
INDEX = RNG.integers(0, 8, (H, W), dtype=np.uint8)
COLOURS = RNG.integers(0, 256, (8, 3), dtype=np.uint8)
CLEAR = np.array([0, 255, 128, 40, 255, 255, 0, 90], dtype=np.uint8)  # alpha of each palette entry


def three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(grey, float)[..., None], 3, axis=2)


def over_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Composite of 8-bit colours over white: c a + 255 (1 - a)."""
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


def saved(image: Image.Image, form: str = "png", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


CASES: dict[str, tuple[bytes, np.ndarray, float]] = {  # file, pixels 0 … 255, tolerance in steps of 8 bits
    "RGB png": (saved(Image.fromarray(RGB)), RGB, 0),
    "RGB bmp": (saved(Image.fromarray(RGB), "bmp"), RGB, 0),
    "RGB webp, lossless": (saved(Image.fromarray(RGB), "webp", lossless=True), RGB, 0),
    "RGB jpeg, flat": (saved(Image.new("RGB", (W, H), (20, 200, 90)), "jpeg"), np.full((H, W, 3), (20, 200, 90)), 2),
    "grey png": (saved(Image.fromarray(GREY)), three(GREY), 0),
    "grey jpeg, flat": (saved(Image.new("L", (W, H), 77), "jpeg"), np.full((H, W, 3), 77), 1),
    "grey with one clear value": (
        saved(Image.fromarray(GREY), transparency=int(GREY[0, 0])),
        over_white(three(GREY), np.where(np.equal(GREY, GREY[0, 0]), 0, 255)),
        0,
    ),
    "RGB with one clear colour": (
        saved(Image.fromarray(RGB), transparency=tuple(map(int, RGB[3, 4]))),
        over_white(RGB, np.where(np.equal(RGB, RGB[3, 4]).all(-1), 0, 255)),
        0,
    ),
    "LA png": (saved(Image.fromarray(np.dstack([GREY, ALPHA]), "LA")), over_white(three(GREY), ALPHA), 1),
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
    "16-bit grey png": (saved(Image.fromarray(DEEP)), three(DEEP / 65535 * 255), 0.5),
    "16-bit grey png, dark": (saved(Image.fromarray(DARK)), three(DARK / 65535 * 255), 0.5),
    "1-bit png": (saved(Image.fromarray(BITS * 255).convert("1")), three(BITS * 255), 0),
    "CMYK jpeg": (saved(cmyk()[0], "jpeg", quality=100), cmyk()[1], 3),
    "animated gif": (first_of("gif"), np.full((H, W, 3), 200), 1),
    "animated webp": (first_of("webp"), np.full((H, W, 3), 200), 1),
    "animated png": (first_of("png"), np.full((H, W, 3), 200), 0),
}


@pytest.mark.parametrize("name", CASES)
def test_pixels(tmp_path: Path, name: str) -> None:
    content, want, tolerance = CASES[name]
    (tmp_path / "picture").write_bytes(content)
    got = open_picture(tmp_path / "picture")
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
    got = open_picture(tmp_path / "turned")[0].permute(1, 2, 0)
    np.testing.assert_array_equal((got * 255).round().byte().numpy(), UPRIGHT[orientation](RGB))


def test_a_mask_is_grey_and_must_fit(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "mask.png")
    like = torch.zeros(1, 3, H, W)
    np.testing.assert_allclose(open_mask(tmp_path / "mask.png", like)[0, 0].numpy(), GREY / 255, atol=1e-6)
    with pytest.raises(InputError, match="23x18 px but the picture is 18x23"):
        open_mask(tmp_path / "mask.png", like.mT)


def test_a_white_mask_is_exactly_one_and_a_black_one_exactly_zero(tmp_path: Path) -> None:
    for value, want in ((255, 1.0), (0, 0.0)):  # what is outside must stay bit for bit
        Image.new("RGB", (W, H), (value,) * 3).save(tmp_path / "mask.png")
        assert bool((open_mask(tmp_path / "mask.png", torch.zeros(1, 3, H, W)) == want).all())


def test_folders_are_listed_in_order_and_without_strangers(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.webp", "c.bmp", "notes.txt", "d.jpeg", "e.jpg", "f.gif"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [p.name for p in find_pictures(tmp_path)] == ["a.webp", "b.PNG", "c.bmp", "d.jpeg", "e.jpg"]
    assert find_pictures(tmp_path / "f.gif") == [tmp_path / "f.gif"]  # a file is taken at its word


def test_png_keeps_every_step_of_8_bits(tmp_path: Path) -> None:
    pixels = torch.from_numpy(RGB).permute(2, 0, 1)[None].float() / 255
    (tmp_path / "copy.png").write_bytes(png(to_pil(pixels)))
    assert torch.equal(open_picture(tmp_path / "copy.png"), pixels)
    beyond = to_pil(torch.tensor([-1.0, 0.5, 2.0]).view(1, 3, 1, 1))
    assert beyond.getpixel((0, 0)) == (0, 128, 255)


def test_strip_lays_pictures_side_by_side() -> None:
    parts = [Image.fromarray(RGB), Image.fromarray(255 - RGB), Image.fromarray(RGB)]
    row = np.asarray(Image.open(BytesIO(png(strip(parts, gap=5)))))
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
    assert frames[0].size == size  # the pictures given are left alone
