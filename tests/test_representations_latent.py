"""An image as its latent: sizes, masks, and pixels that nobody edited."""

from pathlib import Path
from typing import Any

import icc
import numpy as np
import pytest
import torch
from conftest import randn
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from cpds.config import EditConfig, GuidanceConfig
from cpds.editor import edit
from cpds.errors import InputError
from cpds.images import LONGEST, open_image, open_source, require_images, working_size
from cpds.priors.unet import UNetPrior
from representations.latent import FREE, LatentImage, LatentImageConfig, changed

ROUGH = EditConfig(GuidanceConfig("dds"), 3, "sgd", 20.0, "none")


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    return randn(seed, 1, 3, height, width).sigmoid()


# ---- what is no image


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Image.new("RGB", (32, 32)), r"got a Image"),
        (noise(32, 32)[0], r"got \(3, 32, 32\) of float32: permute"),
        (noise(32, 32).permute(0, 2, 3, 1), r"got \(1, 32, 32, 3\) of float32"),
        (noise(32, 32).mul(255).byte(), r"got \(1, 3, 32, 32\) of uint8: .* divide 8 bits by 255"),
        (noise(32, 32)[:0], r"got \(0, 3, 32, 32\)"),
        (noise(32, 32) * 255, r"got values from \d.* to 2\d\d"),
        (noise(32, 32) * 2 - 1, r"got values from -0\.\d+ to 0\.\d+: scale it"),
        (noise(32, 32) * float("nan"), "got values from nan to nan"),
        (noise(32, 32) / 0, "got values from inf to inf"),
    ],
)
def test_what_is_no_image_is_refused(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"float tensor \(b, 3, H, W\) with values in \[0, 1\], {message}"):
        require_images(given)


def test_a_latent_takes_images_alone(prior: UNetPrior) -> None:
    with pytest.raises(InputError, match="got values from"):
        LatentImage(noise(32, 32) * 255, prior)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("dot", [0.0, 1.0])
def test_what_resizing_adds_is_no_reason_to_refuse(dot: float, antialias: bool) -> None:
    """Around what is small and sharp, as in pixel art, bicubic resizing overshoots most."""
    image = torch.full((1, 3, 16, 16), 1 - dot)
    image[..., 7:9, 7:9] = dot
    large = interpolate(image, size=(64, 64), mode="bicubic", antialias=antialias)
    assert large.amin() < -0.2 or large.amax() > 1.2
    require_images(large)


# ---- sizes


@pytest.mark.parametrize(
    ("height", "width", "short", "multiple", "want"),
    [
        (512, 512, 512, 64, (512, 512)),  # nothing to do
        (1024, 1024, 512, 64, (512, 512)),
        (600, 900, 512, 64, (512, 768)),  # 2:3
        (3024, 4032, 512, 64, (512, 704)),  # 3:4 is not a multiple: 682.7 -> 704
        (900, 600, 512, 64, (768, 512)),  # upright
        (100, 100, 512, 64, (512, 512)),  # small images are enlarged
        (16, 160, 32, 8, (32, 320)),
        (300, 300, 20, 64, (64, 64)),  # never below one multiple
    ],
)
def test_working_size(height: int, width: int, short: int, multiple: int, want: tuple[int, int]) -> None:
    assert working_size(height, width, short, multiple) == want


def test_working_size_keeps_the_aspect_ratio_to_a_multiple() -> None:
    for height in range(40, 400, 37):
        for width in range(40, 400, 41):
            h, w = working_size(height, width, 256, 32)
            assert h % 32 == w % 32 == 0
            assert min(h, w) == 256
            assert abs(max(h, w) - 256 * max(height, width) / min(height, width)) <= 16


def test_working_size_rejects_what_would_not_fit() -> None:
    assert working_size(100, 100, LONGEST, 64) == (LONGEST, LONGEST)
    with pytest.raises(InputError, match=r"shorter side while editing may be at most 4096 px, got 5000: lower res"):
        working_size(100, 2000, 5000, 64)


@pytest.mark.parametrize(
    ("height", "width", "short", "multiple", "want"),
    [
        (64, 64 * 8, 512, 64, (512, 4096)),  # the longest with the full shorter side
        (64, 64 * 9, 512, 64, (512, 4352)),  # 483 x 4346 before they are rounded
        (100, 4000, 128, 16, (112, 4576)),
        (4000, 100, 128, 16, (4576, 112)),  # upright
        (16, 16384, 512, 64, (64, 46336)),  # as long as a source may be
    ],
)
def test_working_size_of_very_long_images(height: int, width: int, short: int, multiple: int, want: tuple) -> None:
    assert working_size(height, width, short, multiple) == want


@pytest.mark.parametrize(("short", "multiple"), [(128, 16), (512, 64), (768, 64), (16, 16)])
def test_long_images_take_no_more_pixels_than_the_longest_at_the_full_shorter_side(short: int, multiple: int) -> None:
    most = LONGEST * short
    for ratio in (2, 8, 20, 40, 100, 300, 1024):
        h, w = working_size(16, 16 * ratio, short, multiple)
        assert h % multiple == w % multiple == 0
        if h > multiple:  # otherwise the aspect ratio is kept at the cost of a few pixels more
            assert h * w <= most * (1 + multiple / h)
        assert h * w <= 1.5 * most or (h == multiple and h * w <= multiple * multiple * ratio)
        assert abs(w - h * ratio) <= (ratio + 1) * multiple / 2 + 1 or h == multiple


@pytest.mark.parametrize("resolution", [15, 0, -64])
def test_resolution_is_checked(resolution: int) -> None:
    with pytest.raises(InputError, match=f"resolution must be >= 16 px, got {resolution}"):
        LatentImageConfig(resolution)


@pytest.mark.parametrize(
    ("height", "width", "resolution", "latent"),
    [
        (50, 30, None, (14, 8)),  # the prior's own 32 px; 53.3 -> 56 px, four to a cell
        (30, 50, None, (8, 14)),
        (30, 50, 64, (16, 26)),  # twice as fine
        (17, 17, 16, (4, 4)),
    ],
)
def test_latent_and_result_sizes(
    prior: UNetPrior, height: int, width: int, resolution: int | None, latent: tuple[int, int]
) -> None:
    image = LatentImage(noise(height, width), prior, LatentImageConfig(resolution))
    assert image.z.shape == (1, 4, *latent)
    assert image.preview().shape == (1, 3, height, width)


# ---- what stays


def test_without_an_edit_every_pixel_is_the_sources(prior: UNetPrior) -> None:
    source = noise(37, 45)
    assert torch.equal(LatentImage(source, prior).preview(), source)
    through = LatentImage(source, prior, LatentImageConfig(keep_unchanged=False)).preview()
    assert not torch.allclose(through, source, atol=0.01)  # the autoencoder loses some


def test_only_touched_pixels_leave_the_source(prior: UNetPrior, monkeypatch: pytest.MonkeyPatch) -> None:
    # a decoder that works cell by cell: the tiny one's group norms carry any change everywhere
    monkeypatch.setattr(
        prior, "decode", lambda z: torch.nn.functional.interpolate(z[:, :3], scale_factor=4).clamp(0, 1)
    )
    source = noise(96, 96)
    image = LatentImage(source, prior, LatentImageConfig(96))
    with torch.no_grad():
        image.z[..., :2, :2] = 1 - image.z[..., :2, :2].clamp(0, 1).round()  # a corner, by at least a half
    after = image.preview()
    untouched = (after == source).all(1)[0]
    assert bool(untouched[20:].all())
    assert bool(untouched[:, 20:].all())
    assert not bool(untouched[:8, :8].any())


def test_changed_is_a_smooth_step() -> None:
    before = torch.zeros(1, 3, 9, 9)
    for difference, want in ((0.0, 0.0), (0.08, 0.0), (0.14, 0.5), (0.2, 1.0), (0.7, 1.0)):  # flat images
        torch.testing.assert_close(changed(before, before + difference), torch.full((1, 1, 9, 9), want))
    one = before.clone()
    one[0, 1, 4, 4] = 3.5  # one channel of one pixel: 3.5 / 25 = 0.14 over its 5x5 px
    want = torch.zeros(1, 1, 9, 9)
    want[..., 2:7, 2:7] = 0.5
    torch.testing.assert_close(changed(before, one), want)


# ---- masks


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("keep_unchanged", [True, False])
def test_outside_the_mask_nothing_moves(prior: UNetPrior, optimizer: str, keep_unchanged: bool) -> None:
    source = noise(41, 66)
    mask = torch.zeros(1, 1, 41, 66)
    mask[..., 10:30, 5:23] = 1
    image = LatentImage(source, prior, LatentImageConfig(None, keep_unchanged), mask)
    config = EditConfig(GuidanceConfig("dds"), 3, optimizer, 20.0, "none")  # pyright: ignore[reportArgumentType]
    edit(image, prior, "a cat", "a dog", config)
    after, outside = image.preview(), (mask == 0).expand(-1, 3, -1, -1)
    assert torch.equal(after[outside], source[outside])
    assert not torch.equal(after[~outside], source[~outside])
    # a cell may move if any of its pixels may
    scale_y, scale_x, cell = image.size[0] / 41, image.size[1] / 66, image.size[0] // image.z.shape[-2]
    moved = (image.latents() != image.source_latents()).any(1)[0]
    for y, x in moved.nonzero().tolist():
        assert 10 * scale_y - 1 < (y + 1) * cell
        assert y * cell < 30 * scale_y + 1
        assert 5 * scale_x - 1 < (x + 1) * cell
        assert x * cell < 23 * scale_x + 1
    assert 0 < int(moved.sum()) < moved.numel()


def test_mask_of_ones_is_no_mask_and_of_zeros_no_edit(prior: UNetPrior) -> None:
    source = noise(32, 40)
    masks = (None, torch.ones(1, 1, 32, 40), torch.zeros(1, 1, 32, 40))
    plain, ones, zeros = (LatentImage(source, prior, None, mask) for mask in masks)
    for image in (plain, ones, zeros):
        edit(image, prior, "a cat", "a dog", ROUGH)
    torch.testing.assert_close(ones.preview(), plain.preview())
    assert torch.equal(zeros.preview(), source)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("keep_unchanged", [True, False])
def test_grey_lets_its_share_of_the_edit_through(prior: UNetPrior, optimizer: str, keep_unchanged: bool) -> None:
    source = noise(32, 40)
    config = EditConfig(GuidanceConfig("cpds", n_patches=8, normalize_gradient=True), 3, optimizer, 3.0, "none")  # pyright: ignore[reportArgumentType]

    def edited(mask: Tensor | None) -> Tensor:
        image = LatentImage(source, prior, LatentImageConfig(None, keep_unchanged), mask)
        edit(image, prior, "a cat", "a dog", config)
        return image.preview() - source

    white = edited(None)
    assert white.abs().mean() > 0.05
    for value in (0.0, 0.25, 0.5, 1.0):
        torch.testing.assert_close(edited(torch.full((1, 1, 32, 40), value)), value * white, atol=1e-5, rtol=0)
    ramp = torch.linspace(FREE, 1, 40).expand(1, 1, 32, 40)
    torch.testing.assert_close(edited(ramp), ramp * white, atol=1e-5, rtol=0)


def test_latent_cells_under_a_nearly_black_mask_hardly_move(prior: UNetPrior) -> None:
    source = noise(32, 32)
    config = EditConfig(GuidanceConfig("dds"), 1, "sgd", 20.0, "none")

    def moved(value: float) -> Tensor:
        image = LatentImage(source, prior, mask=torch.full((1, 1, 32, 32), value))
        edit(image, prior, "a cat", "a dog", config)
        return (image.latents() - image.source_latents()).detach()

    free = moved(1.0)
    assert torch.equal(moved(FREE), free)
    for value in (0.0, 0.01, 0.05):  # the noise of a JPEG; the share acts on the gradient and on what it moved
        torch.testing.assert_close(moved(value), (value / FREE) ** 2 * free, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.05, 1.0])
def test_latents_are_moved_as_far_as_the_mask_lets_them_and_keep_what_was_moved_before(
    prior: UNetPrior, value: float
) -> None:
    image = LatentImage(noise(32, 32), prior, mask=torch.full((1, 1, 32, 32), value))
    image.move_latents(torch.ones_like(image.z))
    before = image.latents().detach()
    image.move_latents(torch.zeros_like(image.z))
    assert torch.equal(image.latents(), before)
    share = min(1.0, value / FREE)
    torch.testing.assert_close(before - image.source_latents(), torch.full_like(before, share))


# ---- the representation's promises


def test_source_latents_never_move(prior: UNetPrior) -> None:
    source = noise(32, 40)
    image = LatentImage(source, prior)
    before = image.source_latents().clone()
    torch.testing.assert_close(before, prior.encode(source))  # at the prior's own size: nothing is resampled
    edit(image, prior, "a cat", "a dog", ROUGH)
    assert torch.equal(image.source_latents(), before)
    assert not image.source_latents().requires_grad
    assert not torch.equal(image.z, before)


def test_source_id_tells_inputs_apart(prior: UNetPrior) -> None:
    mask = torch.ones(1, 1, 32, 32)
    variants = [
        LatentImage(noise(32, 32), prior),
        LatentImage(noise(32, 32, seed=1), prior),
        LatentImage(noise(32, 32), prior, LatentImageConfig(48)),
        LatentImage(noise(32, 32), prior, LatentImageConfig(keep_unchanged=False)),
        LatentImage(noise(32, 32), prior, None, mask),
        LatentImage(noise(32, 32), prior, None, mask * 0.5),
    ]
    ids = [v.fingerprint() for v in variants]
    assert all(a != b for i, a in enumerate(ids) for b in ids[:i])
    assert ids[0] == LatentImage(noise(32, 32), prior).fingerprint()


def test_open_and_save(prior: UNetPrior, image_file: Path, tmp_path: Path) -> None:
    image = LatentImage.open(image_file, prior)
    image.save(tmp_path / "same.png")
    assert torch.equal(open_image(tmp_path / "same.png"), open_image(image_file))
    edit(image, prior, "a cat", "a dog", ROUGH)
    with pytest.raises(InputError, match=r"x\.png cannot be written \(there is no folder .*nodir\)"):
        image.save(tmp_path / "nodir/x.png")
    image.save(str(tmp_path / "edited.png"))
    saved = open_image(tmp_path / "edited.png")
    torch.testing.assert_close(saved, image.preview(), atol=0.5 / 255 + 1e-6, rtol=0)
    assert not torch.equal(saved, open_image(image_file))
    with pytest.raises(InputError, match=r"gone\.png does not exist"):
        LatentImage.open(tmp_path / "gone.png", prior)


def test_open_with_a_mask(prior: UNetPrior, image_file: Path, tmp_path: Path) -> None:
    half = Image.new("L", (40, 28), 0)
    half.paste(255, (0, 0, 20, 28))
    half.save(tmp_path / "mask.png")
    masked = LatentImage.open(str(image_file), prior, mask=str(tmp_path / "mask.png"))
    edit(masked, prior, "a cat", "a dog", ROUGH)
    after, source = masked.preview(), open_image(image_file)
    assert torch.equal(after[..., 20:], source[..., 20:])
    assert not torch.equal(after[..., :20], source[..., :20])
    half.resize((20, 28)).save(tmp_path / "small.png")
    with pytest.raises(InputError, match=r"small\.png is 20x28 px but the image is 40x28"):
        LatentImage.open(image_file, prior, mask=tmp_path / "small.png")
    Image.new("L", (40, 28), 0).save(tmp_path / "black.png")
    with pytest.raises(InputError, match=r"black\.png is black or transparent everywhere"):
        LatentImage.open(image_file, prior, mask=tmp_path / "black.png")


def test_what_an_edit_lacks_of_its_file_is_warned_of(prior: UNetPrior, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "green")]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match=r"two\.gif: it is an animation with 2 frames: the first is taken"):
        LatentImage.open(tmp_path / "two.gif", prior)


@pytest.mark.filterwarnings("ignore:.*keeps its transparency")
def test_a_saved_edit_keeps_alpha_and_profile(prior: UNetPrior, tmp_path: Path) -> None:
    colors = (noise(32, 32)[0] * 255).byte().permute(1, 2, 0).numpy()
    source = Image.fromarray(colors)
    alpha = Image.new("L", (32, 32), 0)
    alpha.paste(255, (4, 4, 28, 32))
    alpha.paste(100, (0, 0, 8, 8))
    source.putalpha(alpha)
    source.save(tmp_path / "cat.png", icc_profile=icc.rgb_profile())
    image = LatentImage.open(tmp_path / "cat.png", prior)
    edit(image, prior, "a cat", "a dog", ROUGH)
    image.save(tmp_path / "dog.png")
    with Image.open(tmp_path / "dog.png") as saved:
        assert saved.mode == "RGBA"
        assert saved.getchannel("A").tobytes() == alpha.tobytes()
        assert saved.info["icc_profile"] == icc.rgb_profile()
        assert saved.tobytes() != source.tobytes()
    shown, edited = open_source(tmp_path / "dog.png").image, image.preview()
    opaque, clear = (torch.from_numpy(np.asarray(alpha) == value).expand(1, 3, -1, -1) for value in (255, 0))
    assert (shown - edited)[opaque].abs().max() < 4 / 255  # it looks over white as it was edited
    assert bool((edited[clear] == 1).all())  # and before/after shows no more than the result does


def test_an_edit_is_saved_as_png(prior: UNetPrior, tmp_path: Path) -> None:
    image = LatentImage(noise(32, 32), prior)
    with pytest.raises(InputError, match=r"saved as PNG: name it dog\.png, not dog\.jpg"):
        image.save(tmp_path / "dog.jpg")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("count", "names"), [(2, ["dog-1", "dog-2"]), (11, [f"dog-{i:02}" for i in range(1, 12)])])
def test_saving_several_writes_all_of_them(prior: UNetPrior, tmp_path: Path, count: int, names: list[str]) -> None:
    images = torch.cat([noise(32, 32, seed=i) for i in range(count)])
    LatentImage(images, prior).save(tmp_path / "dog.png")
    files = sorted(tmp_path.iterdir())
    assert [file.stem for file in files] == names
    saved = torch.cat([open_image(file) for file in files])
    torch.testing.assert_close(saved, images, atol=0.5 / 255 + 1e-6, rtol=0)


# ---- several at once


@pytest.mark.parametrize("method", ["sds", "dds", "cds", "pds", "cpds"])
@pytest.mark.parametrize("selector", ["random", "learned"])
def test_images_edited_at_once_come_out_as_if_alone(prior: UNetPrior, method: str, selector: str) -> None:
    images = [noise(32, 32, seed=i) for i in range(3)]
    masks = torch.ones(3, 1, 32, 32)
    masks[1, :, :16] = 0
    prompts, targets = ["a cat", "a dog", "a red car"], ["a pig", "two dogs", "a blue car"]
    guidance = GuidanceConfig(method, n_patches=8, patch_selector=selector, selector_every=2)
    config = EditConfig(guidance, 5, "adam", 0.5, "none")

    def edited(i: slice) -> Tensor:
        image = LatentImage(torch.cat(images)[i], prior, mask=masks[i])
        edit(image, prior, prompts[i], targets[i], config)
        return image.preview()

    together = edited(slice(0, 3))
    alone = torch.cat([edited(slice(i, i + 1)) for i in range(3)])
    assert (together - alone).abs().max() < 1e-4
    assert all((together[i] - images[i]).abs().max() > 0.05 for i in range(3))  # every one was edited


def test_every_image_needs_its_prompts(prior: UNetPrior) -> None:
    image = LatentImage(torch.cat([noise(32, 32), noise(32, 32)]), prior)
    with pytest.raises(InputError, match="2 prompts but 1 target prompts"):
        edit(image, prior, ["a cat", "a dog"], ["a pig"], ROUGH)
    with pytest.raises(ValueError, match="2 views for 3 prompts: give as many views for each prompt"):
        edit(image, prior, ["a cat"] * 3, ["a pig"] * 3, ROUGH)


def test_equal_images_are_encoded_once_and_start_from_the_same_bits(prior: UNetPrior, monkeypatch: Any) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))[[0, 1, 0, 0]]
    seen, encode = [], prior.encode
    monkeypatch.setattr(prior, "encode", lambda x: seen.append(len(x)) or encode(x))
    z = LatentImage(images, prior, LatentImageConfig(32)).z.detach()
    assert seen == [2]
    assert torch.equal(z[0], z[2])
    assert torch.equal(z[0], z[3])
    torch.testing.assert_close(z, torch.cat([encode(image) for image in images.split(1)]))
