"""Lay methods side by side at the same target accuracy, from settings that `cpds eval` has measured.

    python -m benchmarks.compare runs/eval --tag held-out --ours cpds --plot docs/pareto.png

A method is what a setting was made with (--method, and --patch_selector where it is another than usual); its settings
(guidance, weights) are points in the plane of target accuracy and LPIPS. A heavier structure weight alone lowers LPIPS
to the source by editing less, so methods are compared at one accuracy, on the line through each method's non-dominated
points; intervals are paired bootstraps over the cases. Settings measured with --no-lpips are compared by structure
distance to the source instead.
"""

import json
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from cpds.errors import InputError
from cpds.evaluation.runner import read_config, read_rows
from scripts.program import run_program

SELECTORS = {"cds": "random", "cpds": "learned"}  # each method's own
LPIPS = ("lpips_ground_truth", "lpips_source")
AXES = {
    "lpips_ground_truth": "LPIPS to the ground truth",
    "lpips_source": "LPIPS to the source",
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
    """Method that the others are compared with."""
    accuracy: float | None = None
    """Target accuracy to compare at. Default: the highest that every method reaches."""
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
    accuracy: Tensor  # (settings, cases), 0 or 1
    distances: dict[str, Tensor]


def method_name(folder: Path) -> str:
    """'pds', 'cpds', or 'cpds random' where another selector than the learned one picks the patches."""
    guidance = read_config(folder)["edit"]["guidance"]
    method, selector = guidance["method"], guidance["patch_selector"]
    return method if method not in SELECTORS or selector == SELECTORS[method] else f"{method} {selector}"


def load(out: Path, tag: str | None) -> dict[str, Method]:
    """Every method in the folder, on the cases that all settings have finished."""
    settings = {p.parent.name: read_rows(p.parent) for p in sorted(out.glob("*/config.json"))}
    settings, axes = measured(out, {label: rows for label, rows in settings.items() if rows})
    ids = set.intersection(*(set(rows) for rows in settings.values()))
    some = next(iter(settings.values()))
    kept = sorted(i for i in ids if tag is None or tag in some[i]["tags"])
    if not kept:
        raise InputError(f"no case{f' tagged {tag}' if tag else ''} is finished in every setting of {out}")
    groups: dict[str, list[str]] = {}
    for label in settings:
        groups.setdefault(method_name(out / label), []).append(label)

    def column(labels: list[str], name: str) -> Tensor:
        return torch.tensor([[settings[label][i][name] for i in kept] for label in labels]).double()

    return {
        name: Method(labels, column(labels, "target_accuracy"), {axis: column(labels, axis) for axis in axes})
        for name, labels in groups.items()
    }


def measured(out: Path, settings: dict[str, Rows]) -> tuple[dict[str, Rows], list[str]]:
    """The settings that can be compared, and by which distances; what is left out is printed."""
    columns = {label: set.intersection(*(set(row) for row in rows.values())) for label, rows in settings.items()}
    if not columns:
        raise InputError(f"{out} holds no finished case of any setting: cpds eval DATA --out {out} makes some")
    if not any("target_accuracy" in found for found in columns.values()):
        raise InputError(f"no setting in {out} has target accuracy: take a data set whose cases say what to `expect`")
    axes = [axis for axis in LPIPS if any({axis, "target_accuracy"} <= found for found in columns.values())]
    if not axes:
        axes = ["structure_distance"]
        print(
            f"no setting in {out} has LPIPS: compared by structure distance; for LPIPS measure them again without "
            "--no-lpips into another --out (offline with --lpips_weights)",
            file=sys.stderr,
        )
        networks = {read_config(out / label).get("metrics", {}).get("structure") for label in settings}
        if len(networks) > 1:
            raise InputError(f"structure distances in {out} are by {', '.join(map(str, networks))}: keep those of one")
    for label, found in columns.items():
        if lacking := sorted({"target_accuracy", *axes} - found):
            print(f"left out, as {', '.join(lacking)} was not measured: {label}", file=sys.stderr)
            del settings[label]
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
    generator = torch.Generator().manual_seed(config.seed)
    cases = ours.accuracy.shape[1]

    def gap(chosen: Tensor) -> float:
        accuracies = [m.accuracy[:, chosen].mean(1) for m in (ours, other)]
        reached = min(level, *(float(a.max()) for a in accuracies))  # by both on these cases
        distances = [m.distances[axis][:, chosen].mean(1) for m in (ours, other)]
        mine, theirs = (at_accuracy(a, d, reached) for a, d in zip(accuracies, distances, strict=True))
        return mine - theirs

    gaps = sorted(gap(torch.randint(cases, (cases,), generator=generator)) for _ in range(config.draws))
    low, high = (gaps[round(q * (config.draws - 1))] for q in (0.025, 0.975))
    return gap(torch.arange(cases)), low, high


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
    methods = load(config.out, config.tag)
    if config.ours not in methods:
        raise InputError(f"no setting of {config.ours!r} in {config.out}: it has {', '.join(methods)}")
    cases = methods[config.ours].accuracy.shape[1]
    level = config.accuracy or min(float(m.accuracy.mean(1).max()) for m in methods.values())
    report = {"cases": cases, "accuracy": level, "ours": config.ours, "differences": {}}
    print(f"{cases} cases, at target accuracy {level:.3f}; {config.ours} minus the other, 95 % interval")
    for axis in methods[config.ours].distances:
        for other in methods:
            if other != config.ours:
                gap = differences(methods[config.ours], methods[other], axis, level, config)
                report["differences"][f"{axis} {other}"] = gap
                print(f"  {AXES[axis]}, {other}: {gap[0]:+.4f} [{gap[1]:+.4f}, {gap[2]:+.4f}]")
    (config.out / "compare.json").write_text(json.dumps(report, indent=1) + "\n")
    if config.plot:
        plot(methods, config.plot, f"emoji-edit, {cases} cases" + (f" tagged {config.tag}" if config.tag else ""))


if __name__ == "__main__":
    sys.exit(run_program(main, CompareConfig, __doc__))
