"""Edit twenty real icons, whose ground truth is the target's icon of the same style: how near does an edit come to it?

    python -m benchmarks.svg_edits --icons judging --seeds 3 --out runs/svg_edits

Settings are chosen on --icons tuning and judged by --icons judging, which share no concept (svg_icons.py). Writes each
edited SVG, a sheet (source, ground truth and edit side by side), and results.json and table.md with, for every edit,
what the classifier finds, LPIPS to the ground truth and the Chamfer distance to its outlines. Classifier and LPIPS see
the written file as resvg draws it at 104 px on a white 128-px image.
"""

import io
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import resvg_py
import torch
import tyro
from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]
from PIL import Image
from torch import Tensor

from benchmarks.svg_fidelity import documents
from benchmarks.svg_icons import SETS, IconEdit, ListName, edits
from cpds.config import EditConfig, require
from cpds.editor import edit
from cpds.errors import InputError
from cpds.evaluation.cases import CLASSIFIER, EMOJI_EDIT
from cpds.evaluation.classifier import IconClassifier
from cpds.evaluation.networks import Lpips
from cpds.evaluation.tables import bootstrap
from cpds.images import side_by_side, to_tensor
from cpds.presets import PRESETS
from cpds.priors.base import Prior
from cpds.priors.load import load_prior
from scripts.emoji_prior.icons import concepts, load_icons, with_article
from scripts.program import run_program
from svg.config import SvgConfig
from svg.document import Document
from svg.image import SvgImage
from svg.outline_distance import outline_distance

COLUMNS = {
    "target_accuracy": "target accuracy ↑",
    "lpips_ground_truth": "LPIPS to ground truth ↓",
    "chamfer_ground_truth": "Chamfer to ground truth, of the canvas ↓",
    "seconds": "s per edit",
}


@dataclass(frozen=True)
class SvgEditsConfig:
    """What to edit, and how."""

    out: Path = Path("runs/svg_edits")
    """Folder for the SVGs, the sheet and the tables."""
    icons: ListName = "judging"
    """Which twenty edits."""
    limit: int | None = None
    """Only the first of them."""
    seeds: int = 1
    """Make each edit this many times, with seeds from 0 on."""
    preset: str = "cpds-svg"
    """Settings to start from (cpds presets)."""
    steps: int | None = None
    """Optimization steps. Default: the preset's."""
    guidance_scale: float | None = None
    """Classifier-free guidance. Default: the preset's."""
    lpips_weights: Path | None = None
    """File of torchvision's AlexNet weights, for LPIPS. Default: $CPDS_ALEXNET; without either there is no LPIPS."""
    svg: tyro.conf.OmitArgPrefixes[SvgConfig] = field(default_factory=lambda: SvgConfig())

    def __post_init__(self) -> None:
        require(self.preset in PRESETS, f"preset must be one of {', '.join(PRESETS)}, got {self.preset!r}")
        require(self.seeds >= 1, f"seeds must be >= 1, got {self.seeds}")
        require(self.limit is None or self.limit >= 1, f"limit must be >= 1, got {self.limit}")


def settings(config: SvgEditsConfig) -> EditConfig:
    """The preset with what the flags change in it."""
    found = PRESETS[config.preset]
    if config.steps is not None:
        found = replace(found, num_inference_steps=config.steps)
    if config.guidance_scale is not None:
        found = replace(found, guidance=replace(found.guidance, guidance_scale=config.guidance_scale))
    return found


def drawn(svg: bytes, side: int) -> Image.Image:
    """resvg's image on white."""
    data = resvg_py.svg_to_bytes(svg_string=svg.decode(), width=side, height=side, background="#ffffff")
    return Image.open(io.BytesIO(bytes(data))).convert("RGB")


def page(svg: bytes) -> Tensor:
    """(1, 3, 128, 128) in [0, 1]: what the metrics of an image see."""
    image = Image.new("RGB", (128, 128), "white")
    image.paste(drawn(svg, 104), (12, 12))
    return to_tensor(image)


def names(svg: bytes) -> list[Any]:
    """The element tree, by tags."""
    return [element.tag for element in etree.fromstring(svg).iter()]


@dataclass(frozen=True)
class Metrics:
    """What is measured in an edited icon."""

    classifier: IconClassifier
    lpips: Lpips | None

    def finds(self, svg: bytes) -> str:
        """The classifier's concept."""
        return self.classifier.classify(page(svg))[0]["concept"]

    def score(self, result: bytes, ground_truth: bytes, target: str) -> dict[str, Any]:
        """Metrics of one result, by name."""
        found = self.finds(result)
        row: dict[str, Any] = {"found": found, "target_accuracy": float(found == target)}
        if self.lpips:
            row["lpips_ground_truth"] = float(self.lpips(page(result), page(ground_truth)))
        one, other = (Document.parse(svg) for svg in (result, ground_truth))
        return {**row, "chamfer_ground_truth": outline_distance(one, other)}


def usable(icons: dict[str, str], finds: Callable[[bytes], str], job: IconEdit) -> bool:
    """Whether both icons are there and editable, and the classifier tells them apart."""
    both = [icons.get(f"{job.package}/{name}") for name in (job.icon, job.target)]
    if None in both:
        return False
    source, ground_truth = (text.encode() for text in both if text)
    try:
        for document in (source, ground_truth):
            Document.parse(document)
    except InputError:
        return False
    return finds(ground_truth) == job.target != finds(source)


def edited(source: bytes, job: IconEdit, prior: Prior, config: EditConfig, svg: SvgConfig) -> bytes:
    """The icon after the edit: the same elements with other numbers, unless some may come or go."""
    image = SvgImage(Document.parse(source), prior, svg)
    prompt, goal = (f"{with_article(shown)} on a white background" for shown in (job.shown, job.wanted))
    edit(image, prior, prompt, goal, config)
    result = image.svg()
    assert svg.may_remove or svg.may_add or names(result) == names(source)
    return result


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: means over the edits with 95 % bootstrap intervals, an edit counting with its mean over the seeds."""
    columns = {c: title for c, title in COLUMNS.items() if c in rows[0]}
    text = ["| icons | edits | seeds | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 3) + "|"]
    groups = {"unedited": [r for r in rows if r["seed"] is None], "edited": [r for r in rows if r["seed"] is not None]}
    groups |= {f"edited, {p}": [r for r in groups["edited"] if r["package"] == p] for p in SETS}
    for label, group in groups.items():
        by_edit: dict[str, list[dict[str, Any]]] = {}
        for row in group:
            by_edit.setdefault(row["edit"], []).append(row)
        if by_edit:
            cells = [label, str(len(by_edit)), str(max(map(len, by_edit.values())) if label != "unedited" else "")]
            for column in columns:
                means = [sum(r[column] for r in repeats) / len(repeats) for repeats in by_edit.values()]
                middle, low, high = bootstrap(torch.tensor(means, dtype=torch.float64))
                cells.append(f"{middle:.3g}" + (f" [{low:.3g}, {high:.3g}]" if high > low else ""))
            text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def sheet(images: list[Image.Image], columns: int = 4) -> Image.Image:
    """Strips of one size, row after row."""
    width, height = images[0].width + 8, images[0].height + 8
    found = Image.new("RGB", (min(columns, len(images)) * width, -(-len(images) // columns) * height), "white")
    for i, image in enumerate(images):
        found.paste(image, (i % columns * width, i // columns * height))
    return found


def run(config: SvgEditsConfig, jobs: list[IconEdit], icons: dict[str, str], metrics: Metrics) -> list[dict[str, Any]]:
    """One row for each unedited icon and each edit; results.json and the sheet grow with them."""
    prior, rows, strips = load_prior(device="cpu"), [], []
    for job in jobs:
        source, ground_truth = (icons[f"{job.package}/{name}"].encode() for name in (job.icon, job.target))
        about = {"edit": job.name, "package": job.package, "icon": job.icon, "target": job.target}
        rows.append({**about, "seed": None, **metrics.score(source, ground_truth, job.target), "seconds": 0.0})
        images = [drawn(source, 160), drawn(ground_truth, 160)]
        for seed in range(config.seeds):
            began = time.perf_counter()
            result = edited(source, job, prior, replace(settings(config), seed=seed), config.svg)
            seconds = round(time.perf_counter() - began, 1)
            (config.out / f"{job.name}-{seed}.svg").write_bytes(result)
            rows.append({**about, "seed": seed, **metrics.score(result, ground_truth, job.target), "seconds": seconds})
            images.append(drawn(result, 160))
            print(f"{job.name}, seed {seed}: {rows[-1]['found']}", flush=True)
        strips.append(side_by_side(images))
        (config.out / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
        sheet(strips).save(config.out / "sheet.png")
    return rows


def main(config: SvgEditsConfig) -> None:
    torch.set_num_threads(1)
    config.out.mkdir(parents=True, exist_ok=True)
    wanted = config.lpips_weights or os.environ.get("CPDS_ALEXNET")
    classifier = IconClassifier.load(EMOJI_EDIT / CLASSIFIER)
    metrics = Metrics(classifier, Lpips.load(config.lpips_weights) if wanted else None)
    icons = documents(SETS)
    jobs = edits(config.icons, lambda: load_icons(list(concepts())), partial(usable, icons, metrics.finds))
    text = table(run(config, jobs[: config.limit], icons, metrics))
    (config.out / "table.md").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    sys.exit(run_program(main, SvgEditsConfig, __doc__))
