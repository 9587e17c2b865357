"""What edits the cases of an evaluation, batch by batch: an edit by distillation, or a baseline."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch

from cpds.config import EditConfig, require
from cpds.editor import OwnParts, run, settled_edit, start
from cpds.errors import EditDiverged
from cpds.evaluation.baselines import edited, scales, timesteps
from cpds.evaluation.cases import Case
from cpds.evaluation.oracle import Oracle
from cpds.evaluation.settings import ORACLE, BaselineConfig, Setting
from cpds.guidance_scale import require_negative_prompt, require_scales
from cpds.images import open_image
from cpds.priors.base import Conditioning, Prediction, Prior
from cpds.representation import Representation
from cpds.state import finite
from cpds.terminal import warn
from cpds.types import Images, Latents, Timesteps

EditBatch = Callable[[list[Case], Images], tuple[Images, float]]  # results, and samples through the network for each
Represent = Callable[[Images], Representation[Any]]  # what is edited, of the sources (b, 3, H, W) of some cases


class Counted:
    """A prior that counts the samples that go through its network; in all else `prior` itself."""

    def __init__(self, prior: Prior) -> None:
        vars(self).update({name: getattr(prior, name) for name in dir(prior) if not name.startswith("_")})
        self.denoise, self._denoise, self.samples = self._count, prior.denoise, 0

    def _count(self, x_t: Latents, t: Timesteps, conditioning: Conditioning, *, tap: int = 0) -> Prediction:
        self.samples += len(x_t)
        return self._denoise(x_t, t, conditioning, tap=tap)


def settled(setting: Setting, prior: Prior) -> Setting:
    """The same setting with guidance, where none was given, as it is usual for the prior."""
    if isinstance(setting, EditConfig):
        return settled_edit(setting, prior)
    source, target = scales(setting, prior)
    inverts = setting.baseline != "sdedit"
    return replace(setting, guidance_scale=target, source_guidance_scale=source if inverts else None)


def batch_editor(represent: Represent, prior: Prior, config: Setting) -> EditBatch:
    """Edits cases of one size together.

    If the edit of a batch diverges its cases are edited one by one; of one that diverges then, the last good state is
    the result, with a warning.
    """

    def edit(cases: list[Case], sources: Images) -> tuple[Images, float]:
        shown, counted = represent(sources), Counted(prior)
        prompts, targets = [case.prompt for case in cases], [case.target_prompt for case in cases]
        try:
            if isinstance(config, BaselineConfig):
                edit_latents(shown, cast(Prior, counted), prompts, targets, config)
            else:
                run(start(shown, cast(Prior, counted), prompts, targets, config, own_parts(config, cases, sources)))
        except EditDiverged as err:
            if len(cases) > 1:
                parts = [edit([case], source) for case, source in zip(cases, sources.split(1), strict=True)]
                return torch.cat([images for images, _ in parts]), sum(count for _, count in parts) / len(parts)
            warn(f"{cases[0].id}: {err}; its last good state is evaluated")
        images = shown.preview()
        for case, image in zip(cases, images, strict=True):
            if not finite([image]):
                warn(f"{case.id}: its result has NaN or infinite values; lower lr or guidance_scale, or use fp32")
        return images, counted.samples / len(cases)

    return edit


@torch.no_grad()
def edit_latents(
    shown: Representation[Any], prior: Prior, prompts: list[str], targets: list[str], config: BaselineConfig
) -> None:
    """A baseline's edit of images whose one parameter is their latents, in place. EditDiverged for NaN or infinity."""
    ((latents,),) = (group.tensors for group in shown.param_groups())
    found = edited(prior, latents, prompts, targets, config)
    if not bool(found.isfinite().all()):
        raise EditDiverged(f"{config.baseline} gave NaN or infinite values: lower guidance_scale, or use fp32")
    latents.copy_(found)


def own_parts(edit: EditConfig, cases: Sequence[Case], sources: Images) -> OwnParts:
    """What a setting does not name for all cases, but is made for each: an oracle from its ground truth."""
    if edit.guidance.patch_selector != ORACLE:
        return OwnParts()
    require_ground_truths(edit, cases)
    pairs = zip(sources.split(1), cases, strict=True)
    truths = [(source, truth) for source, case in pairs if (truth := case.open_ground_truth()) is not None]
    return OwnParts(selectors=[Oracle(source, truth) for source, truth in truths])


def require_ground_truths(edit: EditConfig, cases: Sequence[Case]) -> None:
    """InputError where an oracle would know nothing."""
    lacking = next((case.id for case in cases if case.ground_truth is None), None)
    ok = lacking is None or edit.guidance.patch_selector != ORACLE
    require(ok, f"patch_selector oracle needs ground truths: case {lacking} has none")


def check(represent: Represent, prior: Prior, cases: Sequence[Case], settings: Iterable[Setting]) -> None:
    """InputError where the cases cannot be edited with one of the settings; nothing is edited yet."""
    source = open_image(cases[0].source)
    shown = represent(source)
    for setting in settings:
        if isinstance(setting, BaselineConfig):
            timesteps(prior.schedule, setting)
            require_scales(prior, setting.guidance_scale, setting.source_guidance_scale)
            require_negative_prompt(prior, setting.negative_prompt)
        else:
            require_ground_truths(setting, cases)
            start(shown, prior, "before", "after", setting, own_parts(setting, cases[:1], source))
