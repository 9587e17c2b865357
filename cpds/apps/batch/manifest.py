"""Manifests: JSON Lines or CSV, one edit a row. All that is wrong with one is said at once, before any work."""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cpds.apps.batch.columns import column_name
from cpds.apps.batch.rows import Row, is_column, read_row
from cpds.apps.batch.sources import Sources
from cpds.errors import InputError

Record = tuple[int, dict[str, Any]]  # its line, and what its columns say; those that say nothing are left out


def read_manifest(path: Path) -> list[Row]:
    """All rows, checked with their files. Raises InputError with every fault and its line."""
    faults: list[str] = []
    read = {".csv": csv_records, ".jsonl": json_records}.get(path.suffix.lower())
    if read is None:
        raise InputError(f"manifest {path} must be a .jsonl or a .csv file")
    if os.path.isdir(path):
        raise InputError(f"manifest {path} is a folder: name the file")
    if not os.path.isfile(path):
        raise InputError(f"manifest {path} does not exist: check the path")
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        why = getattr(err, "strerror", None) or "it is no UTF-8"
        raise InputError(f"manifest {path} cannot be read ({why}): save it as UTF-8") from err
    folder = Path(os.path.abspath(path)).parent
    records = list(read(text, faults))
    rows = [read_row(record, line, n, folder, faults) for n, (line, record) in enumerate(records, 1)]
    good = [row for row in rows if row is not None]
    ids = doubled("id", [(line, str(record.get("id", n))) for n, (line, record) in enumerate(records, 1)])
    outputs = doubled("output", [(row.line, row.output) for row in good])
    faults += (outputs | ids).values()
    good = list(checked(good, faults))
    if faults:
        faults.sort(key=lambda fault: int(fault.split()[1].rstrip(":")))
        raise InputError(f"manifest {path} cannot be used, nothing was begun: {'; '.join(faults)}")
    if not good:
        raise InputError(f"manifest {path} holds no row: give at least one")
    return good


def json_records(text: str, faults: list[str]) -> Iterator[Record]:
    """One JSON object a line, empty lines aside; null says nothing."""
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            pairs = json.loads(content, object_pairs_hook=_Pairs)
        except (ValueError, RecursionError):
            pairs = None
        if not isinstance(pairs, _Pairs):
            faults.append(f"line {line}: it is no JSON object")
            continue
        names = [column_name(name) for name, _ in pairs]
        faults += [f"line {line}: {name} is given twice" for name in repeated(names)]
        values = [dict(v) if isinstance(v, _Pairs) else v for _, v in pairs]
        yield line, {name: value for name, value in zip(names, values, strict=True) if value is not None}


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with every one of its keys, those given twice too."""


def csv_records(text: str, faults: list[str]) -> Iterator[Record]:
    """The first line names the columns; an empty cell says nothing."""
    lines = csv.reader(text.splitlines(keepends=True), strict=True)
    try:
        header = [column_name(name) for name in next(lines, [])]
        faults += [f"line 1: {name} is given twice" for name in repeated(header)]
        faults += [f"line 1: unknown column {name!r}" for name in header if not is_column(name)]
        before = lines.line_num
        for cells in lines:
            line, before = before + 1, lines.line_num
            if len(cells) > len(header):
                faults.append(f"line {line}: it has {len(cells)} cells, but there are {len(header)} columns")
            elif any(cell.strip() for cell in cells):
                pairs = zip(header, cells, strict=False)
                yield line, {name: cell for name, cell in pairs if cell.strip() and is_column(name)}
    except csv.Error as err:
        faults.append(f"line {lines.line_num}: it is no CSV ({err})")


def repeated(names: Iterable[str]) -> list[str]:
    """Those that occur more than once."""
    seen: list[str] = list(names)
    return sorted({name for name in seen if seen.count(name) > 1})


def doubled(what: str, names: Iterable[tuple[int, str]]) -> dict[int, str]:
    """Faults, by line, of names that another line has already; letter case tells no two files apart."""
    found: dict[int, str] = {}
    first: dict[str, int] = {}
    for line, name in names:
        if (before := first.setdefault(name.casefold(), line)) != line:
            found[line] = f"line {line}: {what} {name!r} is that of line {before} too"
    return found


def checked(rows: Sequence[Row], faults: list[str]) -> Iterator[Row]:
    """The rows with the sizes and digests of what they name; what cannot be edited goes to `faults`."""
    from tqdm import tqdm

    sources = Sources()
    for row in tqdm(rows, "checking", unit="row", delay=2, leave=False, dynamic_ncols=True):
        try:
            yield replace(row, size=sources.size(row), digest=sources.digest(row))
        except InputError as err:
            faults.append(f"line {row.line}: {err}")
