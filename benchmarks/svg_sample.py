"""How many of other people's SVGs are read, and how faithfully they are drawn; resvg is the reference.

    python -m benchmarks.svg_sample --folders openclipart flags --count 300 --out rows.jsonl

Draws files at random from every folder (.svg and .svgz, at any depth), reads each as `cpds svg` does and compares its
image, longer side 128 px on white, with resvg's. Every file has a process's time limit; whatever ends otherwise than
by a image or by one sentence counts as a crash. `--skip` leaves out the first files of the same random order, so that
two calls with one seed see different files. Prints the shares, and the rest by cause; rows go to `--out`.
"""

import gzip
import json
import math
import random
import re
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
import torch
import tyro
from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]
from PIL import Image

from cpds.errors import InputError
from svg.document import Document
from svg.parse.files import unpacked
from svg.parse.xml import read_tree
from svg.raster.page import Raster, over


@dataclass(frozen=True)
class Config:
    """What to draw."""

    folders: tuple[Path, ...]
    """Sources: folders of SVGs."""
    count: int = 300
    """Files from each folder."""
    skip: int = 0
    """How many of the random order to leave out first."""
    seed: int = 0
    """Seeds the order."""
    side: int = 128
    """Pixels of a image's longer side."""
    seconds: float = 60.0
    """Time limit of a file."""
    out: Path | None = None
    """JSON lines, one for each file."""


def files(folder: Path, config: Config) -> list[Path]:
    """A folder's sample, links and copies of one content counted once."""
    found: dict[bytes, Path] = {}
    everything = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".svg", ".svgz") and p.is_file())
    order = random.Random(config.seed)
    order.shuffle(everything)
    for path in everything:
        if not path.is_symlink():
            found.setdefault(path.read_bytes(), path)
        if len(found) == config.skip + config.count:
            break
    return list(found.values())[config.skip :]


def resvg(data: bytes, width: int | None = None) -> Image.Image | None:
    """resvg's image, RGBA; None where it draws nothing or refuses."""
    try:
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()
        drawn = Image.open(BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=text, dpi=96, width=width)))).convert("RGBA")
    except (ValueError, OSError, EOFError):
        return None
    return drawn if np.asarray(drawn)[..., 3].any() else None


def scale_of(document: Document, side: int) -> float:
    """Pixels per page px for a longer side near `side`, such that both sides are nearly whole pixels."""
    sides = sorted((document.width, document.height))

    def rest(longer: int) -> float:
        shorter = sides[0] * longer / sides[1]
        return round(abs(shorter - max(1, round(shorter))), 2)

    near = range(side - side // 8, side + side // 8 + 1)
    return min(near, key=lambda longer: (rest(longer), abs(longer - side))) / sides[1]


def reference(data: bytes, document: Document, scale: float) -> np.ndarray | None:
    """resvg's image of a document, read from `data`, on white at this scale exactly, (h, w, 3) in [0, 1].

    resvg rounds a page to whole pixels before it scales it, so the scale is written into the page's size.
    """
    root = read_tree(unpacked(data, "it"), "it").root
    if root.get("viewBox") is None:
        root.set("viewBox", f"0 0 {document.width!r} {document.height!r}")
    for name, value in (("width", document.width), ("height", document.height)):
        root.set(name, repr(value * scale))
    drawn = resvg(etree.tostring(root))
    if drawn is None:
        return None
    return np.asarray(Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB")) / 255


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """At most 100 dB."""
    return -10 * math.log10(max(float(((a - b) ** 2).mean()), 1e-10))


def row(path: Path, side: int) -> dict[str, Any]:
    """What becomes of one file."""
    data = path.read_bytes()
    drawn = resvg(data, width=side)
    result: dict[str, Any] = {"file": str(path), "resvg": drawn is not None}
    began = time.perf_counter()
    try:
        document = Document.open(path)
        result |= {"notes": document.notes, "parameters": len(document.parameters)}
        result["read_s"] = time.perf_counter() - began
        if drawn is not None:
            result |= compared(data, document, drawn.width / drawn.height, side)
    except InputError as err:
        result["refused"] = str(err)
    except Exception as err:  # what this benchmark looks for
        result["crash"] = f"{type(err).__name__}: {err}"[:500]
    return result


def compared(data: bytes, document: Document, aspect: float, side: int) -> dict[str, Any]:
    """Our image beside resvg's; `aspect` is of resvg's page."""
    scale = scale_of(document, side)
    want = reference(data, document, scale)
    if want is None or abs(math.log(document.width / document.height / aspect)) > 0.05:
        return {"psnr": 0.0, "page": f"{document.width:g}x{document.height:g}, in resvg {aspect:.3g} to 1"}
    background = torch.tensor(document.background)[:, None, None]
    values = {k: torch.from_numpy(p.value) for k, p in document.parameters.items()}
    began = time.perf_counter()
    raster = Raster(document.root, want.shape[1] / scale, want.shape[0] / scale)  # the page in whole pixels
    image = over(raster.render(values, *want.shape[:2])[None], background)[0]
    seconds = time.perf_counter() - began
    return {"draw_s": seconds, "psnr": psnr(image.permute(1, 2, 0).numpy(), want)}


def serve(requests: Connection, side: int) -> None:
    """Answer paths with rows."""
    torch.set_num_threads(1)
    with suppress(EOFError):
        while True:
            requests.send(row(requests.recv(), side))


class Worker:
    """A process that answers within a time limit, or is replaced."""

    def __init__(self, side: int, seconds: float) -> None:
        self.side, self.seconds = side, seconds
        self._start()

    def _start(self) -> None:
        self.requests, theirs = get_context("spawn").Pipe()
        self.process = get_context("spawn").Process(target=serve, args=(theirs, self.side), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, path: Path) -> dict[str, Any]:
        self.requests.send(path)
        try:
            if self.requests.poll(self.seconds):
                return self.requests.recv()
            result = {"file": str(path), "resvg": True, "slow": f"more than {self.seconds:g} s"}
        except EOFError:
            result = {"file": str(path), "resvg": True, "crash": "the process died"}
        self.process.kill()
        self._start()
        return result


def report(name: str, rows: list[dict[str, Any]]) -> str:
    """One line of the table."""
    drawn = [r for r in rows if r["resvg"]]
    read = [r for r in drawn if "psnr" in r]
    good = sum(r["psnr"] >= 30 for r in read)
    bad, slow = (sum(kind in r for r in rows) for kind in ("crash", "slow"))
    shares = (100 * part / max(whole, 1) for part, whole in ((len(read), len(drawn)), (good, len(read))))
    median = sorted(r["psnr"] for r in read)[len(read) // 2] if read else math.nan
    cells = (name, len(rows), len(drawn), bad, slow, *(f"{s:.1f} %" for s in shares), f"{median:.1f}")
    return f"| {' | '.join(map(str, cells))} |"


def main(config: Config) -> None:
    worker, rows = Worker(config.side, config.seconds), {}
    out = config.out.open("w") if config.out else None
    for folder in config.folders:
        rows[folder.name] = []
        for path in files(folder, config):
            rows[folder.name].append(worker.ask(path))
            if out:
                print(json.dumps(rows[folder.name][-1]), file=out, flush=True)
    print("| source | files | resvg draws | crashes | too slow | of these read | >= 30 dB | median dB |")
    print("|---|---|---|---|---|---|---|---|")
    for name, own in rows.items():
        print(report(name, own))
    every = [r for own in rows.values() for r in own]
    print(report("all", every))
    causes: dict[str, Counter[str]] = defaultdict(Counter)
    for r in (r for r in every if r["resvg"]):
        for kind in ("crash", "slow", "refused"):
            if kind in r:
                causes[kind][re.sub(r"\d+", "N", r[kind].replace(r["file"], "it"))[:100]] += 1
        if r.get("psnr", 100) < 30:
            causes["below 30 dB"][", ".join(re.sub(r"\d+ ", "", n) for n in r["notes"]) or "nothing fixed"] += 1
    for kind, found in causes.items():
        print(f"\n{kind}:")
        for cause, n in found.most_common():
            print(f"  {n} x {cause}")
    print("\nworst:")
    for r in sorted((r for r in every if "psnr" in r), key=lambda r: r["psnr"])[:40]:
        print(f"  {r['psnr']:5.1f} dB {r['file']}: {', '.join(r['notes'])}")


if __name__ == "__main__":
    main(tyro.cli(Config))
