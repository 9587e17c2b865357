"""Sample every concept from a prior, let the judge of emoji-edit name them, and put the figures on the model card.

    python -m scripts.emoji_prior.evaluate --prior cpds/assets/prior

Share of samples whose concept the judge names, for each concept and over 200 random ones; and the kernel distance (KID,
Binkowski 2018) between samples and fresh renders on the judge's features, beside that of renders to other renders.
"""

import random
import re
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from diffusers import StableDiffusionPipeline
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from cpds.evaluation.classifier import IconClassifier
from cpds.runs import write_atomic
from scripts.emoji_prior.icons import BACKGROUNDS, concepts, draw, load_icons, random_scene, with_article

SECTION = """## Samples

{per_concept} samples of each of {n} concepts at guidance {guidance}, {steps} DDIM steps, random backgrounds, by the
classifier `benchmarks/emoji_edit/classifier.safetensors` (scripts/emoji_prior/evaluate.py): **{all:.1%}** are called
what they were asked to be; over 200 random concepts {random:.1%}. Kernel distance (KID) to fresh renders on the
classifier's features: {kid:.3f}; of renders to other renders {floor:.3f}.

| samples called right | concepts |
|---|---|
{table}

"""


@dataclass(frozen=True)
class Config:
    """What to sample and how."""

    prior: Path = Path("cpds/assets/prior")
    """Folder of the prior; the section in its README.md is replaced."""
    judge: Path = Path("benchmarks/emoji_edit/classifier.safetensors")
    """Weights made by train_classifier.py."""
    per_concept: int = 3
    """Samples of each concept."""
    guidance: float = 4.0
    """Classifier-free guidance."""
    steps: int = 25
    """DDIM steps."""
    batch: int = 24
    """Samples at once."""
    seed: int = 0
    """Seeds backgrounds, noise and renders."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Torch device."""


@torch.no_grad()
def features(judge: IconClassifier, images: Tensor) -> Tensor:
    """What the judge's heads see, (n, 512)."""
    found: list[Tensor] = []
    handle = judge.heads["concept"].register_forward_hook(lambda _m, args, _o: found.append(args[0]))
    for part in images.split(64):
        judge(part)
    handle.remove()
    return torch.cat(found)


def main(config: Config) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(config.prior, safety_checker=None).to(config.device)
    pipeline.set_progress_bar_config(disable=True)
    judge, words, rng = IconClassifier.load(config.judge), concepts(), random.Random(config.seed)
    wanted = [name for name in words for _ in range(config.per_concept)]
    prompts = [
        f"{with_article(words[name][0])} on {with_article(rng.choice(list(BACKGROUNDS)))} background" for name in wanted
    ]
    samples = []
    for i in range(0, len(prompts), config.batch):
        output = pipeline(
            prompts[i : i + config.batch],
            guidance_scale=config.guidance,
            num_inference_steps=config.steps,
            generator=torch.Generator().manual_seed(config.seed + i),
            output_type="pt",
        )
        samples.append(output.images.float().cpu())  # pyright: ignore[reportAttributeAccessIssue]
        print(f"{min(i + config.batch, len(prompts))}/{len(prompts)}", flush=True)
    images = torch.cat(samples)
    right: dict[str, int] = dict.fromkeys(words, 0)
    for name, seen in zip(wanted, [s for part in images.split(64) for s in judge.names(part)], strict=True):
        right[name] += seen["concept"] == name
    icons, side = load_icons(list(words)), images.shape[-1]
    one, other = (
        torch.stack([draw(icons, random_scene(rng.randrange(len(icons)), rng), side)[0] for _ in prompts])
        for _ in range(2)
    )
    real = features(judge, one)
    lines = [
        f"| {k} of {config.per_concept} | {', '.join(words[n][0] for n in right if right[n] == k) or '-'} |"
        for k in range(config.per_concept, -1, -1)
    ]
    chosen = rng.sample(list(right), min(200, len(right)))
    section = SECTION.format(
        per_concept=config.per_concept,
        n=len(words),
        guidance=config.guidance,
        steps=config.steps,
        all=sum(right.values()) / len(wanted),
        random=sum(right[n] for n in chosen) / len(chosen) / config.per_concept,
        kid=float(poly_mmd(real, features(judge, images))),
        floor=float(poly_mmd(real, features(judge, other))),
        table="\n".join(lines),
    )
    print(section)
    card = config.prior / "README.md"
    text = re.sub(r"## Samples\n.*?(?=^## )", "", card.read_text(), flags=re.DOTALL | re.MULTILINE)
    write_atomic(card, text.replace("## Limits\n", section + "## Limits\n").encode())


if __name__ == "__main__":
    main(tyro.cli(Config))
