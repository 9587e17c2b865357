"""`cpds batch`: the edits of a manifest, by several workers. Nothing heavy is imported before it runs."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from cpds.apps.cli.args import EMBEDDED_NOTE, ChosenPrior
from cpds.config import require
from cpds.errors import InputError
from cpds.terminal import print_loading, print_result, print_status

if TYPE_CHECKING:
    from cpds.apps.batch.driver import Task
    from cpds.apps.batch.executor import Executor, Setup
    from cpds.apps.batch.results import Results

GPU_BATCH = 8


@dataclass(frozen=True, kw_only=True)
class BatchArgs(ChosenPrior):
    """Edit thousands of images, SVGs and splat scenes: a row of a manifest each, with prompts and settings of its own.

    The same command goes on where it was stopped or killed: rows that are finished are not edited again."""

    manifest: tyro.conf.Positional[Path]
    """A .jsonl or .csv file. Columns: source, prompt, target_prompt; and if need be id, output (a name for the result),
    mask, cameras (of a scene), and every flag of cpds image, svg or splats, which edits it, by its name. Paths are
    relative to the manifest. It is checked as a whole before any work."""
    out: Path
    """Folder for the results, a list of them (results.jsonl, results.csv) and a page that shows them (results.html)."""
    devices: tuple[str, ...] = ()
    """Where workers compute, in turn: cpu, cuda:0, cuda:1, mps. Default: every CUDA device, else the one there is. With
    ray: cpu, or nothing, for a GPU each where the cluster has GPUs."""
    workers: int | None = None
    """Processes that edit at the same time, each with the prior in memory. Default: one for each device."""
    batch: int | None = None
    """Images of one size and with the same settings that a worker edits at once. Default: 8 on a GPU, else 1. With 1
    the pixels are those of `cpds image` to the last bit; with more the last bits of the arithmetic differ."""
    ray: tuple[str, ...] | None = None
    """Let a Ray cluster run the workers: its address (host:port, ray://host:port), or none for the cluster that this
    machine is part of, else for one that is begun here. All machines need the same folders and CPDS."""

    def check(self) -> None:
        """InputError for numbers that cannot be."""
        require(self.workers is None or self.workers >= 1, f"workers must be >= 1, got {self.workers}")
        require(self.batch is None or self.batch >= 1, f"batch must be >= 1, got {self.batch}")
        require(len(self.ray or ()) <= 1, f"ray takes one address, got {' '.join(self.ray or ())}")


def run_batch(args: BatchArgs, command: str) -> int:
    """Do what is not done yet; 1 if some rows failed. `command`, as it was typed, goes into the config."""
    args.check()
    print_loading()

    from cpds.apps.batch.driver import tasks_of
    from cpds.apps.batch.manifest import read_manifest
    from cpds.apps.batch.results import FOLDER, Results
    from cpds.locks import held

    rows = read_manifest(args.manifest)
    if args.prior is None:
        print_status(EMBEDDED_NOTE)
    with held(args.out):
        results = Results(args.out, rows)
        todo = results.todo
        if len(todo) < len(rows):
            print_status(f"{len(rows) - len(todo)} of {len(rows)} rows are already finished")
        try:
            if todo:
                executor = executor_of(args, setup_of(args, args.out / FOLDER))
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


def setup_of(args: BatchArgs, results: Path) -> "Setup":
    """What the workers are made from; its paths are absolute."""
    from cpds.apps.batch.executor import Setup
    from cpds.priors.options import located

    given = args.prior_options
    single = {name: getattr(given, name) for name in ("transformer", "tiny_vae", "prior_config")}
    single = {name: value and located(value) for name, value in single.items()}
    several = {name: tuple(map(located, getattr(given, name))) for name in ("lora", "textual_inversion")}
    return Setup(args.prior and located(args.prior), replace(given, **single, **several), results.absolute())


def executor_of(args: BatchArgs, setup: "Setup") -> "Executor[Any]":
    """Local processes, or a Ray cluster. InputError for one that cannot be reached."""
    if args.ray is not None:
        from cpds.apps.batch.ray_cluster import RayCluster

        return RayCluster.connect(setup, "".join(args.ray), args.devices, args.workers)
    from cpds.apps.batch.local import LocalProcesses

    return LocalProcesses(setup, places(args.devices, args.workers))


def places(devices: Sequence[str], workers: int | None) -> list[str]:
    """A device for each worker; whether it is there the worker finds out."""
    import torch

    from cpds.priors.load import resolve_device

    found = [d for text in devices for d in text.split(",") if d]
    found = found or [f"cuda:{i}" for i in range(torch.cuda.device_count())] or [str(resolve_device("auto"))]
    return [found[i % len(found)] for i in range(workers or len(found))]


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
