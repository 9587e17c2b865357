"""DreamBooth on icons that the embedded prior has never seen: does it learn them, and do edits keep them?

    python -m benchmarks.dreambooth --out runs/dreambooth
    python -m benchmarks.dreambooth --icons fox/twemoji owl/noto --steps 400

Each icon is learned from four images on different backgrounds, under a rare word. Then, on backgrounds that none of
these has: LPIPS of samples to the icon drawn there, by the prior as it was and by the personalized one, with and
without the word; an edit of the icon from one such background to another by either, with LPIPS to the icon drawn
there; and how far samples of the class have moved, by LPIPS to those of before. Samples of one seed begin at the same
noise. Writes a sheet for each icon, and prints a table.
"""

import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from cpds import PRESETS, edit
from cpds.config import require
from cpds.errors import InputError
from cpds.evaluation.networks import Lpips
from cpds.images import png, to_pil
from cpds.personalize.config import DreamBoothConfig, LearningConfig
from cpds.personalize.pictures import noise_like, sampled, sheet
from cpds.personalize.run import dreambooth
from cpds.priors.base import Prior
from cpds.priors.load import load_prior
from cpds.priors.options import PriorOptions
from cpds.runs import write_atomic
from representations.latent import LatentImage
from scripts.emoji_prior.icons import (
    BACKGROUNDS,
    Icons,
    Scene,
    concepts,
    draw,
    held_out_pairs,
    load_icons,
    with_article,
)
from scripts.program import run_program

LEARNED, ASKED = ("white", "grey", "green", "orange"), ("light blue", "purple", "yellow", "pink")


@dataclass(frozen=True, kw_only=True)
class Config(LearningConfig):
    """What to learn, and how."""

    out: Path = Path("runs/dreambooth")
    """Folder for the runs and sheets; runs that are there are gone on with."""
    icons: tuple[str, ...] = ("fox/twemoji", "owl/noto", "koala/3d")
    """Held-out icons, each a concept and a style."""
    word: str = "sks"
    """The rare word."""
    # what the embedded prior wants, which is small
    class_images: int = 24
    rank: int = 8
    steps: int = 400
    lr: float | None = 1e-3
    batch: int = 2
    guidance_scale: float | None = 4.0
    seeds: int = 4
    """Samples of each prompt, on a background each."""
    lpips_weights: Path | None = None
    """File of torchvision's AlexNet weights. Default: downloaded once."""


@dataclass(frozen=True)
class Subject:
    """A held-out icon, and its images in the middle of any background."""

    icons: Icons
    index: int
    noun: str

    @classmethod
    def of(cls, name: str) -> "Subject":
        concept, _, style = name.partition("/")
        if (concept, style) not in held_out_pairs():
            raise InputError(f"{name} is no held-out icon: scripts/emoji_prior/held_out.txt has them, as fox/twemoji")
        icons = load_icons([concept])
        return cls(icons, icons.find(concept, style), concepts()[concept][0])

    def image(self, background: str) -> Tensor:
        """(1, 3, 128, 128)."""
        scene = Scene(self.index, 0.8, 0.1, 0.1, background, BACKGROUNDS[background])
        return draw(self.icons, scene, 128)[0][None]

    def prompt(self, word: str = "", background: str = "") -> str:
        text = with_article(f"{word} {self.noun}".strip())
        return f"{text} on {with_article(background)} background" if background else text


def learn(config: Config, subject: Subject, out: Path) -> Path:
    """The LoRA, or the prior, that was trained in `out`."""
    folder = out / "instances"
    folder.mkdir(parents=True, exist_ok=True)
    for name in LEARNED:
        write_atomic(folder / f"{name}.png", png(to_pil(subject.image(name))))
    unread = ("rank",) if config.full else ()
    how = {f.name: getattr(config, f.name) for f in fields(LearningConfig) if f.name not in unread}
    settings = DreamBoothConfig(prompt=subject.prompt(config.word), class_prompt=subject.prompt(), **how)
    run = out / "run"
    return dreambooth(folder, run, settings, device="cpu", resume=(run / "dreambooth.json").exists())


def samples(config: Config, subject: Subject, prior: Prior, word: str) -> Tensor:
    """One sample on each of the asked backgrounds and for each seed, (seeds, 3, 128, 128)."""
    with torch.no_grad():
        like, null = prior.encode(subject.image("white")), prior.embed([""])
    found = []
    for seed in range(config.seeds):
        prompt = prior.embed([subject.prompt(word, ASKED[seed % len(ASKED)])])
        found.append(sampled(prior, noise_like(like, seed), prompt, null, config.guidance_scale))
    return torch.cat(found)


def edited(config: Config, subject: Subject, prior: Prior, word: str) -> Tensor:
    """The icon on the first asked background, edited to the second."""
    image = LatentImage(subject.image(ASKED[0]), prior)
    edit(image, prior, subject.prompt(word, ASKED[0]), subject.prompt(word, ASKED[1]), PRESETS["cpds"])
    return image.preview().cpu()


def distance(lpips: Lpips, one: Tensor, other: Tensor) -> float:
    return float(torch.stack([lpips(a, b) for a, b in zip(one.split(1), other.split(1), strict=True)]).mean())


def main(config: Config) -> None:
    require(config.seeds >= 1, f"seeds must be >= 1, got {config.seeds}")
    torch.set_num_threads(1)
    lpips, before, rows = Lpips.load(config.lpips_weights), load_prior(device="cpu"), []
    for name in config.icons:
        subject, out, began = Subject.of(name), config.out / name.replace("/", "-"), time.monotonic()
        result = str(learn(config, subject, out))
        minutes = (time.monotonic() - began) / 60
        where, options = (result, PriorOptions()) if config.full else (None, PriorOptions(lora=(result,)))
        after = load_prior(where, device="cpu", options=options)
        truth = torch.cat([subject.image(ASKED[i % len(ASKED)]) for i in range(config.seeds)])
        shown = [samples(config, subject, *each) for each in ((before, ""), (after, ""), (after, config.word))]
        edits = [edited(config, subject, before, ""), edited(config, subject, after, config.word)]
        wanted = subject.image(ASKED[1])
        figures = [*(distance(lpips, x, truth) for x in shown), *(distance(lpips, x, wanted) for x in edits)]
        figures.append(distance(lpips, shown[1], shown[0]))
        rows.append(f"| {name} | {' | '.join(f'{x:.3f}' for x in figures)} | {minutes:.1f} |")
        images = torch.cat([truth, *shown, subject.image(ASKED[0]), *edits, wanted])
        write_atomic(out / "sheet.png", png(sheet(images)))
    columns = ["icon", "samples before", "after, class", "after, with the word", "edit before", "edit after"]
    columns += ["class, after to before", "training, min"]
    print("LPIPS to the icon drawn there; edits: from one background to another\n")
    print("\n".join([f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *rows]))


if __name__ == "__main__":
    sys.exit(run_program(main, Config, __doc__))
