"""What edits the cases of an evaluation, batch by batch: an edit by distillation, or a baseline."""

from collections.abc import Callable
from typing import Any, cast

import torch

from cpds.editor import EditDiverged, run, start
from cpds.evaluation.baselines import edited, timesteps
from cpds.evaluation.cases import Case
from cpds.evaluation.settings import BaselineConfig, Setting
from cpds.priors.base import Conditioning, Prediction, Prior
from cpds.representation import Representation
from cpds.terminal import warn
from cpds.types import Images, Latents, Timesteps

EditBatch = Callable[[list[Case], Images], tuple[Images, float]]  # results, and samples through the network for each
Represent = Callable[[Images], Representation[Any]]  # what is edited, of the sources (b, 3, H, W) of some cases


class Counted:
    """A prior that counts the samples that go through its network; in all else `prior` itself."""

    def __init__(self, prior: Prior) -> None:
        vars(self).update({name: getattr(prior, name) for name in dir(prior) if not name.startswith("_")})
        self.denoise, self._denoise, self.samples = self._count, prior.denoise, 0

    def _count(self, x_t: Latents, t: Timesteps, conditioning: Conditioning, *, tap: bool = False) -> Prediction:
        self.samples += len(x_t)
        return self._denoise(x_t, t, conditioning, tap=tap)


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
                run(start(shown, cast(Prior, counted), prompts, targets, config))
        except EditDiverged as err:
            if len(cases) > 1:
                parts = [edit([case], source) for case, source in zip(cases, sources.split(1), strict=True)]
                return torch.cat([images for images, _ in parts]), sum(count for _, count in parts) / len(parts)
            warn(f"{cases[0].id}: {err}; its last good state is evaluated")
        return shown.preview(), counted.samples / len(cases)

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


def check(shown: Representation[Any], prior: Prior, setting: Setting) -> None:
    """InputError where `shown` cannot be edited with this setting; nothing is edited yet."""
    if isinstance(setting, BaselineConfig):
        timesteps(prior.schedule, setting)
    else:
        start(shown, prior, "before", "after", setting)
