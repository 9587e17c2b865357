"""Tables of evaluated settings, with bootstrap confidence intervals over the cases.

Settings that differ by seed alone are one line: each case counts with its mean over the seeds.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cpds.errors import InputError
from cpds.evaluation import formats
from cpds.evaluation.cases import Case
from cpds.evaluation.formats import COLUMNS, Line
from cpds.evaluation.runner import read_config, read_rows
from cpds.runs import write_atomic
from cpds.stored import CONFIG
from cpds.terminal import warn

Row = Mapping[str, Any]
TABLES = {
    "table.md": formats.markdown,
    "table.json": formats.as_json,
    "table.csv": formats.comma_separated,
    "table.tex": formats.latex,
}
MEDIANS = ("psnr_outside_mask", "psnr_back")  # infinite where nothing changed at all


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


def summary(rows: Iterable[Row], seeds: int = 1) -> Line:
    """Every metric's mean (or median) and interval over the rows that have it."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for name in COLUMNS.keys() & row.keys():
            found.setdefault(name, []).append(row[name])
    metrics = {c: bootstrap(torch.tensor(found[c], dtype=torch.float64), c in MEDIANS) for c in COLUMNS if c in found}
    return Line(seeds, metrics)


def averaged(repeats: Sequence[Sequence[Row]]) -> list[dict[str, Any]]:
    """Rows of the same cases, in one order, from several seeds: each case's means of what all of them have."""
    found = []
    for rows in zip(*repeats, strict=True):
        shared = set.intersection(*(set(row) for row in rows))
        means = {name: sum(row[name] for row in rows) / len(rows) for name in COLUMNS.keys() & shared}
        found.append({name: means.get(name, rows[0][name]) for name in shared})
    return found


def by_seed(settings: Mapping[str, Row]) -> dict[str, list[str]]:
    """The labels of settings, by their config.json, that differ by seed alone; under the label that names no seed."""
    groups: dict[tuple[str, int], list[str]] = {}
    seen: list[Row] = []
    for label, config in settings.items():
        key = json.dumps(without_seed(config), sort_keys=True), seen.count(config)  # the same twice is no second seed
        groups.setdefault(key, []).append(label)
        seen.append(config)
    names = [re.sub(r" ?\bseed=\d+", "", labels[0]).strip() for labels in groups.values()]
    return {
        name if name and names.count(name) == 1 else labels[0]: labels
        for name, labels in zip(names, groups.values(), strict=True)
    }


def without_seed(config: Any) -> Any:
    """A config.json's document less the seed of its edit or baseline."""
    if not isinstance(config, Mapping):
        return config
    return {name: without_seed(value) for name, value in config.items() if name != "seed"}


def finished_settings(out: Path, metrics: Row, cases: Sequence[Case]) -> dict[str, list[list[dict[str, Any]]]]:
    """The rows, in the cases' order, of each seed of every setting in `out` that has done them with the same metrics.

    One whose config.json is damaged is left out, with a warning.
    """
    rows_of, configs, digests = {}, {}, {case.id: case.digest() for case in cases}
    for folder in sorted(path.parent for path in out.glob(f"*/{CONFIG}")):
        rows = read_rows(folder)
        if all(rows.get(i, {}).get("case") == digest for i, digest in digests.items()):
            try:
                config = read_config(folder)
            except InputError as err:
                warn(f"{folder.name} is left out of the table: {err}")
                continue
            if config.get("metrics") == metrics:
                rows_of[folder.name], configs[folder.name] = [rows[i] for i in digests], config
    return {name: [rows_of[label] for label in labels] for name, labels in by_seed(configs).items()}


def save_tables(out: Path, metrics: Row, cases: Sequence[Case]) -> str:
    """Write table.md, .json, .csv and .tex of the settings in `out` that have done these cases; the tables as text.

    Only settings with the same metrics (their fingerprint) share a table. After the table of all cases comes one for
    each tag that some, but not all, of them carry.
    """
    repeats = finished_settings(out, json.loads(json.dumps(metrics)), cases)
    settings = {name: (averaged(rows), len(rows)) for name, rows in repeats.items()}
    tables = {f"all {len(cases)} cases": {name: summary(rows, seeds) for name, (rows, seeds) in settings.items()}}
    for tag in dict.fromkeys(tag for case in cases for tag in case.tags):
        count = sum(tag in case.tags for case in cases)
        if count < len(cases):
            tables[f"{tag}, {count} cases"] = {
                name: summary((row for row in rows if tag in row["tags"]), seeds)
                for name, (rows, seeds) in settings.items()
            }
    for name, write in TABLES.items():
        write_atomic(out / name, write(tables).encode())
    return formats.markdown(tables)


def require_own_tables(out: Path) -> None:
    """InputError where `out` is the folder of another run, or has tables and no setting that they could be of."""
    if os.path.lexists(out / CONFIG):
        raise InputError(f"{out} already holds {CONFIG}: choose another folder")
    there = next((name for name in TABLES if os.path.lexists(out / name)), None)
    if there and not any(out.glob(f"*/{CONFIG}")):
        raise InputError(f"{out} already holds {there}, but no setting's folder: choose another folder")
