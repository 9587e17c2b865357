"""Settings by name for the methods that edit: the guidance, the steps and the learning rates.

They are those of cpds.presets wherever a scene of nerfstudio's differs in nothing that matters to them.
"""

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

SPLAT_GROUPS = {  # nerfstudio's groups: cpds.presets' group, and the share of its learning rate
    "means": ("xyz", 1.0),
    "features_dc": ("colour", 1.0),
    "features_rest": ("colour", 1 / 20),  # 3DGS (Kerbl 2023)
    "opacities": ("opacity", 1.0),
    "scales": ("scale", 1.0),
    "quats": ("rotation", 1.0),
}
# for cameras within 1 of the origin, as nerfstudio places them
NERFSTUDIO_LRS = {"xyz": 5e-4, "scale": 3e-3, "rotation": 1.5e-3}
FIELD_RATES: LearningRates = {"proposal_networks": (3e-3, 3e-4), "fields": (3e-3, 3e-4)}


def splat_rates(preset: EditConfig, **group_lrs: float) -> LearningRates:
    """Learning rates of nerfstudio's groups as the preset has them, but for those of `group_lrs`."""
    lrs = {**preset.group_lrs, **group_lrs}
    first = {name: share * lrs[group] for name, (group, share) in SPLAT_GROUPS.items()}
    final = preset.lr_final
    return {name: (lr, None if final is None else lr / (preset.lr / final)) for name, lr in first.items()}


@dataclass(frozen=True)
class ScenePreset:
    """What a preset sets."""

    guidance: GuidanceConfig
    rates: LearningRates
    steps: int
    view_every: int = 1


def on_nerf(preset: EditConfig) -> ScenePreset:
    """A preset for splats, with the weaker proximity loss that a field wants, which moves less."""
    guidance = replace(preset.guidance, w_proximity=1.5)
    return ScenePreset(guidance, FIELD_RATES, preset.num_inference_steps)


def on_splats(preset: EditConfig) -> ScenePreset:
    """A preset for splats in nerfstudio's units."""
    return ScenePreset(preset.guidance, splat_rates(preset, **NERFSTUDIO_LRS), preset.num_inference_steps)


def published(preset: EditConfig, rates: LearningRates) -> ScenePreset:
    """As PDS (Koo 2024) has it, with a new view every 10 steps."""
    return ScenePreset(preset.guidance, rates, preset.num_inference_steps, view_every=10)


PDS_NERF, PDS_SPLATS = PRESETS["pds-nerf-paper"], PRESETS["pds-splats-paper"]
SPLAT_RATES = splat_rates(PRESETS["cpds-splats"], **NERFSTUDIO_LRS)
SPLAT_TRAINING_RATES: LearningRates = {  # 3DGS (Kerbl 2023) as splatfacto has them, and PDS for edits
    **splat_rates(PDS_SPLATS),
    "means": (PDS_SPLATS.group_lrs["xyz"], 1.6e-6),
}
# by the method of ns-train; the first of each is the method's default
SCENE_PRESETS: dict[str, dict[str, ScenePreset]] = {
    "cpds": {
        **{f"{name}-nerf": on_nerf(PRESETS[f"{name}-splats"]) for name in METHODS},
        "pds-nerf-paper": published(PDS_NERF, dict.fromkeys(FIELD_RATES, (PDS_NERF.lr, PDS_NERF.lr_final))),
    },
    "cpds-splat": {
        **{f"{name}-splats": on_splats(PRESETS[f"{name}-splats"]) for name in METHODS},
        "pds-splats-paper": published(PDS_SPLATS, splat_rates(PDS_SPLATS)),
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
