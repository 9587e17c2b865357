"""Evaluations: what is measured is what is saved, and an interrupted one goes on where it stopped."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import make_dataset
from torch import Tensor

from cpds import PRESETS
from cpds.errors import InputError
from cpds.evaluation.cases import Case, load_cases
from cpds.evaluation.editors import batch_editor
from cpds.evaluation.metrics import psnr
from cpds.evaluation.runner import Evaluation, read_config, read_rows
from cpds.evaluation.scoring import Metrics, load_metrics
from cpds.evaluation.settings import document
from cpds.evaluation.tables import save_tables
from cpds.images import open_image
from cpds.priors.base import Prior
from cpds.types import Images
from representations.latent import LatentImage


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "data")


def darken(cases: list[Case], sources: Tensor) -> tuple[Tensor, float]:
    """An 'edit' that takes 0.2 off inside the mask and 0.1 outside."""
    masks = torch.cat([m for c in cases if (m := c.open_mask(open_image(c.source))) is not None])
    return (sources - 0.1 - 0.1 * masks).clamp(0, 1), 8.0


def test_metrics_are_those_of_the_saved_images(data: Path, tmp_path: Path) -> None:
    cases, folder = load_cases(data), tmp_path / "out" / "dark"
    rows = Evaluation(folder, {"data": "x"}).run(cases, darken, Metrics(), 2)
    assert [row["id"] for row in rows] == [c.id for c in cases]
    for case, row in zip(cases, rows, strict=True):
        source, result = open_image(case.source), open_image(folder / "results" / f"{case.id}.png")
        mask = case.open_mask(source)
        assert mask is not None
        assert row["psnr_outside_mask"] == pytest.approx(float(psnr(result, source, 1 - mask)), abs=1e-4)
        assert row["samples"] == 8
    assert {row["id"]: row for row in rows} == read_rows(folder)


def test_what_did_not_change_has_a_finite_psnr(data: Path, tmp_path: Path) -> None:
    rows = Evaluation(tmp_path / "same", {}).run(load_cases(data), lambda _, x: (x, 0.0), Metrics(), 8)
    assert {row["psnr_outside_mask"] for row in rows} == {100.0}


def test_an_interrupted_evaluation_goes_on(data: Path, tmp_path: Path) -> None:
    cases, folder = load_cases(data), tmp_path / "out" / "dark"
    seen: list[str] = []

    def stop_after_three(group: list[Case], sources: Tensor) -> tuple[Tensor, float]:
        if len(seen) >= 3:
            raise KeyboardInterrupt
        seen.extend(case.id for case in group)
        return darken(group, sources)

    with pytest.raises(KeyboardInterrupt):
        Evaluation(folder, {"lr": 1}).run(cases, stop_after_three, Metrics(), 2)
    assert list(read_rows(folder)) == seen == ["c0", "c1", "c2"]
    with (folder / "rows.jsonl").open("a") as stream:
        stream.write('{"id": "c3", "psnr')  # killed in the middle of a line
    assert redone(folder, cases) == ["c3", "c4"]
    assert len((folder / "rows.jsonl").read_text().splitlines()) == 5
    with pytest.raises(
        InputError, match=r"made with other settings \(lr was 1, is now 2\): choose another folder or label"
    ):
        Evaluation(folder, {"lr": 2})


def redone(folder: Path, cases: list[Case]) -> list[str]:
    """Ids of the cases that another run of the same setting edits."""
    again: list[str] = []

    def note(group: list[Case], sources: Tensor) -> tuple[Tensor, float]:
        again.extend(case.id for case in group)
        return darken(group, sources)

    Evaluation(folder, {"lr": 1}).run(cases, note, Metrics(), 2)
    return again


def test_rows_of_cases_that_changed_since_are_made_again(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "dark"
    assert len(redone(folder, load_cases(data))) == 5
    assert redone(folder, load_cases(data)) == []
    text = (data / "manifest.jsonl").read_text()
    (data / "manifest.jsonl").write_text(text.replace("dog 1", "a pig"))  # another prompt
    (data / "ground_truth-2.png").write_bytes((data / "ground_truth-0.png").read_bytes())  # another ground truth
    (folder / "results" / "c4.png").unlink()  # an image is gone
    assert redone(folder, load_cases(data)) == ["c1", "c2", "c4"]


def test_a_setting_without_a_row_may_be_corrected(tmp_path: Path) -> None:
    Evaluation(tmp_path / "x", {"lr": 1})
    Evaluation(tmp_path / "x", {"lr": 2})
    assert json.loads((tmp_path / "x" / "config.json").read_text())["lr"] == 2


@pytest.mark.parametrize("content", [b"[1]", b"{", b"\xff", b"[" * 100_000])  # no object, half, no text, endless
def test_a_damaged_config_is_refused_in_a_sentence(data: Path, tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "out" / "dark"
    Evaluation(folder, {"lr": 1}).run(load_cases(data), darken, Metrics())
    (folder / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"dark/config\.json is damaged") as refused:
        Evaluation(folder, {"lr": 1})
    assert "\n" not in str(refused.value)


def test_lines_that_are_no_rows_do_not_count(data: Path, tmp_path: Path) -> None:
    folder, cases = tmp_path / "dark", load_cases(data)
    assert len(redone(folder, cases)) == 5
    with (folder / "rows.jsonl").open("ab") as stream:
        stream.write(b'7\n["c0"]\n{"target_accuracy": 1}\n\xff\n' + b"[" * 100_000 + b"\n")
    assert list(read_rows(folder)) == [case.id for case in cases]
    assert redone(folder, cases) == []


# ---- edits


def test_an_evaluation_from_python_edits_batches_of_one_size(data: Path, prior: Prior, tmp_path: Path) -> None:
    """As the module's docstring shows it."""
    config = replace(PRESETS["cds"], num_inference_steps=2, lr=20.0)
    config = replace(config, guidance=replace(config.guidance, n_patches=8))
    cases, batches = load_cases(data), []

    def represent(images: Images) -> LatentImage:
        batches.append(len(images))
        return LatentImage(images, prior)

    metrics = load_metrics(prior, cases)
    settings = {**document(config), "prior": prior.fingerprint, "metrics": metrics.fingerprint}
    evaluation = Evaluation(tmp_path / "out" / "cpds", settings)
    rows = evaluation.run(cases, batch_editor(represent, prior, config), metrics, 2)
    assert batches == [2, 1, 2]  # three images of one size, two of another
    assert {row["samples"] for row in rows} == {8}  # two steps, three samples without gradient and one with
    assert all(row["structure_distance"] > 0 for row in rows)
    assert read_config(tmp_path / "out" / "cpds") == json.loads(json.dumps(settings))
    assert "| cpds |" in save_tables(tmp_path / "out", metrics.fingerprint, cases)


def test_an_image_whose_edit_diverges_spoils_no_other(data: Path, prior: Prior, capsys: pytest.CaptureFixture) -> None:
    config = replace(PRESETS["cds"], num_inference_steps=2, lr=20.0)
    cases = load_cases(data)[:3]
    sources = torch.cat([open_image(case.source) for case in cases])

    def breaks_on_the_second(images: Images) -> LatentImage:
        image = LatentImage(images, prior)
        if any(torch.equal(one, sources[1]) for one in images):
            image.z.register_hook(lambda gradient: gradient * torch.nan)
        return image

    plain, count = batch_editor(lambda images: LatentImage(images, prior), prior, config)(cases, sources)
    results, broken_count = batch_editor(breaks_on_the_second, prior, config)(cases, sources)
    assert "c1: step 1 gave NaN or infinite values" in (warning := capsys.readouterr().err)
    assert warning.endswith("; its last good state is evaluated\n")
    assert torch.equal(results[1:2], LatentImage(sources[1:2], prior).preview())
    assert (results - plain)[[0, 2]].abs().max() <= 1.5 / 255
    assert (plain - sources).abs().amax((1, 2, 3)).min() > 0.1
    assert 0 < broken_count <= count


def test_a_result_that_cannot_be_shown_is_named(data: Path, prior: Prior, capsys: pytest.CaptureFixture) -> None:
    """The edit's last latents are finite; what the prior makes of them is not."""
    config = replace(PRESETS["cds"], num_inference_steps=1, lr=1e30)
    cases = load_cases(data)[:2]
    sources = torch.cat([open_image(case.source) for case in cases])
    results, _ = batch_editor(lambda images: LatentImage(images, prior), prior, config)(cases, sources)
    assert not results.isfinite().all(dim=(1, 2, 3)).any()
    assert capsys.readouterr().err.count("its result has NaN or infinite values; lower lr") == 2
