"""Comparison at matched accuracy: interpolation in closed form, intervals on made-up methods."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import randn

from benchmarks import compare
from benchmarks.compare import CompareConfig, Method, at_accuracy, differences
from cpds.errors import InputError


@pytest.mark.parametrize(
    ("level", "want"),
    [
        (0.5, 0.2),  # a setting's own
        (0.9, 0.4),
        (0.7, 0.3),  # half way between two
        (1.0, 0.4),  # beyond the most accurate
        (0.1, 0.2),  # before the least accurate
    ],
)
def test_distance_at_a_level_is_on_the_line_through_the_front(level: float, want: float) -> None:
    accuracy, distance = torch.tensor([0.5, 0.9, 0.6]), torch.tensor([0.2, 0.4, 0.5])  # the third is dominated
    assert at_accuracy(accuracy, distance, level) == pytest.approx(want)


def test_of_equally_accurate_settings_the_nearer_counts() -> None:
    assert at_accuracy(torch.tensor([0.9, 0.9]), torch.tensor([0.5, 0.4]), 0.9) == pytest.approx(0.4)


def method(shift: float, seed: int = 0) -> Method:
    """Two settings on 200 cases: accuracies near 0.4 and 0.8, distances near 0.2 and 0.4, plus `shift`."""
    accuracy = (randn(0, 2, 200) < torch.tensor([[-0.25], [0.84]])).double()
    noise = 0.02 * randn(seed + 1, 2, 200).double()
    noise = noise - noise.mean(1, keepdim=True)
    return Method(["a", "b"], accuracy, {"lpips_ground_truth": torch.tensor([[0.2], [0.4]]) + noise + shift})


def test_a_method_that_is_nearer_wins_with_an_interval_that_excludes_zero() -> None:
    gap, low, high = differences(method(-0.1), method(0.0), "lpips_ground_truth", 0.6, CompareConfig(Path(), draws=200))
    assert gap == pytest.approx(-0.1, abs=1e-6)
    assert low <= gap <= high < 0


def test_equal_methods_do_not_differ() -> None:
    gap, low, high = differences(
        method(0.0), method(0.0, seed=7), "lpips_ground_truth", 0.6, CompareConfig(Path(), draws=200)
    )
    assert low < 0 < high
    assert abs(gap) < 1e-9


def setting(out: Path, label: str, rows: list[dict[str, Any]]) -> None:
    (out / label).mkdir(parents=True)
    method = label.split(" ")[0]
    guidance = {
        "method": method,
        "patch_selector": "relevance" if method == "cpds" and "random" not in label else "random",
    }
    (out / label / "config.json").write_text(json.dumps({"edit": {"guidance": guidance}}))
    (out / label / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows(n: int, near: float) -> list[dict[str, Any]]:
    return [
        {
            "id": f"c{i}",
            "tags": ["odd" if i % 2 else "even"],
            "target_accuracy": i % 3 > 0,
            "lpips_ground_truth": near,
            "lpips_source": 1,
        }
        for i in range(n)
    ]


def test_the_command_reads_what_eval_wrote(tmp_path: Path, capsys: Any) -> None:
    setting(tmp_path, "cpds", rows(12, 0.2))
    setting(tmp_path, "cpds w_cut=3", rows(12, 0.3))
    setting(tmp_path, "cpds random", rows(12, 0.4))  # a method of its own
    setting(tmp_path, "pds", [{"id": "c1", "tags": ["odd"], "target_accuracy": 1}])  # without LPIPS: left out
    setting(tmp_path, "dds", rows(10, 0.5))  # two cases are not finished: they are left out everywhere
    compare.main(CompareConfig(tmp_path, tag="odd", draws=50, plot=tmp_path / "curves.png"))
    text, left_out = capsys.readouterr()
    assert left_out == "left out, as lpips_ground_truth, lpips_source was not measured: pds\n"
    assert text.startswith("5 cases; cpds minus the other")
    assert "LPIPS to the ground truth, dds at 0.600: -0.3000 [-0.3000, -0.3000]" in text
    assert "LPIPS to the ground truth, cpds patch_selector=random at 0.600: -0.2000 [-0.2000, -0.2000]" in text
    assert "pds at" not in text.replace("cpds", "")
    assert json.loads((tmp_path / "compare.json").read_text())["cases"] == 5
    assert (tmp_path / "curves.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"ours": "pds"}, "no setting of 'pds' in .*, and no label begins so: it has cpds"),
        ({"tag": "none"}, "no case tagged none"),
        ({"out": Path("/nowhere")}, "/nowhere holds no finished case of any setting: cpds eval DATA --out /nowhere"),
    ],
)
def test_what_cannot_be_compared_is_named(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    setting(tmp_path, "cpds", rows(4, 0.2))
    with pytest.raises(InputError, match=message):
        compare.main(CompareConfig(**{"out": tmp_path, **config}))


def without_lpips(n: int, structure: float) -> list[dict[str, Any]]:
    return [
        {"id": f"c{i}", "tags": [], "target_accuracy": i % 3 > 0, "structure_distance": structure} for i in range(n)
    ]


def test_settings_without_lpips_are_compared_by_structure(tmp_path: Path, capsys: Any) -> None:
    """Of `cpds eval --no-lpips`."""
    setting(tmp_path, "cpds", without_lpips(12, 0.2))
    setting(tmp_path, "dds", without_lpips(12, 0.5))
    compare.main(CompareConfig(tmp_path, draws=50, plot=tmp_path / "curves.png"))
    text, note = capsys.readouterr()
    assert "structure distance to the source, dds at 0.667: -0.3000 [-0.3000, -0.3000]" in text
    assert "LPIPS" not in text
    assert "no setting in" in note
    assert "without --no-lpips into another --out" in note
    assert (tmp_path / "curves.png").stat().st_size > 5000


def test_structure_distances_of_two_networks_are_not_compared(tmp_path: Path) -> None:
    for label, network in (("cpds", "dino"), ("dds", "prior")):
        setting(tmp_path, label, without_lpips(12, 0.2))
        file = tmp_path / label / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "metrics": {"structure": network}}))
    with pytest.raises(InputError, match=r"structure distances in .* are by (dino, prior|prior, dino)"):
        compare.main(CompareConfig(tmp_path))


def test_without_target_accuracy_the_reason_is_given(tmp_path: Path) -> None:
    setting(tmp_path, "cpds", [{"id": "c1", "tags": [], "lpips_source": 1.0, "structure": 0.1}])
    with pytest.raises(InputError, match="has target accuracy: take a data set whose cases say what to `expect`"):
        compare.main(CompareConfig(tmp_path))


# ---- methods, seeds


def baseline(out: Path, label: str, rows: list[dict[str, Any]], **fields: Any) -> None:
    (out / label).mkdir(parents=True)
    config = {"baseline": {"baseline": "sdedit", "strength": 0.8, "seed": 0} | fields}
    (out / label / "config.json").write_text(json.dumps(config))
    (out / label / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def differences_in(out: Path) -> dict[str, dict[str, list[float]]]:
    """Ours minus the other's and its interval, by distance and method."""
    found = json.loads((out / "compare.json").read_text())["differences"]
    return {axis: {name: values[1:] for name, values in gaps.items()} for axis, gaps in found.items()}


def test_a_baselines_settings_are_a_method_and_its_seeds_one_setting(tmp_path: Path) -> None:
    """Seeds at 0.3 and 0.5 are a setting at 0.4; were they two, the nearer would count alone."""
    setting(tmp_path, "cpds", rows(12, 0.2))
    for seed, near in ((0, 0.3), (1, 0.5)):
        baseline(tmp_path, f"sdedit seed={seed}", rows(12, near), seed=seed)
    compare.main(CompareConfig(tmp_path, draws=50))
    assert differences_in(tmp_path)["lpips_ground_truth"] == {"sdedit": pytest.approx([-0.2] * 3)}
    baseline(tmp_path, "sdedit strength=0.5", rows(12, 0.25), strength=0.5)
    compare.main(CompareConfig(tmp_path, draws=50))  # another point of the same method
    assert differences_in(tmp_path)["lpips_ground_truth"] == {"sdedit": pytest.approx([-0.05] * 3)}
    compare.main(CompareConfig(tmp_path, draws=50, by=("strength",)))
    assert differences_in(tmp_path)["lpips_ground_truth"] == {
        "sdedit": pytest.approx([-0.2] * 3),
        "sdedit strength=0.5": pytest.approx([-0.05] * 3),
    }


def test_ours_may_be_how_labels_begin(tmp_path: Path) -> None:
    setting(tmp_path, "cpds", rows(12, 0.3))
    setting(tmp_path, "cpds fast guidance_scale=3", rows(12, 0.2))
    setting(tmp_path, "cpds fast guidance_scale=5", rows(12, 0.1))
    compare.main(CompareConfig(tmp_path, draws=50, ours="cpds fast"))
    assert differences_in(tmp_path)["lpips_ground_truth"] == {"cpds": pytest.approx([-0.2] * 3)}


def test_each_method_is_met_at_what_both_reach(tmp_path: Path, capsys: Any) -> None:
    """Accuracies 2/3 (ours), 1/3 and 1: at the lower of both; a method that only has a higher one is named."""

    def accurate(near: float, of_three: int) -> list[dict[str, Any]]:
        return [row | {"target_accuracy": i % 3 < of_three} for i, row in enumerate(rows(12, near))]

    setting(tmp_path, "cpds", accurate(0.2, 2))
    setting(tmp_path, "cpds w_cut=3", accurate(0.1, 1))
    setting(tmp_path, "pds", accurate(0.3, 1))
    setting(tmp_path, "dds", accurate(0.5, 3))
    compare.main(CompareConfig(tmp_path, draws=50))
    text = capsys.readouterr().out
    assert "truth, pds at 0.333: -0.2000" in text
    assert "truth, dds at 0.667: -0.3000" in text
    assert text.count("has no setting below") == 1
    assert "dds has no setting below 1.000" in text


def test_every_distance_that_was_measured_is_compared(tmp_path: Path) -> None:
    names = ["lpips_ground_truth", "lpips_outside_mask", "mse_outside_mask", "structure_distance"]
    for label, near in (("cpds", 0.1), ("pds", 0.3)):
        setting(tmp_path, label, [row | dict.fromkeys(names, near) for row in rows(12, near)])
    compare.main(CompareConfig(tmp_path, draws=50))
    lines = list(csv.DictReader((tmp_path / "compare.csv").open()))
    assert [(line["distance"], line["other"]) for line in lines] == [(name, "pds") for name in compare.AXES]
    gaps = {line["distance"]: float(line["difference"]) for line in lines}
    assert gaps == pytest.approx(dict.fromkeys(names, -0.2) | {"lpips_source": 0.0})
    assert all(float(line["low"]) <= float(line["difference"]) <= float(line["high"]) for line in lines)


def test_a_field_that_no_setting_has_is_named(tmp_path: Path) -> None:
    setting(tmp_path, "cpds", rows(4, 0.2))
    with pytest.raises(InputError, match="no setting has a field 'selector' to tell methods apart by"):
        compare.main(CompareConfig(tmp_path, by=("selector",)))
