"""Seconds and memory of our rasterizer and of diffvg: 100 closed paths of four cubics, random blobs over the page.

    python -m benchmarks.rasterizers                       # on one core; --threads 2 on two
    python -m benchmarks.rasterizers --paths 30 --sizes 128 --rounds 3
    python -m benchmarks.rasterizers --draws 4000 20000 --sizes 128        # documents, with our rasterizer alone

diffvg takes part where it is importable. Each rasterizer and size has a process of its own; they take turns, so that a
noisy machine slows all of them alike.
"""

import importlib.util
import math
import os
import random
import resource
import statistics
import time
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection

import torch
import tyro
from torch import Tensor

from svg.config import SvgConfig
from svg.document import Document
from svg.flat import FlatParameters
from svg.model import IDENTITY, Draw, Geometry, Group, Solid
from svg.raster.diffvg import DiffvgRaster
from svg.raster.page import Raster
from svg.selection import chosen

PAGE = 100.0  # px
RASTERIZERS = {"torch": Raster, "diffvg": DiffvgRaster}


@dataclass(frozen=True)
class Config:
    """What to time."""

    paths: int = 100
    """Paths on the page."""
    draws: tuple[int, ...] = ()
    """Instead: documents of so many draws, small fills, strokes and gradients all over the page, whose numbers may all
    change; CPU seconds from the flat parameters to the image and back, with our rasterizer."""
    sizes: tuple[int, ...] = (256, 512)
    """Sides of the square images, px."""
    rounds: int = 9
    """Timed passes of each row; the table has their medians."""
    threads: int = 1
    """Threads, and on Linux cores as well: diffvg asks for no number and starts one for every core."""


def blobs(count: int) -> tuple[Group, dict[str, Tensor]]:
    """Closed outlines of four cubics about random centers, radii 5 to 25 % of the page; opacities 0.3 to 1."""
    generator = torch.Generator().manual_seed(0)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)

    turn = torch.arange(13, dtype=torch.float64)[:-1] * (2 * math.pi / 12)
    ring = torch.stack([turn.cos(), turn.sin()], 1)
    draws, values = [], {}
    for i in range(count):
        points = uniform(0, PAGE, 2) + PAGE * uniform(0.05, 0.25, 1) * uniform(0.6, 1.4, 12, 1) * ring
        values |= {f"d{i}": torch.cat([points, points[:1]]), f"f{i}": uniform(0, 1, 3), f"o{i}": uniform(0.3, 1)}
        draws.append(Draw(Geometry("path", f"d{i}", "MCCCCZ"), IDENTITY, Solid(f"f{i}"), f"o{i}"))
    return Group(tuple(draws)), values


def serve(requests: Connection, name: str, size: int, config: Config) -> None:
    """Answer every True with the seconds of one forward and one backward pass, and False with the peak GiB, at last."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: config.threads])
    torch.set_num_threads(config.threads)
    root, values = blobs(config.paths)
    leaves = {k: v.requires_grad_() for k, v in values.items()}
    raster = RASTERIZERS[name](root, PAGE, PAGE)
    while requests.recv():
        for x in leaves.values():
            x.grad = None
        began = time.perf_counter()
        image = raster.render(leaves, size, size)
        drawn = time.perf_counter()
        image.square().mean().backward()
        requests.send((drawn - began, time.perf_counter() - drawn))
    requests.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def document(draws: int) -> bytes:
    """Closed outlines of four cubics about random centers, radii 0.5 to 3 % of the page: of 40 shapes 4 are strokes and
    1 has one of eight gradients; the others are more or less transparent fills."""
    chance = random.Random(0)

    def color() -> str:
        return f"#{chance.randrange(2**24):06x}"

    def outline() -> str:
        x, y = chance.uniform(0, PAGE), chance.uniform(0, PAGE)
        radius = PAGE * math.exp(chance.uniform(math.log(0.005), math.log(0.03)))
        points = []
        for k in range(12):
            own, angle = radius * chance.uniform(0.6, 1.4), k * math.pi / 6
            points.append(f"{x + own * math.cos(angle):.3f} {y + own * math.sin(angle):.3f}")
        return f"M{points[0]}C{' '.join(points[1:])} {points[0]}Z"

    def paint(i: int) -> str:
        if i % 10 == 3:
            return f'fill="none" stroke="{color()}" stroke-width="{chance.uniform(0.2, 1):.2f}"'
        if i % 40 == 7:
            return f'fill="url(#g{i // 40 % 8})"'
        return f'fill="{color()}" fill-opacity="{chance.uniform(0.3, 1):.2f}"'

    kinds = ("linearGradient", "radialGradient")
    stops = [f'<stop stop-color="{color()}"/><stop offset="1" stop-color="{color()}"/>' for _ in range(8)]
    gradients = [f'<{kinds[i % 2]} id="g{i}">{own}</{kinds[i % 2]}>' for i, own in enumerate(stops)]
    body = "".join(f'<path d="{outline()}" {paint(i)}/>' for i in range(draws))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {PAGE} {PAGE}">'
    return f"{head}<defs>{''.join(gradients)}</defs>{body}</svg>".encode()


def serve_document(answer: Connection, draws: int, size: int, config: Config) -> None:
    """Send the medians of the CPU seconds of forward and backward passes, and the peak GiB with and without them."""
    torch.set_num_threads(config.threads)
    read = Document.parse(document(draws))
    numbers = FlatParameters(read, chosen(read, SvgConfig(optimize=("all",))), torch.device("cpu"))
    raster = Raster(read.root, read.width, read.height)
    passes, idle = [], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    for turn in range(config.rounds + 1):  # the first warms up
        for x in numbers.tensors.values():
            x.grad = None
        began = time.process_time()
        image = raster.render(numbers.values(), size, size)
        drawn = time.process_time()
        image.square().mean().backward()
        passes += [(drawn - began, time.process_time() - drawn)] * (turn > 0)
    medians = [statistics.median(part) for part in zip(*passes, strict=True)]
    answer.send((*medians, idle, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))


def documents(config: Config) -> None:
    """The table of --draws, each row by a process of its own."""
    context = get_context("spawn")
    print(f"{config.threads} threads, medians of {config.rounds} passes\n")
    print("| draws | size | forward CPU s | backward CPU s | GiB before the first pass | peak GiB |")
    print("|---|---|---|---|---|---|")
    for draws in config.draws:
        for size in config.sizes:
            ours, theirs = context.Pipe()
            process = context.Process(target=serve_document, args=(theirs, draws, size, config))
            process.start()
            theirs.close()
            forward, backward, idle, peak = ours.recv()
            process.join()
            print(
                f"| {draws} | {size} x {size} | {forward:.2f} | {backward:.2f} | {idle:.2f} | {peak:.2f} |", flush=True
            )


def main(config: Config) -> None:
    if config.draws:
        documents(config)
        return
    names = [n for n in RASTERIZERS if n == "torch" or importlib.util.find_spec("pydiffvg")]
    context, rows = get_context("spawn"), {}
    for size in config.sizes:
        for name in names:
            ours, theirs = context.Pipe()
            context.Process(target=serve, args=(theirs, name, size, config), daemon=True).start()
            theirs.close()  # the process's own stays: should it die, nobody waits for it
            rows[name, size] = ours
    passes: dict[tuple[str, int], list[tuple[float, float]]] = {row: [] for row in rows}
    for turn in range(config.rounds + 1):  # the first warms up
        for row, process in rows.items():
            process.send(True)
            seconds = process.recv()
            passes[row] += [seconds] * (turn > 0)
    print(f"{config.paths} paths, {config.threads} threads, medians of {config.rounds} passes\n")
    print("| rasterizer | size | forward s | backward s | peak RSS GiB |\n|---|---|---|---|---|")
    for (name, size), process in rows.items():
        process.send(False)
        forward, backward = (statistics.median(p) for p in zip(*passes[name, size], strict=True))
        print(f"| {name} | {size} x {size} | {forward:.3f} | {backward:.3f} | {process.recv():.2f} |")


if __name__ == "__main__":
    main(tyro.cli(Config))
