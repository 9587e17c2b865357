"""The comparisons of docs/knobs.md: one edit with one flag at several values, source first, each under what was given.

    python -m benchmarks.knobs            # all of them, a few minutes on a CPU
    python -m benchmarks.knobs strength   # or some by name

Every edit is what `cpds image` makes of these flags with the embedded prior and seed 0.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from PIL import Image, ImageDraw

from cpds.apps.cli.main import parse
from cpds.config import require
from cpds.editor import edit
from cpds.images import open_image, png, resized, to_pil
from cpds.priors.base import Prior
from cpds.priors.load import load_prior
from cpds.runs import write_atomic
from cpds.threads import one_thread
from cpds.types import Images
from representations.latent import LatentImage
from scripts.program import run_program

ROOT = Path(__file__).parents[1]
SIDE, LABEL = 128, 16  # px of a tile, and below each


SOURCE = ROOT / "cpds/assets/demo/cat.png"
PROMPTS = ("a cat face on a blue background", "a dog face on a blue background")
COMPARISONS = {  # the flags of each tile
    "strength": [f"--lr {lr}" for lr in (0.05, 0.1, 0.2, 0.4, 0.8)],
    "guidance": [f"--guidance_scale {omega}" for omega in (2, 7.5, 15, 30)],
    "structure": [f"--w_cut {weight}" for weight in (0, 2, 8, 32)],
    "polish": [f"--polish {level}" for level in (0, 0.3, 0.5, 0.7)],
    "methods": [f"--method {name}" for name in ("dds", "pds", "cpds", "flowedit")],
    "seeds": [f"--seed {seed}" for seed in (0, 1, 2, 3)],
}


@dataclass(frozen=True)
class KnobsConfig:
    """Which comparisons to make."""

    names: tyro.conf.Positional[tuple[str, ...]] = tuple(COMPARISONS)
    """By name."""
    out: Path = ROOT / "docs/knobs"
    """Folder for the PNGs."""
    prior: str | None = None
    """Prior; default: the embedded one."""

    def __post_init__(self) -> None:
        for name in self.names:
            require(name in COMPARISONS, f"there is no comparison {name!r}: take {', '.join(COMPARISONS)}")


def edited(flags: str, prior: Prior) -> Image.Image:
    """What `cpds image` makes of the source with these flags."""
    argv = ["image", "--img_path", str(SOURCE), "--prompt", PROMPTS[0], "--trg_prompt", PROMPTS[1]]
    args: Any = parse(argv + shlex.split(flags))
    image = LatentImage.open(SOURCE, prior)
    edit(image, prior, *PROMPTS, args.edit)
    return tile(image.preview())


def tile(image: Images) -> Image.Image:
    """Small enough to stand beside others."""
    return to_pil(resized(image, (SIDE, SIDE)))


def labelled(tiles: Sequence[Image.Image], labels: Sequence[str]) -> Image.Image:
    """Tiles of one size in a row, each with its label below."""
    width, height = tiles[0].size
    row = Image.new("RGB", (len(tiles) * (width + 4) - 4, height + LABEL), "white")
    draw = ImageDraw.Draw(row)
    for i, (tile, label) in enumerate(zip(tiles, labels, strict=True)):
        row.paste(tile, (i * (width + 4), 0))
        draw.text((i * (width + 4) + width / 2, height + LABEL / 2), label, "black", anchor="mm")
    return row


def main(config: KnobsConfig) -> None:
    one_thread()
    prior = load_prior(config.prior)
    config.out.mkdir(parents=True, exist_ok=True)
    for name in config.names:
        flags = COMPARISONS[name]
        tiles = [tile(open_image(SOURCE)), *(edited(given, prior) for given in flags)]
        write_atomic(config.out / f"{name}.png", png(labelled(tiles, ["source", *flags])))
        print(config.out / f"{name}.png", flush=True)


if __name__ == "__main__":
    sys.exit(run_program(main, KnobsConfig, __doc__))
