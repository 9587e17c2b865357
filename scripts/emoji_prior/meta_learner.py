"""Train the Meta-Learner that ships with CPDS: which cells of an image does an edit leave as they are?

    python -m scripts.emoji_prior.meta_learner --out cpds/assets/meta_learner.safetensors

Edit pairs with ground truth that no benchmark holds are shown to the embedded prior, unedited, as an edit would see
them; a cell stays where the ground truth does not differ from the source.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

from cpds.contrast import cells
from cpds.evaluation.cases import load_cases
from cpds.evaluation.oracle import STAYS, cell_changes
from cpds.images import open_image
from cpds.priors.base import Prior
from cpds.priors.load import load_prior
from cpds.relevance import relevance_map
from cpds.selection.base import Cells
from cpds.selection.meta_learner import SHIPPED, StayNet, features
from cpds.selection.rules import CALM
from scripts.emoji_prior.pairs import training_pairs
from scripts.program import run_program

LOOKS = 3  # timesteps at which features are tapped, for each pair
SIZES = (1, 2)  # sides of the patches, in feature pixels
BATCH = 10  # pairs at a time


@dataclass(frozen=True)
class MetaLearnerConfig:
    """Settings of the training run."""

    out: Path = SHIPPED
    """File for the weights."""
    pairs: int = 1000
    """Edit pairs to train on."""
    seed: int = 0
    """Seeds pairs, noises, weights and batches."""
    steps: int = 3000
    """Optimizer steps."""
    batch: int = 4096
    """Cells in a step."""
    lr: float = 3e-3
    """Peak learning rate of AdamW (one cycle)."""
    jitter: float = 0.05
    """Noise on the standardized features."""
    plain: int = 3
    """How many times as often as a scene's a cell of a plain image is drawn: scenes, which the embedded prior knows
    little of, would else teach the network to trust no map."""
    validation: str | None = "emoji-edit"
    """Data set whose validation split the report is on."""
    device: str = "cpu"
    """Torch device of the prior."""


class Pair(NamedTuple):
    """What is needed of an edit pair; images (3, H, W)."""

    source: Tensor
    ground_truth: Tensor
    prompt: str
    target_prompt: str


class Seen(NamedTuple):
    """One image's cells at one layer, patch size and timestep, and which of them stay."""

    pair: int
    cells: Cells
    stays: Bool[Tensor, " n"]


@torch.no_grad()
def look(prior: Prior, pairs: Sequence[Pair], generator: torch.Generator) -> Iterator[Seen]:
    """What a selector would see of each pair's source, at random timesteps, and what it should say."""
    for first in tqdm(range(0, len(pairs), BATCH), "looking at pairs", unit="batch"):
        part = pairs[first : first + BATCH]
        source, truth = (torch.stack([getattr(p, name) for p in part]) for name in ("source", "ground_truth"))
        latents = prior.encode(source.to(prior.device))
        prompts, targets = (prior.embed([getattr(p, name) for p in part]) for name in ("prompt", "target_prompt"))
        relevance = relevance_map(prior, latents, prompts, targets, generator)  # each pair its own noises
        for _ in range(LOOKS):
            low, high = (round(share * len(prior.schedule)) for share in (0.05, 0.95))
            t = torch.randint(low, high + 1, (1,), generator=generator).expand(len(part))
            noise = torch.randn(latents.shape, generator=generator).to(latents)
            found = prior.denoise(prior.schedule.add_noise(latents, noise, t), t, prompts, tap=len(part))
            for layer in found.features:
                for size in SIZES:
                    for i, (seen, _) in enumerate(cells(layer, layer, relevance, size)):
                        stays = cell_changes(source[i : i + 1], truth[i : i + 1], seen.grid)[0] < STAYS
                        yield Seen(first + i, seen, stays)


def train(
    x: Float[Tensor, "N k"], y: Float[Tensor, " N"], pool: Int[Tensor, " m"], config: MetaLearnerConfig
) -> StayNet:
    """The network, by binary cross-entropy; every batch is drawn anew from the rows that `pool` names."""
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = StayNet()
    net.mean, net.std = x.mean(0), x.std(0).clamp(min=1e-6)
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, config.steps)
    progress = tqdm(range(1, config.steps + 1), "Meta-Learner", unit="step")
    for step in progress:
        chosen = pool[torch.randint(len(pool), (config.batch,), generator=generator)]
        noise = config.jitter * torch.randn(config.batch, x.shape[1], generator=generator)
        loss = binary_cross_entropy_with_logits(net(x[chosen] + noise * net.std), y[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 500 == 0:
            progress.write(f"{step}/{config.steps} loss {float(loss.detach()):.4f}")
    return net.eval()


def learn(seen: Iterable[Seen], config: MetaLearnerConfig) -> StayNet:
    """The network, from what was seen of the training pairs: plain images at even places, scenes at odd ones."""
    rows = [(features(s.cells), s.stays.float(), torch.full((len(s.cells),), s.pair % 2 == 0)) for s in seen]
    x, y, plain = (torch.cat(columns) for columns in zip(*rows, strict=True))
    print(f"{len(x)} cells, of which {float(y.mean()):.0%} stay", flush=True)
    pool = torch.cat([*[plain.nonzero()[:, 0]] * config.plain, (~plain).nonzero()[:, 0]])
    return train(x, y, pool, config)


def auc(scores: Float[Tensor, " n"], positive: Bool[Tensor, " n"]) -> float | None:
    """Area under the ROC curve: how often a positive's score is above a negative's; None without one of each."""
    if bool(positive.all()) or not bool(positive.any()):
        return None
    above = scores[positive][:, None] - scores[~positive]
    return float(((above > 0).double() + (above == 0).double() / 2).mean())


@torch.no_grad()
def report(seen: Sequence[Seen], score: Callable[[Cells], Tensor]) -> str:
    """By the map's rows: mean over images of the AUC, and balanced accuracy of a score above 0, of cells that stay."""
    areas: dict[int, dict[int, list[float]]] = {}
    counts: dict[int, list[Tensor]] = {}
    for pair, shown, stays in seen:
        found, rows = score(shown), shown.grid[0]
        if (area := auc(found, stays)) is not None:
            areas.setdefault(rows, {}).setdefault(pair, []).append(area)
        right = (found > 0) == stays
        counts.setdefault(rows, []).append(
            torch.stack([x.sum() for x in (right & stays, stays, right & ~stays, ~stays)])
        )
    lines = []
    for rows in sorted(areas):
        image = [sum(a) / len(a) for a in areas[rows].values()]
        a, stay, b, change = torch.stack(counts[rows]).sum(0).tolist()
        lines.append(f"{rows} rows: AUC {sum(image) / len(image):.4f}, accuracy {(a / stay + b / change) / 2:.4f}")
    return "; ".join(lines)


def compare(name: str, seen: Sequence[Seen], net: StayNet) -> dict[str, str]:
    """Print and return what the network's and the relevance's own answers are worth."""
    found = {
        f"{name}, relevance": report(seen, lambda x: CALM - x.change),
        f"{name}, meta-learner": report(seen, lambda x: net(features(x))),
    }
    for what, figures in found.items():
        print(f"{what}: {figures}", flush=True)
    return found


def main(config: MetaLearnerConfig) -> None:
    prior = load_prior(device=config.device)
    generator = torch.Generator().manual_seed(config.seed)
    drawn = [
        Pair(p.source, p.ground_truth, p.prompt, p.target_prompt) for p in training_pairs(config.pairs, config.seed)
    ]
    net = learn(look(prior, drawn, generator), config)
    figures = {}
    if config.validation:
        cases = load_cases(config.validation, "validation")
        pairs = [
            Pair(open_image(c.source)[0], open_image(c.ground_truth)[0], c.prompt, c.target_prompt)
            for c in cases
            if c.ground_truth
        ]
        figures = compare(config.validation, list(look(prior, pairs, generator)), net)
    made = {k: str(v) for k, v in asdict(config).items() if k not in ("out", "validation", "device")}
    net.save(config.out, {"prior": prior.fingerprint, **made, **figures})


if __name__ == "__main__":
    sys.exit(run_program(main, MetaLearnerConfig, __doc__))
