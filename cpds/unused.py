"""Settings that an edit does not read: a user who changed one should know."""

from collections.abc import Iterator

from cpds.config import EditConfig
from cpds.objectives.base import Objective
from cpds.objectives.table import OBJECTIVES
from cpds.priors.base import GuidanceKind

CONTRAST = (
    "w_cut",
    "patch_size",
    "n_patches",
    "patch_share",
    "patch_loss",
    "temperature",
    "patch_selector",
    "selector_every",
)
GUIDANCE = ("guidance_scale", "guidance_schedule", "guidance_parallel", "guidance_rescale")


def unused_notes(config: EditConfig, preset: EditConfig, kind: GuidanceKind | None = None) -> list[str]:
    """A sentence for each kind of setting that differs from the preset's, and has no effect on the edit.

    `kind` is that of the prior's guidance, None where it is not known yet.
    """
    notes = []
    for names, why in _unread(config, kind):
        changed = [name for name in names if _value(config, name) != _value(preset, name)]
        if changed:
            notes.append(f"{', '.join(changed)} {'have' if len(changed) > 1 else 'has'} no effect here: {why}")
    return notes


def _unread(config: EditConfig, kind: GuidanceKind | None) -> Iterator[tuple[tuple[str, ...], str]]:
    """Names of settings that are not read, and why."""
    guidance, objective = config.guidance, OBJECTIVES.get(config.guidance.method)  # None: one of the user's own
    if objective and not objective.contrast:
        yield CONTRAST, f"method {guidance.method} has no contrastive loss"
    elif not guidance.w_cut:
        yield CONTRAST[1:], "w_cut is 0"
    if objective and not objective.posterior:
        yield ("w_identity", "stride"), f"method {guidance.method} does not read the posterior"
    schedule = guidance.guidance_schedule or guidance.default_schedule
    for needed in ("interval", "table"):
        if needed != schedule:
            yield (f"guidance_{needed}",), f"guidance_schedule is {schedule}"
    if objective and kind == "classifier-free":
        yield from _unguided(config, objective)
    if not config.redraw_steps:
        yield ("redraw_lr",), "redraw_steps is 0, so that no image is followed"


def _unguided(config: EditConfig, objective: Objective) -> Iterator[tuple[tuple[str, ...], str]]:
    """Of the settings of guidance, where it is classifier-free; the last denoising is guided whatever the method."""
    guidance, denoises = config.guidance, config.polish > 0 or config.redraw_steps > 0
    target, source = guidance.default_guidance
    target = target if guidance.guidance_scale is None else guidance.guidance_scale
    source = source if guidance.source_guidance_scale is None else guidance.source_guidance_scale
    scales = {"target": target, "source": target if source is None else source}
    halves = {*objective.guides, *["target"] * denoises}
    mixes = (guidance.guidance_schedule or guidance.default_schedule) == "table" or any(
        scales[half] != 1 for half in halves
    )
    asks_null = any(branch[1] == "null" for branch in objective.branches)
    method = f"method {guidance.method}"
    if "source" not in halves:
        yield ("source_guidance_scale",), f"{method} does not guide the source's half"
    if not halves:
        yield GUIDANCE, f"{method} takes no guidance"
    elif not mixes:
        yield GUIDANCE[1:], "guidance_scale is 1"
    if not (objective.reads_null or (mixes and (denoises or asks_null))):
        asked = denoises or asks_null
        why = "guidance_scale is 1" if asked else f"{method} does not ask for the unconditional prediction"
        yield ("negative_prompt",), why


def _value(config: EditConfig, name: str) -> object:
    return getattr(config if hasattr(config, name) else config.guidance, name)
