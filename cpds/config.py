"""Settings of an edit. No torch here: the command line reads these to answer --help at once.

Each field's docstring is its help text; bad values are rejected with the value in the message.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from cpds.errors import InputError

Method = Literal["sds", "dds", "cds", "pds", "cpds"]
SelectorName = Literal["random", "learned", "svm", "knn", "forest", "qs-attn", "enco-dag", "relevance", "meta-learner"]
OwnPart = Annotated[str, "module:name"]  # an import path, of an object from outside of this package


def require(ok: bool, message: str) -> None:
    """Raise InputError with `message` unless `ok`."""
    if not ok:
        raise InputError(message)


def require_choices(config: Any) -> None:
    """Raise InputError where a field of a dataclass has none of the values that its Literal names.

    A field that is Literal | OwnPart may also be an import path, module:name.
    """
    for name, hint in get_type_hints(type(config), include_extras=True).items():
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
        value = getattr(config, name)
        own = OwnPart in kinds and isinstance(value, str) and is_import_path(value)
        if choices and value not in choices and not own and not (value is None and NoneType in kinds):
            also = ", or the import path of your own, module:name" if OwnPart in kinds else ""
            raise InputError(f"{name} must be one of {', '.join(map(str, choices))}{also}, got {value!r}")


def is_import_path(text: str) -> bool:
    """Whether this is module:name."""
    module, colon, name = text.partition(":")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


@dataclass(frozen=True)
class GuidanceConfig:
    """How an edit direction is distilled from the prior (one edit step)."""

    method: Method | OwnPart = "cpds"
    """SDS, DDS, CDS, PDS or CPDS; or an Objective of your own by its import path, module:name."""
    guidance_scale: float = 7.5
    """Classifier-free guidance omega: eps_uncond + omega (eps_cond - eps_uncond)."""
    negative_prompt: str = ""
    """What the unconditional branch is told instead of nothing."""
    w_direction: float = 1.0
    """Weight of the edit direction."""
    w_cut: float = 1.0
    """Weight of the contrastive loss on self-attention features (cds and cpds); 0 switches it off."""
    w_proximity: float = 0.0
    """Weight of the proximity loss (Geman-McClure), a pull back to the source on what has moved little; 0: none."""
    w_identity: float = 1.0
    """Multiplier of psi, the posterior's pull back to the source (pds and cpds)."""
    stride: int = 2
    """Posterior stride in timesteps (pds and cpds); 1 leaves no pull back to the source."""
    patch_size: tuple[int, ...] = (1, 2)
    """Sides of the patches, in feature pixels (cds and cpds)."""
    n_patches: int = 256
    """At most this many patches are chosen for each layer and patch size (cds and cpds)."""
    patch_share: float = 1.0
    """Share of a layer's patches that is chosen, of n_patches at most and two at least (cds and cpds)."""
    patch_loss: Literal["infonce", "hdce", "monce"] = "infonce"
    """InfoNCE, hard-negative decoupled InfoNCE with relation consistency, or InfoNCE with negatives weighted by optimal
    transport (cds and cpds)."""
    temperature: float = 0.07
    """Temperature of the contrastive loss (cds and cpds)."""
    patch_selector: SelectorName | OwnPart = "random"
    """Who chooses the patches: chance, a network or scikit-learn classifier that learns within the run (learned, svm,
    knn, forest), a published rule (qs-attn, enco-dag), chance among what should stay (relevance), the shipped
    meta-learner, or a PatchSelector class of your own by its import path, module:name (cds and cpds)."""
    selector_every: int = 10
    """Steps between two updates of the patch selector."""
    normalize_gradient: bool = False
    """Scale each edit's gradient in latent space to a root mean square of 1: lr is then the latent's step."""
    timesteps: Literal["uniform", "non-increasing"] = "uniform"
    """Order of the timesteps: drawn uniformly, or from coarse to fine over the run."""
    t_min: float = 0.05
    """Lowest timestep, as a fraction of the schedule's length."""
    t_max: float = 0.95
    """Highest timestep, as a fraction of the schedule's length."""

    def __post_init__(self) -> None:
        require_choices(self)
        for name in ("guidance_scale", "w_direction", "w_cut", "w_proximity", "w_identity"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"{name} must be >= 0 and finite, got {value}")
        require(self.stride >= 1, f"stride must be >= 1, got {self.stride}")
        sizes = len(self.patch_size) > 0 and min(self.patch_size) >= 1
        require(sizes, f"patch_size needs one or more sizes >= 1, got {self.patch_size}")
        require(self.n_patches >= 2, f"n_patches must be >= 2 (a positive and a negative), got {self.n_patches}")
        require(0 < self.patch_share <= 1, f"patch_share must be in (0, 1], got {self.patch_share}")
        require(0 < self.temperature < math.inf, f"temperature must be > 0 and finite, got {self.temperature}")
        require(self.selector_every >= 1, f"selector_every must be >= 1, got {self.selector_every}")
        ordered = 0 < self.t_min <= self.t_max < 1
        require(ordered, f"need 0 < t_min <= t_max < 1, got t_min {self.t_min} and t_max {self.t_max}")


@dataclass(frozen=True)
class EditConfig:
    """A whole edit: guidance, optimizer and length."""

    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    """How the edit direction is found."""
    num_inference_steps: int = 200
    """Optimization steps."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """Optimizer of the edited parameters."""
    lr: float | None = None
    """Learning rate of every parameter group that group_lrs does not name. Default: each group's own."""
    lr_scaling: Literal["area", "none"] = "none"
    """area: multiply learning rates by 2000 / (h w) of the latent for the edit direction (not for the contrastive or
    the proximity loss), as CDS's code does; none: use them as they are."""
    lr_decay: float = 1.0
    """Factor by which all learning rates have changed at the last step, exponentially; 1 keeps them."""
    group_lrs: Mapping[str, float] = field(default_factory=dict)
    """Learning rates of single parameter groups (points, fills, xyz, ...); 0 keeps a group as it is."""
    seed: int = 0
    """Seeds noise, timesteps, patches and the selector; the same seed gives the same pixels."""

    def __post_init__(self) -> None:
        require_choices(self)
        require(self.num_inference_steps >= 1, f"num_inference_steps must be >= 1, got {self.num_inference_steps}")
        require(self.lr is None or 0 < self.lr < 1e32, f"learning rate lr must be > 0 and < 1e32, got {self.lr}")
        for name, lr in self.group_lrs.items():
            require(0 <= lr < 1e32, f"learning rate {name} must be >= 0 and < 1e32, got {lr}")
        require(0 < self.lr_decay <= 1e6, f"lr_decay must be > 0 and at most 1e6, got {self.lr_decay}")
        require(0 <= self.seed < 2**32, f"seed must be in 0 ... 4294967295, got {self.seed}")  # scikit-learn's range
