"""`cpds batch`: the edits of a manifest, by several workers. Nothing heavy is imported before it runs."""

import os
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from cpds.apps.cli.args import EMBEDDED_NOTE, ChosenPrior
from cpds.apps.cli.workers import WorkerArgs, located_prior
from cpds.config import require
from cpds.errors import InputError
from cpds.presets import PRESETS
from cpds.terminal import print_loading, print_result, print_status

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cpds.apps.batch.driver import Task
    from cpds.apps.batch.executor import Executor
    from cpds.apps.batch.results import Results
    from cpds.apps.batch.rows import Row

GPU_BATCH = 8


@dataclass(frozen=True, kw_only=True)
class BatchArgs(ChosenPrior, WorkerArgs):
    """Edit thousands of images, SVGs and splat scenes: a row of a manifest each, with prompts and settings of its own.

    The same command goes on where it was stopped or killed: rows that are finished are not edited again."""

    manifest: tyro.conf.Positional[Path]
    """A .jsonl or .csv file. Columns: source, prompt, target_prompt; and if need be id, output (a name for the result),
    mask, cameras (of a scene), and every flag of cpds image, svg or splats, which edits it, by its name. Paths are
    relative to the manifest. It is checked as a whole before any work."""
    out: Path
    """Folder for the results, a list of them (results.jsonl, results.csv) and a page that shows them (results.html)."""
    batch: int | None = None
    """Images of one size and with the same settings that a worker edits at once. Default: 8 on a GPU, else 1. With 1
    the pixels are those of `cpds image` to the last bit; with more the last bits of the arithmetic differ."""

    def check(self) -> None:
        """InputError for numbers that cannot be."""
        super().check()
        require(self.batch is None or self.batch >= 1, f"batch must be >= 1, got {self.batch}")


def run_batch(args: BatchArgs, command: str) -> int:
    """Do what is not done yet; 1 if some rows failed. `command`, as it was typed, goes into the config."""
    args.check()
    print_loading()

    from cpds.apps.batch.driver import tasks_of
    from cpds.apps.batch.executor import Setup
    from cpds.apps.batch.manifest import read_manifest
    from cpds.apps.batch.results import FOLDER, Results
    from cpds.apps.batch.worker import EditWorker
    from cpds.locks import held
    from cpds.priors.load import check_folder

    args.require_devices()
    if args.prior is not None and os.path.isdir(args.prior):
        check_folder(Path(args.prior))
    with held(args.out):
        rows = read_manifest(args.manifest)
        if args.prior is None:
            print_status(EMBEDDED_NOTE)
        results = Results(args.out, rows)
        todo = results.todo
        if len(todo) < len(rows):
            print_status(f"{len(rows) - len(todo)} of {len(rows)} rows are already finished")
        try:
            if todo:
                tell_unused(todo)
                setup = Setup(*located_prior(args), (args.out / FOLDER).absolute())
                executor = args.executor(partial(EditWorker, setup))
                gpu = "cpu" not in executor.places and "mps" not in executor.places
                tasks = tasks_of(todo, args.batch or (GPU_BATCH if gpu else 1))
                edit_all(results, tasks, executor, command)
            told = results.summarize()
        except KeyboardInterrupt:
            print_status("Stopped; the same command goes on where this one ended")
            return 130
        except OSError as err:
            raise InputError(f"{args.out} cannot be written ({err.strerror}): make room and run it again") from err
    for record in results.failed:
        print_status(f"cpds: failed: {record['id']} (line {results.rows[record['id']].line}): {record['error']}")
    for file in told:
        print_result(file)
    return int(bool(results.failed))


def tell_unused(rows: "Iterable[Row]") -> None:
    """Name the settings that have no effect, once each, and the rows that have them."""
    from cpds.unused import unused_notes

    lines: dict[str, list[int]] = {}
    for row in rows:
        for note in unused_notes(row.args.edit, PRESETS[row.args.preset]):
            lines.setdefault(note, []).append(row.line)
    for note, found in lines.items():
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        print_status(f"cpds: note: line {found[0]}{more}: {note}")


def edit_all(results: "Results", tasks: "list[Task]", executor: "Executor[Any]", command: str) -> None:
    """Every task, with its outcome noted as soon as it is known."""
    from tqdm import tqdm

    from cpds.apps.batch.driver import work
    from cpds.apps.batch.executor import Ready

    bar = tqdm(total=len(results.rows), initial=len(results.records), unit="edit", dynamic_ncols=True)
    failed = 0
    with closing(work(tasks, executor)) as events, bar:
        for event in events:
            if isinstance(event, Ready):
                results.claim(event.fingerprint, command)
                continue
            results.add(event)
            failed += event.error is not None
            bar.set_postfix(failed=failed, refresh=False)
            bar.update()
