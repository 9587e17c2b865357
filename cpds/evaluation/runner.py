"""Edit a data set with one setting and measure the results.

A setting's folder holds config.json, results/<id>.png and rows.jsonl (one line of metrics for each case); it is written
batch by batch, so that an interrupted evaluation goes on where it stopped. From Python:

    prior, config, out = load_prior(), PRESETS["cpds"], Path("runs/eval")
    cases = load_cases("emoji-edit", split="demo")
    metrics = load_metrics(prior, cases, classifier_file("emoji-edit"))
    settings = {**document(config), "prior": prior.fingerprint, "metrics": metrics.fingerprint}
    editor = batch_editor(lambda images: LatentImage(images, prior), prior, config)
    rows = Evaluation(out / "cpds", settings).run(cases, editor, metrics)
    print(save_tables(out, metrics.fingerprint, cases))
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps

from cpds.errors import InputError
from cpds.evaluation.cases import Case
from cpds.evaluation.editors import EditBatch
from cpds.evaluation.round_trip import exchanged
from cpds.evaluation.scoring import Metrics
from cpds.images import open_image, png, to_pil
from cpds.runs import write_atomic
from cpds.stored import CONFIG, differences, read_object
from cpds.types import Images

ROWS, RESULTS, BACK, SHEET = "rows.jsonl", "results", "back", "sheet.png"


def batches(cases: Iterable[Case], size: int) -> Iterable[list[Case]]:
    """Neighbours of one image size, `size` at most."""
    for _, same in groupby(cases, lambda case: case.size):
        group = list(same)
        for i in range(0, len(group), size):
            yield group[i : i + size]


class Evaluation:
    """One setting's folder. `settings` is all that decides its metrics, `command` what makes them again."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], command: str = "") -> None:
        self.folder = folder
        self.rows: dict[str, dict[str, Any]] = {}
        document = json.loads(json.dumps(settings))
        require_own(folder)
        if os.path.isfile(folder / CONFIG) and read_rows(folder):
            changed = differences(read_config(folder), document)
            if changed:
                raise InputError(
                    f"{folder} was made with other settings ({'; '.join(changed)}): choose another folder or label"
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
        metrics: Metrics,
        batch_size: int = 8,
        report: Callable[[int], object] = lambda done: None,
        there_and_back: bool = False,
    ) -> list[dict[str, Any]]:
        """Edit and measure every case that is not done yet; the rows of all, in the cases' order.

        `there_and_back`: edit the results back too, and measure how near that comes to the sources. A row counts as
        done while the case is what it was (its digest) and its image is there.
        """
        todo = self.todo(cases)
        report(len(cases) - len(todo))
        for group in batches(todo, batch_size):
            costs = make(self.folder, group, edit, there_and_back)
            for case, cost in zip(group, costs, strict=True):
                self.note(case, cost, metrics)
            report(sum(case.id in self.rows for case in cases))
        return self.finish(cases)

    def todo(self, cases: Sequence[Case]) -> list[Case]:
        """Those that are not done yet."""
        self.rows = read_rows(self.folder)
        for case in cases:
            row = self.rows.get(case.id, {})
            if row.get("case") != case.digest() or not (self.folder / RESULTS / f"{case.id}.png").is_file():
                self.rows.pop(case.id, None)
        write_atomic(self.folder / ROWS, "".join(json.dumps(row) + "\n" for row in self.rows.values()).encode())
        return [case for case in cases if case.id not in self.rows]

    def note(self, case: Case, cost: dict[str, float], metrics: Metrics) -> None:
        """Measure what was made of a case, and its way back where there is one."""
        scores = metrics.score(case, open_image(self.folder / RESULTS / f"{case.id}.png")) | cost
        if (back := self.folder / BACK / f"{case.id}.png").is_file():
            scores |= metrics.returned(open_image(case.source), open_image(back))
        row = {"id": case.id, "case": case.digest(), "tags": list(case.tags), **scores}
        with (self.folder / ROWS).open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        self.rows[case.id] = row

    def finish(self, cases: Sequence[Case]) -> list[dict[str, Any]]:
        """The rows of all cases, in their order; they are shown in one picture."""
        write_atomic(self.folder / SHEET, png(contact_sheet(cases, [self.folder])))
        return [self.rows[case.id] for case in cases]


def make(folder: Path, cases: Sequence[Case], edit: EditBatch, there_and_back: bool) -> list[dict[str, float]]:
    """Edit cases of one size at once and save their results in a setting's folder; what each cost.

    `there_and_back`: also what comes of editing the results back.
    """
    sources = torch.cat([open_image(case.source) for case in cases])
    began = time.perf_counter()
    results, samples = edit(list(cases), sources)
    seconds = (time.perf_counter() - began) / len(cases)
    _save(folder / RESULTS, cases, results)
    if there_and_back:
        saved = torch.cat([open_image(folder / RESULTS / f"{case.id}.png") for case in cases])
        _save(folder / BACK, cases, edit([exchanged(case) for case in cases], saved)[0])
    return [{"seconds": round(seconds, 3), "samples": samples} for _ in cases]


def _save(folder: Path, cases: Iterable[Case], images: Images) -> None:
    folder.mkdir(exist_ok=True)
    for case, image in zip(cases, images.cpu().split(1), strict=True):
        write_atomic(folder / f"{case.id}.png", png(to_pil(image)))


def contact_sheet(
    cases: Sequence[Case], folders: Sequence[Path], at_most: int = 48, columns: int = 4, side: int = 128
) -> Image.Image:
    """Source, ground truth (if any) and the result in each setting's folder, of cases spread evenly over the set.

    `columns` cases lie in a row, or as many of them as are no wider than that with one folder.
    """
    shown = [cases[i * len(cases) // min(at_most, len(cases))] for i in range(min(at_most, len(cases)))]
    truths = int(any(case.ground_truth for case in shown))
    each = 1 + truths + len(folders)
    columns = max(1, columns * (2 + truths) // each)
    page = Image.new("RGB", (columns * (each * side + 8), math.ceil(len(shown) / columns) * (side + 8)), "white")
    for i, case in enumerate(shown):
        tiles = [case.source, *[case.ground_truth] * truths, *(f / RESULTS / f"{case.id}.png" for f in folders)]
        for k, file in enumerate(tiles):
            if file is not None:
                small = ImageOps.pad(to_pil(open_image(file)), (side, side), color="white")
                page.paste(small, (i % columns * (each * side + 8) + k * side, i // columns * (side + 8)))
    return page


def require_own(folder: Path) -> None:
    """InputError where a setting's folder holds files that no evaluation wrote."""
    if os.path.lexists(folder / CONFIG):
        command = read_object(folder / CONFIG).get("command")
        if not (command == "" or str(command).startswith("cpds eval ")):
            raise InputError(f"{folder} already holds {CONFIG} of something else: choose another folder or label")
        return
    for name in (ROWS, SHEET, RESULTS, BACK):
        if os.path.isfile(folder / name) or any((folder / name).glob("*")):
            raise InputError(f"{folder} already holds {name}, but no {CONFIG}: choose another folder or label")


def read_config(folder: Path) -> dict[str, Any]:
    """What a setting's folder was made with; InputError where that cannot be read."""
    document = read_object(folder / CONFIG)
    document.pop("command", None)
    return document


def read_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """A setting's finished cases by id; half a line, left by a kill, does not count."""
    found: dict[str, dict[str, Any]] = {}
    if (folder / ROWS).exists():
        for line in (folder / ROWS).read_text("utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and "id" in row:
                found[row["id"]] = row
    return found
