"""Workers that a Ray cluster runs: actors, on whichever machine has room for them."""

import logging
import socket
from collections.abc import Sequence
from typing import Any

from cpds.apps.batch.executor import Lost, Make, Outcome, Ready, Refused
from cpds.config import require
from cpds.errors import InputError, MissingExtra

PATIENCE = 10.0  # s
QUIET = {"logging_level": logging.ERROR, "log_to_driver": False, "include_dashboard": False}


class Actor:
    """What Ray makes in a process of its own: the worker that `make` makes there."""

    def __init__(self, make: Make, device: str) -> None:
        self._served = make(device)

    def load(self) -> Ready | Refused:
        return self._served.load()

    def edit(self, rows: Sequence[Any]) -> list[Outcome]:
        return self._served.edit(rows)


class RayWorker:
    """An actor, and the answer that it owes."""

    def __init__(self, ray: Any, actor: Any, name: str) -> None:
        self._ray, self.actor, self.name = ray, actor, name
        self.answer: Any = None

    def call(self, method: str, *arguments: Any) -> None:
        self.answer = getattr(self.actor, method).remote(*arguments)

    def stop(self) -> None:
        self._ray.kill(self.actor)


class RayCluster:
    """Actors on the cluster that this process is connected to; `places` says cuda or cpu for each."""

    def __init__(self, ray: Any, make: Make, places: Sequence[str]) -> None:
        self._ray, self.make, self.places = ray, make, places
        self._begun = 0

    @classmethod
    def connect(cls, make: Make, address: str, devices: Sequence[str], workers: int | None) -> "RayCluster":
        """Join the cluster at `address`; without one, that of this machine, else one that is begun here.

        InputError for a cluster that does not answer or has not what is asked for, MissingExtra without Ray.
        """
        ray = installed()
        require(set(devices) <= {"cpu"}, "Ray gives each worker a GPU of its own: leave devices out, or say cpu")
        reachable(address)
        try:
            ray.init(address or None, ignore_reinit_error=True, **QUIET)
        except Exception as err:  # of many kinds, a plain Exception among them
            raise unreachable(address, str(err).splitlines()[0] if str(err) else "no answer") from err
        room = ray.cluster_resources()
        gpus = 0 if "cpu" in devices else int(room.get("GPU", 0))
        count, most = workers or gpus or 1, gpus or int(room.get("CPU", 0))
        if count > most:
            ray.shutdown()
            raise InputError(f"{count} workers were asked for, and the cluster has room for {most}: take fewer")
        return cls(ray, make, ["cuda" if gpus else "cpu"] * count)

    def start(self, place: str) -> RayWorker:
        self._begun += 1
        actor = self._ray.remote(num_cpus=1, num_gpus=int(place == "cuda"))(Actor)
        return RayWorker(self._ray, actor.remote(self.make, place), f"Ray's worker {self._begun} on {place}")

    def wait(self, workers: Sequence[RayWorker]) -> tuple[RayWorker, Any]:
        by_answer = {worker.answer: worker for worker in workers}
        ready: list[Any] = []
        while not ready:
            ready, _ = self._ray.wait(list(by_answer), num_returns=1, timeout=1)
        worker = by_answer[ready[0]]
        try:
            return worker, self._ray.get(ready[0])
        except self._ray.exceptions.RayError as err:
            return worker, Lost(f"{worker.name} has ended ({type(err).__name__})")

    def close(self) -> None:
        self._ray.shutdown()


def installed() -> Any:
    """Ray itself. MissingExtra where it is not installed."""
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as err:
        raise MissingExtra("Ray is not installed: pip install -e '.[batch]'") from err
    return ray


def reachable(address: str) -> None:
    """InputError unless something listens at host:port or ray://host:port; Ray itself would wait for a minute."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host:
        require(address in ("", "auto", "local"), f"ray {address!r} is no address: write host:port or ray://host:port")
        return
    require(port.isdecimal() and int(port) < 2**16, f"ray {address!r} has no port: write host:port")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except OSError as err:
        raise unreachable(address, err.strerror or str(err)) from err


def unreachable(address: str, why: str) -> InputError:
    where = address or "this machine"
    return InputError(f"no Ray cluster answers at {where} ({why}): check the address, and that ray start runs there")
