"""Workers that are processes of this machine."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from cpds.apps.batch.executor import Lost, Make

SPAWN = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA


class LocalWorker:
    """A process with a pipe to it."""

    def __init__(self, make: Make, device: str) -> None:
        self.pipe, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=serve, args=(theirs, make, device), daemon=True)
        with ignored(signal.SIGINT):  # from its first moment on: Ctrl-C reaches all processes of a terminal
            self.process.start()
        theirs.close()  # or the pipe would not end with the process
        self.name = f"process {self.process.pid} on {device}"

    def call(self, method: str, *arguments: Any) -> None:
        with suppress(OSError):  # it has died: wait will tell
            self.pipe.send((method, arguments))

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class LocalProcesses:
    """Processes on devices of this machine; `places` names the device of each."""

    def __init__(self, make: Make, places: Sequence[str]) -> None:
        self.make, self.places = make, places

    def start(self, place: str) -> LocalWorker:
        return LocalWorker(self.make, place)

    def wait(self, workers: Sequence[LocalWorker]) -> tuple[LocalWorker, Any]:
        pipes = [worker.pipe for worker in workers]
        while not (ready := wait(pipes, timeout=1)):  # Windows hears of Ctrl-C between two waits alone
            pass
        worker = next(worker for worker in workers if worker.pipe in ready)
        try:
            return worker, worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            return worker, Lost(f"{worker.name} has ended ({ended(worker.process.exitcode)})")

    def close(self) -> None:
        pass


@contextmanager
def ignored(which: signal.Signals) -> Iterator[None]:
    """A signal that does nothing for a while, here and in processes that are begun meanwhile."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(which, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(which, before)


def ended(exit_code: int | None) -> str:
    """How a process ended, in words."""
    if exit_code is not None and exit_code < 0:
        return f"killed by {signal.Signals(-exit_code).name}"
    return f"exit code {exit_code}"


def serve(pipe: Connection, make: Make, device: str) -> None:
    """A worker's process: answer calls until the pipe, or the process that began this one, ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    worker = make(device)
    while True:
        try:
            method, arguments = pipe.recv()
            pipe.send(getattr(worker, method)(*arguments))
        except (EOFError, OSError):
            return


def end_with_parent() -> None:
    """End this process, in the middle of an edit if need be, when the one that began it was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
