"""Metrics, evaluations and SDEdit on a labelled device: nothing is mixed, and the numbers are the CPU's."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import randn
from datasets import make_dataset
from labelled_device import DEVICE, labelled_device
from torch import Tensor

from cpds.config import EditConfig, GuidanceConfig
from cpds.evaluation.baselines import edited
from cpds.evaluation.cases import load_cases
from cpds.evaluation.classifier import IconClassifier
from cpds.evaluation.editors import batch_editor
from cpds.evaluation.metrics import mse, psnr, ssim, structure_distance
from cpds.evaluation.networks import Lpips
from cpds.evaluation.oracle import Oracle
from cpds.evaluation.runner import Evaluation
from cpds.evaluation.scoring import load_metrics
from cpds.evaluation.settings import BASELINES
from cpds.images import open_image
from cpds.priors.unet import UNetPrior
from cpds.sdedit import sdedit
from cpds.selection.base import Cells
from representations.latent import LatentImage


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("metric", [mse, psnr, ssim])
def test_metrics_of_images_are_computed_where_these_are(metric: Any, weighted: bool) -> None:
    a, b, weight = randn(0, 2, 3, 20, 24).sigmoid(), randn(1, 2, 3, 20, 24).sigmoid(), randn(2, 2, 1, 20, 24).sigmoid()
    wanted = metric(a, b, weight if weighted else None)
    with labelled_device() as record:
        a, b, weight = (x.to(DEVICE) for x in (a, b, weight))
        found = metric(a, b, weight if weighted else None)
        assert found.device == DEVICE
        assert structure_distance(a, b).device == DEVICE
    assert record.faults() == ""
    torch.testing.assert_close(found, wanted)


def classifier_in(folder: Path) -> Path:
    torch.manual_seed(0)
    IconClassifier({"concept": ["cat", "dog"]}).eval().save(folder / "classifier.safetensors")
    return folder / "classifier.safetensors"


@pytest.mark.parametrize("networks", ["the prior's", "others"])
def test_a_case_is_scored_where_the_prior_is(
    prior: UNetPrior, device_prior: UNetPrior, tmp_path: Path, weights: Path, vit: Path, clip: Path, networks: str
) -> None:
    (case, *_) = (replace(c, expect={"concept": "dog"}) for c in load_cases(make_dataset(tmp_path / "data")))
    others = {"clip": str(clip), "dino": str(vit)} if networks == "others" else {}
    result, file = (open_image(case.source) * 0.8), classifier_in(tmp_path)
    lpips = Lpips.load(weights) if others else None
    wanted = load_metrics(prior, [case], file, lpips, **others).score(case, result)
    with labelled_device() as record:
        metrics = load_metrics(device_prior, [case], file, lpips, **others)
        assert record.faults() == ""
        record.clear()
        found = metrics.score(case, result)
    assert (
        record.over(
            {"synchronization": {"cpds/": len(found) + (5 if others else 3)}, "copy": {"cpds/": 28 if others else 10}}
        )
        == ""
    )
    assert found == pytest.approx(wanted, rel=1e-4)
    assert {"structure_distance", "target_accuracy", "psnr_outside_mask"} <= found.keys()
    assert ("clip_edited" in found) == ("lpips_ground_truth" in found) == bool(others)


def test_an_evaluation_runs_on_the_device(prior: UNetPrior, device_prior: UNetPrior, tmp_path: Path) -> None:
    cases, config = load_cases(make_dataset(tmp_path / "data"))[:2], EditConfig(GuidanceConfig("dds"), 2, lr=0.1)

    def rows(prior: UNetPrior, name: str) -> list[dict[str, float]]:
        editor = batch_editor(lambda images: LatentImage(images, prior), prior, config)
        made = Evaluation(tmp_path / name, {}).run(cases, editor, load_metrics(prior, cases), batch_size=2)
        return [{k: v for k, v in row.items() if isinstance(v, float) and k != "seconds"} for row in made]

    wanted = rows(prior, "cpu")
    with labelled_device() as record:
        found = rows(device_prior, "device")
    assert record.faults() == ""
    assert [pytest.approx(row, rel=1e-3) for row in wanted] == found


def test_the_classifier_reads_its_answers_once_a_head(tmp_path: Path) -> None:
    with labelled_device() as record:
        classifier = IconClassifier.load(classifier_in(tmp_path)).to(DEVICE)
        images = randn(0, 4, 3, 40, 40).sigmoid().to(DEVICE)
        record.clear()
        assert len(classifier.classify(images)) == 4
    assert record.over({"synchronization": {"cpds/evaluation/classifier.py": 1}}) == ""


@pytest.mark.parametrize("count", [1, 2])
def test_sdedit_mixes_no_devices(prior: UNetPrior, device_prior: UNetPrior, count: int) -> None:
    def refined(prior: UNetPrior, latents: Tensor) -> Tensor:
        conditioning, null = (prior.embed([text]) for text in ("a dog", ""))
        generator = torch.Generator().manual_seed(0)
        return sdedit(prior, latents, conditioning, null, guidance_scale=3.0, steps=4, skip=0.5, generator=generator)

    z = randn(0, count, 4, 8, 8)
    with labelled_device() as record:
        found = refined(device_prior, z.to(DEVICE))
        assert found.device == DEVICE
    assert record.faults() == ""
    assert record.count("synchronization") == 0, str(record)
    torch.testing.assert_close(found, refined(prior, z))


@pytest.mark.parametrize("baseline", BASELINES)
def test_baselines_mix_no_devices(prior: UNetPrior, device_prior: UNetPrior, baseline: str) -> None:
    settings, prompts, targets = replace(BASELINES[baseline], num_inference_steps=4), ["a cat"] * 2, ["a dog"] * 2
    z = randn(0, 2, 4, 8, 8)
    with labelled_device() as record:
        found = edited(device_prior, z.to(DEVICE), prompts, targets, settings)
        assert found.device == DEVICE
    assert record.faults() == ""
    assert record.count("synchronization") == 0, str(record)
    torch.testing.assert_close(found, edited(prior, z, prompts, targets, settings), rtol=1e-3, atol=1e-3)


def test_an_oracle_chooses_among_features_elsewhere() -> None:
    source, truth = randn(0, 1, 3, 32, 32).sigmoid(), randn(0, 1, 3, 32, 32).sigmoid()
    truth[..., :16] = 0
    with labelled_device() as record:
        features = torch.eye(16).to(DEVICE)
        cells = Cells(features, features, (4, 4))
        chosen = Oracle(source, truth).select(cells, 4, torch.Generator().manual_seed(0))
        assert features[chosen].device == DEVICE
    assert len(chosen) == 4
    assert record.faults() == ""
