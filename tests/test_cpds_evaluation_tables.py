"""Tables: bootstrap intervals against theory, a line for each setting that is comparable."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import randn
from datasets import make_dataset
from torch import Tensor

from cpds import PRESETS
from cpds.evaluation.cases import Case, load_cases
from cpds.evaluation.runner import Evaluation
from cpds.evaluation.scoring import Metrics
from cpds.evaluation.settings import BASELINES, document, replaced
from cpds.evaluation.tables import averaged, bootstrap, by_seed, save_tables, summary


def test_bootstrap_interval_of_a_mean_is_as_wide_as_theory_says() -> None:
    values = randn(0, 400).double() * 2 + 5
    middle, low, high = bootstrap(values)
    assert middle == pytest.approx(float(values.mean()))
    half = 1.96 * float(values.std()) / 20
    assert low == pytest.approx(middle - half, abs=0.25 * half)
    assert high == pytest.approx(middle + half, abs=0.25 * half)
    assert bootstrap(values) == (middle, low, high)  # seeded
    assert bootstrap(torch.tensor([1.0, 2.0, 900.0]).double(), median=True)[0] == 2


def test_only_finished_settings_with_the_same_metrics_share_a_table(tmp_path: Path, capsys: Any) -> None:
    cases, out = load_cases(make_dataset(tmp_path / "data")), tmp_path / "out"
    for label, metrics, count in (("a", "x", 5), ("b", "x", 5), ("c", "y", 5), ("d", "x", 4), ("e", "x", 5)):
        evaluation = Evaluation(out / label, {"metrics": {"structure": metrics}})
        evaluation.run(cases[:count], lambda _, sources: (sources, 1.0), Metrics(), 8)
    (out / "e" / "config.json").write_text("[1]")
    save_tables(out, {"structure": "x"}, cases)
    tables = json.loads((out / "table.json").read_text())
    assert {title: set(lines) for title, lines in tables.items()} == {
        "all 5 cases": {"a", "b"},
        "even, 3 cases": {"a", "b"},
        "odd, 2 cases": {"a", "b"},
    }
    assert "warning: e is left out of the table: " in capsys.readouterr().err


# ---- seeds


def test_a_case_counts_with_its_mean_over_the_seeds() -> None:
    """The interval is over cases: seeds that repeat one another do not narrow it."""
    values = randn(0, 3, 40).double()
    repeats = [[{"id": str(i), "mse_outside_mask": v} for i, v in enumerate(row.tolist())] for row in values]
    line = summary(averaged(repeats), len(repeats))
    assert line.seeds == 3
    assert line.metrics["mse_outside_mask"] == pytest.approx(bootstrap(values.mean(0)))
    same = summary(averaged([repeats[0]] * 5))
    assert same.metrics["mse_outside_mask"] == pytest.approx(bootstrap(values[0]))


def test_a_metric_that_one_seed_lacks_is_left_out() -> None:
    (row,) = averaged([[{"id": "a", "seconds": 1.0, "samples": 2.0}], [{"id": "a", "seconds": 3.0}]])
    assert row["seconds"] == 2
    assert summary([row]).metrics.keys() == {"seconds"}


def test_settings_that_differ_by_seed_alone_are_one_line() -> None:
    pds, sdedit = PRESETS["pds"], BASELINES["sdedit"]
    configs = {
        "pds": document(pds),
        "pds seed=1": document(replaced(pds, {"seed": 1})),
        "pds lr=1.0 seed=2": document(replaced(pds, {"seed": 2, "lr": 1.0})),
        "sdedit seed=3": document(replaced(sdedit, {"seed": 3})),
        "sdedit seed=4": document(replaced(sdedit, {"seed": 4})),
        "mine": document(replaced(sdedit, {"seed": 5, "strength": 0.5})),
        "pds again": document(pds),  # the same seed once more
    }
    assert by_seed(configs) == {
        "pds": ["pds", "pds seed=1"],
        "pds lr=1.0": ["pds lr=1.0 seed=2"],
        "sdedit": ["sdedit seed=3", "sdedit seed=4"],
        "mine": ["mine"],
        "pds again": ["pds again"],
    }


def test_lines_that_would_share_a_name_keep_their_labels() -> None:
    configs = {"x seed=0": {"edit": {"lr": 1, "seed": 0}}, "x seed=1": {"edit": {"lr": 2, "seed": 1}}}
    assert by_seed(configs) == {"x seed=0": ["x seed=0"], "x seed=1": ["x seed=1"]}


def test_saved_tables_have_one_line_for_all_seeds(tmp_path: Path) -> None:
    cases, out = load_cases(make_dataset(tmp_path / "data")), tmp_path / "out"
    for seed in (0, 1, 2):

        def darken(group: list[Case], sources: Tensor, seed: int = seed) -> tuple[Tensor, float]:
            return sources - 0.1 * seed, 4.0 + seed

        settings = document(replaced(PRESETS["pds"], {"seed": seed})) | {"metrics": {}}
        Evaluation(out / f"pds seed={seed}", settings).run(cases, darken, Metrics())
    save_tables(out, {}, cases)
    (line,) = json.loads((out / "table.json").read_text())["all 5 cases"].values()
    assert line["seeds"] == 3
    assert line["samples"] == [5, 5, 5]
