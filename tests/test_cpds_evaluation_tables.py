"""Tables: bootstrap intervals against theory, a line for each setting that is comparable."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import randn
from datasets import make_dataset

from cpds.evaluation.cases import load_cases
from cpds.evaluation.runner import Evaluation
from cpds.evaluation.scoring import Metrics
from cpds.evaluation.tables import COLUMNS, bootstrap, save_tables, summary, table


def test_bootstrap_interval_of_a_mean_is_as_wide_as_theory_says() -> None:
    values = randn(0, 400).double() * 2 + 5
    middle, low, high = bootstrap(values)
    assert middle == pytest.approx(float(values.mean()))
    half = 1.96 * float(values.std()) / 20
    assert low == pytest.approx(middle - half, abs=0.25 * half)
    assert high == pytest.approx(middle + half, abs=0.25 * half)
    assert bootstrap(values) == (middle, low, high)  # seeded
    assert bootstrap(torch.tensor([1.0, 2.0, 900.0]).double(), median=True)[0] == 2


def test_table_has_a_line_for_each_setting_and_a_column_for_each_metric() -> None:
    rows = [
        {"id": "a", "tags": [], "target_accuracy": 1.0, "seconds": 2.0},
        {"id": "b", "tags": [], "target_accuracy": 0.0, "seconds": 2.0},
    ]
    text = table({"cpds": rows, "pds": rows[:1]}).splitlines()
    assert text[0] == f"| setting | {COLUMNS['target_accuracy']} | {COLUMNS['seconds']} |"
    assert text[2] == "| cpds | 0.5 [0, 1] | 2 |"
    assert text[3] == "| pds | 1 | 2 |"
    assert summary(rows)["target_accuracy"] == (0.5, 0.0, 1.0)


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
