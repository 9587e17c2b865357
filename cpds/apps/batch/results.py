"""What a batch leaves: the folder of results, a line for each row as soon as it is done, and summaries at the end."""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cpds.apps.batch.executor import Outcome
from cpds.apps.batch.rows import Row
from cpds.apps.batch.sheet import sheet
from cpds.errors import InputError
from cpds.stored import CONFIG, differences, read_object

FOLDER, LINES, TABLE, SHEET = "results", "results.jsonl", "results.csv", "results.html"
COLUMNS = ("id", "state", "source", "prompt", "target_prompt", "result", "seconds", "attempts", "notes", "error")


class Results:
    """The output folder of a batch whose rows are these. A row is done while it is what it was and its files are there.

    Raises InputError for a folder of another command, or with files in the way that no batch has left.
    """

    def __init__(self, out: Path, rows: Sequence[Row]) -> None:
        self.out, self.rows = out, {row.id: row for row in rows}
        ours = os.path.lexists(out / CONFIG)
        self._config = read_object(out / CONFIG) if ours else {}
        if ours and self._config.get("command") != "batch":
            raise InputError(f"{out} already holds {CONFIG} of another command: choose another folder")
        for name in () if ours else (LINES, TABLE, SHEET, FOLDER):
            if os.path.lexists(out / name):
                raise InputError(f"{out} already holds {name}, but no {CONFIG} of a batch: choose another folder")
        found = read_lines(out / LINES)
        self.records = {name: record for name, record in found.items() if self._is_done(record)}

    def _is_done(self, record: Mapping[str, Any]) -> bool:
        row, files = self.rows.get(str(record.get("id"))), record.get("files")
        if row is None or record.get("row") != row.digest or record.get("error") is not None:
            return False
        if not isinstance(files, list) or not files:
            return False
        return all(isinstance(f, str) and os.path.isfile(self.out / FOLDER / f) for f in files)

    @property
    def todo(self) -> list[Row]:
        return [row for row in self.rows.values() if row.id not in self.records]

    def claim(self, prior: str, typed: str) -> None:
        """Begin, or go on, with a prior of this fingerprint. InputError if what is done was done with another."""
        from cpds.runs import write_atomic

        settings = {"prior": prior}
        old = {"prior": self._config.get("prior", prior)}
        if self.records and (changed := differences(old, settings)):
            raise InputError(f"{self.out} was made with another prior ({'; '.join(changed)}): choose another folder")
        self._config = {"command": "batch", **settings, "typed": typed}
        write_atomic(self.out / CONFIG, json.dumps(self._config, indent=2).encode())
        self._write_lines()  # without half a line, or what is not done

    def _write_lines(self) -> None:
        from cpds.runs import write_atomic

        ordered = [self.records[name] for name in self.rows if name in self.records]
        write_atomic(self.out / LINES, "".join(json.dumps(record) + "\n" for record in ordered).encode())

    def add(self, outcome: Outcome) -> None:
        """Note what became of a row."""
        row = self.rows[outcome.id]
        told = {"row": row.digest, "source": str(row.source), "prompt": row.args.prompt}
        record = {"id": row.id, **told, "target_prompt": row.target_prompt, **asdict(outcome)}
        self.records[row.id] = record
        with (self.out / LINES).open("a") as stream:
            stream.write(json.dumps(record) + "\n")

    @property
    def failed(self) -> list[dict[str, Any]]:
        return [record for record in self.records.values() if record.get("error") is not None]

    def summarize(self) -> list[Path]:
        """Write every row's line in the manifest's order, as JSON, as CSV and as a page; the files."""
        from cpds.runs import write_atomic

        self._write_lines()
        told = [summary(self.records.get(name, {"id": name}), row) for name, row in self.rows.items()]
        table = io.StringIO()
        lines = csv.writer(table, lineterminator="\n")
        lines.writerows([COLUMNS, *([row[c] for c in COLUMNS] for row in told)])
        write_atomic(self.out / TABLE, table.getvalue().encode())
        write_atomic(self.out / SHEET, sheet(self.out, told).encode())
        return [self.out / name for name in (LINES, TABLE, SHEET)]


def summary(record: Mapping[str, Any], row: Row) -> dict[str, Any]:
    """A row in columns; `result` is relative to the output folder."""
    files = record.get("files") or ()
    state = "failed" if record.get("error") is not None else "done" if files else "not done"
    told = {"source": str(row.source), "prompt": row.args.prompt, "target_prompt": row.target_prompt}
    more = {"seconds": record.get("seconds"), "attempts": record.get("attempts"), "error": record.get("error")}
    result = f"{FOLDER}/{files[0]}" if files else ""
    return {"id": row.id, "state": state, **told, "result": result, **more, "notes": "; ".join(record.get("notes", ()))}


def read_lines(file: Path) -> dict[str, dict[str, Any]]:
    """The last line of every id; half a line, left by a kill, does not count."""
    found: dict[str, dict[str, Any]] = {}
    if os.path.isfile(file):
        for line in file.read_text("utf-8", errors="replace").split("\n"):
            with suppress(ValueError, RecursionError):
                record = json.loads(line)
                if isinstance(record, dict) and isinstance(record.get("id"), str):
                    found[record["id"]] = record
    return found
