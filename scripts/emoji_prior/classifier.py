"""Train the classifier of emoji-edit: which concept, style and background does an image show?

    python -m scripts.emoji_prior.classifier --out benchmarks/emoji_edit/classifier.safetensors

It is independent of the prior: it is trained on renders of every icon, held-out pairs included, blurred and noised a
little so that an autoencoder's softness does not confuse it.
"""

import random
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate
from tqdm import tqdm

from cpds.evaluation.classifier import SIDE, IconClassifier
from scripts.emoji_prior.icons import BACKGROUNDS, Icons, concepts, draw, load_icons, random_scene
from scripts.emoji_prior.packages import STYLES
from scripts.program import run_program


@dataclass(frozen=True)
class ClassifierConfig:
    """Settings of the training run."""

    out: Path = Path("benchmarks/emoji_edit/classifier.safetensors")
    """File for the weights (fp16)."""
    start: Path | None = None
    """Go on from these weights."""
    steps: int = 6000
    """Optimizer steps."""
    batch: int = 64
    """Images in a step."""
    renders_per_icon: int = 16
    """Images drawn of each icon."""
    seed: int = 1
    """Seeds images, weights and batches."""
    lr: float = 2e-3
    """Peak learning rate of AdamW (one cycle)."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Torch device."""


def draw_images(icons: Icons, per_icon: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Random scenes of every icon as uint8 images, and the index of each one's concept, style and background."""
    rng = random.Random(seed)
    scenes = [random_scene(i, rng) for i in range(len(icons)) for _ in range(per_icon)]
    drawn = torch.stack([(draw(icons, s, SIDE)[0] * 255).round().byte() for s in tqdm(scenes, "drawing")])
    shown = {
        "concept": (list(concepts()), [icons.concept[s.icon] for s in scenes]),
        "style": (STYLES, [icons.style[s.icon] for s in scenes]),
        "background": (list(BACKGROUNDS), [s.colour for s in scenes]),
    }
    return drawn, {head: torch.tensor([names.index(x) for x in labels]) for head, (names, labels) in shown.items()}


def soften(x: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the batch blurred by a random factor; every image's colours a little off, and noise on it."""
    half = len(x) // 2
    side = int(torch.randint(24, SIDE, (1,), generator=generator))
    blurred = interpolate(x[:half], (side, side), mode="bilinear", antialias=True)
    x = torch.cat([interpolate(blurred, (SIDE, SIDE), mode="bilinear"), x[half:]])
    gain = 1 + 0.12 * torch.randn(len(x), 3, 1, 1, generator=generator).to(x)
    lift = 0.04 * torch.randn(len(x), 1, 1, 1, generator=generator).to(x)
    return (x * gain + lift + 0.02 * torch.randn(x.shape, generator=generator).to(x)).clamp(0, 1)


@torch.no_grad()
def accuracy(classifier: IconClassifier, x: Tensor, y: dict[str, Tensor], device: str) -> dict[str, float]:
    """Share of images that each head classifies correctly."""
    hits = dict.fromkeys(y, 0)
    for chosen in torch.arange(len(x)).split(256):
        logits = classifier(x[chosen].to(device).float() / 255)
        for head in hits:
            hits[head] += int((logits[head].argmax(1).cpu() == y[head][chosen]).sum())
    return {head: round(n / len(x), 4) for head, n in hits.items()}


def main(config: ClassifierConfig) -> None:
    icons = load_icons(list(concepts()))
    x, y = draw_images(icons, config.renders_per_icon, config.seed)
    torch.manual_seed(config.seed)
    classifier = IconClassifier({"concept": list(concepts()), "style": STYLES, "background": list(BACKGROUNDS)})
    if config.start:
        classifier.load_state_dict(IconClassifier.load(config.start).state_dict())
    classifier.to(config.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=config.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, config.steps)
    generator = torch.Generator().manual_seed(config.seed)
    progress = tqdm(range(1, config.steps + 1), "classifier", unit="step")
    for step in progress:
        chosen = torch.randint(len(x), (config.batch,), generator=generator)
        batch = soften(x[chosen].to(config.device).float() / 255, generator)
        with torch.autocast(config.device, torch.bfloat16):
            logits = classifier(batch.contiguous(memory_format=torch.channels_last))
        losses = [
            cross_entropy(logits[head].float(), y[head][chosen].to(config.device), label_smoothing=0.05) for head in y
        ]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
        schedule.step()
        if step % 250 == 0:
            progress.write(f"{step}/{config.steps} loss {', '.join(f'{float(v.detach()):.3f}' for v in losses)}")
    classifier.eval()
    print(f"accuracy on fresh renders: {accuracy(classifier, *draw_images(icons, 2, config.seed + 1), config.device)}")
    config.out.parent.mkdir(parents=True, exist_ok=True)
    classifier.save(config.out)


if __name__ == "__main__":
    sys.exit(run_program(main, ClassifierConfig, __doc__))
