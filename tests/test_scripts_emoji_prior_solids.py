"""Icons made solid: what is seen from where, and what captions say of it."""

import random
from dataclasses import replace

import pytest
import torch
from test_scripts_emoji_prior_train import make_icons

from scripts.emoji_prior import icons, solids
from scripts.emoji_prior.icons import Icons, Scene
from scripts.emoji_prior.solids import Solid

BLUE = (30, 60, 200)


@pytest.fixture(scope="module")
def halves() -> Icons:
    """A disc, red on its left and green on its right."""
    made = make_icons()
    rgba = made.rgba.clone()
    half = icons.MASTER // 2
    rgba[0, :3] = 0
    rgba[0, 0, :, :half] = 255
    rgba[0, 1, :, half:] = 255
    return replace(made, rgba=rgba)


def covered(made: Icons, azimuth: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the disc is red and where it is green."""
    scene = Scene(0, 0.7, 0.15, 0.15, "blue", BLUE)
    image = solids.draw_solid(made, Solid(scene, azimuth, elevation=0.0), 64)
    return (image[0] > 0.35) & (image[1] < 0.2), (image[1] > 0.35) & (image[0] < 0.2)


def test_from_the_front_it_is_the_icon(halves: Icons):
    red, green = covered(halves, 0)
    assert red.sum() == pytest.approx(float(green.sum()), rel=0.05)
    assert not red[:, 33:].any()
    assert not green[:, :31].any()
    width = (red | green).any(0).sum() / 64
    assert width == pytest.approx(0.7 * 2 / 3, abs=0.05)  # the disc's share of its icon, of 0.7 of the side


def test_the_nearer_half_is_the_larger_and_the_whole_is_narrower(halves: Icons):
    whole = sum(m.sum() for m in covered(halves, 0))
    for azimuth in (-50, 50):
        red, green = covered(halves, azimuth)
        assert (green.sum() > 1.2 * red.sum()) == (azimuth > 0)
        assert (red.sum() > 1.2 * green.sum()) == (azimuth < 0)
        assert red.sum() + green.sum() < 0.95 * whole


def test_captions_tell_the_side_and_only_what_is_true(halves: Icons):
    rng, words, said = random.Random(0), icons.concepts(), 0
    for _ in range(300):
        solid = solids.random_solid(rng.randrange(4), rng)
        assert solid.scene.left == solid.scene.top == (1 - solid.scene.size) / 2
        text = solids.solid_caption(halves, solid, words, rng)
        assert any(word in text for word in words[halves.concept[solid.scene.icon]])
        side = "left" if solid.azimuth < -15 else "right" if solid.azimuth > 15 else "front"
        said += "seen from" in text
        assert ("seen from" in text) == text.endswith(f" seen from the {side}")
        assert " at the " not in text
    assert 110 < said < 190
