"""What an evaluation edits with: an edit's settings, or a baseline's. No torch here."""

import math
import re
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from cpds.config import EditConfig, GuidanceConfig, OwnPart, SelectorName, require, require_choices
from cpds.presets import PRESETS

ORACLE = "oracle"


@dataclass(frozen=True)
class EvaluatedGuidance(GuidanceConfig):
    """How an edit direction is distilled from the prior; an evaluation may know the ground truth."""

    patch_selector: SelectorName | Literal["oracle"] | OwnPart = "random"  # pyright: ignore[reportIncompatibleVariableOverride]
    """Who chooses the patches: as for an edit, or an oracle, which takes cells that the ground truth leaves as they
    are: the most that a selector can give (cds and cpds)."""


@dataclass(frozen=True)
class EvaluatedEdit(EditConfig):
    """A whole edit of an evaluation: guidance, optimizer and length."""

    guidance: EvaluatedGuidance = field(default_factory=EvaluatedGuidance)  # pyright: ignore[reportIncompatibleVariableOverride]
    """How the edit direction is found."""


def evaluated(edit: EditConfig) -> EvaluatedEdit:
    """The same settings, which may name the oracle from now on."""
    guidance = EvaluatedGuidance(**{f.name: getattr(edit.guidance, f.name) for f in fields(GuidanceConfig)})
    rest = {f.name: getattr(edit, f.name) for f in fields(EditConfig) if f.name != "guidance"}
    return EvaluatedEdit(guidance, **rest)


BaselineName = Literal["sdedit", "ddim-inversion", "ddpm-inversion"]


@dataclass(frozen=True)
class BaselineConfig:
    """An edit by noising, or inverting, and denoising."""

    baseline: BaselineName
    """SDEdit (Meng 2022), DDIM inversion (Song 2021), or edit-friendly DDPM inversion (Huberman-Spiegelglas 2024)."""
    strength: float = 0.8
    """How far up the schedule the source is noised or inverted, as a fraction of it (1 - skip)."""
    guidance_scale: float | None = None
    """Guidance of the target prompt. Default: 7.5 where it is classifier-free, else as an edit's."""
    source_guidance_scale: float | None = None
    """Guidance of the source prompt, in the inversion. Default: 1 where it is classifier-free, else as an edit's."""
    negative_prompt: str = ""
    """What the unconditional branch is told instead of nothing."""
    num_inference_steps: int = 50
    """Denoising steps, all between `strength` and 0; an inversion makes as many beside them."""
    seed: int = 0
    """Seeds the noise (DDIM inversion has none)."""

    def __post_init__(self) -> None:
        require_choices(self)
        require(0 < self.strength <= 1, f"strength must be > 0 and at most 1, got {self.strength}")
        for name in ("guidance_scale", "source_guidance_scale"):
            value = getattr(self, name)
            require(value is None or 0 <= value < math.inf, f"{name} must be >= 0 and finite, got {value}")
        require(
            self.baseline != "sdedit" or self.source_guidance_scale in (None, 1),
            "sdedit inverts nothing: leave source_guidance_scale at 1",
        )
        require(self.num_inference_steps >= 1, f"num_inference_steps must be >= 1, got {self.num_inference_steps}")
        require(0 <= self.seed < 2**32, f"seed must be in 0 ... 4294967295, got {self.seed}")


SHARED = ("guidance_scale", "source_guidance_scale", "negative_prompt", "num_inference_steps", "seed")  # with an edit
OWN = ("strength",)
BASELINES = {name: BaselineConfig(name) for name in ("sdedit", "ddim-inversion", "ddpm-inversion")}
Setting = EditConfig | BaselineConfig


def fields_of(setting: Setting) -> dict[str, Any]:
    """A setting's fields by name, those of the guidance first."""
    found = {f.name: getattr(setting, f.name) for f in fields(setting)}
    if isinstance(setting, BaselineConfig):
        return found
    return {f.name: getattr(setting.guidance, f.name) for f in fields(found.pop("guidance"))} | found


def replaced(setting: Setting, values: dict[str, Any]) -> Setting:
    """The setting with other values of its fields, or of its guidance's. InputError for values that cannot be used."""
    if isinstance(setting, BaselineConfig):
        return replace(setting, **values)
    names = {f.name for f in fields(GuidanceConfig)} & values.keys()
    guidance = replace(setting.guidance, **{name: values[name] for name in names})
    return replace(setting, guidance=guidance, **{name: values[name] for name in values.keys() - names})


def document(setting: Setting) -> dict[str, Any]:
    """What an evaluation's config.json holds of a setting."""
    return {"baseline" if isinstance(setting, BaselineConfig) else "edit": asdict(setting)}


def setting_name(preset: str, setting: Setting) -> str:
    """'cpds' or 'cpds guidance_scale=10 lr=0.2': a preset, and what differs from it; at most 120 letters."""
    old, new = fields_of(BASELINES[preset] if preset in BASELINES else PRESETS[preset]), fields_of(setting)
    own = [f"{name}={new[name]}" for name in new if old[name] != new[name]]
    return re.sub(r"[^\w.,=@ +-]+", "", " ".join([preset, *own]))[:120]


def starting_edit(preset: str) -> EditConfig:
    """A preset's settings as flags show them; of a baseline those that it reads, beside an edit's defaults."""
    if preset in PRESETS:
        return PRESETS[preset]
    return replaced(EditConfig(), {name: getattr(BASELINES[preset], name) for name in SHARED})  # pyright: ignore[reportReturnType]


def baseline_of(preset: str, edit: EditConfig, own: dict[str, Any]) -> BaselineConfig:
    """A baseline with the fields that it shares with an edit, and its `own`. InputError where others were changed."""
    start, chosen = fields_of(starting_edit(preset)), fields_of(edit)
    odd = [name for name in chosen if name not in SHARED and chosen[name] != start[name]]
    require(not odd, f"{preset} has no {', '.join(odd)}: its settings are {', '.join([*SHARED, *OWN])}")
    return replace(BASELINES[preset], **{name: chosen[name] for name in SHARED if chosen[name] is not None}, **own)
