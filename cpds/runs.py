"""A run folder: everything one edit leaves behind, written whole or not at all."""

import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from cpds.config import EditConfig
from cpds.errors import InputError

CONFIG, CHECKPOINT, METRICS, RESULT, STRIP, GIF, FRAMES = (
    "config.json",
    "checkpoint.safetensors",
    "metrics.jsonl",
    "result.png",
    "before_after.png",
    "trajectory.gif",
    "frames",
)
# the edited thing in its own format: result.svg, and svg/ of the way there
EXPORT, FORMATS = "result", ("svg", "svgz", "ply")


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data`; a crash at any moment leaves the old file or the new one."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink()
        raise


@dataclass(frozen=True)
class Identity:
    """What makes a run this run: resuming needs all of it unchanged."""

    prompt: str
    target_prompt: str
    prior: str
    source: dict[str, Any]  # what is edited: digests and settings of the representation
    edit: EditConfig

    def as_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))


def versions() -> dict[str, str]:
    """Versions of everything that decides the pixels."""
    found = {"python": platform.python_version()}
    for package in ("cpds", "torch", "diffusers", "transformers", "numpy", "pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """'name: was X, now Y' for every leaf that differs."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key} was {a!r}, is now {b!r}")
    return found


class RunFolder:
    """Access to one run's files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def exists(self) -> bool:
        return os.path.isfile(self.path / CONFIG)

    @property
    def finished(self) -> bool:
        return self.exists and (self.path / RESULT).is_file()

    def require_free(self) -> None:
        """InputError if a run, or a file that a run would replace, is here."""
        exports = [name for form in FORMATS for name in (f"{EXPORT}.{form}", form)]
        for name in (CONFIG, CHECKPOINT, METRICS, RESULT, STRIP, GIF, FRAMES, *exports):
            if os.path.exists(self.path / name):  # False, unlike Path.exists, for a name too long
                raise InputError(
                    f"{self.path} already holds {name}: pass --resume to go on with that run, or another --save_path"
                )

    def create(self, identity: Identity) -> None:
        """Claim an empty place for a new run. InputError if it is taken or cannot be written."""
        self.require_free()
        document = {**identity.as_json(), "versions": versions()}
        ours = not os.path.exists(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path / CONFIG, json.dumps(document, indent=2).encode())
        except OSError as err:
            if ours:
                with suppress(OSError):
                    self.path.rmdir()
            raise InputError(f"output folder {self.path} cannot be written ({err.strerror}): choose another") from err

    def check(self, identity: Identity) -> None:
        """Raise InputError if this run was started with other settings."""
        try:
            old = json.loads((self.path / CONFIG).read_text())
        except (OSError, ValueError) as err:
            raise InputError(f"{self.path / CONFIG} cannot be read: start the run anew elsewhere") from err
        old.pop("versions", None)
        changed = differences(old, identity.as_json())
        if changed:
            raise InputError(
                f"cannot resume {self.path} with changed settings ({'; '.join(changed)}): "
                "use the old ones, or another --save_path"
            )

    def save_checkpoint(self, tensors: Mapping[str, Tensor]) -> None:
        write_atomic(self.path / CHECKPOINT, save({k: v.contiguous().cpu() for k, v in tensors.items()}))

    def load_checkpoint(self) -> dict[str, Tensor] | None:
        """The saved tensors, or None where the run ended before its first checkpoint."""
        if not (self.path / CHECKPOINT).exists():
            return None
        try:
            return load_file(self.path / CHECKPOINT)
        except (OSError, SafetensorError) as err:
            raise InputError(f"{self.path / CHECKPOINT} is damaged ({err}): start the run anew elsewhere") from err

    def cut_metrics(self, step: int) -> None:
        """Drop log lines of steps after `step`: a resumed run will make them again."""
        file = self.path / METRICS
        if file.exists():
            kept = []
            for line in file.read_text().splitlines(keepends=True):
                try:
                    if json.loads(line)["step"] <= step:
                        kept.append(line)
                except ValueError:
                    break  # half a line: the run was killed while writing it
            write_atomic(file, "".join(kept).encode())

    def log(self, record: Mapping[str, Any]) -> None:
        with (self.path / METRICS).open("a") as stream:
            stream.write(json.dumps(record) + "\n")

    def write(self, name: str, data: bytes) -> None:
        file = self.path / name
        file.parent.mkdir(exist_ok=True)
        write_atomic(file, data)

    def frames(self) -> list[Path]:
        """Trajectory pictures so far, in order."""
        return sorted((self.path / FRAMES).glob("*.png"))
