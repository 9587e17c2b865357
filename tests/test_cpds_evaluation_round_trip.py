"""There and back: the second edit begins at the first one's result, with the prompts exchanged."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Plain, randn
from datasets import make_dataset
from test_cpds_editor import SHIFT, GaussianPrior
from torch import Tensor

from cpds.config import EditConfig, GuidanceConfig
from cpds.evaluation.cases import Case, load_cases
from cpds.evaluation.metrics import psnr
from cpds.evaluation.round_trip import exchanged, round_trip
from cpds.evaluation.runner import Evaluation
from cpds.evaluation.scoring import Metrics
from cpds.images import open_image

DDS = EditConfig(GuidanceConfig("dds", guidance_scale=1.0), 60, lr=0.5)


class Shown(Plain):
    """Looks as its latents are, the second channel twice."""

    def preview(self) -> Tensor:
        return self.latents().detach()[:, [0, 1, 1]]


def test_under_a_gaussian_prior_an_edit_comes_back() -> None:
    """DDS rests at the means' difference, on the way there as on the way back."""
    prior, z = GaussianPrior(), randn(0, 1, 2, 3, 4)
    trip = round_trip(Shown(z), lambda shown: Shown(shown.latents().detach()), prior, ("source", "target"), DDS)
    z, shift = z[:, [0, 1, 1]], SHIFT[[0, 1, 1]].view(1, 3, 1, 1)
    assert torch.equal(trip.start, z)
    torch.testing.assert_close(trip.there, z + shift, rtol=0, atol=0.05)
    torch.testing.assert_close(trip.back, z, rtol=0, atol=0.05)


def test_what_comes_back_begins_at_what_is_reopened() -> None:
    prior, z, lost = GaussianPrior(), randn(0, 1, 2, 3, 4), 0.25
    trip = round_trip(Shown(z), lambda shown: Shown(shown.latents().detach() - lost), prior, ("source", "target"), DDS)
    torch.testing.assert_close(trip.back, z[:, [0, 1, 1]] - lost, rtol=0, atol=0.05)


# ---- of a data set


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    return load_cases(make_dataset(tmp_path / "data"))


def shifting(seen: list[tuple[str, str]]) -> Callable[[list[Case], Tensor], tuple[Tensor, float]]:
    """An 'edit' that darkens towards a dog and lightens, by a little more, towards a cat."""

    def edit(group: list[Case], images: Tensor) -> tuple[Tensor, float]:
        seen.extend((case.prompt, case.target_prompt) for case in group)
        by = 0.12 if group[0].target_prompt == "a cat" else -0.1
        return (images + by).clamp(0, 1), 4.0

    return edit


def test_results_are_edited_back_with_the_prompts_exchanged(cases: list[Case], tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []
    rows = Evaluation(tmp_path / "x", {}).run(cases, shifting(seen), Metrics(), 8, there_and_back=True)
    assert set(seen) == {(a, b) for i in range(5) for a, b in (("a cat", f"dog {i}"), (f"dog {i}", "a cat"))}
    for case, row in zip(cases, rows, strict=True):
        source, back = open_image(case.source), open_image(tmp_path / "x" / "back" / f"{case.id}.png")
        assert row["psnr_back"] == pytest.approx(float(psnr(back, source)), abs=1e-4)
        assert row["psnr_back"] > 30 > row["psnr_outside_mask"]  # it came back, from where it had gone
        assert row["samples"] == 4  # of the edit itself
    plain = Evaluation(tmp_path / "y", {}).run(cases, shifting([]), Metrics(), 8)
    assert all("psnr_back" not in row for row in plain)
    assert not (tmp_path / "y" / "back").exists()


def test_an_edit_that_does_nothing_comes_back_perfectly(cases: list[Case], tmp_path: Path) -> None:
    rows = Evaluation(tmp_path / "x", {}).run(cases, lambda _, x: (x, 0.0), Metrics(), 8, there_and_back=True)
    assert {(row["psnr_back"], row["psnr_outside_mask"]) for row in rows} == {(100.0, 100.0)}


def test_lpips_is_measured_to_the_start() -> None:
    a, b = randn(0, 1, 3, 16, 16).sigmoid(), randn(1, 1, 3, 16, 16).sigmoid()
    metrics = Metrics(lpips=lambda x, y: (x - y).flatten(1).mean(1))
    found = metrics.returned(a, b)
    assert found == pytest.approx({"psnr_back": float(psnr(b, a)), "lpips_back": float((b - a).mean())})


def test_the_way_backs_ground_truth_is_the_source(cases: list[Case]) -> None:
    back = exchanged(cases[0])
    assert (back.prompt, back.target_prompt, back.ground_truth) == ("dog 0", "a cat", cases[0].source)
