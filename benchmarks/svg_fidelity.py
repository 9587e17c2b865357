"""How faithfully the torch rasterizer draws real icons, and whether documents survive a round trip, by resvg.

    python -m benchmarks.svg_fidelity --icons 2000

Draws icons at random from three sets (downloaded once with npm by scripts/emoji_prior/icons.py) and prints, for 128 px
on white: the share with at least 35 dB PSNR to resvg's image; how many documents written back unedited give resvg's
image to the last bit; how well those do whose every number was written anew; and the worst icons with their features.
"""

import json
import math
import random
import re
import time
from dataclasses import dataclass
from io import BytesIO
from statistics import median

import numpy as np
import resvg_py
import torch
import tyro
from PIL import Image

from scripts.emoji_prior.packages import cache_dir, fetch_package
from svg.document import Document
from svg.raster.page import Raster, over

SETS = ("noto", "twemoji", "fluent-emoji-flat")
NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
FEATURES = ("Gradient", "clip-path", "mask", "filter", "stroke", "opacity", "<use", "evenodd", "<g", "transform")


@dataclass(frozen=True)
class Config:
    """What to draw."""

    icons: int = 2000
    """Icons, drawn at random from all sets together."""
    sets: tuple[str, ...] = SETS
    """Icon packages (scripts/emoji_prior/icons.py)."""
    side: int = 128
    """Pixels of a image's side."""
    seed: int = 0
    """Seeds the choice."""
    rewrite: bool = True
    """Also write every number anew and look at the result."""
    worst: int = 20
    """How many of the worst to list."""


def documents(names: tuple[str, ...]) -> dict[str, str]:
    """Every icon of the packages as an SVG document, by set/name."""
    found = {}
    for package in names:
        data = json.loads((fetch_package(package, cache_dir()) / "icons.json").read_text())
        for name, icon in data["icons"].items():
            width, height = (icon.get(k, data.get(k, 16)) for k in ("width", "height"))
            head = f'<svg {NAMESPACES} viewBox="0 0 {width} {height}">'
            found[f"{package}/{name}"] = f"{head}{icon['body']}</svg>"
    return found


def resvg(text: str, side: int) -> np.ndarray:
    """resvg's image on white, (side, side, 3) in [0, 1]."""
    data = resvg_py.svg_to_bytes(svg_string=text, width=side, height=side, background="#ffffff")
    return np.asarray(Image.open(BytesIO(bytes(data))).convert("RGB")) / 255


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """At most 100 dB."""
    return -10 * math.log10(max(float(((a - b) ** 2).mean()), 1e-10))


def main(config: Config) -> None:
    torch.set_num_threads(1)
    every = documents(config.sets)
    chosen = random.Random(config.seed).sample(sorted(every), min(config.icons, len(every)))
    rows: list[tuple[float, str]] = []
    failed, same, rewritten, parse_ms, draw_ms = [], 0, [], [], []
    for name in chosen:
        text = every[name]
        try:
            began = time.perf_counter()
            document = Document.parse(text.encode(), name)
            parse_ms.append(1000 * (time.perf_counter() - began))
        except ValueError as err:
            failed.append(f"{name}: {err}")
            continue
        want = resvg(text, config.side)
        began = time.perf_counter()
        raster = Raster(document.root, document.width, document.height)
        values = {k: torch.from_numpy(p.value) for k, p in document.parameters.items()}
        image = over(raster.render(values, config.side, config.side)[None], torch.ones(3, 1, 1))[0]
        draw_ms.append(1000 * (time.perf_counter() - began))
        rows.append((psnr(image.permute(1, 2, 0).numpy(), want), name))
        same += bool((resvg(document.write().decode(), config.side) == want).all())
        if config.rewrite:
            shaken = {k: p.value + (1e-7 if p.group else 0) for k, p in document.parameters.items()}
            shaken = {k: np.clip(v, 0, 1) if v.shape == (3,) and v.max() <= 1.001 else v for k, v in shaken.items()}
            rewritten.append(psnr(resvg(document.write(shaken).decode(), config.side), want))
    good = sum(p >= 35 for p, _ in rows)
    print(f"{len(chosen)} icons of {', '.join(config.sets)}; {len(failed)} not parsed")
    print(f"at least 35 dB: {good} ({100 * good / len(rows):.2f} %); median {median(p for p, _ in rows):.1f} dB")
    print(f"unedited round trip with the same pixels: {same} ({100 * same / len(rows):.2f} %)")
    if rewritten:
        near = sum(p >= 45 for p in rewritten)
        print(f"every number written anew, at least 45 dB: {near} ({100 * near / len(rewritten):.2f} %)")
    print(f"median ms: parse {median(parse_ms):.1f}, draw {median(draw_ms):.1f}")
    for p, name in sorted(rows)[: config.worst]:
        used = [f.strip("<") for f in FEATURES if re.search(f, every[name])]
        print(f"  {p:5.1f} dB {name}: {', '.join(used)}")
    print("\n".join(failed))


if __name__ == "__main__":
    main(tyro.cli(Config))
