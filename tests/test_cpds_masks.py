"""Masks: what every kind of file means, and which are refused or warned of."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cpds.errors import InputError
from cpds.masks import edit_mask, open_mask, read_mask

H, W = 18, 23
RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (H, W), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (H, W), dtype=np.uint8)
DISC = np.add.outer((np.arange(H) - 9) ** 2, (np.arange(W) - 11) ** 2) < 40
WHITE = np.full((H, W), 255, np.uint8)


def painted(color: tuple[int, int, int], cover: np.ndarray, below: tuple[int, int, int] = (0, 0, 0)) -> Image.Image:
    """One color on a transparent layer, whose clear pixels have a color of their own, as programs write them."""
    rgb = np.where((cover > 0)[..., None], np.array(color), np.array(below)).astype(np.uint8)
    return Image.fromarray(np.dstack([rgb, cover]))


def palette(clear: int) -> Image.Image:
    image = Image.frombytes("P", (W, H), DISC.astype(np.uint8).tobytes())
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.info["transparency"] = clear
    return image


def cover(disc: np.ndarray) -> np.ndarray:
    return (disc * 255).astype(np.uint8)


MASKS: dict[str, tuple[Image.Image, np.ndarray, str]] = {  # mask, its values in 0 … 1, what is printed
    "gray": (Image.fromarray(GRAY), GRAY / 255, ""),
    "1-bit": (Image.fromarray(cover(DISC)).convert("1"), DISC, ""),
    "16-bit": (Image.fromarray(GRAY.astype(np.uint16) * 257), GRAY / 255, ""),
    "float": (Image.fromarray(DISC.astype(np.float32)), DISC, ""),
    "RGB": (Image.fromarray(np.dstack([GRAY] * 3)), GRAY / 255, ""),
    "RGBA, opaque": (Image.fromarray(np.dstack([GRAY] * 3 + [WHITE])), GRAY / 255, ""),
    "white paint, clear black": (painted((255, 255, 255), cover(DISC)), DISC, "what is painted may change"),
    "white paint, clear white": (painted((255,) * 3, cover(DISC), (255,) * 3), DISC, "what is painted may change"),
    "black paint": (painted((0, 0, 0), cover(DISC), (255,) * 3), DISC, "what is painted may change"),
    "red paint, soft": (painted((200, 0, 0), ALPHA), ALPHA / 255, "what is painted may change"),
    "white and black, the rest clear": (
        Image.fromarray(np.dstack([cover(DISC)] * 3 + [cover(np.arange(W) < 14) | np.zeros_like(GRAY)])),
        DISC & (np.arange(W) < 14),
        "black and what is transparent is held",
    ),
    "gray under alpha": (
        Image.fromarray(np.dstack([GRAY, ALPHA]), "LA"),
        GRAY / 255.0 * (ALPHA / 255.0),
        "white may change",
    ),
    "palette, black clear": (palette(0), DISC, "what is painted may change"),
}


@pytest.mark.parametrize("name", MASKS)
def test_every_kind_of_mask(tmp_path: Path, name: str) -> None:
    image, want, message = MASKS[name]
    image.save(tmp_path / "mask.tif" if image.mode == "F" else tmp_path / "mask.png")
    (file,) = tmp_path.iterdir()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = read_mask(file)
    assert got.shape == (1, 1, H, W)
    np.testing.assert_allclose(got[0, 0].numpy(), want, atol=1e-6)
    assert [message in str(w.message) for w in caught] == [True] * bool(message)
    assert all("has transparency" in str(w.message) for w in caught)


def test_a_mask_must_fit(tmp_path: Path) -> None:
    Image.fromarray(GRAY).save(tmp_path / "mask.png")
    like = torch.zeros(1, 3, H, W)
    assert torch.equal(open_mask(tmp_path / "mask.png", like), read_mask(tmp_path / "mask.png"))
    with pytest.raises(InputError, match="23x18 px but the image is 18x23"):
        open_mask(tmp_path / "mask.png", like.mT)


def test_a_white_mask_is_exactly_one_and_a_black_one_exactly_zero(tmp_path: Path) -> None:
    for value, want in ((255, 1.0), (0, 0.0)):  # what is outside must stay bit for bit
        Image.new("RGB", (W, H), (value,) * 3).save(tmp_path / "mask.png")
        assert bool((open_mask(tmp_path / "mask.png", torch.zeros(1, 3, H, W)) == want).all())


@pytest.mark.parametrize(
    ("image", "brightest"),
    [
        (Image.new("L", (W, H), 0), 0),
        (Image.fromarray(DISC.astype(np.uint8)), 1),  # 0 and 1 where 0 and 255 are meant
        (Image.new("RGBA", (W, H), (255, 255, 255, 0)), 0),  # wholly transparent
    ],
)
@pytest.mark.filterwarnings("ignore:mask .* has transparency")
def test_a_mask_under_which_nothing_could_change_is_refused(tmp_path: Path, image: Image.Image, brightest: int) -> None:
    image.save(tmp_path / "mask.png")
    with pytest.raises(InputError, match=rf"black or transparent everywhere \(its brightest value is {brightest} of"):
        edit_mask(tmp_path / "mask.png")


def test_a_mask_under_which_all_may_change_is_warned_of(tmp_path: Path) -> None:
    Image.new("RGB", (W, H), "white").save(tmp_path / "mask.png")
    with pytest.warns(UserWarning, match=r"mask\.png is white everywhere: all of the image may change"):
        assert bool((edit_mask(tmp_path / "mask.png") == 1).all())
    Image.fromarray(cover(DISC)).save(tmp_path / "mask.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert float(edit_mask(tmp_path / "mask.png").sum()) == DISC.sum()
