"""What an edit needs to know of the thing it edits."""

from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from cpds.priors.base import Prior
from cpds.types import Images, Latents

View = TypeVar("View")


@dataclass(frozen=True)
class ParamGroup:
    """Named leaf tensors that share a step size; the editor's `group_lrs` looks the name up."""

    name: str
    tensors: list[Tensor]


@runtime_checkable
class Representation(Protocol[View]):
    """Anything differentiable that can be seen by a prior."""

    def sample_view(self, *, generator: torch.Generator) -> View:
        """Choose what to look at in this step (a camera, an augmentation, nothing)."""
        ...

    def latents(self, prior: Prior, view: View) -> Latents:
        """The view as latents, differentiable in the parameters."""
        ...

    def source_latents(self, prior: Prior, view: View) -> Latents:
        """The unedited view as latents; cached, without gradient."""
        ...

    def param_groups(self) -> list[ParamGroup]:
        """What the optimizer changes."""
        ...

    def project(self) -> None:
        """Bring parameters back into their ranges after an optimizer's step."""
        ...

    def preview(self, prior: Prior) -> Images:
        """What the edit looks like now, for people: (1, 3, H, W) in [0, 1]."""
        ...
