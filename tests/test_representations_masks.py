"""Masks of a scene's views: where an edit shows, how they are fitted and found, and which are refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import randn
from PIL import Image
from splat_scenes import ball, ring, scene
from torch import Tensor

from cpds.config import EditConfig, GuidanceConfig
from cpds.editor import edit
from cpds.errors import InputError
from cpds.priors.unet import UNetPrior
from cpds.rendered import Rendered, hold
from representations.cameras import Camera
from representations.masks import find_masks, fitted_mask
from representations.splats.config import SplatConfig
from representations.splats.ply import SplatFile
from representations.splats.scene import SplatScene


def write_masks(folder: Path, shades: Tensor, count: int = 6) -> list[Path]:
    """The same for every camera of `ring`: (H, W), 1 = white."""
    folder.mkdir()
    for i in range(count):
        Image.fromarray((shades * 255).round().byte().numpy()).save(folder / f"{i}.png")
    return find_masks(folder, ring(count))


LEFT = torch.zeros(40, 60)
LEFT[:, :30] = 1


def color(of: SplatScene) -> Tensor:
    return next(group.tensors[0] for group in of.param_groups() if group.name == "color")


def test_an_edit_shows_where_masks_are_white(prior: UNetPrior, tmp_path: Path) -> None:
    """White: as without masks. Black: the source."""
    plain = scene(prior)
    assert plain.mask(1) is None
    white, half = (
        SplatScene(SplatFile.of(ball()), ring(), prior, masks=write_masks(tmp_path / name, shades))
        for name, shades in (("white", torch.ones_like(LEFT)), ("half", LEFT))
    )
    assert (plain.hold_at, white.hold_at) == (0.02, 0.02)
    edge, mask = half.cameras[1].width // 2, half.mask(1)
    assert mask is not None
    assert mask.shape == (1, 1, half.cameras[1].height, half.cameras[1].width)
    assert (mask[..., : edge - 1] == 1).all()
    assert (mask[..., edge + 1 :] == 0).all()
    for made in (plain, white, half):
        color(made).data += 0.3
    found = [Rendered(made, prior).latents(1) for made in (plain, white, half)]
    assert torch.equal(found[1], found[0])
    blended = half.render_source(1) + mask * (half.render(1) - half.render_source(1))
    assert torch.equal(found[2], prior.encode(blended))
    assert not torch.equal(found[2], found[0])


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_what_has_changed_where_masks_are_black_is_undone(scale: float) -> None:
    """A change of `hold_at` as hard as the edit pulls on average, and nothing where nothing has changed."""
    at = 0.02
    source, gradient = randn(0, 1, 3, 8, 6).sigmoid(), scale * randn(1, 1, 3, 8, 6)
    mask = (torch.arange(6) < 3).float().expand(1, 1, 8, 6)
    image = source.clone().requires_grad_()
    (found,) = torch.autograd.grad(hold(image, source, mask, at), image, gradient)
    assert torch.equal(found, mask * gradient)
    image = (source + at).requires_grad_()
    (found,) = torch.autograd.grad(hold(image, source, mask, at), image, gradient)
    rms = float(gradient.square().mean().sqrt())
    assert torch.allclose(found, mask * gradient + (1 - mask) * rms, rtol=1e-3, atol=1e-3 * scale)


def test_masked_edits_keep_to_their_masks(prior: UNetPrior, tmp_path: Path) -> None:
    """White is the upper half, in views that lie around the vertical axis."""
    masks, found = write_masks(tmp_path / "top", (torch.arange(40) < 20)[:, None].float().expand(40, 60)), []
    for files in ((), masks):
        made = SplatScene(SplatFile.of(ball()), ring(), prior, SplatConfig(optimize=("color",)), masks=files)
        edit(made, prior, "a cat", "a dog", EditConfig(GuidanceConfig("dds"), 24, "adam", 0.02))
        change = torch.cat([(made.render(i) - made.render_source(i)).detach().abs() for i in range(6)])
        found.append([float(half.mean()) for half in change.chunk(2, 2)])
    (above, below), (masked_above, masked_below) = found
    assert masked_below < 0.25 * below
    assert masked_above > 0.5 * above


def test_masks_follow_the_views_crop(tmp_path: Path) -> None:
    """A mask that rises linearly across its image still does, at the pixels that the fitted camera sees."""
    camera = ring(1, 61, 40)[0]
    file = tmp_path / "m.png"
    ramp = torch.linspace(0.5 / 122, 1 - 0.5 / 122, 122).expand(80, 122)  # twice the camera's size: of a larger image
    Image.fromarray((ramp * 255).round().byte().numpy()).save(file)
    fitted = camera.fitted(32, 40)
    found = fitted_mask(file, camera, 32, 40)[0, 0].float() / 255
    rays = (torch.arange(40) + 0.5 - fitted.k[0, 2]) / fitted.k[0, 0]
    wanted = (rays * camera.k[0, 0] + camera.k[0, 2]) / camera.width
    assert (found - wanted).abs().max() < 0.01


def test_what_is_transparent_in_a_mask_is_held(tmp_path: Path) -> None:
    camera = ring(1, 40, 40)[0]
    painted = Image.new("RGBA", (40, 40))
    painted.paste((200, 30, 30, 255), (0, 0, 20, 40))
    painted.save(tmp_path / "m.png")
    with pytest.warns(UserWarning, match="what is transparent is held"):
        found = fitted_mask(tmp_path / "m.png", camera, 40, 40)[0, 0]
    assert (found[:, :19] == 255).all()
    assert (found[:, 21:] == 0).all()


def test_masks_are_found_by_the_cameras_names(tmp_path: Path) -> None:
    def named(*names: str) -> list[Camera]:
        return [replace(ring(1)[0], name=name) for name in names]

    for name in ("a.png", "b.jpg", "left/1.png", "right/1.png", "1.002.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    cameras = named("images/a.jpg", "b", "left/1.jpg", "right/1.jpg", "1.002", "../images/b.png")
    wanted = ["a.png", "b.jpg", "left/1.png", "right/1.png", "1.002.png"]
    assert find_masks(tmp_path, cameras[:5]) == [tmp_path / name for name in wanted]
    assert find_masks(tmp_path, cameras[5:]) == [tmp_path / "b.jpg"]
    with pytest.raises(InputError, match=r"no mask for the camera images/c\.jpg: put c\.png into"):
        find_masks(tmp_path, named("images/c.jpg"))
    with pytest.raises(InputError, match=r"no mask for the camera middle/1\.jpg: put middle/1\.png into"):
        find_masks(tmp_path, named("left/1.jpg", "middle/1.jpg"))
    with pytest.raises(InputError, match="is no folder"):
        find_masks(tmp_path / "a.png", cameras)


def test_bad_masks(prior: UNetPrior, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="all 6 masks are black"):
        SplatScene(SplatFile.of(ball()), ring(), prior, masks=write_masks(tmp_path / "black", 0 * LEFT))
    with pytest.raises(InputError, match=r"mask .* is 40x60 px, but its camera 60x40"):
        SplatScene(SplatFile.of(ball()), ring(), prior, masks=write_masks(tmp_path / "tall", LEFT.T))


def test_the_fingerprint_follows_the_masks(prior: UNetPrior, tmp_path: Path) -> None:
    masked = [
        SplatScene(SplatFile.of(ball()), ring(), prior, masks=write_masks(tmp_path / name, shades))
        for name, shades in (("left", LEFT), ("right", 1 - LEFT))
    ]
    assert len({json.dumps(made.fingerprint()) for made in (scene(prior), *masked)}) == 3
