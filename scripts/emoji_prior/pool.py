"""The training images of the embedded prior: what they show, and the pixels, drawn once and kept on disk."""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from cpds.config import require
from cpds.errors import InputError
from scripts.emoji_prior.checkpoints import save
from scripts.emoji_prior.collages import Collage, collage_caption, draw_collage, random_collage
from scripts.emoji_prior.icons import Icons, Scene, caption, concepts, draw, held_out_pairs, random_scene
from scripts.emoji_prior.networks import SIDE
from scripts.emoji_prior.settings import TrainConfig
from scripts.emoji_prior.solids import HELD_OUT_STYLE, Solid, draw_solid, random_solid, solid_caption

Drawn = Scene | Collage | Solid


def scenes_of(drawn: Drawn) -> tuple[Scene, ...]:
    """One for each icon."""
    if isinstance(drawn, Collage):
        return drawn.scenes
    return (drawn.scene,) if isinstance(drawn, Solid) else (drawn,)


def random_pool(config: TrainConfig, icons: Icons) -> list[Drawn]:
    """What the training images show; held-out pairs never appear."""
    held_out = held_out_pairs()
    rng = random.Random(config.seed)
    keep = [i for i in range(len(icons)) if (icons.concept[i], icons.style[i]) not in held_out]
    pool: list[Drawn] = [random_scene(i, rng) for i in keep for _ in range(config.renders_per_icon)]
    by_style = {style: [i for i in keep if icons.style[i] == style] for style in set(icons.style)}
    total = len(pool) / (1 - config.collages - config.solids)
    for n in range(round(config.collages * total)):
        first = keep[n % len(keep)]  # every icon equally often
        others = by_style[icons.style[first]] if rng.random() < 0.7 else keep
        pool.append(random_collage([first, *rng.choices(others, k=n % 3)], rng))
    seen = [i for i in keep if icons.style[i] != HELD_OUT_STYLE]
    pool += [random_solid(seen[n % len(seen)], rng) for n in range(round(config.solids * total))]
    return pool


def draw_pool(config: TrainConfig, icons: Icons) -> tuple[Tensor, list[Drawn]]:
    """All training images (n, 3, SIDE, SIDE) uint8 and what they show."""
    pool = random_pool(config, icons)
    path = config.out / "pictures.pt"  # a name, like its keys, that runs begun earlier have
    names = [
        ([(icons.concept[s.icon], icons.style[s.icon]) for s in scenes_of(drawn)], asdict(drawn)) for drawn in pool
    ]
    digest = hashlib.sha256(json.dumps(names).encode()).hexdigest()
    if path.exists():
        made = torch.load(path, mmap=True)
        if made["digest"] == digest:
            return made["pictures"], pool

    def pixels(drawn: Drawn) -> Tensor:
        if isinstance(drawn, Solid):
            image = draw_solid(icons, drawn, SIDE)
        else:
            image, _ = draw(icons, drawn, SIDE) if isinstance(drawn, Scene) else draw_collage(icons, drawn, SIDE)
        return (image * 255).round().byte()

    images = torch.stack([pixels(drawn) for drawn in pool])
    save({"pictures": images, "digest": digest}, path)
    (config.out / "latents.pt").unlink(missing_ok=True)  # those of other images
    return images, pool


def read_shares(path: Path | None) -> dict[str, float]:
    """Concepts' shares of right samples, in [0, 1], as evaluate.py writes them; nothing without a file."""
    if path is None:
        return {}
    try:
        shares = json.loads(path.read_bytes())
    except (OSError, ValueError) as err:
        raise InputError(f"cannot read {path} as JSON ({err}): have scripts.emoji_prior.evaluate write it") from err
    require(isinstance(shares, dict), f"{path} holds no table of concepts: have scripts.emoji_prior.evaluate write it")
    for name, share in shares.items():
        require(name in concepts(), f"{path} names {name!r}, which is no concept of scripts/emoji_prior/concepts.txt")
        known = isinstance(share, (int, float)) and 0 <= share <= 1
        require(known, f"the share of {name!r} in {path} must be a number from 0 to 1, got {share!r}")
    return shares


def image_weights(icons: Icons, pool: Sequence[Drawn], shares: Mapping[str, float]) -> Tensor:
    """How often each image is drawn in training, (n,): 1 where its concepts are always right, 4 where one never is."""
    found = [min(shares.get(icons.concept[s.icon], 1.0) for s in scenes_of(drawn)) for drawn in pool]
    return 4 - 3 * torch.tensor(found)


def describe(icons: Icons, drawn: Drawn, words: dict[str, list[str]], rng: random.Random) -> str:
    """A random caption of what an image shows."""
    if isinstance(drawn, Scene):
        return caption(icons, drawn, words, rng)
    if isinstance(drawn, Solid):
        return solid_caption(icons, drawn, words, rng)
    return collage_caption(icons, drawn, words, rng)
