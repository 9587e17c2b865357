"""nerfstudio's trainer, begun from a trained scene: what must fit is checked before minutes are spent."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import torch
from nerfstudio.configs.base_config import PrintableConfig
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import writer

from cpds.config import require
from cpds.errors import InputError
from nerf_plugin.checkpoints import SavedRun, checkpoints, open_run, whole

LEAVE = ("_target", "prompt")
TOLERANCE = 1e-4  # between the base scene's axes and the dataset's


@dataclass
class CpdsTrainerConfig(TrainerConfig):
    """nerfstudio's, for a trainer that begins from a trained scene (--load-dir)."""

    _target: type = field(default_factory=lambda: CpdsTrainer)


@dataclass(frozen=True)
class Start:
    """Where and how a run begins."""

    folder: Path  # of the run
    earlier: Path | None  # of the interrupted run that it goes on with, which may be the same
    first: int  # number of its first step, as nerfstudio counts
    steps: int
    seed: int


@contextmanager
def in_one_sentence() -> Iterator[None]:
    """InputError ends the command with its sentence and exit code 2."""
    try:
        yield
    except InputError as err:
        print(f"ns-train: error: {err}", file=sys.stderr)
        raise SystemExit(2) from err


class CpdsTrainer(Trainer):
    """Begins from the scene in --load-dir, with fresh optimisers; or goes on with a run that was interrupted.

    A run is gone on with if its own folder holds checkpoints (`--load-config …/config.yml`), or if --load-dir is of a
    run of the same method. Settings of the model and of the dataset are the base scene's unless given.
    """

    config: CpdsTrainerConfig
    pipeline: Any

    def __init__(self, config: CpdsTrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        with in_one_sentence():
            require(world_size == 1, f"an edit runs on one device, got {world_size}: set --machine.num-devices 1")
            require(not config.mixed_precision, "mixed_precision scales gradients, an edit must not: leave it off")
            require(config.prompt is None, "--prompt is not read: use --pipeline.prompt and --pipeline.trg-prompt")
            cast(Any, config.pipeline).check()
            self.origin, self.resumed = origin(config)
            adopt(config, self.origin)
            same_views(config, self.origin)
            for group in config.optimizers.values():
                if group["scheduler"] is not None:
                    group["scheduler"].max_steps = config.max_num_iterations
        if config.experiment_name == "unnamed":  # nerfstudio names a run by --data, which need not be given
            with suppress(OSError):
                (config.get_base_dir() / "config.yml").unlink()
                config.get_base_dir().rmdir()
            config.experiment_name = self.origin.config.experiment_name
        config.save_config()
        super().__init__(config, local_rank, world_size)

    def setup(self, test_mode: Any = "val") -> None:
        with in_one_sentence():
            super().setup(test_mode)
        writer.GLOBAL_BUFFER["max_iter"] = self._start_step + self.config.max_num_iterations  # for the time left

    def _load_checkpoint(self) -> None:
        """The scene's weights; when a run goes on, the optimisers' and the edit's state too."""
        state = self.origin.state()
        try:
            self.pipeline.load_pipeline(state["pipeline"], state["step"])
        except (RuntimeError, KeyError) as err:
            why = str(err).splitlines()[-1].strip()
            raise InputError(
                f"the scene in {self.origin.checkpoint} does not fit --pipeline.model ({why}): leave its settings at "
                "the base scene's"
            ) from err
        self.optimizers = self.setup_optimizers()  # anew: splats get new parameters when they are loaded
        first = self._start_step = state["step"] + 1
        if self.resumed:
            self.optimizers.load_optimizers(state["optimizers"])
            self.optimizers.load_schedulers(state["schedulers"])
            first = self.pipeline.first_step
            self.config.max_num_iterations += first - self._start_step
            require(
                self.config.max_num_iterations > 0,
                f"the run in {self.origin.folder} has all its steps: raise --max-num-iterations",
            )
        steps = self._start_step - first + self.config.max_num_iterations
        earlier = self.origin.folder if self.resumed else None
        self.pipeline.begin(Start(self.base_dir, earlier, first, steps, self.config.machine.seed))

    def train(self) -> None:
        with in_one_sentence():
            try:
                super().train()
            except KeyboardInterrupt:
                again = f"ns-train {self.config.method_name} --load-config {self.base_dir / 'config.yml'}"
                print(f"\nStopped after step {self.step}; go on from the last checkpoint with {again}", file=sys.stderr)
                raise SystemExit(130) from None

    def train_iteration(self, step: int) -> Any:
        try:
            return super().train_iteration(step)
        except (MemoryError, RuntimeError) as err:
            known = isinstance(err, MemoryError | torch.OutOfMemoryError)
            if not known and "allocate memory" not in str(err):  # what the CPU's allocator says
                raise
            raise InputError(
                f"out of memory at step {step}: lower --pipeline.rays-per-chunk or --pipeline.resolution, take the "
                "prior in half precision (--pipeline.torch-dtype fp16), or on another --pipeline.guidance-device"
            ) from err

    def save_checkpoint(self, step: int) -> None:
        """Whole or not at all: a run that is killed meanwhile keeps the one before."""
        place, keep = self.checkpoint_dir, not self.config.save_only_latest_checkpoint
        with whole(place) as part:
            self.checkpoint_dir = part
            try:
                super().save_checkpoint(step)
            finally:
                self.checkpoint_dir = place
        for number, file in checkpoints(place).items():
            if number != step and not keep:
                file.unlink()


def origin(config: TrainerConfig) -> tuple[SavedRun, bool]:
    """What a run starts from, and whether that is the run itself. Raises InputError."""
    if checkpoints(config.get_checkpoint_dir()):
        return open_run(config.get_base_dir()), True
    given, step = config.load_dir, config.load_step
    if config.load_checkpoint is not None:
        number = config.load_checkpoint.stem.removeprefix("step-")
        require(number.isdecimal(), f"--load-checkpoint {config.load_checkpoint} is not a step-….ckpt of ns-train")
        given, step = config.load_checkpoint.parent, int(number)
    if given is None:
        raise InputError("there is no scene to begin from: train one with ns-train and pass its folder as --load-dir")
    found = open_run(given, step)
    return found, found.config.method_name == config.method_name


def adopt(config: Any, run: SavedRun) -> None:
    """Settings of the model and the dataset from `run` where they were not given. Raises InputError."""
    ours, theirs = config.pipeline, cast(Any, run.config.pipeline)
    needed = next(c for c in type(ours.model).__mro__ if c.__module__.startswith("nerfstudio.models"))
    require(
        isinstance(theirs.model, needed),
        f"the scene in {run.folder} was trained by {run.config.method_name}, but {config.method_name} edits those of "
        f"{needed.__name__.removesuffix('ModelConfig').lower()}: choose the method that fits it",
    )
    ours.model = merged(ours.model, theirs.model)
    require(
        not getattr(ours.model, "use_appearance_embedding", False),
        f"the scene in {run.folder} has an appearance embedding, so that its colours differ from view to view: train "
        "it again with --pipeline.model.use-appearance-embedding False",
    )
    data = ours.datamanager.data or theirs.datamanager.data or theirs.datamanager.dataparser.data
    if type(ours.datamanager.dataparser) is type(theirs.datamanager.dataparser):
        ours.datamanager.dataparser = merged(ours.datamanager.dataparser, theirs.datamanager.dataparser)
    else:
        ours.datamanager.dataparser = theirs.datamanager.dataparser
    if data is None or not Path(data).exists():
        raise InputError(f"dataset {data} does not exist: pass the base scene's as --data")
    ours.datamanager.data = ours.datamanager.dataparser.data = Path(data)


def merged(given: Any, base: PrintableConfig) -> Any:
    """`given`'s kind of settings with `base`'s values, but for those that `given` has other than by default."""
    plain = type(given)()
    names = [f.name for f in fields(given) if f.name not in LEAVE]
    own = {n: getattr(given, n) for n in names if getattr(given, n) != getattr(plain, n)}
    return type(given)(**{n: getattr(base, n) for n in names if hasattr(base, n)} | own)


def same_views(config: Any, run: SavedRun) -> None:
    """Raise InputError unless the dataset can be read and lies in the axes that the scene was trained in."""
    data, parser = config.pipeline.datamanager.data, config.pipeline.datamanager.dataparser
    try:
        views = parser.setup().get_dataparser_outputs(split="train")
    except (AssertionError, OSError, KeyError, IndexError, ValueError, RuntimeError) as err:
        raise InputError(f"dataset {data} cannot be used ({str(err) or type(err).__name__}): check --data") from err
    file = run.folder / "dataparser_transforms.json"
    if not file.is_file():
        return
    then = json.loads(file.read_text())
    turned = float((torch.tensor(then["transform"]) - views.dataparser_transform).abs().max())
    stretched = abs(then["scale"] / float(views.dataparser_scale) - 1)
    require(
        max(turned, stretched) < TOLERANCE,
        f"the dataset {data} lies in other axes, or at another scale, than the scene in {run.folder}: pass the --data "
        "that it was trained on",
    )
