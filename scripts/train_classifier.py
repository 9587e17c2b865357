"""Train the concept classifier that judges edits: which of the prior's concepts does a picture show?

    python scripts/train_classifier.py --out benchmarks/classifier.safetensors

It is independent of the prior: it sees renders of every icon, held-out pairs included, blurred and noised a little
so that an autoencoder's softness does not confuse it.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from icons import Icons, concepts, draw, load_icons, random_scene
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

SIDE = 64  # px


@dataclass(frozen=True)
class Config:
    """Settings of the training run."""

    out: Path = Path("benchmarks/classifier.safetensors")
    """File for the weights (fp16)."""
    steps: int = 3000
    """Optimiser steps."""
    batch: int = 64
    """Pictures in a step."""
    renders_per_icon: int = 24
    """Pictures drawn of each icon."""
    seed: int = 1
    """Seeds pictures, weights and batches."""
    lr: float = 2e-3
    """Peak step size of AdamW (one cycle)."""


def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class ConceptClassifier(nn.Module):
    """Pictures (b, 3, H, W) in [0, 1] of any size -> logits (b, concepts)."""

    def __init__(self, concepts: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            block(3, 32, 1),
            block(32, 64, 2),
            block(64, 64, 1),
            block(64, 128, 2),
            block(128, 128, 1),
            block(128, 256, 2),
        )
        self.head = nn.Linear(256, concepts)

    def forward(self, images: Tensor) -> Tensor:
        x = interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True) * 2 - 1
        return self.head(self.features(x).amax((2, 3)))


def load_classifier(path: Path) -> ConceptClassifier:
    """The trained classifier, in eval mode."""
    weights = {k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()}
    model = ConceptClassifier(len(weights["head.bias"]))
    model.load_state_dict(weights)
    return model.eval()


def pictures(icons: Icons, per_icon: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random scenes of every icon as uint8 pictures, and their concept's index in concepts.txt."""
    rng, index = random.Random(seed), {name: i for i, name in enumerate(concepts())}
    order = [i for i in range(len(icons)) for _ in range(per_icon)]
    drawn = [(draw(icons, random_scene(i, rng), SIDE)[0] * 255).round().byte() for i in order]
    return torch.stack(drawn), torch.tensor([index[icons.concept[i]] for i in order])


def soften(x: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the batch blurred by a random factor; noise on all of it."""
    half = len(x) // 2
    side = int(torch.randint(24, SIDE, (1,), generator=generator))
    blurred = interpolate(x[:half], (side, side), mode="bilinear", antialias=True)
    x = torch.cat([interpolate(blurred, (SIDE, SIDE), mode="bilinear"), x[half:]])
    return (x + 0.02 * torch.randn(x.shape, generator=generator)).clamp(0, 1)


@torch.no_grad()
def accuracy(model: ConceptClassifier, x: Tensor, y: Tensor) -> float:
    """Share of pictures whose concept is named."""
    hits = [
        (model(part.float() / 255).argmax(1) == of).sum() for part, of in zip(x.split(256), y.split(256), strict=True)
    ]
    return float(torch.stack(hits).sum()) / len(x)


def main(config: Config) -> None:
    icons = load_icons(list(concepts()))
    x, y = pictures(icons, config.renders_per_icon, config.seed)
    torch.manual_seed(config.seed)
    model = ConceptClassifier(len(concepts()))
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.lr, config.steps)
    generator = torch.Generator().manual_seed(config.seed)
    for step in range(1, config.steps + 1):
        chosen = torch.randint(len(x), (config.batch,), generator=generator)
        batch = soften(x[chosen].float() / 255, generator).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            loss = cross_entropy(model(batch).float(), y[chosen], label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 250 == 0:
            print(f"{step}/{config.steps} loss {loss.item():.3f}", flush=True)
    model.eval()
    print(f"accuracy on fresh renders: {accuracy(model, *pictures(icons, 2, config.seed + 1)):.4f}")
    config.out.parent.mkdir(parents=True, exist_ok=True)
    weights = {k: v.contiguous() for k, v in model.state_dict().items()}
    save_file({k: v.half() if v.is_floating_point() else v for k, v in weights.items()}, config.out)


if __name__ == "__main__":
    main(tyro.cli(Config))
