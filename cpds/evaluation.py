"""Make the edits of a data set with one setting, judge them, and lay settings side by side.

A setting's folder holds config.json, results/<id>.png and rows.jsonl (one line of figures for each case); it is written
batch by batch, so that an interrupted evaluation goes on where it stopped.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cpds.cases import Case
from cpds.editor import EditState
from cpds.errors import InputError
from cpds.guidance import Terms
from cpds.judge import Judge
from cpds.metrics import Scores, mse, psnr, ssim
from cpds.perception import ClipScore, Lpips
from cpds.pictures import open_picture, png, to_pil
from cpds.runs import CONFIG, differences, write_atomic
from cpds.types import Images

ROWS, RESULTS, SHEET = "rows.jsonl", "results", "sheet.png"
MEDIANS = ("psnr_outside",)  # shown as medians: where nothing changed at all it is infinite
BEST_PSNR = 100.0  # dB; infinity is no JSON number
COLUMNS = {
    "target": "says target ↑",
    "lpips_truth": "LPIPS to truth ↓",
    "lpips_source": "LPIPS to source",
    "psnr_outside": "PSNR outside, dB ↑",
    "ssim_outside": "SSIM outside ↑",
    "mse_outside": "MSE outside ↓",
    "lpips_outside": "LPIPS outside ↓",
    "structure": "structure distance ↓",
    "clip_whole": "CLIP whole ↑",
    "clip_edited": "CLIP edited ↑",
    "seconds": "s per edit",
    "forwards": "forwards",
}


@dataclass(frozen=True)
class Batch:
    """Cases whose sources have one size, opened: `mask` 1 where something may change."""

    cases: list[Case]
    source: Images
    mask: Tensor | None
    truth: Images | None

    @classmethod
    def open(cls, cases: Sequence[Case]) -> "Batch":
        sources = [open_picture(case.source) for case in cases]
        masks = [case.open_mask(source) for case, source in zip(cases, sources, strict=True)]
        truths = [case.open_truth() for case in cases]
        return cls(list(cases), torch.cat(sources), together(masks), together(truths))


def together(pictures: Sequence[Tensor | None]) -> Tensor | None:
    """One tensor, or None where the first is; cases of a batch all have one or all have none."""
    return None if pictures[0] is None else torch.cat([p for p in pictures if p is not None])


def batches(cases: Iterable[Case], size: int) -> Iterable[list[Case]]:
    """Neighbours that can be opened together: same picture size, and with mask and truth or without."""

    def kind(case: Case) -> tuple[object, ...]:
        with Image.open(case.source) as picture:
            turned = picture.getexif().get(0x0112, 1) >= 5
            return picture.size, turned, case.mask is None, case.truth is None

    for _, same in groupby(cases, kind):
        group = list(same)
        for i in range(0, len(group), size):
            yield group[i : i + size]


@dataclass(frozen=True)
class Instruments:
    """What an edit is judged by; what is None is left out of the table."""

    structure: Callable[[Images, Images], Scores] | None = None
    judge: Judge | None = None
    lpips: Lpips | None = None
    clip: ClipScore | None = None

    def score(self, batch: Batch, results: Images) -> list[dict[str, float]]:
        """Figures of each case, by name."""
        columns: dict[str, Sequence[float]] = {}
        if self.judge and all(case.expect for case in batch.cases):
            named = self.judge.names(results)
            columns["target"] = [
                float(all(seen.get(head) == name for head, name in case.expect.items()))
                for case, seen in zip(batch.cases, named, strict=True)
            ]
        scores: dict[str, Scores] = {}
        if self.lpips:
            scores["lpips_source"] = self.lpips(results, batch.source)
            if batch.truth is not None:
                scores["lpips_truth"] = self.lpips(results, batch.truth)
        if self.structure:
            scores["structure"] = self.structure(results, batch.source)
        if self.clip:
            scores["clip_whole"] = self.clip(results, [case.target_prompt for case in batch.cases])
        if batch.mask is not None:
            kept = 1 - batch.mask
            if bool((kept.sum((1, 2, 3)) > 0).all()):
                scores |= {"psnr_outside": psnr(results, batch.source, kept).clamp(max=BEST_PSNR)}
                scores |= {"mse_outside": mse(results, batch.source, kept)}
                scores |= {"ssim_outside": ssim(results, batch.source, kept)}
                if self.lpips:
                    scores["lpips_outside"] = self.lpips(results * kept, batch.source * kept)
            if self.clip:
                targets = [case.target_prompt for case in batch.cases]
                scores["clip_edited"] = self.clip(results * batch.mask, targets)
        columns |= {name: values.tolist() for name, values in scores.items()}
        return [{name: values[i] for name, values in columns.items()} for i in range(len(batch.cases))]


EditBatch = Callable[[Batch], tuple[Images, float]]  # pictures, and samples through the network for each edit


class Forwards:
    """Callback that counts the samples sent through the network."""

    def __init__(self) -> None:
        self.total = 0.0

    def started(self, state: EditState) -> None:
        pass

    def stepped(self, state: EditState, terms: Terms) -> None:
        self.total += terms.metrics["forwards"]

    def finished(self, state: EditState) -> None:
        pass


class Evaluation:
    """One setting's folder. `identity` is all that decides its figures: going on needs it unchanged."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        document = json.loads(json.dumps(identity))
        if (folder / CONFIG).is_file():
            try:
                changed = differences(json.loads((folder / CONFIG).read_text()), document)
            except ValueError as err:
                raise InputError(f"{folder / CONFIG} cannot be read: take another --out") from err
            if changed:
                raise InputError(
                    f"{folder} was made with other settings ({'; '.join(changed)}): take another --out or --label"
                )
        else:
            try:
                (folder / RESULTS).mkdir(parents=True, exist_ok=True)
                write_atomic(folder / CONFIG, json.dumps(document, indent=2).encode())
            except OSError as err:
                raise InputError(f"output folder {folder} cannot be written ({err.strerror}): choose another") from err

    def run(
        self,
        cases: Sequence[Case],
        edit: EditBatch,
        instruments: Instruments,
        batch_size: int,
        report: Callable[[int], object] = lambda done: None,
    ) -> dict[str, dict[str, Any]]:
        """Edit and judge every case that is not done yet; the rows of all."""
        done = read_rows(self.folder)
        write_atomic(self.folder / ROWS, "".join(json.dumps(r) + "\n" for r in done.values()).encode())
        report(len(done))
        for group in batches([case for case in cases if case.id not in done], batch_size):
            batch = Batch.open(group)
            began = time.perf_counter()
            pictures, forwards = edit(batch)
            seconds = (time.perf_counter() - began) / len(group)
            pictures = (pictures.cpu() * 255).round() / 255  # judged as they are kept
            for case, picture in zip(group, pictures, strict=True):
                write_atomic(self.folder / RESULTS / f"{case.id}.png", png(to_pil(picture[None])))
            lines = []
            for case, figures in zip(group, instruments.score(batch, pictures), strict=True):
                done[case.id] = {
                    "id": case.id,
                    "tags": case.tags,
                    **figures,
                    "seconds": round(seconds, 3),
                    "forwards": forwards,
                }
                lines.append(json.dumps(done[case.id]) + "\n")
            with (self.folder / ROWS).open("a") as stream:
                stream.write("".join(lines))
            report(len(done))
        write_atomic(self.folder / SHEET, png(self.sheet(cases)))
        return done

    def sheet(self, cases: Sequence[Case], at_most: int = 48, columns: int = 4, side: int = 128) -> Image.Image:
        """Source, truth (if known) and result of cases spread evenly over the set, `columns` cases in a row."""
        shown = [cases[i * len(cases) // min(at_most, len(cases))] for i in range(min(at_most, len(cases)))]
        each = 3 if any(case.truth for case in shown) else 2
        page = Image.new("RGB", (columns * (each * side + 8), math.ceil(len(shown) / columns) * (side + 8)), "white")
        for i, case in enumerate(shown):
            files = [case.source, self.folder / RESULTS / f"{case.id}.png"]
            files[1:1] = [case.truth] if case.truth else []
            for k, file in enumerate(files):
                with Image.open(file) as picture:
                    small = picture.convert("RGB").resize((side, side))
                page.paste(small, (i % columns * (each * side + 8) + k * side, i // columns * (side + 8)))
        return page


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


def save_tables(out: Path, data: str, ids: Sequence[str]) -> str:
    """Write table.md and table.json of all settings in `out` that are done with these cases; the tables as text.

    After the table of all cases comes one for each tag that some, but not all, of them carry.
    """
    settings: dict[str, list[dict[str, Any]]] = {}
    for config in sorted(out.glob(f"*/{CONFIG}")):
        found = read_rows(config.parent)
        if json.loads(config.read_text()).get("data") == data and all(i in found for i in ids):
            settings[config.parent.name] = [found[i] for i in ids]
    tags = list(dict.fromkeys(tag for rows in settings.values() for row in rows for tag in row["tags"]))
    parts = {f"all {len(ids)} cases": settings}
    for tag in tags:
        of = {label: [row for row in rows if tag in row["tags"]] for label, rows in settings.items()}
        count = max(map(len, of.values()))
        if count < len(ids):
            parts[f"{tag}, {count} cases"] = of
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
