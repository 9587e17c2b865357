"""The contract of an edit: what must be known of the thing that is edited. It knows no prior.

What a representation may offer beside it is found by asking for these protocols: Masked, Source, Exportable.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from cpds.types import Images, Latents

View = TypeVar("View")
Shown = TypeVar("Shown", contravariant=True)  # a view that is only taken
Mask = Float[Tensor, "1 1 _H _W"]  # 1 where an edit may change something, 0 where not


@dataclass(frozen=True)
class ParamGroup:
    """Named leaf tensors that are optimized at one learning rate.

    `lr` is for the tensors' own units, and what an edit takes unless its config says otherwise. `filter_update`
    (before, after) -> after: what is taken of an optimizer's step, if not all of it.
    """

    name: str
    tensors: list[Tensor]
    lr: float
    filter_update: Callable[[Tensor, Tensor], Tensor] | None = None


@runtime_checkable
class ImageSpec(Protocol):
    """Which images a prior takes, and where: a Prior is one."""

    @property
    def image_size(self) -> int:
        """px, of the shorter side unless something else is asked for."""
        ...

    @property
    def size_multiple(self) -> int:
        """px that every side must be a multiple of."""
        ...

    @property
    def device(self) -> torch.device:
        """Where images are computed."""
        ...


@runtime_checkable
class Representation(Protocol[View]):
    """Anything differentiable that can be rendered."""

    preset: str  # name of the settings that an edit takes where none are given

    def sample_view(self, step: int, generator: torch.Generator) -> View:
        """What to look at in this step (a camera, an augmentation, nothing), by the step or drawn from the generator.

        Views that are equal, and hash alike, share one source.
        """
        ...

    def render(self, view: View) -> Images:
        """(b, 3, H, W) in [0, 1], differentiable in the parameters."""
        ...

    def param_groups(self) -> list[ParamGroup]:
        """What the optimizer changes; the same tensors at every call."""
        ...

    def project(self) -> None:
        """Bring the parameters back into their ranges after an optimizer's step."""
        ...

    def preview(self) -> Images:
        """The edit as it stands, for people: (b, 3, H, W) in [0, 1], b the number of edits."""
        ...

    def fingerprint(self) -> dict[str, str]:
        """What a resumed run must find unchanged, by name: see cpds.fingerprint."""
        ...


@runtime_checkable
class InLatentSpace(Protocol[Shown]):
    """A representation whose parameters are a prior's own latents: nothing has to be encoded."""

    def latents(self, view: Shown) -> Latents:
        """The view as latents, differentiable in the parameters."""
        ...

    def source_latents(self, view: Shown) -> Latents:
        """The unedited view as latents, without gradient."""
        ...


@runtime_checkable
class MovableLatents(InLatentSpace[Shown], Protocol[Shown]):
    """One whose latents can be moved without a gradient."""

    def move_latents(self, by: Latents) -> None:
        """Add this to the latents, as far as they may change."""
        ...


@runtime_checkable
class Source(Protocol[Shown]):
    """A representation that can render itself as it was before the edit, without its parameters being put back."""

    def render_source(self, view: Shown) -> Images:
        """(b, 3, H, W) in [0, 1], without gradient."""
        ...


@runtime_checkable
class Masked(Protocol[Shown]):
    """A representation of which only a part may change.

    `hold_at` is None where its parameters themselves cannot leave the mask. Else what has changed outside is pulled
    back: a color that is off by `hold_at` as strongly as the edit pulls (cpds.rendered.hold).
    """

    hold_at: float | None

    def mask(self, view: Shown) -> Mask | None:
        """Where the view may change; None: everywhere."""
        ...


@runtime_checkable
class Redrawable(Protocol):
    """A representation of which every view shows the same, so that it can follow an edited image of itself."""

    def as_image(self, prior: Any) -> "Representation[Any]":
        """What it showed before the edit, as an image that is edited as latents: its preview is what is followed."""
        ...

    def follow(self, image: Images, step: int, moving: Collection[str]) -> Images:
        """What of the edited image is followed from `step` on, in the groups of parameters that are `moving`.

        At step 0 these may be brought nearer at once.
        """
        ...


@runtime_checkable
class Revisable(Protocol):
    """A representation that may do more after a step than its optimizer does, given a proposal of the prior."""

    def revise(self, step: int, steps: int, propose: Callable[[Any], Images]) -> None:
        """After `step` of `steps`. propose(view): the view as the prior would rather see it, (b, 3, H, W)."""
        ...


@runtime_checkable
class Exportable(Protocol):
    """A representation with a file format of its own: `suffix` without the dot."""

    suffix: str

    def export(self) -> bytes:
        """The edit as it stands, as a file of that format."""
        ...
