"""Color profiles against the matrices and curves that they are made of; what was not edited keeps its bytes."""

from io import BytesIO
from pathlib import Path

import icc
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from cpds.color_profile import ColorProfile
from cpds.images import SourceImage, open_source

H, W = 20, 24
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (H, W, 3), dtype=np.uint8)
TAME = RNG.integers(70, 180, (H, W, 3), dtype=np.uint8)  # colors that sRGB holds as well
ALPHA = RNG.integers(60, 256, (H, W), dtype=np.uint8)
OWN_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def encoded(linear: np.ndarray) -> np.ndarray:
    """Linear light as sRGB, 0 … 255 (IEC 61966-2-1)."""
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def wide_to_srgb(pixels: np.ndarray) -> np.ndarray:
    """Pixels of `icc.rgb_profile()` as sRGB, by its matrix and power."""
    light = (pixels / 255.0) ** 2.2 @ np.array(icc.WIDE)  # rows of WIDE are the primaries
    return encoded(light @ np.linalg.inv(np.array(icc.SRGB)))


def opened(folder: Path, image: Image.Image, profile: bytes, form: str = "png") -> SourceImage:
    image.save(folder / f"file.{form}", icc_profile=profile)
    return open_source(folder / f"file.{form}")


def pixels(source: SourceImage) -> np.ndarray:
    return (source.image[0] * 255).permute(1, 2, 0).numpy()


def result(source: SourceImage, edited: np.ndarray) -> tuple[np.ndarray, bytes | None]:
    images = torch.from_numpy(edited.astype(np.float32) / 255).permute(2, 0, 1)[None]
    with Image.open(BytesIO(source.png(images))) as image:
        return np.asarray(image), image.info.get("icc_profile")


def test_a_wide_profile_is_edited_in_srgb(tmp_path: Path) -> None:
    source = opened(tmp_path, Image.fromarray(TAME), icc.rgb_profile())
    assert np.abs(pixels(source) - wide_to_srgb(TAME)).max() <= 1.5
    assert np.abs(pixels(source) - TAME).max() > 10  # it matters
    assert source.notes == ()


def test_the_result_is_in_the_files_own_profile(tmp_path: Path) -> None:
    profile = icc.rgb_profile()
    source = opened(tmp_path, Image.fromarray(TAME), profile)
    edited = pixels(source).round()
    edited[5:15, 5:15] = (90, 150, 110)
    after, kept = result(source, edited)
    assert kept == profile
    assert np.abs(wide_to_srgb(after) - edited).max() <= 2.5


def test_a_slight_edit_keeps_most_of_what_srgb_cannot_hold(tmp_path: Path) -> None:
    profile, green = ColorProfile(icc.rgb_profile()), np.array([0, 200, 0])  # a green outside of sRGB
    source = opened(tmp_path, Image.new("RGB", (W, H), tuple(green)), profile.data)
    beyond = green - np.asarray(profile.from_srgb(source.srgb))[0, 0].astype(int)
    assert beyond[0] < -60
    rests = []
    for change in (0, 8, 16, 32, 64):
        edited = pixels(source).round().astype(np.uint8)
        edited[..., 2] += change
        clean = np.asarray(profile.from_srgb(Image.fromarray(edited)))[0, 0].astype(int)
        rests.append((result(source, edited)[0][0, 0].astype(int) - clean)[0] / beyond[0])
    np.testing.assert_allclose(rests, [1, 0.75, 0.5, 0, 0], atol=0.02)


@pytest.mark.parametrize("alpha", [False, True])
def test_colors_that_nobody_edited_keep_their_bytes(tmp_path: Path, alpha: bool) -> None:
    """Many of these colors lie outside of sRGB, where a conversion there and back would lose them."""
    layers = [RGB, ALPHA[..., None]] if alpha else [RGB]
    own = np.concatenate(layers, -1)
    source = opened(tmp_path, Image.fromarray(own), icc.rgb_profile())
    assert ((wide_to_srgb(RGB) % 255) == 0).mean() > 0.05
    edited = pixels(source).round()
    edited[5:15, 5:15] = (90, 150, 110)
    after, _ = result(source, edited)
    same = np.ones((H, W), bool)
    same[5:15, 5:15] = False
    np.testing.assert_array_equal(after[same], own[same])
    assert not np.array_equal(after, own)


def test_srgb_profiles_change_no_pixel_and_are_kept(tmp_path: Path) -> None:
    source = opened(tmp_path, Image.fromarray(RGB), OWN_SRGB)
    np.testing.assert_array_equal(pixels(source).round(), RGB)
    after, kept = result(source, pixels(source))
    np.testing.assert_array_equal(after, RGB)
    assert kept == OWN_SRGB
    assert ColorProfile(OWN_SRGB).is_srgb
    assert not ColorProfile(icc.rgb_profile()).is_srgb
    assert not ColorProfile(icc.rgb_profile(icc.SRGB, 1.8)).is_srgb  # its primaries, another curve


def test_a_gray_profile_becomes_srgb_and_says_so(tmp_path: Path) -> None:
    gray = np.tile(np.arange(W, dtype=np.uint8) * 10, (H, 1))
    source = opened(tmp_path, Image.fromarray(gray), icc.gray_profile(1.0))
    want = encoded(gray / 255.0)[..., None].repeat(3, -1)
    assert np.abs(pixels(source) - want).max() <= 1.5
    assert source.notes == ("its gray colors are converted to sRGB",)
    assert result(source, pixels(source))[1] is None


def test_inks_become_srgb_by_their_profile(tmp_path: Path) -> None:
    inks = np.zeros((H, W, 4), np.uint8)
    inks[:, W // 2 :, 0] = 255  # cyan, which this profile calls black
    source = opened(tmp_path, Image.fromarray(inks, "CMYK"), icc.cmyk_profile(), "tif")
    assert pixels(source)[:, : W // 2].min() >= 254
    assert pixels(source)[:, W // 2 :].max() <= 1
    assert source.notes == ("its CMYK colors are converted to sRGB",)
    assert result(source, pixels(source))[1] is None


def test_a_profile_of_one_direction_becomes_srgb_and_says_so(tmp_path: Path) -> None:
    profile = icc.scanner_profile()
    assert not ColorProfile(profile).works_both_ways
    source = opened(tmp_path, Image.new("RGB", (W, H), "white"), profile)
    assert source.notes == ("its RGB colors are converted to sRGB",)
    assert result(source, pixels(source))[1] is None


@pytest.mark.parametrize("profile", [b"nonsense" * 30, icc.cmyk_profile(), icc.rgb_profile()[:200]])
def test_profiles_that_cannot_be_used_are_left_out_and_named(tmp_path: Path, profile: bytes) -> None:
    source = opened(tmp_path, Image.fromarray(RGB), profile)
    np.testing.assert_array_equal(pixels(source).round(), RGB)
    assert source.notes == ("its color profile cannot be used and is left out: colors may look different",)
    assert result(source, pixels(source))[1] is None


def test_the_digest_tells_profiles_and_alphas_apart(tmp_path: Path) -> None:
    image = Image.fromarray(RGB)
    half = image.copy()
    half.putalpha(128)
    sources = [opened(tmp_path, image, p) for p in (OWN_SRGB, icc.rgb_profile(), icc.rgb_profile(exponent=1.8))]
    sources.append(opened(tmp_path, half, OWN_SRGB))
    assert len({s.digest() for s in sources}) == len(sources)
    assert None not in {s.digest() for s in sources}
