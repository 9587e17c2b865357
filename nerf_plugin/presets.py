"""Settings by name for the methods that edit: those of cpds.presets, and learning rates in nerfstudio's units."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from typing import Any

from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig

from cpds.config import EditConfig, GuidanceConfig, require
from cpds.presets import METHODS, PRESETS

LearningRates = Mapping[str, tuple[float, float | None]]  # first and last of each group of parameters

FIELD_RATES: LearningRates = {"proposal_networks": (3e-3, 3e-4), "fields": (3e-3, 3e-4)}
FIELD_TRAINING_RATES: LearningRates = {  # nerfstudio's for nerfacto
    "proposal_networks": (1e-2, 1e-4),
    "fields": (1e-2, 1e-4),
    "camera_opt": (1e-3, 1e-4),
}
SPLAT_RATES: LearningRates = {  # those of `cpds splats`, for cameras within 1 of the origin, as nerfstudio places them
    "means": (5e-4, 2.5e-5),
    "features_dc": (0.04, 2e-3),
    "features_rest": (2e-3, 1e-4),
    "opacities": (0.02, 1e-3),
    "scales": (3e-3, 1.5e-4),
    "quats": (1.5e-3, 7.5e-5),
}
SPLAT_TRAINING_RATES: LearningRates = {  # 3DGS (Kerbl 2023) as splatfacto has them
    "means": (1.6e-4, 1.6e-6),
    "features_dc": (2.5e-3, None),
    "features_rest": (1.25e-4, None),
    "opacities": (0.05, None),
    "scales": (0.005, None),
    "quats": (0.001, None),
}
FIELD_GROUPS = dict.fromkeys(FIELD_RATES, ("fields", 1.0))
SPLAT_GROUPS = {  # nerfstudio's groups: the group of cpds.presets, and the share of its learning rate
    "means": ("xyz", 1.0),
    "features_dc": ("color", 1.0),
    "features_rest": ("color", 1 / 20),  # 3DGS (Kerbl 2023)
    "opacities": ("opacity", 1.0),
    "scales": ("scale", 1.0),
    "quats": ("rotation", 1.0),
}


@dataclass(frozen=True)
class ScenePreset:
    """What a preset sets."""

    guidance: GuidanceConfig
    rates: LearningRates
    steps: int
    view_every: int = 1


def on_splats(preset: EditConfig) -> ScenePreset:
    """A preset for splats at nerfstudio's learning rates."""
    return ScenePreset(preset.guidance, SPLAT_RATES, preset.num_inference_steps)


def on_nerf(preset: EditConfig) -> ScenePreset:
    """A preset for splats, with the weaker proximity loss that a field wants, which moves less."""
    return ScenePreset(replace(preset.guidance, w_proximity=1.5), FIELD_RATES, preset.num_inference_steps)


def published(name: str, groups: Mapping[str, tuple[str, float]]) -> ScenePreset:
    """As PDS (Koo 2024) has it, with a new view every 10 steps."""
    preset = PRESETS[name]
    assert preset.lr is not None
    lrs = {ours: share * preset.group_lrs.get(group, preset.lr) for ours, (group, share) in groups.items()}
    rates = {ours: (lr, None if preset.lr_decay == 1 else lr * preset.lr_decay) for ours, lr in lrs.items()}
    return ScenePreset(preset.guidance, rates, preset.num_inference_steps, view_every=10)


# by the method of ns-train; the first of each is the method's default
SCENE_PRESETS: dict[str, dict[str, ScenePreset]] = {
    "cpds": {
        **{f"{name}-nerf": on_nerf(PRESETS[f"{name}-splats"]) for name in METHODS},
        "pds-nerf-paper": published("pds-nerf-paper", FIELD_GROUPS),
    },
    "cpds-splat": {
        **{f"{name}-splats": on_splats(PRESETS[f"{name}-splats"]) for name in METHODS},
        "pds-splats-paper": published("pds-splats-paper", SPLAT_GROUPS),
    },
}


def default_preset(method: str) -> ScenePreset:
    """What a method does when no preset is asked for."""
    return next(iter(SCENE_PRESETS[method].values()))


def adam(lr: float, lr_final: float | None, steps: int = 0) -> dict[str, Any]:
    """Adam whose learning rate falls exponentially over `steps`; with 0 our trainer fills in the run's."""
    scheduler = None if lr_final is None else ExponentialDecaySchedulerConfig(lr_final=lr_final, max_steps=steps)
    return {"optimizer": AdamOptimizerConfig(lr=lr, eps=1e-15), "scheduler": scheduler}


def optimizers(rates: LearningRates, steps: int = 0) -> dict[str, Any]:
    """Adam for each group of parameters."""
    return {name: adam(lr, final, steps) for name, (lr, final) in rates.items()}


def apply_preset(config: Any, name: str) -> None:
    """Give settings of a run that are as its method has them the preset's values. Raises InputError for no preset."""
    known = SCENE_PRESETS[config.method_name]
    require(name in known, f"there is no preset {name!r} for {config.method_name}: take one of {', '.join(known)}")
    preset, default, pipeline = known[name], default_preset(config.method_name), config.pipeline
    given = {f.name: getattr(pipeline.guidance, f.name) for f in fields(GuidanceConfig)}
    changed = {k: value for k, value in given.items() if value != getattr(default.guidance, k)}
    pipeline.guidance = replace(preset.guidance, **changed)
    if config.max_num_iterations == default.steps:
        config.max_num_iterations = preset.steps
    if pipeline.view_every == default.view_every:
        pipeline.view_every = preset.view_every
    usual, wanted = optimizers(default.rates), optimizers(preset.rates)
    for group, setting in config.optimizers.items():
        if setting == usual.get(group):
            config.optimizers[group] = deepcopy(wanted[group])
