"""Emoji icons as training pictures: six drawing styles of the same concepts, on coloured backgrounds.

The icons come from six openly licensed npm packages (`PACKAGES`), are rendered once with resvg and cached. The same
concept exists in several styles, so every picture made here has a known counterpart: the same style, size, place and
background with another concept. That counterpart is the ground truth of an edit.
"""

import json
import os
import random
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

MASTER = 192  # px at which an icon is rendered once; every picture is resized down from it


@dataclass(frozen=True)
class Package:
    """One npm package of icons, drawn in one style."""

    style: str
    version: str
    licence: str
    authors: str


PACKAGES = {
    "noto": Package("noto", "1.2.9", "Apache-2.0", "Google Inc. (Noto Emoji)"),
    "twemoji": Package("twemoji", "1.2.5", "CC-BY-4.0", "Twitter, Inc. and contributors (Twemoji)"),
    "fluent-emoji": Package("3d", "1.2.7", "MIT", "Microsoft Corporation (Fluent Emoji)"),
    "fluent-emoji-flat": Package("flat", "1.2.6", "MIT", "Microsoft Corporation (Fluent Emoji)"),
    "noto-v1": Package("blob", "1.2.5", "Apache-2.0", "Google Inc. (Noto Emoji v1)"),
    "emojione": Package("emojione", "1.2.3", "CC-BY-4.0", "Emoji One / EmojiTwo"),
}
STYLES = [package.style for package in PACKAGES.values()]

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


def cache_dir() -> Path:
    """Where downloads and renders are kept: $CPDS_CACHE, else ~/.cache/cpds."""
    return Path(os.environ.get("CPDS_CACHE", Path.home() / ".cache" / "cpds"))


def fetch_package(name: str, cache: Path) -> Path:
    """Folder of one unpacked npm package, downloaded with `npm pack` at the pinned version unless cached."""
    target = cache / "icons" / f"{name}-{PACKAGES[name].version}"
    if not target.exists():
        if shutil.which("npm") is None:
            raise FileNotFoundError("npm is needed to download the icon packages: install Node.js")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as tmp:
            spec = f"@iconify-json/{name}@{PACKAGES[name].version}"
            subprocess.run(["npm", "pack", "--silent", spec], cwd=tmp, check=True, stdout=subprocess.DEVNULL)
            with tarfile.open(next(Path(tmp).glob("*.tgz"))) as archive:
                safe: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.4
                archive.extractall(tmp, **safe)
            try:
                (Path(tmp) / "package").rename(target)
            except OSError:  # "Directory not empty": another program that fetched it at the same time was first
                if not target.is_dir():
                    raise
    return target


def svg_sources(folder: Path) -> dict[str, str]:
    """Icon name -> complete SVG text, aliases resolved."""
    data = json.loads((folder / "icons.json").read_text())
    icons, aliases = data["icons"], data.get("aliases", {})

    def body(name: str) -> dict | None:
        if name in icons:
            return icons[name]
        # an alias that turns or flips its parent is another picture: leave it out
        plain = name in aliases and not {"hFlip", "vFlip", "rotate"} & aliases[name].keys()
        return body(aliases[name]["parent"]) if plain else None

    sources = {}
    for name in [*icons, *aliases]:
        if icon := body(name):
            w, h = (icon.get(side, data.get(side, 16)) for side in ("width", "height"))
            side = max(w, h)  # a square canvas, the icon in its middle
            left, top = icon.get("left", 0) - (side - w) / 2, icon.get("top", 0) - (side - h) / 2
            box = f"{left} {top} {side} {side}"
            sources[name] = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{icon["body"]}</svg>'
    return sources


def load_icons(names: Sequence[str], cache: Path | None = None) -> Icons:
    """Render `names` in every style that draws them; renders are cached per style."""
    import resvg_py

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
            picture = Image.open(BytesIO(png.read_bytes())).convert("RGBA")
            flat = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
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
    """One picture: an icon, its size and top left corner in fractions of the side, and a background."""

    icon: int
    size: float
    left: float
    top: float
    colour: str
    rgb: tuple[int, int, int]

    def counterpart(self, icon: int) -> "Scene":
        """The same picture with another icon: the ground truth of an edit."""
        return replace(self, icon=icon)


def random_scene(icon: int, rng: random.Random) -> Scene:
    """Icon of 0.6 to 0.95 of the side, wholly inside, on a named background with a little jitter."""
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
    """Picture (3, side, side) in [0, 1] and the icon's coverage (1, side, side)."""
    layer = icon_layer(icons, scene, side)
    background = torch.tensor(scene.rgb).view(3, 1, 1) / 255
    return (layer[:3] + (1 - layer[3:]) * background).clamp(0, 1), layer[3:]


def caption(
    icons: Icons, scene: Scene, words: dict[str, list[str]], rng: random.Random, background: str | None = None
) -> str:
    """A sentence that says what the picture shows; style, background, size and place are each named now and then.

    `background` takes the place of the words for the scene's own; with "" none are said.
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
