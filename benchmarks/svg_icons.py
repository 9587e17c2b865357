"""Which icons are edited: a list to choose settings on, another to judge them by, and the edits that one tries first.

The concepts of scripts/emoji_prior/concepts.txt are dealt out to the two lists with a seed, so that none is in both, at
either end of an edit; those that one tries first are in neither. A list has one edit of each kind in each of five
drawing styles: icons alike in shape that the embedded prior was trained on.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from scripts.emoji_prior.icons import Icons
from scripts.emoji_prior.packages import PACKAGES
from scripts.emoji_prior.scene_drawer import SceneDrawer

SETS = ("noto", "twemoji", "fluent-emoji-flat", "noto-v1", "emojione")  # packages of plain SVG
KINDS = ("animal", "food", "object", "colour")
FIRST = (  # icon, what it shows, what it should become, that icon
    ("cat-face", "cat face", "dog face", "dog-face"),
    ("cat-face", "cat face", "pig face", "pig-face"),
    ("red-heart", "red heart", "blue heart", "blue-heart"),
    ("red-apple", "red apple", "tomato", "tomato"),
)
SEED = 1  # one that leaves hearts, circles or books of every style in both lists
ListName = Literal["tuning", "judging", "first"]


@dataclass(frozen=True)
class IconEdit:
    """One icon of a package, what it shows and should show, and the package's icon of that."""

    package: str
    icon: str
    shown: str
    wanted: str
    target: str

    @property
    def name(self) -> str:
        return f"{self.package}-{self.icon}-{self.target}"


def edits(which: ListName, load: Callable[[], Icons], usable: Callable[[IconEdit], bool]) -> list[IconEdit]:
    """The list's edits, 20 of them; those drawn are `usable`. `load` gives the icons rendered, to compare shapes."""
    if which == "first":
        return [IconEdit(package, *edit) for edit in FIRST for package in SETS]
    icons = load()
    tried = {name for icon, *_, target in FIRST for name in (icon, target)}
    concepts = sorted(set(icons.concept) - tried)
    random.Random(SEED).shuffle(concepts)
    concepts.sort(key=lambda name: name.split("-")[-1])  # hearts, circles and books are dealt out evenly
    half = ("tuning", "judging").index(which)
    return draw_list(icons, set(concepts[half::2]), usable, random.Random(f"{which} {SEED}"))


def draw_list(
    icons: Icons, concepts: set[str], usable: Callable[[IconEdit], bool], rng: random.Random
) -> list[IconEdit]:
    """An edit of each kind in each style, between these concepts."""
    found: list[IconEdit] = []
    for package in SETS:
        style = PACKAGES[package].style
        keep = [i for i in range(len(icons)) if icons.style[i] == style and icons.concept[i] in concepts]
        own = Icons(icons.rgba[keep], [icons.concept[i] for i in keep], [style] * len(keep))
        drawer = SceneDrawer(own)
        for kind in KINDS:
            while True:
                icon, target = (own.concept[i] for i in drawer.ends(kind, False, rng))
                edit = IconEdit(package, icon, drawer.nouns[icon], drawer.nouns[target], target)
                if usable(edit):
                    found.append(edit)
                    break
    return found
