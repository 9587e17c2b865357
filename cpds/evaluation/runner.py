"""Make the edits of a data set with one setting, judge them, and lay settings side by side.

A setting's folder holds config.json, results/<id>.png and rows.jsonl (one line of figures for each case); it is written
batch by batch, so that an interrupted evaluation goes on where it stopped.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from cpds.editor import EditState
from cpds.errors import InputError
from cpds.evaluation.cases import Case
from cpds.evaluation.classifier import IconClassifier
from cpds.evaluation.metrics import Scores, mse, psnr, ssim
from cpds.guidance import StepResult
from cpds.images import open_image, png, to_pil
from cpds.runs import CONFIG, differences, write_atomic
from cpds.types import Images

ROWS, RESULTS, SHEET = "rows.jsonl", "results", "sheet.png"
MEDIANS = ("psnr_outside",)  # where nothing changed at all it is infinite
BEST_PSNR = 100.0  # dB; infinity is no JSON number
COLUMNS = {
    "target": "says target ↑",
    "lpips_truth": "LPIPS to truth ↓",
    "lpips_source": "LPIPS to source",
    "psnr_outside": "median PSNR outside, dB ↑",
    "ssim_outside": "SSIM outside ↑",
    "mse_outside": "MSE outside ↓",
    "lpips_outside": "LPIPS outside ↓",
    "structure": "structure distance ↓",
    "clip_whole": "CLIP whole ↑",
    "clip_edited": "CLIP edited ↑",
    "seconds": "s per edit",
    "forwards": "forwards",
}


def batches(cases: Iterable[Case], size: int) -> Iterable[list[Case]]:
    """Neighbours of one picture size, `size` at most."""
    for _, same in groupby(cases, lambda case: case.size):
        group = list(same)
        for i in range(0, len(group), size):
            yield group[i : i + size]


@dataclass(frozen=True)
class Instruments:
    """What an edit is judged by; what is None is left out of the table."""

    structure: Callable[[Images, Images], Scores] | None = None
    judge: IconClassifier | None = None
    lpips: Callable[[Images, Images], Scores] | None = None
    clip: Callable[[Images, list[str]], Scores] | None = None
    device: torch.device | str = "cpu"  # where the networks are

    def score(self, case: Case, result: Images) -> dict[str, float]:
        """Figures of one case's result (1, 3, H, W), by name; those that the case lacks something for are left out."""
        source, truth = open_image(case.source), case.open_ground_truth()
        mask = case.open_mask(source)
        result, source = result.to(self.device), source.to(self.device)
        found: dict[str, Scores | float] = {}
        if self.judge and case.expect:
            (seen,) = self.judge.names(result)
            found["target"] = float(all(seen.get(head) == name for head, name in case.expect.items()))
        if self.lpips:
            found["lpips_source"] = self.lpips(result, source)
            if truth is not None:
                found["lpips_truth"] = self.lpips(result, truth.to(self.device))
        if self.structure:
            found["structure"] = self.structure(result, source)
        if self.clip:
            found["clip_whole"] = self.clip(result, [case.target_prompt])
        if mask is not None:
            found |= self._where(case, source, result, mask.to(self.device))
        return {name: float(value) for name, value in found.items()}

    def _where(self, case: Case, source: Images, result: Images, mask: Tensor) -> dict[str, Scores]:
        """Figures of what should have stayed and of what was to change."""
        found: dict[str, Scores] = {}
        kept = 1 - mask
        if bool(kept.any()):
            found["psnr_outside"] = psnr(result, source, kept).clamp(max=BEST_PSNR)
            found["mse_outside"] = mse(result, source, kept)
            found["ssim_outside"] = ssim(result, source, kept)
            if self.lpips:
                found["lpips_outside"] = self.lpips(result * kept, source * kept)
        if self.clip:
            found["clip_edited"] = self.clip(result * mask, [case.target_prompt])
        return found


class Forwards:
    """Callback that counts the samples sent through the network."""

    def __init__(self) -> None:
        self.total = 0.0

    def started(self, state: EditState) -> None:
        pass

    def stepped(self, state: EditState, result: StepResult) -> None:
        self.total += result.metrics["forwards"]

    def finished(self, state: EditState) -> None:
        pass


EditBatch = Callable[[list[Case], Images], tuple[Images, float]]  # results, and samples through the network for each


class Evaluation:
    """One setting's folder. `identity` is all that decides its figures, `command` what makes them again."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], command: str = "") -> None:
        self.folder = folder
        document = json.loads(json.dumps(identity))
        if os.path.isfile(folder / CONFIG) and read_rows(folder):
            changed = differences(read_config(folder), document)
            if changed:
                raise InputError(
                    f"{folder} was made with other settings ({'; '.join(changed)}): take another --out or --label"
                )
            return
        try:
            (folder / RESULTS).mkdir(parents=True, exist_ok=True)
            write_atomic(folder / CONFIG, json.dumps({**document, "command": command}, indent=2).encode())
        except OSError as err:
            raise InputError(f"output folder {folder} cannot be written ({err.strerror}): choose another") from err

    def run(
        self,
        cases: Sequence[Case],
        edit: EditBatch,
        instruments: Instruments,
        batch_size: int,
        report: Callable[[int], object] = lambda done: None,
    ) -> list[dict[str, Any]]:
        """Edit and judge every case that is not done yet; the rows of all, in the cases' order.

        A row counts as done while the case is what it was (its digest) and its picture is there.
        """
        rows, digests = read_rows(self.folder), {case.id: case.digest() for case in cases}
        for case in cases:
            row = rows.get(case.id, {})
            if row.get("case") != digests[case.id] or not (self.folder / RESULTS / f"{case.id}.png").is_file():
                rows.pop(case.id, None)
        write_atomic(self.folder / ROWS, "".join(json.dumps(row) + "\n" for row in rows.values()).encode())
        todo = [case for case in cases if case.id not in rows]
        report(len(cases) - len(todo))
        for group in batches(todo, batch_size):
            sources = torch.cat([open_image(case.source) for case in group])
            began = time.perf_counter()
            pictures, forwards = edit(group, sources)
            pictures = (pictures.cpu() * 255).round() / 255  # judged as they are kept
            cost = {"seconds": round((time.perf_counter() - began) / len(group), 3), "forwards": forwards}
            for case, picture in zip(group, pictures.split(1), strict=True):
                figures = instruments.score(case, picture) | cost
                rows[case.id] = {"id": case.id, "case": digests[case.id], "tags": list(case.tags), **figures}
                write_atomic(self.folder / RESULTS / f"{case.id}.png", png(to_pil(picture)))
                with (self.folder / ROWS).open("a") as stream:
                    stream.write(json.dumps(rows[case.id]) + "\n")
            report(sum(case.id in rows for case in cases))
        write_atomic(self.folder / SHEET, png(self.sheet(cases)))
        return [rows[case.id] for case in cases]

    def sheet(self, cases: Sequence[Case], at_most: int = 48, columns: int = 4, side: int = 128) -> Image.Image:
        """Source, truth (if known) and result of cases spread evenly over the set, `columns` cases in a row."""
        shown = [cases[i * len(cases) // min(at_most, len(cases))] for i in range(min(at_most, len(cases)))]
        each = 3 if any(case.truth for case in shown) else 2
        page = Image.new("RGB", (columns * (each * side + 8), math.ceil(len(shown) / columns) * (side + 8)), "white")
        for i, case in enumerate(shown):
            places = {0: case.source, 1: case.truth, each - 1: self.folder / RESULTS / f"{case.id}.png"}
            for k, file in places.items():
                if file is not None:
                    small = ImageOps.pad(to_pil(open_image(file)), (side, side), color="white")
                    page.paste(small, (i % columns * (each * side + 8) + k * side, i // columns * (side + 8)))
        return page


def read_config(folder: Path) -> dict[str, Any]:
    """What a setting's folder was made with; InputError where that cannot be read."""
    try:
        document = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError) as err:
        raise InputError(f"{folder / CONFIG} cannot be read: take another --out") from err
    document.pop("command", None)
    return document


def read_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """A setting's finished cases by id; half a line, left by a kill, does not count."""
    found: dict[str, dict[str, Any]] = {}
    if (folder / ROWS).exists():
        for line in (folder / ROWS).read_text().splitlines():
            try:
                row = json.loads(line)
                found[row["id"]] = row
            except (ValueError, KeyError):
                continue
    return found


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


def summary(rows: Iterable[Mapping[str, Any]]) -> dict[str, tuple[float, float, float]]:
    """Every figure's middle and interval over the rows that have it."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for name in COLUMNS.keys() & row.keys():
            found.setdefault(name, []).append(row[name])
    return {name: bootstrap(torch.tensor(found[name]).double(), name in MEDIANS) for name in COLUMNS if name in found}


def table(settings: Mapping[str, Iterable[Mapping[str, Any]]]) -> str:
    """A Markdown table, one line a setting: means (PSNR: median) with 95 % bootstrap intervals."""
    lines = {label: summary(rows) for label, rows in settings.items()}
    columns = [c for c in COLUMNS if any(c in line for line in lines.values())]
    text = ["| setting | " + " | ".join(COLUMNS[c] for c in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for label, line in lines.items():
        cells = [figure(*line[c]) if c in line else "" for c in columns]
        text.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def save_tables(out: Path, config: Mapping[str, Any], cases: Sequence[Case]) -> str:
    """Write table.md and table.json of the settings in `out` that have done these cases; the tables as text.

    Only settings judged by the same instruments as `config` share a table. After the table of all cases comes one for
    each tag that some, but not all, of them carry.
    """
    settings, digests = {}, {case.id: case.digest() for case in cases}
    for folder in sorted(path.parent for path in out.glob(f"*/{CONFIG}")):
        rows = read_rows(folder)
        done = all(rows.get(i, {}).get("case") == digest for i, digest in digests.items())
        if done and read_config(folder).get("judged by") == config["judged by"]:
            settings[folder.name] = [rows[i] for i in digests]
    parts = {f"all {len(cases)} cases": settings}
    for tag in dict.fromkeys(tag for case in cases for tag in case.tags):
        count = sum(tag in case.tags for case in cases)
        if count < len(cases):
            parts[f"{tag}, {count} cases"] = {
                label: [row for row in rows if tag in row["tags"]] for label, rows in settings.items()
            }
    text = "\n".join(f"{title}\n\n{table(part)}" for title, part in parts.items())
    figures = {title: {label: summary(rows) for label, rows in part.items()} for title, part in parts.items()}
    write_atomic(out / "table.md", text.encode())
    write_atomic(out / "table.json", json.dumps(figures, indent=1).encode())
    return text


def figure(middle: float, low: float, high: float) -> str:
    """Three significant digits, the interval beside it where it has a width."""
    if math.isclose(low, high):
        return f"{middle:.3g}"
    return f"{middle:.3g} [{low:.3g}, {high:.3g}]"
