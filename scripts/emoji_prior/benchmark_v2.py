"""Draw emoji-edit v2: scenes of one to three icons on patterned backgrounds in which one thing changes.

    python -m scripts.emoji_prior.benchmark_v2 --out benchmarks/emoji_edit_v2

Ground truth and mask as in emoji-edit (benchmark.py). The classifier, which knows single icons, is shown a crop around
the icon that changes.
"""

import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, cycle
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from cpds.evaluation.cases import classifier_file
from cpds.evaluation.classifier import IconClassifier
from cpds.priors.base import Prior
from cpds.priors.load import load_prior
from scripts.emoji_prior.benchmark import write_pair
from scripts.emoji_prior.icons import Icons, concepts, load_icons
from scripts.emoji_prior.pairs import emoji_edit_keys
from scripts.emoji_prior.scene_drawer import SceneDrawer
from scripts.emoji_prior.scenes import PATTERNS, ScenePair, crop_box, edit_key, for_training, render_scenes
from scripts.program import run_program

COUNTS = {  # by split; as many with one icon as with two and with three, and of each kind of background
    "test": {"animal": 38, "food": 34, "object": 34, "colour": 12, "background": 30, "style": 12},
    "validation": {"animal": 14, "food": 10, "object": 12, "colour": 6, "background": 12, "style": 6},
}

README = """# emoji-edit v2

{test} edit pairs for testing and {validation} for tuning, drawn by `python -m scripts.emoji_prior.benchmark_v2` (seed
{seed}) from the packages that the embedded prior's model card names, under the licences named there. A source shows
one, two or three icons on a gradient, stripes, checks, dots or a texture; in its ground truth exactly one thing
differs: an icon's concept, its color, its style, or the background. No edit is one of emoji-edit's, in either
direction.

`manifest.jsonl`: as in emoji-edit; and `crop`, the box (left, top, right, bottom in px) around the icon that changes,
or, where the background does, around one of the icons. The classifier (emoji-edit's, which was trained on single icons
on plain backgrounds) is shown this crop: `expect` is what it should find there. Tags: what changes, whether the target
is a (concept, style) pair that the embedded prior was trained on (`seen`, `held-out`), the number of icons, and the
kind of the source's background.

Pairs were discarded in which the classifier found the target in the source's crop, or did not find it in the ground
truth's ({missed:.1%} of those drawn), or not in the ground truth's after the embedded prior's autoencoder, which blurs
small icons and patterns ({blurred:.1%}): what no edit with this prior can reach is no test of a method. Of the pairs
kept, the classifier finds the target in every ground truth and in no source.
"""


@dataclass(frozen=True)
class BenchmarkV2Config:
    """What to draw."""

    out: Path = Path("benchmarks/emoji_edit_v2")
    """Folder for manifest.jsonl and the images."""
    seed: int = 0
    """Seeds the pairs."""


class Drawn(NamedTuple):
    """A pair and its images: source, ground truth, mask."""

    pair: ScenePair
    images: tuple[Tensor, Tensor, Tensor]


class Benchmark:
    """Draws pairs that the classifier can tell; `verdicts` counts what became of those drawn."""

    def __init__(self, icons: Icons, classifier: IconClassifier, prior: Prior) -> None:
        self.icons, self.classifier, self.prior = icons, classifier, prior
        self.drawer, self.taken = SceneDrawer(icons), emoji_edit_keys(icons)
        self.verdicts: Counter[str] = Counter()

    def split(self, counts: dict[str, int], rng: random.Random) -> list[Drawn]:
        """Each kind's number of pairs; numbers of icons, kinds of background, seen and held-out targets take turns."""
        kinds = [kind for kind, count in counts.items() for _ in range(count)]
        return [self._pair(kind, n % 3 + 1, PATTERNS[n % 5 :], n % 2 == 1, rng) for n, kind in enumerate(kinds)]

    def _pair(self, kind: str, count: int, patterns: Sequence[str], held_out: bool, rng: random.Random) -> Drawn:
        """One pair on the first of the patterns, or, where that is discarded, on another, over and over."""
        for pattern in chain(patterns, cycle(PATTERNS)):
            pair = self.drawer.draw(kind, count, pattern, held_out, rng)
            edit = edit_key(self.icons, pair)
            if edit in self.taken or (for_training(edit) and not held_out):
                continue
            drawn = Drawn(pair, render_scenes(self.icons, pair))
            verdict = self._verdict(drawn)
            self.verdicts[verdict] += 1
            if verdict == "kept":
                self.taken.add(edit)
                return drawn
        raise AssertionError("the patterns never end")

    @torch.no_grad()
    def _verdict(self, drawn: Drawn) -> str:
        """'kept', or why not: the classifier 'missed' the target, or did so where the image was 'blurred'."""
        source, ground_truth, _ = (x[None] for x in drawn.images)
        if self._target(drawn.pair, source) or not self._target(drawn.pair, ground_truth):
            return "missed"
        decoded = self.prior.decode(self.prior.encode(ground_truth)).clamp(0, 1)
        return "kept" if self._target(drawn.pair, decoded) else "blurred"

    def _target(self, pair: ScenePair, image: Tensor) -> bool:
        """Whether the classifier finds the target in the pair's crop of an image (1, 3, SIDE, SIDE)."""
        left, top, right, bottom = crop_box(pair)
        (found,) = self.classifier.classify(image[..., top:bottom, left:right])
        return all(found[head] == name for head, name in pair.expect.items())


def main(config: BenchmarkV2Config) -> None:
    classifier, prior = IconClassifier.load(classifier_file("emoji-edit")), load_prior(device="cpu")
    benchmark = Benchmark(load_icons(list(concepts())), classifier, prior)
    rows, sizes = [], {}
    for i, (split, counts) in enumerate(COUNTS.items()):
        drawn = benchmark.split(counts, random.Random(config.seed + i))
        sizes[split] = len(drawn)
        for n, (pair, images) in enumerate(drawn):
            row = write_pair(config.out, f"{split}-{n:03d}", split, pair, images)
            rows.append({**row, "crop": crop_box(pair)})
    (config.out / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shares = {verdict: benchmark.verdicts[verdict] / benchmark.verdicts.total() for verdict in ("missed", "blurred")}
    (config.out / "README.md").write_text(README.format(**sizes, **shares, seed=config.seed))
    print(sizes, dict(benchmark.verdicts))


if __name__ == "__main__":
    sys.exit(run_program(main, BenchmarkV2Config, __doc__))
