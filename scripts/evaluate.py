"""Edit 40 icon pictures with the embedded prior and let the concept classifier judge them.

    python scripts/evaluate.py                                    # preset cpds; table, contact sheet and JSON
    python scripts/evaluate.py --presets cpds pds cds dds --out /tmp/eval

Four edits (cat to dog, cat to pig, apple to tomato, red heart to blue heart), ten pictures each: random styles, sizes,
places and backgrounds, fixed by the seed. The counterpart of a picture, the same scene drawn with the target's icon, is
shown beside each edit. Reported: share that the classifier calls the target, and PSNR to the source outside both icons.
"""

import json
import random
import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from icons import Icons, Scene, concepts, draw, load_icons, random_scene, with_article
from prior_export import grid
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import max_pool2d
from train_classifier import load_classifier

from cpds import PRESETS, edit, load_prior
from cpds.metrics import psnr
from cpds.runs import write_atomic
from representations.latent import LatentImage

SIDE = 128
EDITS = [
    ("cat-face", "cat face", "dog-face", "dog face"),
    ("cat-face", "cat face", "pig-face", "pig face"),
    ("red-apple", "red apple", "tomato", "tomato"),
    ("red-heart", "red heart", "blue-heart", "blue heart"),
]


@dataclass(frozen=True)
class Config:
    """What to run and where to write."""

    presets: tuple[str, ...] = ("cpds",)
    """Presets to compare."""
    prior: str | None = None
    """Prior; default: the embedded one."""
    classifier: Path = Path("benchmarks/classifier.safetensors")
    """Weights made by train_classifier.py."""
    out: Path = Path("benchmarks/emoji_demo")
    """Folder for results.json and the contact sheets."""
    latents: Path = Path("runs/evaluate")
    """Folder for finished edits: an interrupted evaluation goes on where it stopped."""
    per_edit: int = 10
    """Pictures of each of the four edits."""
    seed: int = 0
    """Seeds scenes and edits."""


@dataclass(frozen=True)
class Case:
    """One edit to make: the picture, what it should become, and where it must not change."""

    source: Tensor
    truth: Tensor
    outside: Tensor
    prompt: str
    target_prompt: str
    target: str
    style: str


class Done:
    """Latents of finished edits in one file; those made with other settings are dropped."""

    def __init__(self, path: Path, settings: str) -> None:
        self.path, self.settings, self.latents = path, settings, {}
        if path.exists():
            with safe_open(path, "pt") as file:
                if file.metadata() == {"settings": settings}:
                    self.latents = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118

    def add(self, key: str, latent: Tensor) -> None:
        self.latents[key] = latent
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path, save(self.latents, {"settings": self.settings}))


def stands_out(icons: Icons, icon: int, scene: Scene) -> bool:
    """Whether an icon's mean colour differs clearly from the background's."""
    rgba = icons.rgba[icon].float() / 255
    mean = (rgba[:3] * rgba[3:]).sum((1, 2)) / rgba[3].sum()
    return float((mean - torch.tensor(scene.rgb) / 255).norm()) > 0.3


def cases(icons: Icons, per_edit: int, seed: int) -> list[Case]:
    """The same list for the same seed; styles take turns, backgrounds stand out from both icons."""
    rng, made = random.Random(seed), []
    for name, words, target, target_words in EDITS:
        styles = sorted({s for c, s in zip(icons.concept, icons.style, strict=True) if c == name})
        for i in range(per_edit):
            style = styles[i % len(styles)]
            a, b = icons.find(name, style), icons.find(target, style)
            scene = random_scene(a, rng)
            while not (stands_out(icons, a, scene) and stands_out(icons, b, scene)):
                scene = random_scene(a, rng)
            (source, over), (truth, under) = (draw(icons, scene.counterpart(i), SIDE) for i in (a, b))
            # two pixels of margin: an icon's antialiased rim belongs to it
            inside = max_pool2d((torch.maximum(over, under) > 0).float(), 5, 1, 2)
            ground = f"on {with_article(scene.colour)} background"
            made.append(
                Case(source, truth, 1 - inside, f"a {words} {ground}", f"a {target_words} {ground}", target, style)
            )
    return made


def main(config: Config) -> None:
    icons, names = load_icons(list(concepts())), list(concepts())
    todo = cases(icons, config.per_edit, config.seed)
    prior, judge = load_prior(config.prior), load_classifier(config.classifier)
    config.out.mkdir(parents=True, exist_ok=True)
    report = {}
    for preset in config.presets:
        results, hits, kept = [], [], []
        done = Done(config.latents / f"{preset}.safetensors", f"{prior.identity} {PRESETS[preset]} {config.seed}")
        for i, case in enumerate(todo):
            image = LatentImage(case.source[None], prior)
            if str(i) in done.latents:
                image.z.data.copy_(done.latents[str(i)])
            else:
                edit(image, prior, case.prompt, case.target_prompt, PRESETS[preset])
                done.add(str(i), image.z.detach().cpu())
            result = image.picture(prior).cpu()
            hits.append(names[int(judge(result).argmax())] == case.target)
            kept.append(float(psnr(result, case.source[None], case.outside[None])))
            results.append(result[0])
        rows = [torch.stack([c.source, c.truth, r]) for c, r in zip(todo, results, strict=True)]
        grid(torch.cat(rows), 3 * 4).save(config.out / f"{preset}.png")
        by_edit = {
            f"{e[1]} -> {e[3]}": sum(hits[i * config.per_edit : (i + 1) * config.per_edit]) for i, e in enumerate(EDITS)
        }
        report[preset] = {
            "target accuracy": sum(hits) / len(hits),
            "hits": by_edit,
            "PSNR outside, median": round(statistics.median(kept), 2),
            "PSNR outside, lowest": round(min(kept), 2),
            "share with 30 dB or more outside": sum(k >= 30 for k in kept) / len(kept),
        }
        print(preset, json.dumps(report[preset], indent=1), flush=True)
    (config.out / "results.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Config))
