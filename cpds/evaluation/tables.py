"""Tables of evaluated settings, with bootstrap confidence intervals."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cpds.errors import InputError
from cpds.evaluation.cases import Case
from cpds.evaluation.runner import read_config, read_rows
from cpds.runs import write_atomic
from cpds.stored import CONFIG
from cpds.terminal import warn

Row = Mapping[str, Any]
MEDIANS = ("psnr_outside_mask",)  # infinite where nothing changed at all
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
    "seconds": "s per edit",
    "samples": "samples through the network",
}


def bootstrap(values: Tensor, median: bool = False, draws: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Mean (or median) of the values with its 95 % percentile bootstrap interval (Efron 1979)."""
    generator = torch.Generator().manual_seed(seed)
    chosen = values[torch.randint(len(values), (draws, len(values)), generator=generator)]
    if median:
        middle, resampled = values.median(), chosen.median(1).values
    else:
        middle, resampled = values.mean(), chosen.mean(1)
    ordered = resampled.sort().values
    low, high = (float(ordered[round(q * (draws - 1))]) for q in (0.025, 0.975))
    return float(middle), low, high


def summary(rows: Iterable[Row]) -> dict[str, tuple[float, float, float]]:
    """Every metric's mean (or median) and interval over the rows that have it."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for name in COLUMNS.keys() & row.keys():
            found.setdefault(name, []).append(row[name])
    return {name: bootstrap(torch.tensor(found[name]).double(), name in MEDIANS) for name in COLUMNS if name in found}


def table(settings: Mapping[str, Iterable[Row]]) -> str:
    """A Markdown table, one line a setting: means (PSNR: median) with 95 % bootstrap intervals."""
    lines = {label: summary(rows) for label, rows in settings.items()}
    columns = [c for c in COLUMNS if any(c in line for line in lines.values())]
    text = ["| setting | " + " | ".join(COLUMNS[c] for c in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for label, line in lines.items():
        cells = [cell(*line[c]) if c in line else "" for c in columns]
        text.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def cell(middle: float, low: float, high: float) -> str:
    """Three significant digits, the interval beside it where it has a width."""
    if math.isclose(low, high):
        return f"{middle:.3g}"
    return f"{middle:.3g} [{low:.3g}, {high:.3g}]"


def finished_settings(out: Path, metrics: Row, cases: Sequence[Case]) -> dict[str, list[dict[str, Any]]]:
    """The rows, in the cases' order, of every setting in `out` that has done them with the same metrics.

    One whose config.json is damaged is left out, with a warning.
    """
    found, digests = {}, {case.id: case.digest() for case in cases}
    for folder in sorted(path.parent for path in out.glob(f"*/{CONFIG}")):
        rows = read_rows(folder)
        if all(rows.get(i, {}).get("case") == digest for i, digest in digests.items()):
            try:
                same = read_config(folder).get("metrics") == metrics
            except InputError as err:
                warn(f"{folder.name} is left out of the table: {err}")
                continue
            if same:
                found[folder.name] = [rows[i] for i in digests]
    return found


def save_tables(out: Path, metrics: Row, cases: Sequence[Case]) -> str:
    """Write table.md and table.json of the settings in `out` that have done these cases; the tables as text.

    Only settings with the same metrics (their fingerprint) share a table. After the table of all cases comes one for
    each tag that some, but not all, of them carry.
    """
    settings = finished_settings(out, json.loads(json.dumps(metrics)), cases)
    parts = {f"all {len(cases)} cases": settings}
    for tag in dict.fromkeys(tag for case in cases for tag in case.tags):
        count = sum(tag in case.tags for case in cases)
        if count < len(cases):
            parts[f"{tag}, {count} cases"] = {
                label: [row for row in rows if tag in row["tags"]] for label, rows in settings.items()
            }
    text = "\n".join(f"{title}\n\n{table(part)}" for title, part in parts.items())
    summaries = {title: {label: summary(rows) for label, rows in part.items()} for title, part in parts.items()}
    write_atomic(out / "table.md", text.encode())
    write_atomic(out / "table.json", json.dumps(summaries, indent=1).encode())
    return text
