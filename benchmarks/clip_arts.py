"""Edit twenty clip arts of 20 to 300 shapes there and back, and to themselves: is anything shredded?

    python -m benchmarks.clip_arts --folder /usr/share/openclipart/svg --out runs/clip_arts

The folder is that of Debian's package openclipart-svg. Each drawing is edited from its prompt to another and, from the
written file, back; and, with the same prompt twice, to itself, which must give the very drawing. Writes the edited
SVGs, a sheet (start, there, back) and results.json, and prints for each PSNR and LPIPS to the start of both ways, PSNR
of the edit to itself, and how many crossings and spikes its outlines have gained.
"""

import json
import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import tyro

from benchmarks.svg_edits import sheet
from cpds.config import EditConfig, require
from cpds.editor import edit
from cpds.evaluation.networks import Lpips
from cpds.evaluation.round_trip import round_trip
from cpds.evaluation.scoring import Metrics
from cpds.images import side_by_side, to_pil
from cpds.presets import PRESETS
from cpds.priors.base import Prior
from cpds.priors.load import load_prior
from scripts.emoji_prior.icons import with_article
from scripts.program import run_program
from svg.config import SvgConfig
from svg.document import Document
from svg.flat import FlatParameters
from svg.image import SvgImage
from svg.model import draws
from svg.parts import Parts
from svg.selection import chosen
from svg.simple_outlines import Polylines


class ClipArt(NamedTuple):
    """A file of the package, what it shows, and what it should become."""

    path: str
    shown: str
    wanted: str


CLIP_ARTS = (
    ClipArt("animals/bugs/bee.svg", "bee", "butterfly"),
    ClipArt("animals/bugs/butterfly_jonathan_dietr_01.svg", "butterfly", "bee"),
    ClipArt("animals/birds/new_penguin_charles_mcco_01.svg", "penguin", "chicken"),
    ClipArt("animals/mammals/dogs/beagle_copper_ganson.svg", "dog", "cat"),
    ClipArt("animals/mammals/housecats/gattina_cat_architetto_f_01.svg", "cat", "dog"),
    ClipArt("animals/mammals/elephant_01.svg", "elephant", "pig"),
    ClipArt("animals/mammals/pig_marcelo_caiafa1.svg", "pig", "cow"),
    ClipArt("animals/mammals/sheep-md-v0.1.svg", "sheep", "pig"),
    ClipArt("animals/mammals/stylized_wolf_head_geral_01.svg", "wolf", "fox"),
    ClipArt("animals/mammals/big_cats/color_tiger_susan_park_01.svg", "tiger", "zebra"),
    ClipArt("animals/turtle_jurgen_gaeremyn_01.svg", "turtle", "frog"),
    ClipArt("food/fruit/strawberry_simple.svg", "strawberry", "tomato"),
    ClipArt("food/fruit/orange.svg", "orange", "lemon"),
    ClipArt("food/fruit/pineapple.svg", "pineapple", "pear"),
    ClipArt("food/desserts/birthday_cake.svg", "birthday cake", "pancakes"),
    ClipArt("food/pumpkin2_yemu_01.svg", "jack-o-lantern", "tomato"),
    ClipArt("food/meats_and_eggs/hamburger_ganson.svg", "hamburger", "cookie"),
    ClipArt("plants/flowers/red_flower_01.svg", "red flower", "sunflower"),
    ClipArt("recreation/holiday/snowman_01.svg", "snowman", "teddy bear"),
    ClipArt("recreation/holiday/sportcar_sergio_luiz_ara_01.svg", "racing car", "taxi"),
)


@dataclass(frozen=True)
class Config:
    """What to edit, and how."""

    folder: Path
    """The package's folder svg."""
    out: Path = Path("runs/clip_arts")
    """Folder for SVGs, sheet and results."""
    skip: int = 0
    """Leave out the first of them."""
    limit: int | None = None
    """At most so many of the rest."""
    steps: int | None = None
    """Optimization steps. Default: the preset's."""
    self_steps: int = 20
    """Those of an edit to itself: one that moves at all moves in the first."""
    lpips_weights: Path | None = None
    """File of torchvision's AlexNet weights, for LPIPS. Default: $CPDS_ALEXNET; without either there is no LPIPS."""
    svg: tyro.conf.OmitArgPrefixes[SvgConfig] = field(default_factory=lambda: SvgConfig())

    def __post_init__(self) -> None:
        require(self.folder.is_dir(), f"there is no folder {self.folder}: install or unpack openclipart-svg")
        require(0 <= self.skip < len(CLIP_ARTS), f"skip must be in 0 ... {len(CLIP_ARTS) - 1}, got {self.skip}")
        require(self.limit is None or self.limit >= 1, f"limit must be >= 1, got {self.limit}")
        for name in ("steps", "self_steps"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name} must be >= 1, got {value}")


def faults(document: Document) -> int:
    """Crossings and spikes of all outlines that may change."""
    numbers = FlatParameters(document, chosen(document, SvgConfig()), torch.device("cpu"))
    found = Polylines(Parts(numbers.outlines(), numbers.unit, numbers.device)).shapeliness(numbers.start["points"])
    return int(found.crossings.sum() + found.spikes.sum())


def row(job: ClipArt, config: Config, prior: Prior, metrics: Metrics) -> tuple[dict[str, Any], list[Any]]:
    """What becomes of one drawing, and its images."""
    source, name = config.folder / job.path, Path(job.path).stem
    preset = PRESETS["cpds-svg"]
    settings: EditConfig = preset if config.steps is None else replace(preset, num_inference_steps=config.steps)
    before, after = (f"{with_article(noun)} on a white background" for noun in (job.shown, job.wanted))

    def opened(path: Path) -> SvgImage:
        return SvgImage.open(path, prior, config.svg)

    def reopened(image: SvgImage) -> SvgImage:
        image.save(config.out / f"{name}.svg")
        return opened(config.out / f"{name}.svg")

    again = opened(source)
    few = {"num_inference_steps": config.self_steps, "redraw_steps": config.self_steps}
    edit(again, prior, before, before, replace(settings, **few))
    image = opened(source)
    itself = metrics.returned(image.preview(), again.preview())["psnr_back"]
    trip = round_trip(image, reopened, prior, (before, after), settings)
    found: dict[str, Any] = {"file": job.path, "shapes": len(list(draws(image.document.root)))}
    for way, shown in (("there", trip.there), ("back", trip.back)):
        found |= {k.replace("back", way): round(v, 3) for k, v in metrics.returned(trip.start, shown).items()}
    there = Document.open(config.out / f"{name}.svg")
    found |= {"psnr_itself": itself, "new_faults": faults(there) - faults(Document.open(source))}
    return found, [to_pil(x).resize((160, 160)) for x in (trip.start, trip.there, trip.back)]


def main(config: Config) -> None:
    torch.set_num_threads(1)
    config.out.mkdir(parents=True, exist_ok=True)
    wanted = config.lpips_weights or os.environ.get("CPDS_ALEXNET")
    prior, metrics = load_prior(device="cpu"), Metrics(lpips=Lpips.load(config.lpips_weights) if wanted else None)
    rows, strips = [], []
    for job in CLIP_ARTS[config.skip :][: config.limit]:
        found, images = row(job, config, prior, metrics)
        if not rows:
            print("| " + " | ".join(found) + " |\n" + "|---" * len(found) + "|")
        print(f"| {' | '.join(str(round(v, 3) if isinstance(v, float) else v) for v in found.values())} |", flush=True)
        rows.append(found)
        strips.append(side_by_side(images))
        (config.out / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
        sheet(strips).save(config.out / "sheet.png")


if __name__ == "__main__":
    sys.exit(run_program(main, Config, __doc__))
