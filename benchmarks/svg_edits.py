"""Twenty edits of real icons, five drawing styles of each: how often does the classifier find the target?

    python -m benchmarks.svg_edits --out runs/svg_edits

Writes each edited SVG and a sheet (source and edit side by side, one edit a row) and prints what the classifier
finds in every result, drawn with resvg from the written file at 104 px on a white 128-px image.
"""

import io
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import resvg_py
import torch
import tyro
from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]
from PIL import Image

from benchmarks.svg_fidelity import documents
from cpds.config import EditConfig
from cpds.editor import edit
from cpds.evaluation.cases import EMOJI_EDIT
from cpds.evaluation.classifier import IconClassifier
from cpds.images import side_by_side, to_tensor
from cpds.presets import PRESETS
from cpds.priors.load import load_prior
from svg.config import SvgConfig
from svg.document import Document
from svg.image import SvgImage

SETS = ("noto", "twemoji", "fluent-emoji-flat", "noto-v1", "emojione")
EDITS = (  # icon, what it shows, what it should become, the classifier's word for that
    ("cat-face", "cat face", "dog face", "dog-face"),
    ("cat-face", "cat face", "pig face", "pig-face"),
    ("red-heart", "red heart", "blue heart", "blue-heart"),
    ("red-apple", "red apple", "tomato", "tomato"),
)


@dataclass(frozen=True)
class Config:
    """How to edit."""

    out: Path = Path("runs/svg_edits")
    """Folder for the SVGs and the sheet."""
    preset: str = "cpds-svg"
    """Settings to start from (cpds presets)."""
    steps: int | None = None
    """Optimization steps. Default: the preset's."""
    guidance_scale: float | None = None
    """Classifier-free guidance. Default: the preset's."""
    svg: tyro.conf.OmitArgPrefixes[SvgConfig] = field(default_factory=lambda: SvgConfig())


def settings(config: Config) -> EditConfig:
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


def concept(classifier: IconClassifier, svg: bytes) -> str:
    """What the classifier finds in the drawing."""
    page = Image.new("RGB", (128, 128), "white")
    page.paste(drawn(svg, 104), (12, 12))
    return classifier.classify(to_tensor(page))[0]["concept"]


def names(svg: bytes) -> list[Any]:
    """The element tree, by tags."""
    return [element.tag for element in etree.fromstring(svg).iter()]


def main(config: Config) -> None:
    torch.set_num_threads(1)
    config.out.mkdir(parents=True, exist_ok=True)
    icons, prior = documents(SETS), load_prior(device="cpu")
    classifier = IconClassifier.load(EMOJI_EDIT / "classifier.safetensors")
    hits, times, rows = [], [], []
    for icon, what, target, word in EDITS:
        row = []
        for style in SETS:
            source = icons[f"{style}/{icon}"].encode()
            image = SvgImage(Document.parse(source), prior, config.svg)
            began = time.perf_counter()
            prompt, goal = (f"a {shown} on a white background" for shown in (what, target))
            edit(image, prior, prompt, goal, settings(config))
            times.append(time.perf_counter() - began)
            result = image.svg()
            assert names(result) == names(source)
            (config.out / f"{style}-{icon}-{word}.svg").write_bytes(result)
            found = concept(classifier, result)
            hits.append(found == word)
            print(f"{style:>18} {icon} -> {word}: {found}", flush=True)
            row += [drawn(source, 160), drawn(result, 160)]
        rows.append(side_by_side(row))
    sheet = Image.new("RGB", (rows[0].width, sum(r.height + 8 for r in rows)), "white")
    for i, row in enumerate(rows):
        sheet.paste(row, (0, i * (row.height + 8)))
    sheet.save(config.out / "sheet.png")
    print(f"target accuracy {sum(hits)} of {len(hits)}; {sorted(times)[len(times) // 2]:.1f} s an edit (median)")


if __name__ == "__main__":
    main(tyro.cli(Config))
