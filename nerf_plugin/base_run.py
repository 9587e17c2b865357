"""The run that an edit begins from, or goes on with: its settings are taken over, and what must fit is checked.

All of it before the prior is loaded and before minutes are spent.
"""

from __future__ import annotations

import json
import math
from copy import deepcopy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import torch
from nerfstudio.configs.base_config import PrintableConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.trainer import TrainerConfig

from cpds.config import require
from cpds.errors import InputError
from nerf_plugin.checkpoints import SavedRun, checkpoints, open_run

OWN_FIELDS = ("_target", "prompt")  # of a model's settings, never the base scene's
CAMERA_TOLERANCE = 1e-4  # between the base scene's cameras and the dataset's, in the scene's units


@dataclass(frozen=True)
class RunStart:
    """Where and how a run begins."""

    folder: Path  # of the run
    checkpoint: Path  # with which it begins
    resumed: bool  # whether it goes on where it was interrupted
    first: int  # number of its first step, as nerfstudio counts
    steps: int
    seed: int


def find_base(config: TrainerConfig) -> tuple[SavedRun, bool]:
    """What a run starts from, and whether that is the run itself. Raises InputError."""
    if checkpoints(config.get_checkpoint_dir()):
        return open_run(config.get_base_dir()), True
    load_dir, step = config.load_dir, config.load_step
    if config.load_checkpoint is not None:
        number = config.load_checkpoint.stem.removeprefix("step-")
        require(number.isdecimal(), f"load_checkpoint {config.load_checkpoint} is not a step-….ckpt of ns-train")
        load_dir, step = config.load_checkpoint.parent, int(number)
    if load_dir is None:
        raise InputError("there is no scene to begin from: train one with ns-train and give its folder as load_dir")
    return open_run(load_dir, step), False


def inherit_settings(config: Any, run: SavedRun) -> None:
    """Settings of the model and the dataset from `run` where they were not given. Raises InputError."""
    ours, theirs = config.pipeline, cast(Any, run.config.pipeline)
    needed = next(c for c in type(ours.model).__mro__ if c.__module__.startswith("nerfstudio.models"))
    require(
        isinstance(theirs.model, needed),
        f"the scene in {run.folder} was trained by {run.config.method_name}, but {config.method_name} edits those of "
        f"{needed.__name__.removesuffix('ModelConfig').lower()}: choose the method that fits it",
    )
    ours.model = merge_settings(ours.model, theirs.model)
    require(
        not getattr(ours.model, "use_bilateral_grid", False),
        f"the scene in {run.folder} has a bilateral grid, so that colors differ between views: train it again with "
        "pipeline.model.use_bilateral_grid False",
    )
    given, default = ours.datamanager.dataparser, type(ours.datamanager.dataparser)()
    data = ours.datamanager.data or (given.data if given.data != default.data else None)
    data = data or theirs.datamanager.data or theirs.datamanager.dataparser.data
    theirs = theirs.datamanager.dataparser
    same = type(given) is type(theirs)
    require(
        same or type(given) is NerfstudioDataParserConfig,  # which stands there when nothing was chosen
        f"the scene in {run.folder} was trained with another dataparser: leave {type(given).__name__} out",
    )
    ours.datamanager.dataparser = merge_settings(given, theirs) if same else deepcopy(theirs)
    if data is None or not Path(data).exists():
        raise InputError(f"dataset {data} does not exist: give the base scene's as data")
    ours.datamanager.data = ours.datamanager.dataparser.data = Path(data)


def merge_settings(given: Any, base: PrintableConfig) -> Any:
    """`given`'s kind of settings with `base`'s values, but for those that `given` has other than by default."""
    default = type(given)()
    names = [f.name for f in fields(given) if f.name not in OWN_FIELDS]
    changed = {n: getattr(given, n) for n in names if getattr(given, n) != getattr(default, n)}
    return type(given)(**{n: getattr(base, n) for n in names if hasattr(base, n)} | changed)


def require_same_cameras(config: Any, run: SavedRun) -> None:
    """Raise InputError unless the dataset can be read and has the cameras that the scene was trained on."""
    ours, theirs = config.pipeline.datamanager, cast(Any, run.config.pipeline).datamanager
    views, error = parse_dataset(ours.dataparser, ours.data), 0.0
    file = run.folder / "dataparser_transforms.json"
    if file.is_file():
        try:
            then = json.loads(file.read_text())
            difference = torch.tensor(then["transform"]) - views.dataparser_transform
            error = max(float(difference.abs().max()), abs(then["scale"] / float(views.dataparser_scale) - 1))
        except (ValueError, KeyError, TypeError, RuntimeError) as err:
            raise InputError(f"{file} cannot be read ({err}): train the scene again") from err
    data = Path(theirs.data or theirs.dataparser.data)
    if data.exists() and data.resolve() != ours.data.resolve():
        error = max(error, camera_difference(parse_dataset(theirs.dataparser, data).cameras, views.cameras))
    require(
        error < CAMERA_TOLERANCE,
        f"the cameras of dataset {ours.data} are not those that the scene in {run.folder} was trained on (other views, "
        "axes or scale): give its own as data",
    )


def camera_difference(a: Any, b: Any) -> float:
    """The largest difference between numbers of two lists of cameras; infinite for lists of different lengths."""
    if len(a) != len(b):
        return math.inf
    names = ("camera_to_worlds", "fx", "fy", "cx", "cy")
    return max(float((getattr(a, name) - getattr(b, name)).abs().max()) for name in names)


def parse_dataset(parser: Any, data: Path) -> Any:
    """The training views of a dataset. Raises InputError where it cannot be read."""
    parser = deepcopy(parser)
    parser.data = data
    try:
        return parser.setup().get_dataparser_outputs(split="train")
    except (AssertionError, OSError, KeyError, IndexError, ValueError, RuntimeError) as err:
        raise InputError(f"dataset {data} cannot be used ({str(err) or type(err).__name__}): check data") from err
