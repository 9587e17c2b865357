"""Tables as text: Markdown, JSON, CSV, and LaTeX with booktabs. A table has a line for each setting, by its name."""

import csv
import io
import json
import math
from collections.abc import Mapping
from typing import NamedTuple

COLUMNS = {
    "target_accuracy": "target accuracy ↑",
    "lpips_ground_truth": "LPIPS to ground truth ↓",
    "lpips_source": "LPIPS to source",
    "psnr_outside_mask": "median PSNR outside the mask, dB ↑",
    "ssim_outside_mask": "SSIM outside the mask ↑",
    "mse_outside_mask": "MSE outside the mask ↓",
    "lpips_outside_mask": "LPIPS outside the mask ↓",
    "structure_distance": "structure distance ↓",
    "clip_whole": "CLIP score, whole image ↑",
    "clip_edited": "CLIP score, inside the mask ↑",
    "psnr_back": "median PSNR there and back, dB ↑",
    "lpips_back": "LPIPS there and back ↓",
    "seconds": "s per edit",
    "samples": "samples through the network",
}
LATEX = {  # what stands for itself in no LaTeX text, and our arrows
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}


class Line(NamedTuple):
    """A setting's line: how many seeds it is the mean of, and each metric with its interval."""

    seeds: int
    metrics: Mapping[str, tuple[float, float, float]]  # mean or median, low, high


Table = Mapping[str, Line]


def columns_of(table: Table) -> list[str]:
    """The columns that a line of the table has something in."""
    return [c for c in COLUMNS if any(c in line.metrics for line in table.values())]


def number(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}"


def cell(middle: float, low: float, high: float) -> str:
    """The interval stands beside the value where it has a width."""
    interval = "" if math.isclose(low, high) else f" [{number(low)}, {number(high)}]"
    return number(middle) + interval


def markdown(tables: Mapping[str, Table]) -> str:
    """One table after another, each under its title."""
    return "\n".join(f"{title}\n\n{markdown_table(table)}" for title, table in tables.items())


def markdown_table(table: Table) -> str:
    """One line a setting: means (PSNR: median) with 95 % bootstrap intervals."""
    columns = columns_of(table)
    rows = [["setting", "seeds", *(COLUMNS[c] for c in columns)], ["---"] * (len(columns) + 2)]
    for name, line in table.items():
        rows.append([name, str(line.seeds), *(cell(*line.metrics[c]) if c in line.metrics else "" for c in columns)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def as_json(tables: Mapping[str, Table]) -> str:
    """Title -> setting -> seeds, and each metric as [value, low, high]."""
    found = {t: {n: {"seeds": line.seeds, **line.metrics} for n, line in table.items()} for t, table in tables.items()}
    return json.dumps(found, indent=1)


def comma_separated(tables: Mapping[str, Table]) -> str:
    """One line for each table and setting, three columns (value, low, high) for each metric; not rounded."""
    columns = [c for c in COLUMNS if any(c in columns_of(table) for table in tables.values())]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["cases", "setting", "seeds", *(f"{c}{end}" for c in columns for end in ("", "_low", "_high"))])
    for title, table in tables.items():
        for name, line in table.items():
            values = [value for c in columns for value in line.metrics.get(c, ("", "", ""))]
            writer.writerow([title, name, line.seeds, *values])
    return text.getvalue()


def latex(tables: Mapping[str, Table]) -> str:
    """Tabulars with booktabs' rules, the best value of a column that has a better end in bold."""
    parts = ["% needs \\usepackage{booktabs}"]
    for title, table in tables.items():
        columns = columns_of(table)
        best = {c: best_of(c, table) for c in columns}
        parts += [f"% {' '.join(title.split())}", rf"\begin{{tabular}}{{l{'r' * (len(columns) + 1)}}}", r"\toprule"]
        parts += [row_of(["setting", "seeds", *(escaped(COLUMNS[c]) for c in columns)]), r"\midrule"]
        for name, line in table.items():
            cells = [latex_cell(line.metrics.get(c), best[c]) for c in columns]
            parts.append(row_of([escaped(name), str(line.seeds), *cells]))
        parts += [r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(parts)


def best_of(column: str, table: Table) -> str | None:
    """The best value as it is printed; None where no end is better, or all are equal."""
    sign = {"↑": 1, "↓": -1}.get(COLUMNS[column][-1])
    values = [line.metrics[column][0] for line in table.values() if column in line.metrics]
    if sign is None or len({number(value) for value in values}) < 2:
        return None
    return number(max(values, key=lambda value: sign * value))


def latex_cell(value: tuple[float, float, float] | None, best: str | None) -> str:
    if value is None:
        return ""
    middle, _, interval = cell(*value).partition(" ")
    text = rf"\textbf{{{middle}}}" if middle == best else middle
    return rf"{text} {{\scriptsize {interval}}}" if interval else text


def row_of(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def escaped(text: str) -> str:
    """Plain text for LaTeX."""
    return "".join(LATEX.get(c, c) for c in text)
