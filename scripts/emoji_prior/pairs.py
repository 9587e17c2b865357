"""Edit pairs with ground truth to train on, drawn in memory: none of them is in emoji-edit or emoji-edit v2."""

import random
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from tqdm import tqdm

from cpds.config import require
from scripts.emoji_prior.benchmark import COUNTS, BenchmarkConfig, Pair, draw_pair, draw_splits, render
from scripts.emoji_prior.icons import Icons, concepts, load_icons
from scripts.emoji_prior.scene_drawer import SceneDrawer
from scripts.emoji_prior.scenes import PATTERNS, ScenePair, edit_key, for_training, render_scenes


class TrainingPair(NamedTuple):
    """Images (3, 128, 128) in [0, 1], the mask (1, 128, 128) of what may change (1), and the prompts."""

    source: Tensor
    ground_truth: Tensor
    mask: Tensor
    prompt: str
    target_prompt: str


def training_pairs(count: int, seed: int = 0, cache: Path | None = None) -> list[TrainingPair]:
    """`count` pairs, half of them single icons on plain backgrounds as in emoji-edit, half scenes as in v2.

    The edits (what changes, before and after) are those of neither data set, in either direction, and no image shows a
    (concept, style) that is held out from the prior. The first pairs of a larger count are those of a smaller one.
    `cache`: of the icons (default: $CPDS_CACHE, else ~/.cache/cpds). InputError for a count < 1.
    """
    require(count >= 1, f"count must be >= 1, got {count}")
    icons = load_icons(list(concepts()), cache)
    found = []
    for pair in tqdm(islice(training_edits(icons, seed), count), "drawing pairs", count, unit="pair"):
        images = render(icons, pair) if isinstance(pair, Pair) else render_scenes(icons, pair)
        found.append(TrainingPair(*images, pair.prompt, pair.target_prompt))
    return found


def training_edits(icons: Icons, seed: int) -> Iterator[Pair | ScenePair]:
    """Without end: a single icon and a scene in turn."""
    rng, drawer = random.Random(f"training pairs {seed}"), SceneDrawer(icons)
    tests = emoji_edit_keys(icons)
    for scene in cycle((False, True)):
        while True:
            (kind,) = rng.choices(list(COUNTS), list(COUNTS.values()))
            if scene:
                pair = drawer.draw(kind, rng.randint(1, 3), rng.choice(PATTERNS), False, rng)
            else:
                pair = draw_pair(icons, kind, False, rng)
            edit = edit_key(icons, pair)
            if for_training(edit) and edit not in tests:
                break
        yield pair


def emoji_edit_keys(icons: Icons) -> set[str]:
    """The edits of emoji-edit, all splits."""
    return {edit_key(icons, pair) for pairs in draw_splits(icons, BenchmarkConfig()).values() for pair in pairs}
