"""CPDS: text-guided editing of anything differentiable, by Contrastive Posterior Distillation Sampling.

The names below are loaded at first use, so that the command line need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpds.config import EditConfig, GuidanceConfig
    from cpds.editor import edit
    from cpds.errors import InputError
    from cpds.presets import PRESETS
    from cpds.priors.load import load_prior

__all__ = ["PRESETS", "EditConfig", "GuidanceConfig", "InputError", "edit", "load_prior"]

_HOMES = {
    "EditConfig": "config",
    "GuidanceConfig": "config",
    "InputError": "errors",
    "PRESETS": "presets",
    "edit": "editor",
    "load_prior": "priors.load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cpds' has no attribute {name!r}")
    return getattr(import_module(f"cpds.{_HOMES[name]}"), name)
