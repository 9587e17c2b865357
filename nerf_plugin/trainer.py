"""nerfstudio's trainer, begun from a trained scene: what must fit is checked before minutes are spent."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import torch
from nerfstudio.configs.base_config import PrintableConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import writer

from cpds.config import require
from cpds.errors import InputError
from cpds.priors.load import resolve_device
from nerf_plugin.checkpoints import SavedRun, checkpoints, open_run, whole
from nerf_plugin.optimizers import FiniteOptimizers
from nerf_plugin.presets import apply_preset

LESS_MEMORY = (
    "out of memory: lower --pipeline.resolution or, for nerfacto's scenes, --pipeline.rays-per-chunk (when refining "
    "--pipeline.datamanager.train-num-rays-per-batch); take the prior in half precision (--pipeline.torch-dtype fp16) "
    "or on another device (--pipeline.guidance-device)"
)
LEAVE = ("_target", "prompt")
TOLERANCE = 1e-4  # between the base scene's axes and the dataset's


@dataclass(frozen=True)
class Start:
    """Where and how a run begins."""

    folder: Path  # of the run
    checkpoint: Path  # with which it begins
    resumed: bool  # whether it goes on where it was interrupted
    first: int  # number of its first step, as nerfstudio counts
    steps: int
    seed: int


@contextmanager
def in_one_sentence() -> Iterator[None]:
    """InputError, or too little memory, ends the command with a sentence and exit code 2."""
    try:
        yield
    except (InputError, MemoryError, RuntimeError) as err:
        full = isinstance(err, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(err)  # the CPU's words
        if not full and not isinstance(err, InputError):
            raise
        print(f"ns-train: error: {LESS_MEMORY if full else err}", file=sys.stderr)
        raise SystemExit(2) from err


@dataclass
class CpdsTrainerConfig(TrainerConfig):
    """nerfstudio's, for a trainer that begins from a trained scene (--load-dir).

    Settings of the model and of the dataset are the base scene's, unless given other than by default.
    """

    _target: type = field(default_factory=lambda: CpdsTrainer)

    def save_config(self) -> None:
        """ns-train does this first: a run that cannot be leaves nothing behind."""
        with in_one_sentence():
            self.complete()
        super().save_config()

    def complete(self) -> None:
        """Check all settings, and take from the base scene what is its own. Raises InputError."""
        devices = self.machine.num_devices * self.machine.num_machines
        require(devices == 1, f"an edit runs on one device, got {devices}: set --machine.num-devices 1")
        scaled = self.mixed_precision or self.use_grad_scaler
        require(not scaled, "mixed_precision and use_grad_scaler scale gradients, an edit must not: leave them off")
        require(self.max_num_iterations >= 1, f"max_num_iterations must be >= 1, got {self.max_num_iterations}")
        try:
            resolve_device(self.machine.device_type)
        except InputError as err:
            raise InputError(
                f"--machine.device-type {self.machine.device_type} is not usable here: pass cpu, or cuda where it is"
            ) from err
        require(self.prompt is None, "--prompt is not read: use --pipeline.prompt and --pipeline.trg-prompt")
        preset = getattr(self.pipeline, "preset", None)
        if preset is not None:
            apply_preset(self, preset)
        cast(Any, self.pipeline).check()
        run, resumed = origin(self)
        if self.experiment_name == "unnamed":  # nerfstudio names a run by --data, which need not be given
            self.experiment_name = run.config.experiment_name
            run, resumed = origin(self)
        adopt(self, run)
        require(
            not resumed or self.pipeline == run.config.pipeline,
            f"{run.folder} holds a run with other settings: go on with it by --load-config {run.folder}/config.yml, or "
            "give the new one another --timestamp",
        )
        same_views(self, run)
        for group in self.optimizers.values():
            if group["scheduler"] is not None:
                group["scheduler"].max_steps = group["scheduler"].max_steps or self.max_num_iterations


class CpdsTrainer(Trainer):
    """Begins from the scene in --load-dir, with fresh optimizers; or goes on with a run that was interrupted.

    It goes on where its own folder holds checkpoints (`--load-config …/config.yml`).
    """

    config: CpdsTrainerConfig
    pipeline: Any

    def __init__(self, config: CpdsTrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        config.save_config()
        self.origin, self.resumed = origin(config)
        super().__init__(config, local_rank, world_size)

    def setup(self, test_mode: Any = "val") -> None:
        with in_one_sentence():
            try:
                super().setup(test_mode)
            except Exception:
                forget(self.base_dir)
                raise
        writer.GLOBAL_BUFFER["max_iter"] = self._start_step + self.config.max_num_iterations  # for the time left

    def setup_optimizers(self) -> FiniteOptimizers:
        return FiniteOptimizers(self.config.optimizers.copy(), self.pipeline.get_param_groups())

    def _load_checkpoint(self) -> None:
        """The scene's weights; when a run goes on, the optimizers' and the edit's state too."""
        with self.train_lock:  # the viewer is there already
            self._load()

    def _load(self) -> None:
        state = self.origin.state()
        try:
            same_names(self.pipeline.model, state["pipeline"])
            self.pipeline.load_pipeline(state["pipeline"], state["step"])
        except (RuntimeError, KeyError) as err:
            why = str(err).strip("'\"").splitlines()[-1].strip()
            raise InputError(
                f"the scene in {self.origin.checkpoint} does not fit --pipeline.model ({why}): leave its settings, and "
                "with them its implementation (tcnn or torch), as the base scene's"
            ) from err
        self.optimizers = self.setup_optimizers()  # anew: splats get new parameters when they are loaded
        first = self._start_step = state["step"] + 1
        if self.resumed:
            self.optimizers.load_optimizers(state["optimizers"])
            self.optimizers.load_schedulers(state["schedulers"])
            first = self.pipeline.saved["first_step"]
            self.config.max_num_iterations += first - self._start_step
            require(
                self.config.max_num_iterations > 0,
                f"the run in {self.origin.folder} has all its steps: begin another from it, with --load-dir",
            )
        steps = self._start_step - first + self.config.max_num_iterations
        self.pipeline.begin(
            Start(self.base_dir, self.origin.checkpoint, self.resumed, first, steps, self.config.machine.seed)
        )
        self.pipeline.prepare()

    def train(self) -> None:
        with in_one_sentence():
            try:
                super().train()
            except KeyboardInterrupt:
                if self.training_state == "completed":  # the viewer is left
                    return
                again = f"ns-train {self.config.method_name} --load-config {self.base_dir / 'config.yml'}"
                print(f"\nStopped after step {self.step}; go on from the last checkpoint with {again}", file=sys.stderr)
                raise SystemExit(130) from None

    def save_checkpoint(self, step: int) -> None:
        """Whole or not at all: a run that is killed meanwhile keeps the one before."""
        place = self.checkpoint_dir
        with whole(place) as part:
            self.checkpoint_dir = part
            try:
                super().save_checkpoint(step)
            finally:
                self.checkpoint_dir = place
        if self.config.save_only_latest_checkpoint:
            for number, file in checkpoints(place).items():
                if number != step:
                    file.unlink()


def forget(run: Path) -> None:
    """Take away a run's folder that holds its settings alone, and those of its method and experiment if empty."""
    if run.is_dir() and [f.name for f in run.iterdir()] == ["config.yml"]:
        (run / "config.yml").unlink()
        for folder in (run, *run.parents[:2]):
            with suppress(OSError):  # other runs lie there
                folder.rmdir()


def same_names(model: torch.nn.Module, saved: dict[str, Any]) -> None:
    """Raise KeyError unless a checkpoint has the weights of `model`: nerfstudio skips names that it does not know."""
    theirs = {name.removeprefix("_model.").removeprefix("module.") for name in saved if name.startswith("_model.")}
    for name in sorted(model.state_dict().keys() ^ theirs):
        if name.split(".")[0] not in ("lpips", "psnr", "ssim"):
            raise KeyError(f"{name} is in one of them alone")


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
    return open_run(given, step), False


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
        not getattr(ours.model, "use_bilateral_grid", False),
        f"the scene in {run.folder} has a bilateral grid, so that colours differ between views: train it again with "
        "--pipeline.model.use-bilateral-grid False",
    )
    given, plain = ours.datamanager.dataparser, type(ours.datamanager.dataparser)()
    data = ours.datamanager.data or (given.data if given.data != plain.data else None)
    data = data or theirs.datamanager.data or theirs.datamanager.dataparser.data
    theirs = theirs.datamanager.dataparser
    same = type(given) is type(theirs)
    require(
        same or type(given) is NerfstudioDataParserConfig,  # which stands there when nothing was chosen
        f"the scene in {run.folder} was trained with another dataparser: leave {type(given).__name__} out",
    )
    ours.datamanager.dataparser = merged(given, theirs) if same else deepcopy(theirs)
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
    """Raise InputError unless the dataset can be read and has the cameras that the scene was trained on."""
    ours, theirs = config.pipeline.datamanager, cast(Any, run.config.pipeline).datamanager
    views, apart = parsed(ours.dataparser, ours.data), 0.0
    file = run.folder / "dataparser_transforms.json"
    if file.is_file():
        try:
            then = json.loads(file.read_text())
            turned = torch.tensor(then["transform"]) - views.dataparser_transform
            apart = max(float(turned.abs().max()), abs(then["scale"] / float(views.dataparser_scale) - 1))
        except (ValueError, KeyError, TypeError, RuntimeError) as err:
            raise InputError(f"{file} cannot be read ({err}): train the scene again") from err
    data = Path(theirs.data or theirs.dataparser.data)
    if data.exists() and data.resolve() != ours.data.resolve():
        before, now = parsed(theirs.dataparser, data).cameras, views.cameras
        same = len(before) == len(now)
        kinds = ("camera_to_worlds", "fx", "fy", "cx", "cy")
        gaps = [float((getattr(before, k) - getattr(now, k)).abs().max()) for k in kinds] if same else [math.inf]
        apart = max(apart, *gaps)
    require(
        apart < TOLERANCE,
        f"the cameras of dataset {ours.data} are not those that the scene in {run.folder} was trained on (other views, "
        "axes or scale): pass its own --data",
    )


def parsed(parser: Any, data: Path) -> Any:
    """The training views of a dataset. Raises InputError where it cannot be read."""
    parser = deepcopy(parser)
    parser.data = data
    try:
        return parser.setup().get_dataparser_outputs(split="train")
    except (AssertionError, OSError, KeyError, IndexError, ValueError, RuntimeError) as err:
        raise InputError(f"dataset {data} cannot be used ({str(err) or type(err).__name__}): check --data") from err
