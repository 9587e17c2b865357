"""Draw the emoji-edit benchmark: edit pairs with a mask of what may change, and their ground truth.

    python -m scripts.emoji_prior.benchmark --out benchmarks/emoji_edit

The same concept exists in six drawing styles, and a scene can be drawn again with another icon, style or background:
that is the ground truth of the edit. Half of the pairs of each kind aim at a (concept, style) pair that the prior was
never trained on.
"""

import json
import random
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import max_pool2d

from scripts.emoji_prior.icons import (
    BACKGROUNDS,
    Icons,
    Scene,
    concepts,
    concepts_by_kind,
    draw,
    held_out_pairs,
    load_icons,
    random_scene,
    with_article,
)
from scripts.program import run_program

SIDE = 128  # px
DEMO = [("cat-face", "dog-face"), ("cat-face", "pig-face"), ("red-apple", "tomato"), ("red-heart", "blue-heart")]
COUNTS = {"animal": 60, "food": 48, "object": 48, "colour": 28, "background": 28, "style": 28}  # 240
ALIKE = 0.6  # least overlap of the two icons' silhouettes: an edit, not another image
OBJECTS = ("object", "plant", "face")  # kinds of concepts.txt whose edits are object to object

README = """# emoji-edit

{test} edit pairs for testing, {validation} for tuning and {demo} of the edits that one tries first, drawn by
`python -m scripts.emoji_prior.benchmark` (seed {seed}) from the packages that the embedded prior's model card names,
under the licences named there. `manifest.jsonl`: source, prompts, mask (white may change), ground truth, and the
classes that the classifier should predict. Pairs tagged `held-out` aim at a (concept, style) pair that the embedded
prior was never trained on. `classifier.safetensors`: made by `python -m scripts.emoji_prior.classifier`.
"""


@dataclass(frozen=True)
class BenchmarkConfig:
    """What to draw."""

    out: Path = Path("benchmarks/emoji_edit")
    """Folder for manifest.jsonl and the images."""
    seed: int = 0
    """Seeds the pairs; validation pairs are drawn from seed + 1."""
    validation_share: float = 0.4
    """Pairs for tuning, as a share of those for testing."""


@dataclass(frozen=True)
class Pair:
    """Two scenes, their prompts, and the classes of the second."""

    kind: str
    source: Scene
    ground_truth: Scene
    prompt: str
    target_prompt: str
    expect: dict[str, str]
    tags: list[str]


def stands_out(icons: Icons, scene: Scene) -> bool:
    """Whether the icon's mean colour differs clearly from the background's."""
    rgba = icons.rgba[scene.icon].float() / 255
    mean = (rgba[:3] * rgba[3:]).sum((1, 2)) / rgba[3].sum()
    return float((mean - torch.tensor(scene.rgb) / 255).norm()) > 0.3


def overlap(icons: Icons, a: int, b: int) -> float:
    """Intersection over union of two icons' silhouettes."""
    one, other = (icons.rgba[i, 3, ::8, ::8].float() for i in (a, b))
    return float(torch.minimum(one, other).sum() / torch.maximum(one, other).sum())


def draw_pair(icons: Icons, kind: str, held_out: bool, rng: random.Random) -> Pair:
    """One pair of the kind whose target the prior has (not) seen: alike in shape, both clear of the background."""
    table, secret = concepts_by_kind(), held_out_pairs()
    groups = {kind: (kind,), "object": OBJECTS, "background": tuple(table), "style": tuple(table)}[kind]
    words = {name: w[0] for group in groups for name, w in table[group].items()}
    drawn = [(c, s) for c, s in zip(icons.concept, icons.style, strict=True) if c in words]
    while True:
        concept, style = rng.choice(sorted(secret & set(drawn)) if held_out else sorted(set(drawn) - secret))
        same_style = [c for c, s in drawn if s == style and c != concept and (c, s) not in secret]
        other_styles = [s for c, s in drawn if c == concept and s != style and (c, s) not in secret]
        if not other_styles or not same_style:
            continue
        end = random_scene(icons.find(concept, style), rng)
        where = f"on {with_article(end.colour)} background"
        target_prompt = f"{with_article(words[concept])} {where}"
        if kind == "background":
            colour = rng.choice([c for c in BACKGROUNDS if c != end.colour])
            source = replace(end, colour=colour, rgb=BACKGROUNDS[colour])
            prompt = f"{with_article(words[concept])} on {with_article(colour)} background"
            expect = {"concept": concept, "background": end.colour}
        elif kind == "style":
            other = rng.choice(other_styles)
            source = end.counterpart(icons.find(concept, other))
            prompt, target_prompt = (f"{with_article(words[concept])} in {s} style {where}" for s in (other, style))
            expect = {"concept": concept, "style": style}
        else:
            other = rng.choice(same_style)
            source = end.counterpart(icons.find(other, style))
            prompt, expect = f"{with_article(words[other])} {where}", {"concept": concept}
        alike = overlap(icons, source.icon, end.icon) >= ALIKE
        if alike and stands_out(icons, source) and stands_out(icons, end):
            return Pair(kind, source, end, prompt, target_prompt, expect, [kind, "held-out" if held_out else "seen"])


def key(pair: Pair) -> tuple[object, ...]:
    """What makes two pairs the same edit."""
    backgrounds = (pair.source.colour, pair.ground_truth.colour) if pair.kind == "background" else ()
    return pair.kind, pair.source.icon, pair.ground_truth.icon, backgrounds


def draw_split(icons: Icons, share: float, rng: random.Random, taken: set[tuple[object, ...]]) -> list[Pair]:
    """Every kind's number of pairs times `share`, seen and held-out targets in turn; none that is in `taken`."""
    pairs = []
    for kind, count in COUNTS.items():
        for i in range(round(count * share / 2) * 2):
            pair = draw_pair(icons, kind, i % 2 == 1, rng)
            while key(pair) in taken:
                pair = draw_pair(icons, kind, i % 2 == 1, rng)
            taken.add(key(pair))
            pairs.append(pair)
    return pairs


def draw_demo(icons: Icons, rng: random.Random, each: int = 10) -> list[Pair]:
    """The four edits that a newcomer tries first, `each` times; styles take turns, whether seen or held out."""
    words, pairs = concepts(), []
    for name, target in DEMO:
        styles = sorted({s for c, s in zip(icons.concept, icons.style, strict=True) if c == name})
        for i in range(each):
            a, b = (icons.find(c, styles[i % len(styles)]) for c in (name, target))
            scene = random_scene(a, rng)
            while not (stands_out(icons, scene) and stands_out(icons, scene.counterpart(b))):
                scene = random_scene(a, rng)
            where = f"on {with_article(scene.colour)} background"
            prompt, target_prompt = (f"{with_article(words[c][0])} {where}" for c in (name, target))
            tags = [f"{words[name][0]} to {words[target][0]}"]
            pairs.append(Pair("demo", scene, scene.counterpart(b), prompt, target_prompt, {"concept": target}, tags))
    return pairs


def render(icons: Icons, pair: Pair) -> tuple[Tensor, Tensor, Tensor]:
    """Source, ground truth (3, SIDE, SIDE) and mask (1, SIDE, SIDE): 1 may change."""
    (source, over), (ground_truth, under) = (draw(icons, s, SIDE) for s in (pair.source, pair.ground_truth))
    icon = torch.maximum(over, under) > 0
    changes = (icon if pair.kind != "background" else over < 0.999).float()  # resizing rounds
    # two pixels of margin: an antialiased rim belongs to what changes
    return source, ground_truth, max_pool2d(changes[None], 5, 1, 2)[0]


def save(path: Path, image: Tensor) -> None:
    """Lossless, as small as it gets."""
    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    buffer = BytesIO()
    if image.shape[0] == 1:
        Image.fromarray(pixels[..., 0]).convert("1").save(buffer, "PNG", optimize=True)
    else:
        Image.fromarray(pixels).save(buffer, "WEBP", lossless=True, method=6, exact=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())


class Described(Protocol):
    """What the manifest says about a pair."""

    @property
    def prompt(self) -> str: ...
    @property
    def target_prompt(self) -> str: ...
    @property
    def expect(self) -> dict[str, str]: ...
    @property
    def tags(self) -> list[str]: ...


def write_pair(out: Path, name: str, split: str, pair: Described, images: Iterable[Tensor]) -> dict[str, object]:
    """Save source, ground truth and mask; their row of the manifest."""
    names = {"source": "source.webp", "ground_truth": "ground_truth.webp", "mask": "mask.png"}
    files = {column: f"images/{name}/{file}" for column, file in names.items()}
    for file, image in zip(files.values(), images, strict=True):
        save(out / file, image)
    row = {"id": name, "prompt": pair.prompt, "target_prompt": pair.target_prompt}
    return {**row, **files, "expect": pair.expect, "split": split, "tags": pair.tags}


def draw_splits(icons: Icons, config: BenchmarkConfig) -> dict[str, list[Pair]]:
    """All pairs of the data set, by split."""
    taken: set[tuple[object, ...]] = set()
    splits = {
        name: draw_split(icons, share, random.Random(config.seed + i), taken)
        for i, (name, share) in enumerate({"test": 1.0, "validation": config.validation_share}.items())
    }
    return splits | {"demo": draw_demo(icons, random.Random(config.seed + 2))}


def main(config: BenchmarkConfig) -> None:
    icons = load_icons(list(concepts()))
    splits = draw_splits(icons, config)
    rows = [
        write_pair(config.out, f"{split}-{i:03d}", split, pair, render(icons, pair))
        for split, pairs in splits.items()
        for i, pair in enumerate(pairs)
    ]
    (config.out / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = {name: len(pairs) for name, pairs in splits.items()}
    (config.out / "README.md").write_text(README.format(**sizes, seed=config.seed))
    print(sizes)


if __name__ == "__main__":
    sys.exit(run_program(main, BenchmarkConfig, __doc__))
