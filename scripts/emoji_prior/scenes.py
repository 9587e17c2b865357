"""Edit pairs in scenes of one to three icons on patterned backgrounds: one thing changes, everything else stays."""

import random
from dataclasses import dataclass, replace
from zlib import crc32

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from scripts.emoji_prior.benchmark import SIDE, Pair
from scripts.emoji_prior.collages import KINDS, Collage, centres, draw_collage
from scripts.emoji_prior.icons import Icons, Scene, random_scene

PATTERNS = KINDS[1:]  # what lies behind the icons of a source
SIZES = {2: (0.4, 0.48), 3: (0.36, 0.44)}  # of one icon, in fractions of the side, by the number of icons
GAP = 0.03  # of the side, between two icons' boxes: more than the mask's margin
FILL = 0.85  # of the crop's side, the icon's box: where the classifier is right most often


@dataclass(frozen=True)
class ScenePair:
    """Two scenes that differ in the icon number `changed`, or in the background where the kind is 'background'.

    `changed` is then the icon that the classifier is shown with the new background around it.
    """

    kind: str
    source: Collage
    ground_truth: Collage
    changed: int
    prompt: str
    target_prompt: str
    expect: dict[str, str]
    tags: list[str]


def place(icons: list[int], rng: random.Random) -> list[Scene]:
    """The icons at random places within the image, their boxes at least GAP apart."""
    if len(icons) == 1:
        return [random_scene(icons[0], rng)]
    while True:
        scenes = []
        for icon in icons:
            size = rng.uniform(*SIZES[len(icons)])
            left, top = (rng.uniform(0, 1 - size) for _ in range(2))
            scenes.append(replace(random_scene(icon, rng), size=size, left=left, top=top))
        if all(
            max(map(abs, centres(a, b))) >= (a.size + b.size) / 2 + GAP
            for i, a in enumerate(scenes)
            for b in scenes[:i]
        ):
            return scenes


def render_scenes(icons: Icons, pair: ScenePair) -> tuple[Tensor, Tensor, Tensor]:
    """Source, ground truth (3, SIDE, SIDE) and mask (1, SIDE, SIDE): 1 may change."""
    (source, over), (ground_truth, under) = (draw_collage(icons, c, SIDE) for c in (pair.source, pair.ground_truth))
    if pair.kind == "background":
        changes = torch.stack(over).amax(0) < 0.999  # resizing rounds
    else:
        changes = torch.maximum(over[pair.changed], under[pair.changed]) > 0
    return source, ground_truth, with_margin(changes)


def with_margin(changes: Tensor) -> Tensor:
    """The pixels that change and two around them: an antialiased rim belongs to what changes."""
    return max_pool2d(changes.float()[None], 5, 1, 2)[0]


def crop_box(pair: ScenePair) -> tuple[int, int, int, int]:
    """Left, top, right, bottom in px of the square around the icon that the classifier is shown."""
    scene = pair.source.scenes[pair.changed]
    side = min(SIDE, round(scene.size * SIDE / FILL))
    left, top = (
        min(SIDE - side, max(0, round((v + scene.size / 2) * SIDE - side / 2))) for v in (scene.left, scene.top)
    )
    return left, top, left + side, top + side


def edit_key(icons: Icons, pair: Pair | ScenePair) -> str:
    """What makes two pairs the same edit, whichever way it goes: the thing that changes, before and after."""
    if isinstance(pair, ScenePair):
        ends = [(c.scenes[pair.changed].icon, c.background.words()) for c in (pair.source, pair.ground_truth)]
    else:
        ends = [(s.icon, s.colour) for s in (pair.source, pair.ground_truth)]
    words = [f"{icons.concept[i]} {icons.style[i]}{f' on {b}' if pair.kind == 'background' else ''}" for i, b in ends]
    return " <> ".join(sorted(words))


def for_training(key: str) -> bool:
    """Whether an edit with a target that the prior has seen belongs to the train split; one in four is for tests."""
    return crc32(key.encode()) % 4 > 0
