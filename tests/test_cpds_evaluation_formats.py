"""Tables as text: what stands in a cell, and that the text can be read back."""

import csv
import io
import json

from cpds.evaluation.formats import COLUMNS, Line, as_json, comma_separated, escaped, latex, markdown

TABLES = {
    "all 9 cases": {
        "cpds lr=0.1": Line(3, {"target_accuracy": (0.5, 0.25, 0.75), "lpips_ground_truth": (0.2, 0.2, 0.2)}),
        "pds_x": Line(1, {"target_accuracy": (0.25, 0.25, 0.25), "lpips_source": (0.12345, 0.1, 0.2)}),
    },
    "odd, 2 cases": {"cpds lr=0.1": Line(3, {"seconds": (2.0, 2.0, 2.0)})},
}


def test_markdown_has_a_line_for_each_setting_and_a_column_for_each_metric() -> None:
    lines = markdown(TABLES).splitlines()
    names = [COLUMNS[c] for c in ("target_accuracy", "lpips_ground_truth", "lpips_source")]
    assert lines[:3] == ["all 9 cases", "", f"| setting | seeds | {' | '.join(names)} |"]
    assert lines[4] == "| cpds lr=0.1 | 3 | 0.5 [0.25, 0.75] | 0.2 |  |"
    assert lines[5] == "| pds_x | 1 | 0.25 |  | 0.123 [0.1, 0.2] |"
    assert (lines[7], lines[9], lines[11]) == (
        "odd, 2 cases",
        "| setting | seeds | s per edit |",
        "| cpds lr=0.1 | 3 | 2 |",
    )
    assert len(lines) == 12


def test_csv_and_json_hold_every_number_unrounded() -> None:
    rows = list(csv.DictReader(io.StringIO(comma_separated(TABLES))))
    assert [(row["cases"], row["setting"], row["seeds"]) for row in rows] == [
        ("all 9 cases", "cpds lr=0.1", "3"),
        ("all 9 cases", "pds_x", "1"),
        ("odd, 2 cases", "cpds lr=0.1", "3"),
    ]
    assert [rows[1][f"lpips_source{end}"] for end in ("", "_low", "_high")] == ["0.12345", "0.1", "0.2"]
    assert rows[0]["lpips_source"] == ""
    found = json.loads(as_json(TABLES))
    assert found["all 9 cases"]["pds_x"] == {
        "seeds": 1,
        "target_accuracy": [0.25] * 3,
        "lpips_source": [0.12345, 0.1, 0.2],
    }


def test_latex_is_escaped_and_the_best_is_bold() -> None:
    text = latex(TABLES)
    first = text.split(r"\end{tabular}")[0]
    assert r"target accuracy $\uparrow$ & LPIPS to ground truth $\downarrow$ & LPIPS to source \\" in first
    assert r"cpds lr=0.1 & 3 & \textbf{0.5} {\scriptsize [0.25, 0.75]} & 0.2 &  \\" in first  # one value: none is best
    assert r"pds\_x & 1 & 0.25 &  & 0.123 {\scriptsize [0.1, 0.2]} \\" in first  # neither end of this is better
    assert text.count(r"\begin{tabular}{lr") == text.count(r"\end{tabular}") == 2
    for table in text.split(r"\end{tabular}")[:2]:
        assert [table.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    assert escaped("a_b & 5% #1 {x} ~^\\ $") == (
        r"a\_b \& 5\% \#1 \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{} \$"
    )


def test_all_that_print_as_the_best_are_bold() -> None:
    lines = {name: Line(1, {"mse_outside_mask": (v, v, v)}) for name, v in (("a", 0.10001), ("b", 0.1), ("c", 0.3))}
    assert latex({"t": lines}).count(r"\textbf{0.1}") == 2
    same = {name: Line(1, {"mse_outside_mask": (0.1, 0.1, 0.1)}) for name in "ab"}
    assert "textbf" not in latex({"t": same})
