"""Settings that an edit does not read: a user who changed one should know."""

from collections.abc import Iterator

from cpds.config import EditConfig
from cpds.objectives.table import OBJECTIVES

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


def unused_notes(config: EditConfig, preset: EditConfig) -> list[str]:
    """A sentence for each kind of setting that differs from the preset's, and has no effect on the edit."""
    notes = []
    for names, why in _unread(config):
        changed = [name for name in names if _value(config, name) != _value(preset, name)]
        if changed:
            notes.append(f"{', '.join(changed)} {'have' if len(changed) > 1 else 'has'} no effect here: {why}")
    return notes


def _unread(config: EditConfig) -> Iterator[tuple[tuple[str, ...], str]]:
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
    if not config.redraw_steps:
        yield ("redraw_lr",), "redraw_steps is 0, so that no image is followed"


def _value(config: EditConfig, name: str) -> object:
    return getattr(config if hasattr(config, name) else config.guidance, name)
