"""Emoji icons as training images: six drawing styles of the same concepts, on coloured backgrounds.

    python -m scripts.emoji_prior.icons        # download and render all of them into the cache

The icons come from six openly licensed npm packages (packages.py), are rendered once with resvg and cached. The same
concept exists in several styles, so every image made here has a known counterpart: the same style, size, place and
background with another concept. That counterpart is the ground truth of an edit.
"""

import os
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from cpds.errors import MissingExtra
from scripts.emoji_prior.packages import PACKAGES, cache_dir, fetch_package, svg_sources
from scripts.program import run_program

MASTER = 192  # px at which an icon is rendered once; every image is resized down from it


BACKGROUNDS = {
    "white": (250, 250, 250),
    "black": (20, 20, 20),
    "grey": (140, 140, 140),
    "red": (205, 60, 60),
    "orange": (240, 150, 60),
    "yellow": (245, 220, 100),
    "green": (90, 170, 90),
    "teal": (60, 160, 160),
    "light blue": (160, 210, 240),
    "blue": (75, 125, 230),
    "purple": (140, 90, 190),
    "pink": (240, 160, 200),
    "brown": (130, 90, 65),
}


def concepts() -> dict[str, list[str]]:
    """Icon name -> the words that a caption may use for it, from concepts.txt (`name: words, other words`)."""
    return {name: words for kind in concepts_by_kind().values() for name, words in kind.items()}


def concepts_by_kind() -> dict[str, dict[str, list[str]]]:
    """The same table under the headings of concepts.txt: animal, food, colour, ..."""
    kinds: dict[str, dict[str, list[str]]] = {}
    for line in (Path(__file__).parent / "concepts.txt").read_text().splitlines():
        if line.startswith("["):
            table = kinds[line.strip("[]")] = {}
        elif line and not line.startswith("#"):
            name, _, words = line.partition(":")
            table[name.strip()] = [w.strip() for w in words.split(",") if w.strip()] or [name.strip().replace("-", " ")]
    return kinds


@dataclass(frozen=True)
class Icons:
    """Rendered icons: `rgba` (n, 4, MASTER, MASTER) uint8 with straight alpha, and each one's concept and style."""

    rgba: Tensor
    concept: list[str]
    style: list[str]

    def __len__(self) -> int:
        return len(self.concept)

    def find(self, concept: str, style: str) -> int:
        """Index of one icon; KeyError if this style does not draw it."""
        for i, pair in enumerate(zip(self.concept, self.style, strict=True)):
            if pair == (concept, style):
                return i
        raise KeyError(f"no icon of {concept!r} in style {style!r}")


def load_icons(names: Sequence[str], cache: Path | None = None) -> Icons:
    """Render `names` in every style that draws them; renders are cached per style."""
    try:
        import resvg_py
    except ImportError as err:
        raise MissingExtra("icons are rendered with resvg: pip install -e '.[train]'") from err

    cache = cache or cache_dir()
    rgba, concept, style = [], [], []
    for package in PACKAGES:
        sources = svg_sources(fetch_package(package, cache))
        renders = cache / "renders" / f"{package}-{PACKAGES[package].version}-{MASTER}"
        renders.mkdir(parents=True, exist_ok=True)
        for name in names:
            if name not in sources:
                continue
            png = renders / f"{name}.png"
            if not png.exists():
                data = bytes(resvg_py.svg_to_bytes(svg_string=sources[name], width=MASTER, height=MASTER))
                part = png.with_suffix(f".{os.getpid()}.part")  # two programs may render it at the same time
                part.write_bytes(data)
                part.replace(png)
            image = Image.open(BytesIO(png.read_bytes())).convert("RGBA")
            flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
            rgba.append(flat.view(MASTER, MASTER, 4).permute(2, 0, 1))
            concept.append(name)
            style.append(PACKAGES[package].style)
    return Icons(torch.stack(rgba), concept, style)


def held_out_pairs() -> set[tuple[str, str]]:
    """(concept, style) pairs that training never sees, from held_out.txt: benchmarks need some."""
    lines = (Path(__file__).parent / "held_out.txt").read_text().splitlines()
    return {(c, s) for c, s in (line.split() for line in lines if line and not line.startswith("#"))}


@dataclass(frozen=True)
class Scene:
    """One image: an icon, its size and top left corner in fractions of the side, and a background."""

    icon: int
    size: float
    left: float
    top: float
    colour: str
    rgb: tuple[int, int, int]

    def counterpart(self, icon: int) -> "Scene":
        """The same image with another icon: the ground truth of an edit."""
        return replace(self, icon=icon)


def random_scene(icon: int, rng: random.Random) -> Scene:
    """Icon of 0.6 to 0.95 of the side, entirely inside, on a named background with a little jitter."""
    size = rng.uniform(0.6, 0.95)
    colour = rng.choice(list(BACKGROUNDS))
    rgb = tuple(min(255, max(0, c + rng.randint(-12, 12))) for c in BACKGROUNDS[colour])
    return Scene(icon, size, rng.uniform(0, 1 - size), rng.uniform(0, 1 - size), colour, rgb)  # pyright: ignore


def icon_layer(icons: Icons, scene: Scene, side: int) -> Tensor:
    """The icon alone at its place, premultiplied RGBA (4, side, side) in [0, 1]."""
    pixels = max(1, round(scene.size * side))
    top, left = (min(side - pixels, round(v * side)) for v in (scene.top, scene.left))
    icon = icons.rgba[scene.icon].float() / 255
    premultiplied = torch.cat([icon[:3] * icon[3:], icon[3:]])
    small = interpolate(premultiplied[None], (pixels, pixels), mode="bilinear", antialias=True)[0]
    layer = torch.zeros(4, side, side)
    layer[:, top : top + pixels, left : left + pixels] = small
    return layer


def draw(icons: Icons, scene: Scene, side: int) -> tuple[Tensor, Tensor]:
    """Image (3, side, side) in [0, 1] and the icon's coverage (1, side, side)."""
    layer = icon_layer(icons, scene, side)
    background = torch.tensor(scene.rgb).view(3, 1, 1) / 255
    return (layer[:3] + (1 - layer[3:]) * background).clamp(0, 1), layer[3:]


def caption(
    icons: Icons, scene: Scene, words: dict[str, list[str]], rng: random.Random, background: str | None = None
) -> str:
    """A sentence about what the image shows; style, background, size and place are each named now and then.

    `background` takes the place of the words for the scene's own; with "" there are none.
    """
    noun = rng.choice(words[icons.concept[scene.icon]])
    style = icons.style[scene.icon]
    how = rng.choice(["", "", "adjective", "phrase"])
    noun = f"{style} {noun}" if how == "adjective" else noun
    if rng.random() < 0.25:
        noun = f"{size_word(scene)} {noun}".strip()
    text = with_article(noun)
    if how == "phrase":
        text += f" in {style} style"
    if rng.random() < 0.8:
        text += f" on {with_article(scene.colour)} background" if background is None else background
    if rng.random() < 0.25:
        text += place_words(scene)
    return text


def with_article(noun: str) -> str:
    """'a cat face', 'an umbrella'."""
    return f"{'an' if noun.startswith(('a', 'e', 'i', 'o', 'um')) else 'a'} {noun}"


def size_word(scene: Scene) -> str:
    """'small' below 0.7 of the side, 'large' above 0.85, else nothing."""
    return "small" if scene.size < 0.7 else "large" if scene.size > 0.85 else ""


def place_words(scene: Scene) -> str:
    """Where the icon sits, if clearly off the centre: ' at the top left' and the like."""
    free = 1 - scene.size
    if free < 0.12:
        return ""
    vertical = "top" if scene.top < 0.3 * free else "bottom" if scene.top > 0.7 * free else ""
    horizontal = "left" if scene.left < 0.3 * free else "right" if scene.left > 0.7 * free else ""
    where = f"{vertical} {horizontal}".strip()
    return f" at the {where}" if where else " in the centre"


@dataclass(frozen=True)
class IconsConfig:
    """What to render."""

    cache: Path | None = None
    """Folder for packages and renders. Default: $CPDS_CACHE, else ~/.cache/cpds."""


def main(config: IconsConfig) -> None:
    icons = load_icons(list(concepts()), config.cache)
    for style, count in Counter(icons.style).items():
        print(f"{style}: {count} icons")


if __name__ == "__main__":
    sys.exit(run_program(main, IconsConfig, __doc__))
