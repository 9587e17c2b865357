"""Runs of nerfstudio on disk: the scene that an edit starts from, and the run that it goes on with.

nerfstudio 1.1.5 saves numpy scalars in its checkpoints (its schedulers' doing), which torch's safe loading rejects
since 2.6: none of its commands can read its own files. `allow_numpy_scalars` adds the three harmless types to what safe
loading accepts. All of nerfstudio's commands load our methods, and with them this.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml

from cpds.errors import InputError

if TYPE_CHECKING:
    from nerfstudio.engine.trainer import TrainerConfig


def allow_numpy_scalars() -> None:
    """Let torch.load(weights_only=True) read numpy's float64 scalars, in this process, under numpy 1's name or 2's."""
    scalar: Any = np.float64(0).__reduce__()[0]
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    torch.serialization.add_safe_globals([*names, np.dtype, np.dtypes.Float64DType])


@dataclass(frozen=True)
class SavedRun:
    """A folder that `ns-train` wrote: how the scene was trained, and its checkpoint."""

    folder: Path
    config: TrainerConfig
    checkpoint: Path

    def state(self) -> dict[str, Any]:
        """What the checkpoint holds, on the CPU. Raises InputError for a file that cannot be used."""
        try:
            saved = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, pickle.UnpicklingError) as err:
            unsafe = re.search(r"GLOBAL (\S+)", str(err))
            if unsafe is not None:  # the file is complete
                raise InputError(
                    f"checkpoint {self.checkpoint} holds {unsafe[1]}, which torch does not load by default: allow it "
                    "by torch.serialization.add_safe_globals, or train the scene again"
                ) from err
            reason = str(err).strip().splitlines()[0] if str(err).strip() else type(err).__name__
            raise InputError(
                f"checkpoint {self.checkpoint} is damaged ({reason}): train again, or take an earlier one by load_step"
            ) from err
        if not isinstance(saved, dict) or not {"pipeline", "step"} <= saved.keys():
            raise InputError(f"checkpoint {self.checkpoint} holds no scene: give a run of ns-train")
        return saved


def checkpoints(folder: Path) -> dict[int, Path]:
    """The checkpoints in a folder, by step, in order."""
    files = (f for f in folder.glob("step-*.ckpt") if f.stem.removeprefix("step-").isdecimal())
    return dict(sorted((int(f.stem.removeprefix("step-")), f) for f in files))


def open_run(load_dir: Path, step: int | None = None) -> SavedRun:
    """The run whose folder, or whose folder of checkpoints, `load_dir` is; its latest checkpoint without a `step`.

    Raises InputError where there is none, or none that can be read.
    """
    if not load_dir.is_dir():
        raise InputError(
            f"load_dir {load_dir} is no folder: give the nerfstudio_models folder of a scene trained by ns-train"
        )
    folder = load_dir if (load_dir / "config.yml").is_file() else load_dir.parent
    if not (folder / "config.yml").is_file():
        raise InputError(
            f"load_dir {load_dir} has no config.yml beside it: give the nerfstudio_models folder of a trained scene"
        )
    config = read_config(folder / "config.yml")
    models = folder / config.relative_model_dir if load_dir == folder else load_dir
    found = checkpoints(models)
    if not found:
        raise InputError(f"{models} holds no checkpoint (step-….ckpt): train the scene first, or check load_dir")
    if step is not None and step not in found:
        steps = ", ".join(map(str, found))
        raise InputError(f"{models} has no checkpoint of step {step}: it has {steps}")
    return SavedRun(folder, config, found[max(found) if step is None else step])


def read_config(path: Path) -> TrainerConfig:
    """A run's settings as nerfstudio wrote them. Raises InputError."""
    from nerfstudio.engine.trainer import TrainerConfig

    try:
        config = yaml.load(path.read_text("utf-8"), Loader=yaml.Loader)
    except (OSError, ValueError, yaml.YAMLError, AttributeError, ImportError, TypeError) as err:
        raise InputError(f"{path} cannot be read ({str(err).splitlines()[0]}): train the scene again") from err
    if not isinstance(config, TrainerConfig):
        raise InputError(f"{path} is not the config of a run of ns-train: check load_dir")
    return config


@contextmanager
def atomic_dir(folder: Path) -> Iterator[Path]:
    """A folder to write files in that join `folder` when all of them are complete."""
    part = folder.with_name(f".{folder.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    for file in part.iterdir():  # of a run that was killed
        file.unlink()
    yield part
    folder.mkdir(parents=True, exist_ok=True)
    for file in part.iterdir():
        file.replace(folder / file.name)
    part.rmdir()
