"""Lay methods side by side at the same target accuracy, from settings that `cpds eval` has measured.

    python -m benchmarks.compare runs/eval --tag held-out --ours cpds --plot docs/pareto.png

A method is what a setting was made with: its --method or baseline, and, of the fields that --by names, those that are
not as in the method's preset (cpds patch_selector=random). Its settings (guidance, weights) are points in the plane of
target accuracy and a distance; settings that differ by seed alone are one, each case with its mean over the seeds. A
heavier structure weight alone lowers LPIPS to the source by editing less, so methods are compared at one accuracy, on
the line through each method's non-dominated points; intervals are paired bootstraps over the cases. The differences are
printed, and written to compare.json and compare.csv.
"""

import csv
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from cpds.config import EditConfig
from cpds.errors import InputError
from cpds.evaluation.runner import read_config, read_rows
from cpds.evaluation.settings import BASELINES, fields_of
from cpds.evaluation.tables import averaged, by_seed
from cpds.presets import PRESETS
from scripts.program import run_program

AXES = {  # distances: less is nearer
    "lpips_ground_truth": "LPIPS to the ground truth",
    "lpips_source": "LPIPS to the source",
    "lpips_outside_mask": "LPIPS outside the mask",
    "mse_outside_mask": "MSE outside the mask",
    "structure_distance": "structure distance to the source",
}
Rows = dict[str, dict[str, Any]]  # a setting's rows, by case


@dataclass(frozen=True)
class CompareConfig:
    """What to compare."""

    out: tyro.conf.Positional[Path]
    """Folder that `cpds eval --out` wrote."""
    tag: str | None = None
    """Only cases with this tag (held-out, animal, ...)."""
    ours: str = "cpds"
    """Method that the others are compared with; or how the labels of our settings begin."""
    by: tuple[str, ...] = ("patch_selector",)
    """Fields that tell methods apart beside the method itself, where they are not as in the method's preset."""
    accuracy: float | None = None
    """Target accuracy to compare at. Default: with each other method the highest that both reach."""
    plot: Path | None = None
    """Write the curves here (PNG)."""
    draws: int = 2000
    """Bootstrap draws."""
    seed: int = 0
    """Seeds the bootstrap."""


@dataclass(frozen=True)
class Method:
    """A method's settings on the same cases: target accuracy and distances, one row a setting."""

    labels: list[str]
    accuracy: Tensor  # (settings, cases), 0 to 1
    distances: dict[str, Tensor]


def fields_in(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json's fields of an edit and its guidance, or of a baseline, whose name is its method."""
    if "baseline" in config:
        return {**config["baseline"], "method": config["baseline"]["baseline"]}
    return {**config["edit"], **config["edit"]["guidance"]}


def method_names(settings: Mapping[str, Mapping[str, Any]], by: tuple[str, ...]) -> dict[str, str]:
    """Each setting's method, by its label, from the settings' fields; with what is not as in the method's preset."""
    for name in by:
        if not any(name in fields for fields in settings.values()):
            raise InputError(f"no setting has a field {name!r} to tell methods apart by: check its spelling")
    names = {}
    for label, fields in settings.items():
        method = fields["method"]
        usual = fields_of(BASELINES[method] if method in BASELINES else PRESETS.get(method, EditConfig())) | {
            "method": method
        }
        own = [f"{name}={fields[name]}" for name in by if name in fields and fields[name] != usual.get(name)]
        names[label] = " ".join([method, *own])
    return names


def load(out: Path, config: CompareConfig) -> dict[str, Method]:
    """Every method in the folder, on the cases that all settings have finished; ours under the name `config.ours`."""
    settings = {p.parent.name: read_rows(p.parent) for p in sorted(out.glob("*/config.json"))}
    configs = {label: read_config(out / label) for label, rows in settings.items() if rows}
    settings, axes = measured(out, {label: settings[label] for label in configs}, configs)
    ids = set.intersection(*(set(rows) for rows in settings.values()))
    some = next(iter(settings.values()))
    kept = sorted(i for i in ids if config.tag is None or config.tag in some[i]["tags"])
    if not kept:
        raise InputError(
            f"no case{f' tagged {config.tag}' if config.tag else ''} is finished in every setting of {out}"
        )
    seeds = by_seed({label: configs[label] for label in settings})
    rows = {name: averaged([[settings[x][i] for i in kept] for x in labels]) for name, labels in seeds.items()}
    names = method_names({name: fields_in(configs[labels[0]]) for name, labels in seeds.items()}, config.by)
    if config.ours not in names.values():
        names |= {label: config.ours for label in names if label.startswith(config.ours)}

    def column(labels: list[str], name: str) -> Tensor:
        return torch.tensor([[row[name] for row in rows[label]] for label in labels], dtype=torch.float64)

    groups: dict[str, list[str]] = {}
    for label, name in names.items():
        groups.setdefault(name, []).append(label)
    return {
        name: Method(labels, column(labels, "target_accuracy"), {axis: column(labels, axis) for axis in axes})
        for name, labels in groups.items()
    }


def measured(out: Path, settings: dict[str, Rows], configs: Mapping[str, Any]) -> tuple[dict[str, Rows], list[str]]:
    """The settings that can be compared, and by which distances; what is left out is printed."""
    columns = {label: set.intersection(*(set(row) for row in rows.values())) for label, rows in settings.items()}
    if not columns:
        raise InputError(f"{out} holds no finished case of any setting: cpds eval DATA --out {out} makes some")
    if not any("target_accuracy" in found for found in columns.values()):
        raise InputError(f"no setting in {out} has target accuracy: take a data set whose cases say what to `expect`")
    axes = [axis for axis in AXES if any({axis, "target_accuracy"} <= found for found in columns.values())]
    networks = sorted({str(config.get("metrics", {}).get("structure")) for config in configs.values()})
    if "structure_distance" in axes and len(networks) > 1:
        axes.remove("structure_distance")
        what = f"structure distances in {out} are by {', '.join(networks)}"
        if not axes:
            raise InputError(f"{what}: keep those of one")
        print(f"{what}, and are not compared", file=sys.stderr)
    if not any(axis.startswith("lpips") for axis in axes):
        print(
            f"no setting in {out} has LPIPS; for LPIPS measure them again without --no-lpips into another --out "
            "(offline with --lpips_weights)",
            file=sys.stderr,
        )
    for label, found in columns.items():
        if lacking := sorted({"target_accuracy", *axes} - found):
            print(f"left out, as {', '.join(lacking)} was not measured: {label}", file=sys.stderr)
            del settings[label]
    if not settings:
        raise InputError(f"no two settings in {out} have the same distances: measure them again into another folder")
    return settings, axes


def non_dominated(accuracy: Tensor, distance: Tensor) -> list[tuple[float, float]]:
    """(accuracy, distance) of the settings that no other beats in both, the most accurate first."""
    front: list[tuple[float, float]] = []
    for a, d in sorted(zip(accuracy.tolist(), distance.tolist(), strict=True), key=lambda p: (-p[0], p[1])):
        if not front or d < front[-1][1]:
            front.append((a, d))
    return front


def at_accuracy(accuracy: Tensor, distance: Tensor, level: float) -> float:
    """Distance at the level on the line through the non-dominated settings (more accurate, or nearer).

    Beyond the most accurate setting its own distance stands, and before the least accurate one that one's.
    """
    front = non_dominated(accuracy, distance)
    for (a, at_a), (b, at_b) in pairwise(front):
        if b <= level <= a and a > b:
            return at_b + (at_a - at_b) * (level - b) / (a - b)
    return front[0][1] if level >= front[0][0] else front[-1][1]


def differences(
    ours: Method, other: Method, axis: str, level: float, config: CompareConfig
) -> tuple[float, float, float]:
    """Our distance minus theirs at the level, with its 95 % paired bootstrap interval."""
    cases = ours.accuracy.shape[1]
    generator = torch.Generator().manual_seed(config.seed)
    draws = torch.randint(cases, (config.draws, cases), generator=generator)
    chosen = torch.cat([torch.arange(cases)[None], draws])  # all cases, and then each draw
    share = torch.stack([torch.bincount(c, minlength=cases) for c in chosen]).double().T / cases
    means = [x @ share for x in (ours.accuracy, other.accuracy, ours.distances[axis], other.distances[axis])]
    gaps = []
    for a, b, d, e in zip(*(x.T for x in means), strict=True):
        reached = min(level, float(a.max()), float(b.max()))  # by both on these cases
        gaps.append(at_accuracy(a, d, reached) - at_accuracy(b, e, reached))
    ordered = sorted(gaps[1:])
    low, high = (ordered[round(q * (config.draws - 1))] for q in (0.025, 0.975))
    return gaps[0], low, high


def plot(methods: dict[str, Method], path: Path, title: str) -> None:
    """Every method's settings, and the line through its non-dominated ones."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = list(next(iter(methods.values())).distances)
    figure, ((*axes,),) = pyplot.subplots(
        1, len(shown), figsize=(5.5 * len(shown), 4.5), constrained_layout=True, squeeze=False
    )
    for panel, axis in zip(axes, shown, strict=True):
        for method, data in methods.items():
            x, y = data.accuracy.mean(1), data.distances[axis].mean(1)
            front = non_dominated(x, y)
            (line,) = panel.plot(*zip(*front, strict=True), "-", label=method)
            panel.plot(x, y, "o", color=line.get_color(), markersize=5)
        panel.set_xlabel("target accuracy")
        panel.set_ylabel(AXES[axis])
        panel.grid(alpha=0.3)
    axes[0].legend()
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main(config: CompareConfig) -> None:
    methods = load(config.out, config)
    if config.ours not in methods:
        raise InputError(
            f"no setting of {config.ours!r} in {config.out}, and no label begins so: it has {', '.join(methods)}"
        )
    ours = methods.pop(config.ours)
    cases = ours.accuracy.shape[1]
    print(f"{cases} cases; {config.ours} minus the other at one target accuracy, 95 % interval")
    found: dict[str, dict[str, tuple[float, ...]]] = {axis: {} for axis in AXES if axis in ours.distances}
    for name, other in methods.items():
        reached = [m.accuracy.mean(1) for m in (ours, other)]
        level = config.accuracy or float(min(x.max() for x in reached))
        for axis, gaps in found.items():
            gaps[name] = (level, *differences(ours, other, axis, level, config))
            accuracy, gap, low, high = gaps[name]
            print(f"  {AXES[axis]}, {name} at {accuracy:.3f}: {gap:+.4f} [{low:+.4f}, {high:+.4f}]")
        for method, least in zip((config.ours, name), (float(x.min()) for x in reached), strict=True):
            if level < least - 1e-9:
                print(f"    {method} has no setting below {least:.3f}, which stands for it: measure a weaker one")
    report = {"cases": cases, "ours": config.ours, "differences": found}
    (config.out / "compare.json").write_text(json.dumps(report, indent=1) + "\n")
    lines = [(axis, name, *gap) for axis, gaps in found.items() for name, gap in gaps.items()]
    with (config.out / "compare.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("distance", "other", "accuracy", "difference", "low", "high"), *lines])
    if config.plot:
        plot(
            {config.ours: ours, **methods},
            config.plot,
            f"{cases} cases" + (f" tagged {config.tag}" if config.tag else ""),
        )


if __name__ == "__main__":
    sys.exit(run_program(main, CompareConfig, __doc__))
