"""Sample every concept from a prior, classify the samples, and put the accuracy on the model card.

    python -m scripts.emoji_prior.evaluate --prior cpds/assets/prior

Accuracy: the share of samples that emoji-edit's classifier assigns to their concept, for each concept and over 200
random ones; and the kernel distance (KID, Binkowski 2018) between samples and fresh renders on the classifier's
features, beside that of renders to other renders.
"""

import json
import random
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from cpds.evaluation.classifier import IconClassifier
from cpds.runs import write_atomic
from scripts.emoji_prior.icons import BACKGROUNDS, concepts, draw, load_icons, random_scene, with_article
from scripts.program import run_program

SECTION = """## Samples

{per_concept} samples of each of {n} concepts at guidance {guidance}, {steps} DDIM steps, random backgrounds, classified
by `benchmarks/emoji_edit/classifier.safetensors` (`python -m scripts.emoji_prior.evaluate`): accuracy **{all:.1%}**;
over 200 random concepts {random:.1%}. Kernel distance (KID) to fresh renders on the classifier's features: {kid:.3f};
of renders to other renders {floor:.3f}.

| samples classified correctly | concepts |
|---|---|
{table}

"""


@dataclass(frozen=True)
class EvaluateConfig:
    """What to sample and how."""

    prior: Path = Path("cpds/assets/prior")
    """Folder of the prior; the section in its README.md is replaced."""
    classifier: Path = Path("benchmarks/emoji_edit/classifier.safetensors")
    """Weights made by scripts.emoji_prior.classifier."""
    shares: Path | None = None
    """Write each concept's share of right samples here, for the training's own --shares."""
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
def features(classifier: IconClassifier, images: Tensor) -> Tensor:
    """The input of the classifier's heads, (n, 512)."""
    found: list[Tensor] = []
    handle = classifier.heads["concept"].register_forward_hook(lambda _m, args, _o: found.append(args[0]))
    for part in images.split(64):
        classifier(part)
    handle.remove()
    return torch.cat(found)


def main(config: EvaluateConfig) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(config.prior, safety_checker=None).to(config.device)
    pipeline.set_progress_bar_config(disable=True)
    classifier, words, rng = IconClassifier.load(config.classifier), concepts(), random.Random(config.seed)
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
    correct: dict[str, int] = dict.fromkeys(words, 0)
    predicted = [found for part in images.split(64) for found in classifier.classify(part)]
    for name, found in zip(wanted, predicted, strict=True):
        correct[name] += found["concept"] == name
    if config.shares:
        found = {name: count / config.per_concept for name, count in correct.items()}
        write_atomic(config.shares, json.dumps(found, indent=1).encode())
    icons, side = load_icons(list(words)), images.shape[-1]
    one, other = (
        torch.stack([draw(icons, random_scene(rng.randrange(len(icons)), rng), side)[0] for _ in prompts])
        for _ in range(2)
    )
    real = features(classifier, one)
    lines = [
        f"| {k} of {config.per_concept} | {', '.join(words[n][0] for n in correct if correct[n] == k) or '-'} |"
        for k in range(config.per_concept, -1, -1)
    ]
    chosen = rng.sample(list(correct), min(200, len(correct)))
    section = SECTION.format(
        per_concept=config.per_concept,
        n=len(words),
        guidance=config.guidance,
        steps=config.steps,
        all=sum(correct.values()) / len(wanted),
        random=sum(correct[n] for n in chosen) / len(chosen) / config.per_concept,
        kid=float(poly_mmd(real, features(classifier, images))),
        floor=float(poly_mmd(real, features(classifier, other))),
        table="\n".join(lines),
    )
    print(section)
    card = config.prior / "README.md"
    text = re.sub(r"## Samples\n.*?(?=^## )", "", card.read_text(), flags=re.DOTALL | re.MULTILINE)
    write_atomic(card, text.replace("## Limits\n", section + "## Limits\n").encode())


if __name__ == "__main__":
    sys.exit(run_program(main, EvaluateConfig, __doc__))
