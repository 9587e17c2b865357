"""nerfstudio's trainer, begun from a trained scene."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import writer

from cpds.config import require
from cpds.errors import InputError
from cpds.priors.load import resolve_device
from cpds.terminal import print_status
from nerf_plugin.base_run import RunStart, find_base, inherit_settings, require_same_cameras
from nerf_plugin.checkpoints import atomic_dir, checkpoints
from nerf_plugin.exits import exit_on_input_error
from nerf_plugin.optimizers import FiniteOptimizers
from nerf_plugin.presets import apply_preset


@dataclass
class CpdsTrainerConfig(TrainerConfig):
    """nerfstudio's, for a trainer that begins from a trained scene (load_dir).

    Settings of the model and of the dataset are the base scene's, unless given other than by default.
    """

    _target: type = field(default_factory=lambda: CpdsTrainer)

    def save_config(self) -> None:
        """ns-train does this first: a run that cannot be leaves nothing behind."""
        with exit_on_input_error():
            self.complete()
        super().save_config()

    def complete(self) -> None:
        """Check all settings, and take from the base scene what is its own. Raises InputError."""
        self.check()
        preset = getattr(self.pipeline, "preset", None)
        if preset is not None:
            apply_preset(self, preset)
        cast(Any, self.pipeline).check()
        run, resumed = find_base(self)
        if self.experiment_name == "unnamed":  # nerfstudio names a run by its data, which need not be given
            self.experiment_name = run.config.experiment_name
            run, resumed = find_base(self)
        inherit_settings(self, run)
        require(
            not resumed or self.pipeline == run.config.pipeline,
            f"{run.folder} holds a run with other settings: go on with it by load_config {run.folder}/config.yml, or "
            "give the new one another timestamp",
        )
        require_same_cameras(self, run)
        for group in self.optimizers.values():
            if group["scheduler"] is not None:
                group["scheduler"].max_steps = group["scheduler"].max_steps or self.max_num_iterations

    def check(self) -> None:
        """Raise InputError for settings of nerfstudio's that an edit cannot use."""
        devices = self.machine.num_devices * self.machine.num_machines
        require(devices == 1, f"an edit runs on one device, got {devices}: set machine.num_devices 1")
        scaled = self.mixed_precision or self.use_grad_scaler
        require(not scaled, "mixed_precision and use_grad_scaler scale gradients, an edit must not: leave them off")
        require(self.max_num_iterations >= 1, f"max_num_iterations must be >= 1, got {self.max_num_iterations}")
        try:
            resolve_device(self.machine.device_type)
        except InputError as err:
            raise InputError(
                f"machine.device_type {self.machine.device_type} is not usable here: give cpu, or cuda where it is"
            ) from err
        require(self.prompt is None, "prompt is not read: use pipeline.prompt and pipeline.target_prompt")


class CpdsTrainer(Trainer):
    """Begins from the scene in load_dir, with fresh optimizers; or goes on with a run that was interrupted.

    It goes on where its own folder holds checkpoints (`ns-train METHOD --load-config …/config.yml`).
    """

    config: CpdsTrainerConfig
    pipeline: Any

    def __init__(self, config: CpdsTrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        config.save_config()
        self.base_run, self.resumed = find_base(config)
        super().__init__(config, local_rank, world_size)

    def setup(self, test_mode: Any = "val") -> None:
        with exit_on_input_error():
            try:
                super().setup(test_mode)
            except Exception:
                remove_unused(self.base_dir)
                raise
        writer.GLOBAL_BUFFER["max_iter"] = self._start_step + self.config.max_num_iterations  # for the time left

    def setup_optimizers(self) -> FiniteOptimizers:
        return FiniteOptimizers(self.config.optimizers.copy(), self.pipeline.get_param_groups())

    def _load_checkpoint(self) -> None:
        """The scene's weights; when a run goes on, the optimizers' and the edit's state too."""
        with self.train_lock:  # the viewer is there already
            self.pipeline.setup(self._load())
            self.pipeline.prepare()

    def _load(self) -> RunStart:
        state = self.base_run.state()
        self._load_scene(state)
        self.optimizers = self.setup_optimizers()  # anew: splats get new parameters when they are loaded
        first = self._start_step = state["step"] + 1
        if self.resumed:
            self.optimizers.load_optimizers(state["optimizers"])
            self.optimizers.load_schedulers(state["schedulers"])
            first = self.pipeline.saved["first_step"]
            self.config.max_num_iterations += first - self._start_step
            require(
                self.config.max_num_iterations > 0,
                f"the run in {self.base_run.folder} has all its steps: begin another from it, by load_dir",
            )
        steps = self._start_step - first + self.config.max_num_iterations
        return RunStart(self.base_dir, self.base_run.checkpoint, self.resumed, first, steps, self.config.machine.seed)

    def _load_scene(self, state: dict[str, Any]) -> None:
        try:
            require_same_weights(self.pipeline.model, state["pipeline"])
            self.pipeline.load_pipeline(state["pipeline"], state["step"])
        except (RuntimeError, KeyError) as err:
            reason = str(err).strip("'\"").splitlines()[-1].strip()
            raise InputError(
                f"the scene in {self.base_run.checkpoint} does not fit pipeline.model ({reason}): leave its settings, "
                "and with them its implementation (tcnn or torch), as the base scene's"
            ) from err

    def train(self) -> None:
        with exit_on_input_error():
            try:
                super().train()
            except KeyboardInterrupt:
                if self.training_state == "completed":  # the viewer is left
                    return
                again = f"ns-train {self.config.method_name} --load-config {self.base_dir / 'config.yml'}"
                print_status(f"stopped after step {self.step}; go on from the last checkpoint with {again}")
                raise SystemExit(130) from None

    def save_checkpoint(self, step: int) -> None:
        """Complete or not at all: a run that is killed meanwhile keeps the one before."""
        folder = self.checkpoint_dir
        with atomic_dir(folder) as part:
            self.checkpoint_dir = part
            try:
                super().save_checkpoint(step)
            finally:
                self.checkpoint_dir = folder
        if self.config.save_only_latest_checkpoint:
            for number, file in checkpoints(folder).items():
                if number != step:
                    file.unlink()
            self.pipeline.forget_earlier()


def remove_unused(run: Path) -> None:
    """Remove a run's folder that holds its settings alone, and those of its method and experiment if empty."""
    if run.is_dir() and [f.name for f in run.iterdir()] == ["config.yml"]:
        (run / "config.yml").unlink()
        for folder in (run, *run.parents[:2]):
            with suppress(OSError):  # other runs lie there
                folder.rmdir()


def require_same_weights(model: torch.nn.Module, saved: dict[str, Any]) -> None:
    """Raise KeyError unless a checkpoint has the weights of `model`: nerfstudio skips names that it does not know."""
    theirs = {name.removeprefix("_model.").removeprefix("module.") for name in saved if name.startswith("_model.")}
    for name in sorted(model.state_dict().keys() ^ theirs):
        if name.split(".")[0] not in ("lpips", "psnr", "ssim"):
            raise KeyError(f"{name} is in one of them alone")
