"""The metrics of an edit: each compares what its name says, and the classifier is right about emoji-edit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import randn
from datasets import make_dataset
from PIL import Image
from torch import Tensor

from cpds.errors import InputError
from cpds.evaluation.cases import classifier_file, load_cases
from cpds.evaluation.classifier import IconClassifier
from cpds.evaluation.scoring import Metrics
from cpds.images import open_image


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "data")


def test_each_metric_compares_what_its_name_says(data: Path) -> None:
    case = load_cases(data)[0]
    source, ground_truth = open_image(case.source), case.open_ground_truth()
    mask = case.open_mask(source)
    assert ground_truth is not None
    assert mask is not None
    result = (source + ground_truth) / 2
    outside = 1 - mask
    known = {"result": result, "source": source, "ground truth": ground_truth, "result inside": result * mask}
    known |= {"result outside": result * outside, "source outside": source * outside}

    def name(x: Tensor) -> str:
        return next(k for k, v in known.items() if torch.equal(v, x))

    calls: list[tuple[str, ...]] = []

    def compare(a: Tensor, b: Tensor) -> Tensor:
        calls.append((name(a), name(b)))
        return torch.tensor([float(len(calls))])

    def clip(x: Tensor, texts: list[str]) -> Tensor:
        calls.append((name(x), *texts))
        return torch.tensor([float(len(calls))])

    scores = Metrics(structure=compare, lpips=compare, clip=clip).score(case, result)
    pixelwise = {f"{name}_outside_mask" for name in ("psnr", "mse", "ssim")}
    assert {k: calls[int(v) - 1] for k, v in scores.items() if k not in pixelwise} == {
        "lpips_source": ("result", "source"),
        "lpips_ground_truth": ("result", "ground truth"),
        "structure_distance": ("result", "source"),
        "clip_whole": ("result", "dog 0"),
        "lpips_outside_mask": ("result outside", "source outside"),
        "clip_edited": ("result inside", "dog 0"),
    }


def test_a_case_that_may_change_everywhere_has_no_metrics_outside_the_mask(data: Path) -> None:
    Image.new("L", (32, 32), 255).save(data / "mask-0.png")
    rows = [Metrics().score(case, open_image(case.source)) for case in load_cases(data)[:2]]
    assert "psnr_outside_mask" not in rows[0]
    assert "psnr_outside_mask" in rows[1]


def test_a_case_is_accurate_only_if_all_expected_classes_are_predicted(data: Path) -> None:
    class Fixed(IconClassifier):
        def classify(self, images: Tensor) -> list[dict[str, str]]:
            return [{"concept": "dog", "style": "3d"}] * len(images)

    expected = [{"concept": "dog"}, {"concept": "dog", "style": "3d"}, {"concept": "dog", "style": "flat"}]
    cases = [replace(case, expect=e) for case, e in zip(load_cases(data)[:3], expected, strict=True)]
    metrics = Metrics(classifier=Fixed({}))
    assert [metrics.score(case, open_image(case.source))["target_accuracy"] for case in cases] == [1, 1, 0]


def test_the_classifier_is_shown_the_crop(data: Path) -> None:
    class Bright(IconClassifier):
        """Predicts whether all that it is shown is white."""

        def classify(self, images: Tensor) -> list[dict[str, str]]:
            return [{"concept": "white" if bool((image == 1).all()) else "other"} for image in images]

    (case, *_) = load_cases(data)
    image = open_image(case.source) / 2
    image[..., 4:24, 8:28] = 1
    metrics = Metrics(classifier=Bright({"concept": ["white", "other"]}))
    for crop, want in ((None, 0), ((8, 4, 28, 24), 1), ((8, 4, 28, 25), 0)):
        found = metrics.score(replace(case, expect={"concept": "white"}, crop=crop), image)
        assert found["target_accuracy"] == want


def test_the_classifier_saves_and_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = IconClassifier({"concept": ["cat", "dog", "pig"], "style": ["flat", "3d"]}).eval()
    classifier.save(tmp_path / "classifier.safetensors")
    again = IconClassifier.load(tmp_path / "classifier.safetensors")
    images = randn(0, 4, 3, 40, 40).sigmoid()
    assert again.classify(images) == classifier.classify(images)
    assert again.classes == classifier.classes
    assert torch.allclose(again(images)["concept"], classifier(images)["concept"], atol=0.05)


def test_the_classifier_accepts_the_ground_truths_and_rejects_the_sources() -> None:
    metrics, cases = (
        Metrics(classifier=IconClassifier.load(classifier_file("emoji-edit"))),
        load_cases("emoji-edit", "test")[::2],
    )
    ground_truths, sources = 0.0, 0.0
    for case in cases:
        ground_truth = case.open_ground_truth()
        assert ground_truth is not None
        ground_truths += metrics.score(case, ground_truth)["target_accuracy"]
        sources += metrics.score(case, open_image(case.source))["target_accuracy"]
    assert ground_truths / len(cases) >= 0.95
    assert sources / len(cases) <= 0.02


@pytest.mark.parametrize("content", [None, b"", b"<html>not weights"])
def test_another_file_than_the_classifiers_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "classifier.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"classifier\.safetensors holds no weights of an icon classifier"):
        IconClassifier.load(tmp_path / "classifier.safetensors")


def test_weights_of_another_network_are_refused(weights: Path) -> None:
    with pytest.raises(InputError, match=r"alexnet\.safetensors holds no weights of an icon classifier"):
        IconClassifier.load(weights)
