"""What tests of `cpds batch` share: manifests, and workers that are no processes."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cpds.apps.batch.executor import Setup
from cpds.apps.batch.worker import EditWorker

SHORT = {"num_inference_steps": 2, "n_patches": 8, "polish": 0}  # of an image, with the tiny prior


def write_manifest(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Inline:
    """An executor whose workers are objects of this process; `act` may answer a call in their place."""

    def __init__(self, make: Callable[[str], Any], places: Sequence[str] = ("cpu",), act: Any = None) -> None:
        self.make, self.places, self.act = make, places, act
        self.begun: list[InlineWorker] = []
        self.closed = False

    @classmethod
    def of(cls, setup: Setup, **more: Any) -> "Inline":
        return cls(lambda place: EditWorker(setup, place), **more)

    def start(self, place: str) -> "InlineWorker":
        self.begun.append(InlineWorker(self.make(place), f"worker {len(self.begun) + 1}"))
        return self.begun[-1]

    def wait(self, workers: "Sequence[InlineWorker]") -> "tuple[InlineWorker, Any]":
        worker = workers[0]
        method, arguments = worker.calls[-1]
        answer = None if self.act is None else self.act(worker, method, *arguments)
        return worker, getattr(worker.editor, method)(*arguments) if answer is None else answer

    def close(self) -> None:
        self.closed = True


class InlineWorker:
    """One of them, with all that it was called with."""

    def __init__(self, editor: Any, name: str) -> None:
        self.editor, self.name = editor, name
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.stopped = False

    def call(self, method: str, *arguments: Any) -> None:
        self.calls.append((method, arguments))

    def stop(self) -> None:
        self.stopped = True
