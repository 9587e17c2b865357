"""Images of one to three icons on backgrounds of several kinds, with captions that say what is where.

Beside the plain single icons of icons.py these teach the prior scenes in which one thing may change while others stay.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from scripts.emoji_prior.icons import BACKGROUNDS, Icons, Scene, icon_layer, random_scene, with_article
from scripts.emoji_prior.icons import caption as caption_of_one

KINDS = ("plain", "gradient", "striped", "checkered", "dotted", "textured")
Colour = tuple[str, tuple[int, int, int]]  # a name of BACKGROUNDS, and this image's shade of it


@dataclass(frozen=True)
class Background:
    """What lies behind the icons: a kind of `KINDS`, its colours, and the numbers that place its pattern."""

    kind: str
    first: Colour
    second: Colour
    angle: float
    period: float  # of the pattern, in fractions of the side
    seed: int  # of the texture

    def paint(self, side: int) -> Tensor:
        """(3, side, side) in [0, 1]."""
        y, x = torch.meshgrid(*[(torch.arange(side) + 0.5) / side] * 2, indexing="ij")
        along = x * math.cos(self.angle) + y * math.sin(self.angle)
        across = y * math.cos(self.angle) - x * math.sin(self.angle)

        def wave(v: Tensor) -> Tensor:
            """A square wave, softened over about a pixel."""
            return ((2 * math.pi * v / self.period).sin() * self.period * side / 3).clamp(-0.5, 0.5) + 0.5

        if self.kind == "gradient":
            mix = (along - along.min()) / (along.max() - along.min())
        elif self.kind == "striped":
            mix = wave(along)
        elif self.kind == "checkered":
            a, b = wave(along), wave(across)
            mix = a * b + (1 - a) * (1 - b)
        elif self.kind == "dotted":
            u, v = ((w / self.period + 0.5) % 1 - 0.5 for w in (along, across))
            mix = ((0.28 - torch.hypot(u, v)) * self.period * side + 0.5).clamp(0, 1)
        elif self.kind == "textured":
            generator = torch.Generator().manual_seed(self.seed)
            octaves = [torch.rand(1, 1, n, n, generator=generator) - 0.5 for n in (4, 8, 16, 32)]
            fields = [interpolate(o, (side, side), mode="bicubic")[0, 0] for o in octaves]
            mix = (0.5 + sum(f / (i + 1.5) for i, f in enumerate(fields))).clamp(0, 1)  # pyright: ignore
        else:
            mix = torch.zeros_like(x)
        first, second = (torch.tensor(rgb).view(3, 1, 1) / 255 for _, rgb in (self.first, self.second))
        return torch.lerp(first.expand(3, side, side), second.expand(3, side, side), mix)

    def words(self) -> str:
        """'a blue and white striped background' and the like."""
        first, second = self.first[0], self.second[0]
        if self.kind == "gradient":
            return f"{with_article(first)} to {second} gradient background"
        if self.kind in ("striped", "checkered"):
            return f"{with_article(first)} and {second} {self.kind} background"
        if self.kind == "dotted":
            return f"{with_article(first)} background with {second} dots"
        adjective = "textured " if self.kind == "textured" else ""
        return f"{with_article(adjective + first)} background"


@dataclass(frozen=True)
class Collage:
    """One image: icons (their scenes' colours are not used) over a background."""

    scenes: tuple[Scene, ...]
    background: Background


def random_background(rng: random.Random, kind: str | None = None) -> Background:
    """Any kind, in two colours; a texture's second is a shade of its first."""
    kind = kind or rng.choice(KINDS)
    names = rng.sample(list(BACKGROUNDS), 2)
    shades = [tuple(min(255, max(0, c + rng.randint(-12, 12))) for c in BACKGROUNDS[name]) for name in names]
    if kind == "textured":
        names[1], shift = names[0], rng.choice((-45, 45))
        shades[1] = tuple(min(255, max(0, c + shift)) for c in shades[0])
    angle = rng.choice((0.0, 0.25, 0.5, 0.75)) * math.pi if kind != "gradient" else rng.uniform(0, 2 * math.pi)
    first, second = zip(names, shades, strict=True)
    return Background(kind, first, second, angle, rng.uniform(0.12, 0.3), rng.randrange(2**31))  # pyright: ignore


def random_collage(icons: Sequence[int], rng: random.Random) -> Collage:
    """The given icons (one to three) at random places where their boxes hardly overlap, on a random background."""
    kind = rng.choice(KINDS[1:]) if len(icons) == 1 else None  # one icon on a plain background is what icons.py draws
    background = random_background(rng, kind)
    if len(icons) == 1:
        return Collage((random_scene(icons[0], rng),), background)
    low, high = (0.4, 0.55) if len(icons) == 2 else (0.32, 0.44)
    while True:
        sizes = [rng.uniform(low, high) for _ in icons]
        scenes = [
            Scene(icon, s, rng.uniform(0, 1 - s), rng.uniform(0, 1 - s), *background.first)
            for icon, s in zip(icons, sizes, strict=True)
        ]
        pairs = [(a, b) for i, a in enumerate(scenes) for b in scenes[:i]]
        if all(apart(a, b) for a, b in pairs):
            return Collage(tuple(scenes), background)


def centres(a: Scene, b: Scene) -> tuple[float, float]:
    """Offset of a's centre from b's, in fractions of the side: right, down."""
    return a.left + a.size / 2 - b.left - b.size / 2, a.top + a.size / 2 - b.top - b.size / 2


def apart(a: Scene, b: Scene) -> bool:
    """Whether the boxes overlap by less than a tenth of a side."""
    return max(map(abs, centres(a, b))) > 0.45 * (a.size + b.size)


def draw_collage(icons: Icons, collage: Collage, side: int) -> tuple[Tensor, list[Tensor]]:
    """Image (3, side, side) in [0, 1] and each icon's coverage (1, side, side)."""
    image, coverage = collage.background.paint(side), []
    for scene in collage.scenes:
        layer = icon_layer(icons, scene, side)
        image = layer[:3] + (1 - layer[3:]) * image
        coverage.append(layer[3:])
    return image.clamp(0, 1), coverage


def collage_caption(icons: Icons, collage: Collage, words: dict[str, list[str]], rng: random.Random) -> str:
    """Nouns joined by 'and', now and then with styles or with who is where, and mostly the background."""
    where = f" on {collage.background.words()}" if rng.random() < 0.85 else ""
    if len(collage.scenes) == 1:
        return caption_of_one(icons, collage.scenes[0], words, rng, background="") + where
    scenes = list(collage.scenes)
    rng.shuffle(scenes)
    styles = {icons.style[s.icon] for s in scenes}
    shared = f" in {styles.pop()} style" if len(styles) == 1 and rng.random() < 0.3 else ""
    own = not shared and rng.random() < 0.25
    nouns = []
    for scene in scenes:
        noun = rng.choice(words[icons.concept[scene.icon]])
        nouns.append(with_article(f"{icons.style[scene.icon]} {noun}" if own else noun))
    if len(scenes) == 2 and rng.random() < 0.5:
        return f"{nouns[0]} {relation(*scenes)} {nouns[1]}{shared}{where}"
    return f"{', '.join(nouns[:-1])} and {nouns[-1]}{shared}{where}"


def relation(a: Scene, b: Scene) -> str:
    """Where a is, seen from b."""
    right, down = centres(a, b)
    if abs(right) > abs(down):
        return "right of" if right > 0 else "left of"
    return "below" if down > 0 else "above"
