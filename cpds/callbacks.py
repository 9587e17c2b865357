"""What happens beside the maths while an edit runs: progress, log, trajectory, checkpoints, stopping."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from cpds.errors import InputError
from cpds.guidance import StepResult
from cpds.images import gif, png, side_by_side, to_pil
from cpds.representation import Exportable
from cpds.runs import COMPARISON, EXPORT, FRAMES, GIF, RESULT, RunFolder
from cpds.state import EditState, preview_of
from cpds.terminal import warn
from cpds.types import Images


class ProgressBar:
    """Steps, rate, time left and losses on standard error."""

    started_at: int | None = None  # step

    def started(self, state: EditState) -> None:
        self.started_at = state.step
        self.bar = tqdm(total=state.config.num_inference_steps, initial=state.step, unit="step", dynamic_ncols=True)

    def stepped(self, state: EditState, result: StepResult) -> None:
        shown = {k: f"{v:.3g}" for k, v in result.metrics.items() if k in ("direction", "cut", "selector_loss")}
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update()

    def led(self, state: EditState) -> None:
        assert state.lead is not None
        self.bar.set_postfix_str(f"image to follow: step {state.lead.step} of {state.lead.config.num_inference_steps}")

    def finished(self, state: EditState) -> None:
        self.close()

    def close(self) -> None:
        if hasattr(self, "bar"):
            self.bar.close()


class MetricsLog:
    """One JSON line a step: losses and metrics."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    def started(self, state: EditState) -> None:
        self.run.cut_metrics(state.step)

    def stepped(self, state: EditState, result: StepResult) -> None:
        losses = {f"loss_{k}": float(v.detach()) for k, v in result.losses.items()}
        self.run.log({"step": state.step, **losses, **result.metrics})

    def finished(self, state: EditState) -> None:
        pass


class ImageOutputs:
    """About `frames` images of the trajectory, and at the end result, comparison with the source, and animation."""

    def __init__(self, run: RunFolder, source: Image.Image, frames: int = 24) -> None:
        self.run, self.source, self.frames = run, source, frames
        self._latest: tuple[tuple[int, bool], Images] | None = None  # step, whether it is polished, and preview

    def started(self, state: EditState) -> None:
        for frame in self.run.frames():
            if int(frame.stem) > state.step:
                frame.unlink()

    def stepped(self, state: EditState, result: StepResult) -> None:
        if state.step % max(1, state.config.num_inference_steps // self.frames) == 0:
            self.run.write(f"{FRAMES}/{state.step:06d}.png", png(to_pil(self._preview(state))))

    def finished(self, state: EditState) -> None:
        edited = self._preview(state)
        result = to_pil(edited)
        trajectory = [frame for file in self.run.frames() if (frame := self._frame(file, result.size))]
        self.run.write(GIF, gif([self.source, *trajectory, result]))
        self.run.write(COMPARISON, png(side_by_side([self.source, result])))
        encode = getattr(state.representation, "png", lambda edited: png(to_pil(edited)))  # as the source file was
        self.run.write(RESULT, encode(edited))  # last: without it the run is not finished

    def _preview(self, state: EditState) -> Images:
        """Computed once for the last frame and the result, unless they differ by the polish."""
        now = state.step, bool(state.unpolished)
        if self._latest is None or self._latest[0] != now:
            self._latest = now, preview_of(state)
        return self._latest[1]

    def _frame(self, file: Path, size: tuple[int, int]) -> Image.Image | None:
        """A frame of the trajectory; None, with a warning, if it was damaged since."""
        try:
            with Image.open(file) as frame:
                if frame.size == size:
                    return frame.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            pass
        warn(f"{file} is damaged: it is left out of {GIF}")
        return None


class Checkpoints:
    """The state every `every` steps, and whenever asked."""

    def __init__(self, run: RunFolder, every: int = 10) -> None:
        self.run, self.every = run, every

    def started(self, state: EditState) -> None:
        self.save(state)

    def stepped(self, state: EditState, result: StepResult) -> None:
        if state.step % self.every == 0:
            self.save(state)

    def led(self, state: EditState) -> None:
        if state.lead is not None and state.lead.step % self.every == 0:
            self.save(state)

    def finished(self, state: EditState) -> None:
        self.save(state)

    def save(self, state: EditState) -> None:
        self.run.save_checkpoint(state.tensors())


class Exports:
    """What is edited in its own file format: every `every` steps (0: never), and at the end."""

    def __init__(self, run: RunFolder, edited: Exportable, every: int = 0) -> None:
        self.run, self.edited, self.suffix, self.every = run, edited, edited.suffix, every

    def started(self, state: EditState) -> None:
        for file in (self.run.path / self.suffix).glob(f"*.{self.suffix}"):
            if file.stem.isdecimal() and int(file.stem) > state.step:  # of steps that will be made again
                file.unlink()

    def stepped(self, state: EditState, result: StepResult) -> None:
        if self.every and state.step % self.every == 0:
            self.run.write(f"{self.suffix}/{state.step:06d}.{self.suffix}", self._exported())

    def finished(self, state: EditState) -> None:
        self.run.write(f"{EXPORT}.{self.suffix}", self._exported())

    def _exported(self) -> bytes:
        data = self.edited.export()
        if not isinstance(data, bytes):
            raise InputError(f"export gave a {type(data).__name__}: it must give the bytes of a .{self.suffix} file")
        return data


class StopBetweenSteps:
    """Turns Ctrl-C, and the SIGTERM of batch schedulers, into a KeyboardInterrupt between two steps, when the state is
    whole. After a Ctrl-C the next one acts at once, as it would have without this. `wanted` is asked after each step,
    too: a program's threads get no signals."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, wanted: Callable[[], bool] | None = None) -> None:
        self.wanted = wanted
        self.asked = 0  # the number of the signal
        self.stopped = False  # between two steps, that is
        self.before: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """As a shell has it for a command that a signal ended: 130 for Ctrl-C, 143 for SIGTERM; 0 without one."""
        return 128 + self.asked if self.asked else 0

    def started(self, state: EditState) -> None:
        self.attend()

    def attend(self) -> None:
        """Hear of signals from now on, until `restore`."""
        if threading.current_thread() is threading.main_thread():
            self.before = {which: signal.signal(which, self._ask) for which in self.SIGNALS}

    def _ask(self, which: int, _: object) -> None:
        self.asked = self.asked or which
        if which == signal.SIGINT:  # a scheduler may send SIGTERM more than once
            self.restore()

    def restore(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for which, handler in self.before.items():
                signal.signal(which, signal.SIG_DFL if handler is None else handler)
            self.before = {}

    def stepped(self, state: EditState, result: StepResult) -> None:
        self.led(state)

    def led(self, state: EditState) -> None:
        if self.asked or (self.wanted is not None and self.wanted()):
            self.stopped = True
            raise KeyboardInterrupt

    def finished(self, state: EditState) -> None:
        self.restore()
