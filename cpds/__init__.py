"""CPDS: text-guided editing of anything differentiable, by Contrastive Posterior Distillation Sampling.

The names below are loaded at first use, so that the command line need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpds.config import EditConfig, GuidanceConfig
    from cpds.editor import OwnParts, edit
    from cpds.errors import InputError
    from cpds.objectives.base import Branch, EditPair, Objective, Predictions, Weights
    from cpds.presets import PRESETS
    from cpds.priors.base import Conditioning, Prediction, Prior
    from cpds.priors.load import load_prior
    from cpds.priors.options import PriorOptions
    from cpds.rendered import Rendered, fingerprint
    from cpds.representation import Exportable, Masked, ParamGroup, Representation, Source
    from cpds.schedule import NoiseSchedule
    from cpds.selection.base import PatchSelector
    from cpds.session import RunOptions, edit_in_folder
    from cpds.state import Callback, EditState

    __version__: str

_HOMES = {
    "Branch": "objectives.base",
    "Callback": "state",
    "Conditioning": "priors.base",
    "EditConfig": "config",
    "EditPair": "objectives.base",
    "EditState": "state",
    "Exportable": "representation",
    "GuidanceConfig": "config",
    "InputError": "errors",
    "Masked": "representation",
    "NoiseSchedule": "schedule",
    "Objective": "objectives.base",
    "OwnParts": "editor",
    "PRESETS": "presets",
    "ParamGroup": "representation",
    "PatchSelector": "selection.base",
    "Prediction": "priors.base",
    "Predictions": "objectives.base",
    "Prior": "priors.base",
    "PriorOptions": "priors.options",
    "Rendered": "rendered",
    "Representation": "representation",
    "RunOptions": "session",
    "Source": "representation",
    "Weights": "objectives.base",
    "edit": "editor",
    "edit_in_folder": "session",
    "fingerprint": "rendered",
    "load_prior": "priors.load",
}

__all__ = [
    "PRESETS",
    "Branch",
    "Callback",
    "Conditioning",
    "EditConfig",
    "EditPair",
    "EditState",
    "Exportable",
    "GuidanceConfig",
    "InputError",
    "Masked",
    "NoiseSchedule",
    "Objective",
    "OwnParts",
    "ParamGroup",
    "PatchSelector",
    "Prediction",
    "Predictions",
    "Prior",
    "PriorOptions",
    "Rendered",
    "Representation",
    "RunOptions",
    "Source",
    "Weights",
    "__version__",
    "edit",
    "edit_in_folder",
    "fingerprint",
    "load_prior",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("cpds")
    if name not in _HOMES:
        raise AttributeError(f"module 'cpds' has no attribute {name!r}")
    return getattr(import_module(f"cpds.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
