"""A run folder: everything one edit leaves behind, each file written whole or not at all."""

import errno
import json
import os
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from cpds.errors import InputError
from cpds.run_key import RunKey
from cpds.stored import CONFIG, PLAN, damaged, differences, read_object
from cpds.terminal import warn

CHECKPOINT, METRICS, RESULT, COMPARISON, GIF, FRAMES = (
    "checkpoint.safetensors",
    "metrics.jsonl",
    "result.png",
    "before_after.png",
    "trajectory.gif",
    "frames",
)
PROFILE = "profile.txt"
EXPORT, FORMATS = "result", ("svg", "svgz", "ply")  # the edited thing's own: result.svg, and svg/ of the trajectory


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data`; a crash at any moment leaves the old file or the new one."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def remedy(err: OSError) -> str:
    """What a user can do about an error of the file system."""
    return "make room" if err.errno in (errno.ENOSPC, errno.EDQUOT) else "put that right"


def save_as(path: str | Path, data: bytes) -> None:
    """Write a result where a user wants it. InputError where that cannot be."""
    try:
        write_atomic(Path(path), data)
    except OSError as err:
        why = f"there is no folder {Path(path).parent}" if isinstance(err, FileNotFoundError) else err.strerror or err
        raise InputError(f"{path} cannot be written ({why}): {remedy(err)}, or choose another place") from err


class RunFolder:
    """Access to one run's files; `formats` are those that what is edited may be written in."""

    def __init__(self, path: Path, formats: Collection[str] = FORMATS) -> None:
        self.path, self.formats = path, sorted(formats)

    @property
    def exists(self) -> bool:
        return os.path.isfile(self.path / CONFIG)

    @property
    def finished_steps(self) -> int:
        """The steps of the run if its result is whole; 0 if it is not, or of a shorter run than it has become since."""
        document = read_object(self.path / CONFIG) if self.exists else {}
        if not document or not os.path.isfile(self.path / RESULT):
            return 0
        steps = self._steps(document)
        return steps if document.get("finished") == steps else 0

    def _steps(self, document: Mapping[str, Any]) -> int:
        edit = document.get("edit")
        steps = edit.get("num_inference_steps") if isinstance(edit, dict) else None
        if type(steps) is not int:
            raise damaged(self.path / CONFIG, "it does not say how many steps there are")
        return steps

    def require_free(self) -> None:
        """InputError if a run, or a file that a run would replace, is here."""
        for name in (PLAN, *self._files()):
            if os.path.lexists(self.path / name):  # False, unlike Path.exists, for a name too long
                raise InputError(f"{self.path} already holds {name}: resume what is there, or choose another folder")

    def _files(self) -> list[str]:
        exports = [name for form in self.formats for name in (f"{EXPORT}.{form}", form)]
        return [CONFIG, CHECKPOINT, METRICS, RESULT, COMPARISON, GIF, FRAMES, PROFILE, *exports]

    def create(self, key: RunKey, request: Mapping[str, Any], around: Mapping[str, Any]) -> None:
        """Claim an empty place for a new run. InputError if it is taken or cannot be written."""
        self.require_free()
        try:
            self._configure({**request, **key.as_json(), "environment": dict(around)})
        except OSError as err:
            raise InputError(f"output folder {self.path} cannot be written ({err.strerror}): choose another") from err

    def _configure(self, document: Mapping[str, Any]) -> None:
        write_atomic(self.path / CONFIG, json.dumps(document, indent=2).encode())

    def forget(self) -> None:
        """Give the place of a run back that ended before its first step."""
        for name in (CHECKPOINT, METRICS, CONFIG):
            (self.path / name).unlink(missing_ok=True)

    def check(self, key: RunKey, around: Mapping[str, Any]) -> RunKey:
        """This run as it goes on: the longer one of what it was and `key`.

        InputError if it was started with other settings; a warning if what it runs on has changed.
        """
        old, new = read_object(self.path / CONFIG), key.as_json()
        steps = max(self._steps(old), key.edit.num_inference_steps)
        new["edit"]["num_inference_steps"] = self._steps(old)
        changed = differences({k: old.get(k) for k in new}, new)
        if changed:
            raise InputError(
                f"cannot resume {self.path} with changed settings ({'; '.join(changed)}): "
                "use the old ones (what is edited must be made anew, not edited already), or start another run"
            )
        before = old.get("environment")
        if isinstance(before, dict) and (changed := differences(before, around)):
            warn(f"{self.path}: {'; '.join(changed)}: the pixels may differ from those of an uninterrupted run")
        return replace(key, edit=replace(key.edit, num_inference_steps=steps))

    def extend(self, steps: int, done: int) -> None:
        """Note that the run goes on to `steps` steps, and of how many it was until it had done `done`."""
        document = read_object(self.path / CONFIG)
        if (before := self._steps(document)) != steps:
            longer = document.get("extended")
            noted = longer if isinstance(longer, list) else []
            document["extended"] = [*noted, {"after_step": done, "num_inference_steps": before}]
            document["edit"]["num_inference_steps"] = steps
            try:
                self._configure(document)
            except OSError as err:
                raise InputError(f"{self.path} cannot be written ({err.strerror}): {remedy(err)}") from err

    def finish(self) -> None:
        """Note that the result is whole."""
        document = read_object(self.path / CONFIG)
        self._configure({**document, "finished": self._steps(document)})

    def save_checkpoint(self, tensors: Mapping[str, Tensor]) -> None:
        write_atomic(self.path / CHECKPOINT, save({k: v.contiguous().cpu() for k, v in tensors.items()}))

    def load_checkpoint(self) -> dict[str, Tensor] | None:
        """The saved tensors, or None where the run ended before its first checkpoint.

        InputError if they are damaged, or gone from a run that has a result.
        """
        if not (self.path / CHECKPOINT).exists():
            if os.path.lexists(self.path / RESULT):
                raise InputError(
                    f"{self.path} holds {RESULT} but no {CHECKPOINT}: put it back, or start the run anew elsewhere"
                )
            return None
        try:
            return load_file(self.path / CHECKPOINT)
        except (OSError, SafetensorError) as err:
            raise InputError(f"{self.path / CHECKPOINT} is damaged ({err}): start the run anew elsewhere") from err

    def cut_metrics(self, step: int) -> None:
        """Drop log lines of steps after `step`, which a resumed run will make again, and what is no line of a log."""
        file = self.path / METRICS
        if file.exists():
            lines = file.read_bytes().split(b"\n")
            steps = [step_of(line) for line in lines]
            odd = steps[:-1].count(None)  # the last is empty, or half a line if the run was killed while writing it
            if odd:
                warn(f"{file}: {odd} of {len(lines) - 1} lines cannot be read and are dropped")
            kept = [line for line, at in zip(lines, steps, strict=True) if at is not None and at <= step]
            write_atomic(file, b"".join(line + b"\n" for line in kept))

    def log(self, record: Mapping[str, Any]) -> None:
        with (self.path / METRICS).open("a") as stream:
            stream.write(json.dumps(record) + "\n")

    def write(self, name: str, data: bytes) -> None:
        file = self.path / name
        file.parent.mkdir(exist_ok=True)
        write_atomic(file, data)

    def frames(self) -> list[Path]:
        """Trajectory images so far, in order; files of other names are none of ours."""
        return sorted(f for f in (self.path / FRAMES).glob("*.png") if re.fullmatch("[0-9]{6,}", f.stem))


def step_of(line: bytes) -> int | None:
    """The step of a line of the log; None if it cannot be read."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = record.get("step") if isinstance(record, dict) else None
    return step if type(step) is int else None
