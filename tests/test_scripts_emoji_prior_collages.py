"""Images of several icons: what the captions say is what the pixels show."""

import random

import pytest
import torch
from test_scripts_emoji_prior_train import make_icons

from scripts.emoji_prior import collages
from scripts.emoji_prior.icons import BACKGROUNDS, Icons, concepts


@pytest.fixture(scope="module")
def made() -> Icons:
    return make_icons()


def test_icons_hardly_overlap_and_lie_within(made: Icons):
    rng = random.Random(0)
    for count in (2, 3):
        for _ in range(40):
            collage = collages.random_collage([rng.randrange(len(made)) for _ in range(count)], rng)
            image, coverage = collages.draw_collage(made, collage, 64)
            assert image.shape == (3, 64, 64)
            shared = torch.stack(coverage).sum(0) > 1.01  # more than one icon on a pixel
            assert shared.float().mean() < 0.02
            assert all(c.sum() > 20 for c in coverage)


def test_one_icon_can_change_while_everything_else_stays(made: Icons):
    rng = random.Random(1)
    collage = collages.random_collage([0, 1], rng)
    first, second = collage.scenes
    other = collages.Collage((first.counterpart(3), second), collage.background)
    (a, over), (b, under) = (collages.draw_collage(made, c, 64) for c in (collage, other))
    outside = (torch.maximum(over[0], under[0]) == 0).expand_as(a)
    assert torch.equal(a[outside], b[outside])
    assert not torch.equal(a, b)


@pytest.mark.parametrize("kind", collages.KINDS)
def test_backgrounds_are_of_the_colours_that_they_are_called(kind: str):
    rng = random.Random(2)
    for _ in range(20):
        background = collages.random_background(rng, kind)
        pixels = background.paint(64).flatten(1)
        first, second = (torch.tensor(rgb)[:, None] / 255 for _, rgb in (background.first, background.second))
        # every pixel lies between the two colours, and both (of a plain one, the first) are there
        line = (second - first).square().sum().clamp(min=1e-6)
        mix = ((pixels - first) * (second - first)).sum(0) / line
        assert torch.allclose(first + mix * (second - first), pixels, atol=1e-4)
        assert -1e-4 <= mix.min() <= (0.2 if kind == "textured" else 0.05)
        assert mix.max() <= 1.0001
        assert mix.max() > (0.8 if kind == "textured" else 0.95) or kind == "plain"
        for name, rgb in (background.first, background.second)[: 1 if kind == "textured" else 2]:
            assert max(abs(a - b) for a, b in zip(rgb, BACKGROUNDS[name], strict=True)) <= 12
            assert name in background.words() or kind == "plain"


def test_captions_say_who_is_where(made: Icons):
    words, rng = concepts(), random.Random(3)
    names = {word: name for name, all_words in words.items() for word in all_words}
    told = set()
    for _ in range(300):
        collage = collages.random_collage([0, 1], rng)  # two concepts
        text = collages.collage_caption(made, collage, words, rng)
        for scene in collage.scenes:
            assert any(w in text for w in words[made.concept[scene.icon]]), text
        for relation, sign in {
            " left of ": (-1, 0),
            " right of ": (1, 0),
            " above ": (0, -1),
            " below ": (0, 1),
        }.items():
            if relation in text:
                told.add(relation)
                nouns = [noun for noun in names if noun in text.split(relation)[0]]
                first = names[max(nouns, key=len)]
                a, b = sorted(collage.scenes, key=lambda s: made.concept[s.icon] != first)
                offset = collages.centres(a, b)
                assert offset[0] * sign[0] + offset[1] * sign[1] > 0, text
    assert len(told) == 4
