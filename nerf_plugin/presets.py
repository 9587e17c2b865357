"""Settings by name for the methods that edit: the guidance, the steps and the learning rates."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from typing import Any

from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig

from cpds.config import GuidanceConfig, require
from cpds.presets import METHODS, PDS_NERF, PDS_SPLATS, PRESETS

Rates = Mapping[str, tuple[float, float | None]]  # first and last of each group of parameters

STEPS = 300  # of an edit; the papers' 30,000 are for priors and views of 512 px
FIELD: Rates = {"proposal_networks": (3e-3, 3e-4), "fields": (3e-3, 3e-4)}
# cpds-splats' (cpds/presets.py), for cameras within 1 of the origin, as nerfstudio places them
EDITING: Rates = {
    "means": (5e-4, 2.5e-5),
    "features_dc": (0.04, 2e-3),
    "features_rest": (2e-3, 1e-4),
    "opacities": (0.02, 1e-3),
    "scales": (3e-3, 1.5e-4),
    "quats": (1.5e-3, 7.5e-5),
}
GROUPS = {  # theirs in cpds/presets.py, and the share of its rate
    "means": ("xyz", 1.0),
    "features_dc": ("colour", 1.0),
    "features_rest": ("colour", 1 / 20),  # 3DGS (Kerbl 2023)
    "opacities": ("opacity", 1.0),
    "scales": ("scale", 1.0),
    "quats": ("rotation", 1.0),
}


@dataclass(frozen=True)
class ScenePreset:
    """What a preset says."""

    guidance: GuidanceConfig
    rates: Rates = field(default_factory=dict)
    steps: int = STEPS
    view_every: int = 1


def on_nerf(method: str) -> ScenePreset:
    """A method's guidance as for splats, with the weaker anchor that a field wants, which moves less."""
    return ScenePreset(replace(PRESETS[f"{method}-splats"].guidance, w_proximity=1.5), FIELD)


def of_pds(settings: Any, rates: Rates) -> ScenePreset:
    """A published one (PDS, Koo 2024), with a new view every 10 steps."""
    return ScenePreset(settings.guidance, rates, settings.num_inference_steps, view_every=10)


SPLATS_PAPER: Rates = {name: (share * PDS_SPLATS.group_lrs[group], None) for name, (group, share) in GROUPS.items()}
# by the method of ns-train; the first of each is the method's default
SCENE_PRESETS: dict[str, dict[str, ScenePreset]] = {
    "cpds": {
        **{f"{name}-nerf": on_nerf(name) for name in METHODS},
        "pds-nerf-paper": of_pds(PDS_NERF, dict.fromkeys(FIELD, (PDS_NERF.lr, PDS_NERF.lr_final))),
    },
    "cpds-splat": {
        **{f"{name}-splats": ScenePreset(PRESETS[f"{name}-splats"].guidance, EDITING) for name in METHODS},
        "pds-splats-paper": of_pds(PDS_SPLATS, SPLATS_PAPER),
    },
}


def default_of(method: str) -> ScenePreset:
    """What a method does when no preset is asked for."""
    return next(iter(SCENE_PRESETS[method].values()))


def adam(lr: float, lr_final: float | None, steps: int = 0) -> dict[str, Any]:
    """Adam whose learning rate falls exponentially over `steps`; 0 is our trainer's word for the whole run."""
    scheduler = None if lr_final is None else ExponentialDecaySchedulerConfig(lr_final=lr_final, max_steps=steps)
    return {"optimizer": AdamOptimizerConfig(lr=lr, eps=1e-15), "scheduler": scheduler}


def optimizers(rates: Rates, steps: int = 0) -> dict[str, Any]:
    """Adam for each group of parameters."""
    return {name: adam(lr, final, steps) for name, (lr, final) in rates.items()}


def apply_preset(config: Any, name: str) -> None:
    """Give settings of a run that are as its method has them the preset's values. Raises InputError for no preset."""
    known = SCENE_PRESETS[config.method_name]
    require(name in known, f"there is no preset {name!r} for {config.method_name}: take one of {', '.join(known)}")
    preset, plain, pipeline = known[name], default_of(config.method_name), config.pipeline
    asked = {f.name: getattr(pipeline.guidance, f.name) for f in fields(GuidanceConfig)}
    given = {k: value for k, value in asked.items() if value != getattr(plain.guidance, k)}
    pipeline.guidance = replace(preset.guidance, **given)
    if config.max_num_iterations == plain.steps:
        config.max_num_iterations = preset.steps
    if pipeline.view_every == plain.view_every:
        pipeline.view_every = preset.view_every
    usual, wanted = optimizers(plain.rates), optimizers(preset.rates)
    for group, setting in config.optimizers.items():
        if setting == usual.get(group):
            config.optimizers[group] = deepcopy(wanted[group])
