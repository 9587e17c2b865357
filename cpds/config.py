"""Settings of an edit. No torch here: the command line reads these to answer --help at once.

Each field's docstring is its help text; bad values are rejected with the value in the message.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from cpds.errors import InputError

Method = Literal["sds", "dds", "cds", "pds", "cpds", "csd", "lusd", "flowedit", "dvrf", "flowalign", "chordedit"]
SelectorName = Literal["random", "learned", "svm", "knn", "forest", "qs-attn", "enco-dag", "relevance", "meta-learner"]
NOT_NEGATIVE = (
    "guidance_scale",
    "source_guidance_scale",
    "true_guidance_scale",
    "w_direction",
    "w_cut",
    "w_proximity",
    "w_identity",
    "min_direction",
)
Schedule = Literal["constant", "rising", "interval", "table"]
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
    """Which objective gives the edit its direction (docs/method.md has them all); or one of your own by its import
    path, module:name."""
    method_options: Mapping[str, float] = field(default_factory=dict)
    """Numbers that the objective's formula has beside the ones here, by name (docs/method.md), where they are to
    differ from its own."""
    guidance_scale: float | None = None
    """Guidance omega: eps_uncond + omega (eps_cond - eps_uncond). Default: what default_guidance says; 5.5 where the
    network takes omega as an input (FLUX.1 dev), 1 where it was distilled to few steps (Turbo, schnell)."""
    source_guidance_scale: float | None = None
    """omega of the source's half. Default: what default_guidance says, else guidance_scale; 1.5 where the network takes
    it as an input."""
    default_guidance: tuple[float, float | None] = (7.5, None)
    """guidance_scale and source_guidance_scale where they are not given and the prior's guidance is classifier-free."""
    true_guidance_scale: float = 1.0
    """Classifier-free guidance beside guidance_scale, for priors whose network takes that one as an input (FLUX.1 dev);
    1 is none, and half the cost."""
    guidance_schedule: Schedule | None = None
    """omega over time (t, a fraction of the schedule): the same everywhere; 1 + (omega - 1) 2t; omega within
    guidance_interval and 1 (no guidance) elsewhere; or omega times what guidance_table says. Default: default_schedule
    where guidance is classifier-free, else constant."""
    default_schedule: Schedule = "constant"
    """guidance_schedule where it is not given and the prior's guidance is classifier-free."""
    guidance_interval: tuple[float, float] = (0.25, 0.75)
    """Lowest and highest time with guidance (interval)."""
    guidance_table: tuple[tuple[float, float], ...] = ((0.0, 0.0), (1.0, 2.0))
    """Pairs of a time and a factor for omega, with straight lines between them (table): 0 0.2 0.5 1 1 2."""
    guidance_parallel: float = 1.0
    """Share that stays of guidance along the predicted image (adaptive projected guidance); less saturates less."""
    guidance_rescale: float = 0.0
    """How far, from 0 to 1, guided predictions get the standard deviation of conditional ones."""
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
    localize: bool = False
    """Edit where the prior tells the two prompts apart, which is asked once before the first step; hold the rest."""
    min_direction: float = 0.0
    """Steps whose direction has a root mean square below this are left out (LUSD draws those anew); 0: none."""
    reestimate_noise: bool = False
    """Take the noise that the prior sees in the noised source for the drawn one (after RFDS-Rev); one sample more."""
    timesteps: Literal["uniform", "low-discrepancy", "non-increasing", "descending"] = "uniform"
    """Order of the timesteps: drawn uniformly; evenly over every stretch of the run, in no order, for short runs; from
    coarse to fine over the run, each drawn from its slice; or evenly spaced from t_max down to t_min."""
    t_min: float = 0.05
    """Lowest timestep, as a fraction of the schedule's length."""
    t_max: float = 0.95
    """Highest timestep, as a fraction of the schedule's length."""

    def __post_init__(self) -> None:
        require_choices(self)
        for name in NOT_NEGATIVE:
            value = getattr(self, name)
            require(value is None or 0 <= value < math.inf, f"{name} must be >= 0 and finite, got {value}")
        for value in self.default_guidance:
            require(value is None or 0 <= value < math.inf, f"default_guidance must be >= 0 and finite, got {value}")
        for name, value in self.method_options.items():
            require(math.isfinite(value), f"method_options {name} must be finite, got {value}")
        for name in ("guidance_parallel", "guidance_rescale"):
            require(0 <= getattr(self, name) <= 1, f"{name} must be in 0 ... 1, got {getattr(self, name)}")
        require(self.stride >= 1, f"stride must be >= 1, got {self.stride}")
        sizes = len(self.patch_size) > 0 and min(self.patch_size) >= 1
        require(sizes, f"patch_size needs one or more sizes >= 1, got {self.patch_size}")
        require(self.n_patches >= 2, f"n_patches must be >= 2 (a positive and a negative), got {self.n_patches}")
        require(0 < self.patch_share <= 1, f"patch_share must be in (0, 1], got {self.patch_share}")
        require(0 < self.temperature < math.inf, f"temperature must be > 0 and finite, got {self.temperature}")
        require(self.selector_every >= 1, f"selector_every must be >= 1, got {self.selector_every}")
        ordered = 0 < self.t_min <= self.t_max < 1
        require(ordered, f"need 0 < t_min <= t_max < 1, got t_min {self.t_min} and t_max {self.t_max}")
        self._check_guidance_schedule()

    def _check_guidance_schedule(self) -> None:
        low, high = self.guidance_interval
        require(0 <= low <= high <= 1, f"guidance_interval must be two times in 0 ... 1, in order, got {low} {high}")
        if "table" not in (self.guidance_schedule, self.default_schedule):
            return
        times, factors = [t for t, _ in self.guidance_table], [f for _, f in self.guidance_table]
        rising = len(times) >= 2 and all(a < b for a, b in pairwise(times))
        require(rising, f"guidance_table needs two or more pairs of a time and a factor, times rising, got {times}")
        good = all(0 <= f < math.inf for f in factors)
        require(good, f"guidance_table's factors must be >= 0 and finite, got {factors}")
        covered = times[0] <= self.t_min and self.t_max <= times[-1]
        require(
            covered,
            f"guidance_table reaches from {times[0]} to {times[-1]}, but t_min is {self.t_min} and t_max {self.t_max}: "
            "add pairs for the rest",
        )


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
    stop_below: float = 0.0
    """End the run early once its net change over 5 steps is less than this share of that since its start; 0: never."""
    polish: float = 0.0
    """Noise level, as a fraction of the schedule's length, from which an edited image is denoised once more after the
    last step, where the edit has changed it; 0: not at all. It sharpens what the optimization leaves blurred."""
    redraw_steps: int = 0
    """Steps in which an image of what is edited is edited first, for num_inference_steps to follow (drawings); 0: none,
    the prior leads each step."""
    redraw_lr: float = 0.16
    """Learning rate of that image's edit: how far it goes; 1, their own step, for those down the schedule."""
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
        require(0 <= self.stop_below < 1, f"stop_below must be at least 0 and below 1, got {self.stop_below}")
        require(0 < self.redraw_lr <= 1e6, f"redraw_lr must be > 0 and at most 1e6, got {self.redraw_lr}")
        require(self.redraw_steps >= 0, f"redraw_steps must be >= 0, got {self.redraw_steps}")
        require(0 <= self.polish < 1, f"polish must be at least 0 and below 1, got {self.polish}")
        require(0 < self.lr_decay <= 1e6, f"lr_decay must be > 0 and at most 1e6, got {self.lr_decay}")
        require(0 <= self.seed < 2**32, f"seed must be in 0 ... 4294967295, got {self.seed}")  # scikit-learn's range
