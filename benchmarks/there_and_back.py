"""Edits there and back, of an image, a drawing and a scene: how near do they come to where they started?

    python -m benchmarks.there_and_back --out runs/there_and_back
    python -m benchmarks.there_and_back --kinds splats --scene scenes/splats

The scene is one of `python -m scripts.toy_scene --splats 2000`, drawings are icons of the embedded prior's packages.
The second edit begins at the exported file of the first, with the prompts exchanged. Writes a sheet for each kind
(start, there, back) and prints, for each, PSNR and LPIPS to the start of both: one that goes nowhere comes back well.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from cpds.config import EditConfig, require
from cpds.errors import InputError
from cpds.evaluation.cases import load_cases
from cpds.evaluation.networks import Lpips
from cpds.evaluation.round_trip import RoundTrip, round_trip
from cpds.evaluation.scoring import Metrics
from cpds.images import png, side_by_side, to_pil
from cpds.presets import PRESETS
from cpds.priors.base import Prior
from cpds.priors.load import load_prior
from cpds.runs import write_atomic
from representations.latent import LatentImage
from scripts.program import run_program


@dataclass(frozen=True)
class Config:
    """What to edit, and how."""

    out: Path = Path("runs/there_and_back")
    """Folder for the sheets."""
    kinds: tuple[Literal["image", "svg", "splats"], ...] = ("image", "svg")
    """Which to edit; splats need a scene."""
    method: Literal["cpds", "pds", "cds", "dds", "sds"] = "cpds"
    """Whose presets to take, each kind its own."""
    steps: int | None = None
    """Optimization steps. Default: the presets'."""
    icon: str = "noto/cat-face"
    """The drawing, of the packages of the embedded prior."""
    scene: Path | None = None
    """Folder of scripts.toy_scene, with scene.ply."""
    prompts: tuple[str, str] = ("a cat face on a white background", "a dog face on a white background")
    """What drawing and scene show, and what they should become; the image has its own prompts."""
    lpips_weights: Path | None = None
    """File of torchvision's AlexNet weights. Default: downloaded once."""


def settings(config: Config, suffix: str) -> EditConfig:
    """The kind's preset, with the steps that the flags say."""
    found = PRESETS[config.method + suffix]
    return found if config.steps is None else replace(found, num_inference_steps=config.steps)


def of_image(config: Config, prior: Prior) -> RoundTrip:
    """The first of emoji-edit's edits that one tries first; reopened from the pixels of its PNG."""
    case = load_cases("emoji-edit", split="demo")[0]

    def reopened(image: LatentImage) -> LatentImage:
        image.save(config.out / "there.png")
        return LatentImage.open(config.out / "there.png", prior)

    image = LatentImage.open(case.source, prior)
    return round_trip(image, reopened, prior, (case.prompt, case.target_prompt), settings(config, ""))


def of_svg(config: Config, prior: Prior) -> RoundTrip:
    """An icon; reopened from its written document."""
    from benchmarks.svg_fidelity import documents
    from svg.document import Document
    from svg.image import SvgImage

    found = documents((config.icon.split("/")[0],))
    require(config.icon in found, f"there is no icon {config.icon}: name one as noto/cat-face")

    def reopened(image: SvgImage) -> SvgImage:
        image.save(config.out / "there.svg")
        return SvgImage.open(config.out / "there.svg", prior)

    image = SvgImage(Document.parse(found[config.icon].encode()), prior)
    return round_trip(image, reopened, prior, config.prompts, settings(config, "-svg"))


def of_splats(config: Config, prior: Prior) -> RoundTrip:
    """A scene; reopened from its .ply."""
    from representations.splats.scene import SplatScene

    if config.scene is None:
        raise InputError("splats need a scene: give the folder of python -m scripts.toy_scene --splats 2000")
    opened: Callable[[Path], SplatScene] = partial(SplatScene.open, cameras=config.scene, spec=prior)

    def reopened(scene: SplatScene) -> SplatScene:
        scene.save(config.out / "there.ply")
        return opened(config.out / "there.ply")

    return round_trip(opened(config.scene / "scene.ply"), reopened, prior, config.prompts, settings(config, "-splats"))


TRIPS: dict[str, Callable[[Config, Prior], RoundTrip]] = {"image": of_image, "svg": of_svg, "splats": of_splats}


def main(config: Config) -> None:
    require(config.steps is None or config.steps >= 1, f"steps must be >= 1, got {config.steps}")
    torch.set_num_threads(1)
    config.out.mkdir(parents=True, exist_ok=True)
    prior, metrics = load_prior(device="cpu"), Metrics(lpips=Lpips.load(config.lpips_weights))
    print("| kind | PSNR there, dB | LPIPS there | PSNR back, dB | LPIPS back |\n|---|---|---|---|---|")
    for kind in config.kinds:
        trip = TRIPS[kind](config, prior)
        found: list[dict[str, Any]] = [metrics.returned(trip.start, x) for x in (trip.there, trip.back)]
        cells = [f"{row['psnr_back']:.1f} | {row['lpips_back']:.3f}" for row in found]
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)
        sheet = side_by_side([to_pil(x) for x in (trip.start, trip.there, trip.back)])
        write_atomic(config.out / f"{kind}.png", png(sheet))


if __name__ == "__main__":
    sys.exit(run_program(main, Config, __doc__))
