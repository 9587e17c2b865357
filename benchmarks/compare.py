"""Lay methods side by side at the same target accuracy, from settings that `cpds eval` has measured.

    python benchmarks/compare.py runs/eval --tag held-out --ours cpds --plot docs/pareto.png

A method is what a setting was made with (--method, and --patch_selector where it is another than usual); its settings
(guidance, weights) are points in the plane of target accuracy and LPIPS. A heavier structure weight alone lowers LPIPS
to the source by editing less, so methods are compared at one accuracy, on the line through each method's non-dominated
points; intervals are paired bootstraps over the cases.
"""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import tyro
from torch import Tensor

from cpds.evaluation import read_config, read_rows

SELECTS = {"cds": "random", "cpds": "learned"}  # the selector that goes without saying
AXES = {"lpips_truth": "LPIPS to the ground truth", "lpips_source": "LPIPS to the source"}


@dataclass(frozen=True)
class Config:
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
    """A method's settings on the same cases: hits and distances, one row a setting."""

    labels: list[str]
    hits: Tensor  # (settings, cases)
    distances: dict[str, Tensor]


def method_name(folder: Path) -> str:
    """'pds', 'cpds', or 'cpds random' where another selector than the learned one picks the patches."""
    guidance = read_config(folder)["edit"]["guidance"]
    method, selector = guidance["method"], guidance["patch_selector"]
    return method if method not in SELECTS or selector == SELECTS[method] else f"{method} {selector}"


def load(out: Path, tag: str | None) -> dict[str, Method]:
    """Every method in the folder, on the cases that all settings have finished."""
    settings = {p.parent.name: read_rows(p.parent) for p in sorted(out.glob("*/config.json"))}
    needed = {"target", *AXES}
    settings = {k: rows for k, rows in settings.items() if rows and all(needed <= r.keys() for r in rows.values())}
    if not settings:
        raise SystemExit(f"{out} holds no setting with target accuracy and LPIPS: run cpds eval first")
    ids = set.intersection(*(set(rows) for rows in settings.values()))
    some = next(iter(settings.values()))
    kept = sorted(i for i in ids if tag is None or tag in some[i]["tags"])
    if not kept:
        raise SystemExit(f"no case{f' tagged {tag}' if tag else ''} is finished in every setting of {out}")
    groups: dict[str, list[str]] = {}
    for label in settings:
        groups.setdefault(method_name(out / label), []).append(label)

    def column(labels: list[str], name: str) -> Tensor:
        return torch.tensor([[settings[label][i][name] for i in kept] for label in labels]).double()

    return {
        name: Method(labels, column(labels, "target"), {axis: column(labels, axis) for axis in AXES})
        for name, labels in groups.items()
    }


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
    for (a, far), (b, near) in pairwise(front):
        if b <= level <= a and a > b:
            return near + (far - near) * (level - b) / (a - b)
    return front[0][1] if level >= front[0][0] else front[-1][1]


def differences(ours: Method, other: Method, axis: str, level: float, config: Config) -> tuple[float, float, float]:
    """Our distance minus theirs at the level, with its 95 % paired bootstrap interval."""
    generator = torch.Generator().manual_seed(config.seed)
    cases = ours.hits.shape[1]

    def gap(chosen: Tensor) -> float:
        hits = [m.hits[:, chosen].mean(1) for m in (ours, other)]
        reached = min(level, *(float(h.max()) for h in hits))  # by both on these cases
        far = [m.distances[axis][:, chosen].mean(1) for m in (ours, other)]
        return at_accuracy(hits[0], far[0], reached) - at_accuracy(hits[1], far[1], reached)

    gaps = sorted(gap(torch.randint(cases, (cases,), generator=generator)) for _ in range(config.draws))
    low, high = (gaps[round(q * (config.draws - 1))] for q in (0.025, 0.975))
    return gap(torch.arange(cases)), low, high


def plot(methods: dict[str, Method], path: Path, title: str) -> None:
    """Every method's settings, and the line through its non-dominated ones."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(AXES), figsize=(11, 4.5), constrained_layout=True)
    for panel, (axis, name) in zip(axes, AXES.items(), strict=True):
        for method, data in methods.items():
            x, y = data.hits.mean(1), data.distances[axis].mean(1)
            front = non_dominated(x, y)
            (line,) = panel.plot(*zip(*front, strict=True), "-", label=method)
            panel.plot(x, y, "o", color=line.get_color(), markersize=5)
        panel.set_xlabel("target accuracy")
        panel.set_ylabel(name)
        panel.grid(alpha=0.3)
    axes[0].legend()
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main(config: Config) -> None:
    methods = load(config.out, config.tag)
    if config.ours not in methods:
        raise SystemExit(f"no setting of {config.ours!r} in {config.out}: it has {', '.join(methods)}")
    cases = methods[config.ours].hits.shape[1]
    level = config.accuracy or min(float(m.hits.mean(1).max()) for m in methods.values())
    report = {"cases": cases, "accuracy": level, "ours": config.ours, "differences": {}}
    print(f"{cases} cases, at target accuracy {level:.3f}; {config.ours} minus the other, 95 % interval")
    for axis, name in AXES.items():
        for other in methods:
            if other != config.ours:
                gap = differences(methods[config.ours], methods[other], axis, level, config)
                report["differences"][f"{axis} {other}"] = gap
                print(f"  {name}, {other}: {gap[0]:+.4f} [{gap[1]:+.4f}, {gap[2]:+.4f}]")
    (config.out / "compare.json").write_text(json.dumps(report, indent=1) + "\n")
    if config.plot:
        plot(methods, config.plot, f"emoji-edit, {cases} cases" + (f" tagged {config.tag}" if config.tag else ""))


if __name__ == "__main__":
    main(tyro.cli(Config))
