"""One edit of the page: what `cpds image`, `cpds svg` or `cpds splats` would do, in a run folder of the visitor's."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cpds.apps.batch.columns import COMMANDS
from cpds.apps.batch.edits import opened
from cpds.apps.batch.rows import Row
from cpds.apps.web.form import settings_of
from cpds.apps.web.visitors import Visitor
from cpds.apps.web.workers import Job
from cpds.presets import PRESETS
from cpds.stored import request, stored

if TYPE_CHECKING:
    from cpds.guidance import StepResult
    from cpds.priors.base import Prior
    from cpds.state import EditState

BEFORE, SETTINGS, TURNING, SHEET = "before.png", "settings.json", "turning.gif", "sheet.png"
FRAMES = 24  # of a run's trajectory


class Progress:
    """Tells the page how far a job is, the steps of an image that is followed among its own."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def started(self, state: "EditState") -> None:
        self.led(state)

    def stepped(self, state: "EditState", result: "StepResult") -> None:
        self.led(state)

    def led(self, state: "EditState") -> None:
        self.job.step = sum(part.step for part in state.parts)
        self.job.steps = sum(part.config.num_inference_steps for part in state.parts)

    def finished(self, state: "EditState") -> None:
        if state.step < state.config.num_inference_steps:
            told = settled(state.step, state.config.num_inference_steps)
            self.job.note = "; ".join(filter(None, [self.job.note, told]))


def settled(step: int, steps: int) -> str:
    """In words, for an edit that ended before its last step."""
    return f"settled after step {step} of {steps}"


def edit_job(job: Job, prior: "Prior") -> None:
    """Do a job, from its beginning or its last checkpoint; its uploads are removed when it is done.

    Raises EditStopped for a job that was stopped, and whatever the edit raises.
    """
    from cpds.images import png, to_pil
    from cpds.runs import write_atomic
    from cpds.session import RunOptions, edit_in_folder
    from cpds.unused import unused_notes

    row, visitor = job.row, Visitor(job.visitor)
    shown, notes, suffix = opened(row, prior)
    job.note = "; ".join([*notes, *unused_notes(row.args.edit, PRESETS[row.args.preset], prior.guidance)])
    before = to_pil(shown.image if row.command == "image" else shown.preview())
    job.folder.mkdir(parents=True, exist_ok=True)
    write_atomic(job.folder / BEFORE, png(before))
    write_atomic(job.folder / SETTINGS, json.dumps(settings_of(row), indent=2).encode())
    edit_in_folder(
        shown,
        prior,
        row.args.prompt + suffix,
        row.target_prompt + suffix,
        job.folder,
        row.args.edit,
        resume=job.resume,
        source=before,
        callbacks=[Progress(job)],
        options=RunOptions(frames=FRAMES, stop=job.stopping.is_set),
        request=request(row.command, row.args),
    )
    if row.command == "splats":
        from cpds.apps.web.turntable import turntable

        write_atomic(job.folder / TURNING, turntable(job.folder / "result.ply", row.args, prior))
    visitor.forget_inputs(job.folder.name)


class Run(NamedTuple):
    """A run folder, as a page shows it."""

    folder: Path
    command: str
    prompt: str
    target_prompt: str
    seed: int
    steps: int
    step: int  # how many are done
    finished: bool

    @property
    def image(self) -> Path:
        """What it looks like by now: its result, else the last image of its trajectory, else its source."""
        return latest_image(self.folder)

    @property
    def title(self) -> str:
        """In a line."""
        rest = f", stopped at step {self.step} of {self.steps}"
        if self.finished:
            rest = f", {settled(self.step, self.steps)}" if self.step < self.steps else ""
        return f"{self.target_prompt} (seed {self.seed}{rest})"


def latest_image(folder: Path) -> Path:
    """A run's result, else the last image of its trajectory, else its source."""
    from cpds.runs import RESULT, RunFolder

    if (folder / RESULT).is_file():
        return folder / RESULT
    return next(iter(reversed(RunFolder(folder).frames())), folder / BEFORE)


def run_in(folder: Path) -> Run | None:
    """The run in a folder; None where none was begun, or it cannot be read."""
    from cpds.errors import InputError
    from cpds.runs import METRICS, RunFolder, step_of
    from cpds.stored import CONFIG, read_object

    try:
        found = read_object(folder / CONFIG)
        steps, seed = found["edit"]["num_inference_steps"], found["edit"]["seed"]
        lines = (folder / METRICS).read_bytes().splitlines() if (folder / METRICS).is_file() else []
        step = max((at for at in map(step_of, lines[-1:]) if at is not None), default=0)
        finished = RunFolder(folder).finished_steps == steps
        return Run(folder, found["command"], found["prompt"], found["target_prompt"], seed, steps, step, finished)
    except (InputError, OSError, KeyError, TypeError):
        return None


def runs_of(visitor: Visitor, command: str) -> list[Run]:
    """A visitor's runs of a kind, the newest first."""
    folders = sorted(visitor.runs.glob("*"), reverse=True)
    return [run for folder in folders if (run := run_in(folder)) is not None and run.command == command]


def files_of(run: Run) -> list[Path]:
    """What a run leaves for people."""
    from cpds.runs import EXPORT, FORMATS, GIF, RESULT

    names = [*(f"{EXPORT}.{form}" for form in FORMATS), RESULT, GIF, TURNING, SETTINGS, SHEET]
    return [run.folder / name for name in names if (run.folder / name).is_file()]


def row_in(run: Run) -> Row:
    """The row of a run that goes on. InputError where its files are gone."""
    command = COMMANDS[run.command]
    args: Any = stored(run.folder, run.command, command.args).args
    return Row(1, "web", run.command, args, "web")


def keep_sheet(runs: Sequence[Run]) -> None:
    """Keep source and results of variants side by side, with the first of them; nothing for fewer than two."""
    from PIL import Image

    from cpds.images import png, side_by_side
    from cpds.runs import write_atomic

    if len(runs) >= 2:
        images = [Image.open(file).convert("RGB") for file in (runs[0].folder / BEFORE, *(run.image for run in runs))]
        sheet = side_by_side([image.resize(images[0].size) for image in images])
        write_atomic(runs[0].folder / SHEET, png(sheet))
