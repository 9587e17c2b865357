"""What decides a run's pixels: its settings, which a resumed run must have, and what it is computed with."""

import json
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from cpds.config import EditConfig


@dataclass(frozen=True)
class RunKey:
    """What makes a run this run: resuming needs all of it unchanged."""

    prompt: str
    target_prompt: str
    prior: str
    source: dict[str, str]  # the representation's fingerprint
    edit: EditConfig
    parts: dict[str, str] = field(default_factory=dict)  # from outside of this package, by module and name

    def as_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))


def environment(device: torch.device) -> dict[str, Any]:
    """Everything beside the settings that decides the pixels: versions, device, number of threads."""
    found: dict[str, Any] = {"python": platform.python_version()}
    for package in ("cpds", "torch", "diffusers", "transformers", "numpy", "pillow", "scikit-learn", "resvg-py"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else torch.backends.cpu.get_cpu_capability()
    return {**found, "device": f"{device.type} {name}", "threads": torch.get_num_threads()}
