"""Which workers a command's edits run on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cpds.apps.cli.args import ChosenPrior
from cpds.config import require
from cpds.priors.options import PriorOptions, with_located_prior

if TYPE_CHECKING:
    from cpds.apps.batch.executor import Executor, Make


@dataclass(frozen=True, kw_only=True)
class WorkerArgs:
    """What every command takes that edits in several processes."""

    devices: tuple[str, ...] = ()
    """Where workers compute, in turn: cpu, cuda:0, cuda:1, mps. Default: every CUDA device, else the one there is. With
    ray: cpu, or nothing, for a GPU each where the cluster has GPUs."""
    workers: int | None = None
    """Processes that edit at the same time, each with the prior in memory. Default: one for each device."""
    ray: tuple[str, ...] | None = None
    """Let a Ray cluster run the workers: its address (host:port, ray://host:port), or none for the cluster that this
    machine is part of, else for one that is begun here. All machines need the same folders and CPDS."""

    def check(self) -> None:
        """InputError for numbers that cannot be."""
        require(self.workers is None or self.workers >= 1, f"workers must be >= 1, got {self.workers}")
        require(len(self.ray or ()) <= 1, f"ray takes one address, got {' '.join(self.ray or ())}")

    @property
    def elsewhere(self) -> bool:
        """Whether any of these was given."""
        return bool(self.devices) or self.workers is not None or self.ray is not None

    def require_devices(self) -> None:
        """InputError for devices that are not here, unless Ray looks for them; a cuda:N that is here is not woken."""
        import torch

        from cpds.priors.load import resolve_device

        cards = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        for device in () if self.ray is not None else named(self.devices):
            if device not in cards:
                resolve_device(device)

    def executor(self, make: "Make") -> "Executor[Any]":
        """Local processes, or a Ray cluster. InputError for one that cannot be reached."""
        if self.ray is not None:
            from cpds.apps.batch.ray_cluster import RayCluster

            return RayCluster.connect(make, "".join(self.ray), self.devices, self.workers)
        from cpds.apps.batch.local import LocalProcesses

        return LocalProcesses(make, places(self.devices, self.workers))


def located_prior(args: ChosenPrior) -> tuple[str | None, PriorOptions]:
    """The prior and its options for a process of another folder: paths are absolute."""
    args = with_located_prior(args)
    return args.prior, args.prior_options


def named(devices: Sequence[str]) -> list[str]:
    """Devices that are given one by one or with commas between them."""
    return [d for text in devices for d in text.split(",") if d]


def places(devices: Sequence[str], workers: int | None) -> list[str]:
    """A device for each worker."""
    import torch

    from cpds.priors.load import resolve_device

    found = named(devices) or [f"cuda:{i}" for i in range(torch.cuda.device_count())] or [str(resolve_device("auto"))]
    return [found[i % len(found)] for i in range(workers or len(found))]
