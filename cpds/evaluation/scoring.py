"""The metrics of one edited image, by name: what is measured, and between which images."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cpds.config import require
from cpds.evaluation.cases import Case
from cpds.evaluation.classifier import IconClassifier
from cpds.evaluation.metrics import Scores, mse, psnr, ssim, torchmetrics_functional
from cpds.evaluation.networks import ClipScore, DinoStructure, Lpips, PriorStructure
from cpds.images import open_image
from cpds.priors.base import Prior
from cpds.types import Images

PSNR_MAX = 100.0  # dB; where nothing changed it is infinite, which is no JSON number


@dataclass(frozen=True)
class Metrics:
    """The metrics of an evaluation; what is None is left out of the table."""

    structure: Callable[[Images, Images], Scores] | None = None
    classifier: IconClassifier | None = None
    lpips: Callable[[Images, Images], Scores] | None = None
    clip: Callable[[Images, list[str]], Scores] | None = None
    device: torch.device | str = "cpu"  # where the networks are
    fingerprint: Mapping[str, Any] = field(default_factory=dict)  # settings with the same one are comparable

    def score(self, case: Case, result: Images) -> dict[str, float]:
        """Metrics of one case's result (1, 3, H, W), by name; those that the case lacks something for are left out."""
        source, ground_truth = open_image(case.source), case.open_ground_truth()
        mask = case.open_mask(source)
        result, source = result.to(self.device), source.to(self.device)
        found: dict[str, Scores | float] = {}
        if self.classifier and case.expect:
            (predicted,) = self.classifier.classify(case.cropped(result))
            found["target_accuracy"] = float(all(predicted.get(head) == name for head, name in case.expect.items()))
        if self.lpips:
            found["lpips_source"] = self.lpips(result, source)
            if ground_truth is not None:
                found["lpips_ground_truth"] = self.lpips(result, ground_truth.to(self.device))
        if self.structure:
            found["structure_distance"] = self.structure(result, source)
        if self.clip:
            found["clip_whole"] = self.clip(result, [case.target_prompt])
        if mask is not None:
            found |= self._by_mask(case, source, result, mask.to(self.device))
        return {name: float(value) for name, value in found.items()}

    def returned(self, start: Images, back: Images) -> dict[str, float]:
        """How near an edit there and back (1, 3, H, W) comes to where it started."""
        start, back = start.to(self.device), back.to(self.device)
        found = {"psnr_back": psnr(back, start).clamp(max=PSNR_MAX)}
        if self.lpips:
            found["lpips_back"] = self.lpips(back, start)
        return {name: float(value) for name, value in found.items()}

    def _by_mask(self, case: Case, source: Images, result: Images, mask: Tensor) -> dict[str, Scores]:
        """Metrics outside the mask, where nothing should change, and of what is inside."""
        found: dict[str, Scores] = {}
        outside = 1 - mask
        if bool(outside.any()):
            found["psnr_outside_mask"] = psnr(result, source, outside).clamp(max=PSNR_MAX)
            found["mse_outside_mask"] = mse(result, source, outside)
            found["ssim_outside_mask"] = ssim(result, source, outside)
            if self.lpips:
                found["lpips_outside_mask"] = self.lpips(result * outside, source * outside)
        if self.clip:
            found["clip_edited"] = self.clip(result * mask, [case.target_prompt])
        return found


def load_metrics(
    prior: Prior,
    cases: Sequence[Case],
    classifier_file: Path | None = None,
    lpips: Lpips | None = None,
    clip: str | None = None,
    dino: str | None = None,
) -> Metrics:
    """The metrics for `cases`, on the prior's device. InputError where something that they need is missing.

    `classifier_file`: weights of the icon classifier, for cases that say what classes to expect. `clip`, `dino`: hub
    name or local folder; without `dino` the structure distance is taken between the prior's own features.
    """
    torchmetrics_functional("structural_similarity_index_measure")
    classifier, digest = None, None
    if classifier_file is not None and any(case.expect for case in cases):
        classifier = IconClassifier.load(classifier_file).to(prior.device)
        digest = hashlib.sha256(classifier_file.read_bytes()).hexdigest()[:16]
        known = classifier.classes
        wrong = {f"{h} {n!r}" for case in cases for h, n in case.expect.items() if n not in known.get(h, ())}
        require(not wrong, f"expect has classes that the icon classifier does not know: {', '.join(sorted(wrong))}")
    return Metrics(
        structure=DinoStructure(dino, prior.device) if dino else PriorStructure(prior),
        classifier=classifier,
        lpips=lpips and lpips.to(prior.device),
        clip=ClipScore(clip, prior.device) if clip else None,
        device=prior.device,
        fingerprint={
            "classifier": digest,
            "lpips": lpips is not None,
            "clip": clip,
            "structure": dino or prior.fingerprint,
        },
    )
