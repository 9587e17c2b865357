"""What a batch needs of whatever runs its workers: local processes (local.py) or a Ray cluster (ray_cluster.py)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from cpds.priors.options import PriorOptions


@dataclass(frozen=True)
class Setup:
    """What every worker is made from."""

    prior: str | None
    options: PriorOptions
    results: Path  # the folder where workers put what they make; on a cluster all nodes have it


@dataclass(frozen=True)
class Ready:
    """A worker has loaded its prior."""

    fingerprint: str
    device: str


@dataclass(frozen=True)
class Refused:
    """A worker cannot begin, nor could any other."""

    reason: str


@dataclass(frozen=True)
class Lost:
    """A worker has died, and what it was doing with it."""

    reason: str


@dataclass(frozen=True)
class Outcome:
    """What became of a row."""

    id: str
    files: tuple[str, ...] = ()  # names in the folder of results, the edited thing's own format first
    seconds: float = 0.0  # rows that are edited at once share the time
    notes: tuple[str, ...] = ()  # what a user should know, such as what of its source the result has not
    error: str | None = None
    refused: bool = False  # for what it asks for: another try would end alike
    attempts: int = 1


class Served(Protocol):
    """What a worker's process makes, of its device, and is called with."""

    def load(self) -> Ready | Refused:
        """To be called first."""
        ...

    def edit(self, rows: Sequence[Any]) -> list[Outcome]:
        """What became of each row."""
        ...


Make = Callable[[str], Served]  # of a device; it is sent to the process


@runtime_checkable
class Worker(Protocol):
    """A process, somewhere, that edits; it does one thing at a time."""

    name: str  # in messages

    def call(self, method: str, *arguments: Any) -> None:
        """Begin a method of what is served there; Executor.wait gives its answer."""
        ...

    def stop(self) -> None:
        """End it, whatever it is doing."""
        ...


W = TypeVar("W", bound=Worker)


@runtime_checkable
class Executor(Protocol[W]):
    """Where workers come from."""

    places: Sequence[str]  # one for each worker that is wanted: a device

    def start(self, place: str) -> W:
        """A new worker, which has yet to load its prior."""
        ...

    def wait(self, workers: Sequence[W]) -> tuple[W, Any]:
        """Wait until one of these, all of which were called, has an answer: what the method returned, or Lost."""
        ...

    def close(self) -> None:
        """Let go of whatever was taken beside the workers."""
        ...
