"""What an objective is: a formula for the direction of an edit, and the facts that decide what is computed for it."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Real
from torch import Tensor

from cpds.errors import InputError
from cpds.guidance_scale import GuidanceScale
from cpds.schedule import NoiseSchedule, beside
from cpds.types import Latents, Timesteps

Half = Literal["source", "target"]
Prompt = Literal["source", "target", "null"]
PerSample = Float[Tensor, ""] | Float[Tensor, "b 1 1 1"]  # one number where all of a batch have one timestep
Relevance = Float[Tensor, "b 1 h w"]


class Branch(NamedTuple):
    """One question to the network: which half of the pair is noised, and under which prompt it is denoised.

    `at` is an index into the objective's `offsets`: the timestep is the step's own, moved by that.
    """

    half: Half
    prompt: Prompt
    at: int = 0


@dataclass(frozen=True)
class EditPair:
    """Source and edited latents with all the randomness that they share: x_t = alpha_t z + sigma_t eps for both."""

    source: Latents
    target: Latents
    eps: Latents
    t: Timesteps

    @classmethod
    def draw(
        cls, source: Latents, target: Latents, t: Real[Tensor, " 1"], generator: torch.Generator, edits: int = 1
    ) -> "EditPair":
        """Draw one noise for both, on the CPU so that every device sees the same; one timestep for the batch.

        The batch holds the views of `edits` independent edits, which see the same noise.
        """
        eps = torch.randn(len(source) // edits, *source.shape[1:], generator=generator).to(source)
        eps = eps.repeat(edits, 1, 1, 1)
        return cls(source, target, eps, t.expand(len(source)))

    def noised(self, half: Half, schedule: NoiseSchedule, coupling: float = 0.0) -> Latents:
        """x_t of one half; the target's noise is eps + coupling (z_tgt - z_src): 0 as DDS has it, 1 as FlowEdit has."""
        if half == "source":
            return schedule.add_noise(self.source, self.eps, self.t)
        eps = self.eps + coupling * (self.target - self.source) if coupling else self.eps
        return schedule.add_noise(self.target, eps, self.t)


@dataclass(frozen=True)
class Weights:
    """What an objective may weigh with, at the step's timesteps: x_t = alpha z + sigma eps."""

    alpha: PerSample
    sigma: PerSample
    alpha_bar: PerSample
    one_minus_alpha_bar: PerSample  # taken in float64, as the difference loses digits
    posterior: tuple[PerSample, PerSample] | None = None
    time: float = 0.0  # of the step, a fraction of the schedule's length
    spacing: float = 0.0  # how far the flow time falls until the next step
    share: float = 1.0  # of the edit's steps that this one is
    coupling: float = 0.0  # at this step
    changes: Relevance | float = 1.0  # 1 where the edit belongs, 0 where not; 1.0 everywhere unless it is localized
    options: Mapping[str, float] = field(default_factory=dict)

    @property
    def psi(self) -> PerSample:
        """PDS's weight of the latents' difference, times w_identity."""
        return self._of_the_posterior[0]

    @property
    def chi(self) -> PerSample:
        """PDS's weight of the predictions' difference."""
        return self._of_the_posterior[1]

    @property
    def flow_time(self) -> PerSample:
        """s = sigma / (alpha + sigma): 0 without noise, 1 without signal; a flow's own time."""
        return self.sigma / (self.alpha + self.sigma)

    @property
    def _of_the_posterior(self) -> tuple[PerSample, PerSample]:
        if self.posterior is None:
            raise InputError("the objective reads psi or chi, but does not say posterior=True")
        return self.posterior

    @classmethod
    def at(
        cls, t: Timesteps, schedule: NoiseSchedule, like: Latents, w_identity: float, stride: int | None
    ) -> "Weights":
        """The weights at timesteps `t`, with PDS's posterior at `stride`, if any."""
        exact = schedule.alpha_bar_at(t)
        posterior = () if stride is None else schedule.posterior_weights(t, stride)
        tables = torch.stack([*schedule.at(t), exact, 1 - exact, *posterior])
        alpha, sigma, alpha_bar, rest, *psi_chi = beside(tables, t, like)
        return cls(alpha, sigma, alpha_bar, rest, (w_identity * psi_chi[0], psi_chi[1]) if psi_chi else None)


@dataclass(frozen=True)
class Predictions:
    """The network's noise predictions by branch, not mixed: `predictions[half, prompt]` or `[half, prompt, at]`."""

    eps: Mapping[Branch, Latents]
    scale: GuidanceScale
    x_t: Mapping[tuple[Half, int], Latents]  # what was denoised, by half and noise level
    levels: tuple[Weights, ...]  # of each noise level

    def __getitem__(self, branch: tuple[Half, Prompt] | tuple[Half, Prompt, int]) -> Latents:
        named = Branch(*branch)  # pyright: ignore[reportArgumentType]
        if named not in self.eps:
            also = ", or reads_null is not set" if named.prompt == "null" else ""
            raise InputError(
                f"the objective reads {tuple(branch)}, which is not among the branches that it names{also}"
            )
        return self.eps[named]

    def guided(self, half: Half, prompt: Prompt | None = None, instead_of: Prompt = "null", at: int = 0) -> Latents:
        """Classifier-free guidance of a half, under its own prompt and away from no prompt unless others are named.

        Without guidance, or of a prior that is guided otherwise, it is the prediction under the prompt as it is.
        """
        cond, omega = self[half, prompt or half, at], self.scale.omega(half)
        if omega == 1:
            return cond
        uncond = self[half, instead_of, at]
        return self.scale.mix(omega, cond, uncond, self.x_t[half, at], self.levels[at].sigma)

    def clean(self, half: Half, eps: Latents, at: int = 0) -> Latents:
        """The latents that are left of a half without `eps`: (x_t - sigma eps) / alpha."""
        level = self.levels[at]
        return (self.x_t[half, at] - level.sigma * eps) / level.alpha

    def velocity(self, half: Half, eps: Latents, at: int = 0) -> Latents:
        """A flow's velocity, noise minus clean latents, where a half's noise is `eps`; for any schedule."""
        return eps - self.clean(half, eps, at)


@dataclass(frozen=True)
class Objective:
    """A direction, which z is moved against, and the facts that decide what is computed for it.

    `direction` (pair, predictions, weights) -> (b, c, h, w). `branches`: the predictions that it reads. `coupling`: see
    EditPair.noised; a function gives it by how much of the edit is done (0 to 1). `offsets`: timesteps that branches
    are asked at, as fractions of the schedule beside the step's own. `options`: numbers of the formula that
    `method_options` may change. `posterior`: whether it reads psi and chi (then the timesteps must lie above the
    stride). `clean`: whether it divides by alpha (then no timestep may be pure noise). `localizes`: whether it weighs
    with `weights.changes` itself; else the whole direction is. `contrast`: whether the contrastive loss on
    self-attention features goes with it. `guides`: the halves that it takes guided. `reads_null`: whether it reads the
    prediction without a prompt for itself; one that does so for guidance alone is spared it where guidance is 1, or the
    prior mixes none.
    """

    direction: Callable[[EditPair, Predictions, Weights], Latents]
    branches: Collection[tuple[str, str] | tuple[str, str, int]]  # kept as a frozenset of Branch
    coupling: float | Callable[[float], float] = 0.0
    offsets: tuple[float, ...] = (0.0,)
    options: Mapping[str, float] = field(default_factory=dict)
    posterior: bool = False
    clean: bool = False
    localizes: bool = False
    contrast: bool = False
    guides: Collection[Half] = ("source", "target")
    reads_null: bool = False

    def __post_init__(self) -> None:
        levels = range(len(self.offsets))
        known = {(half, prompt) for half in get_args(Half) for prompt in get_args(Prompt)}
        for branch in self.branches:
            half, prompt, *at = branch
            if (half, prompt) not in known:
                raise InputError(f"an objective names the branch {half, prompt}: there are {_listed(known)}")
            if at and at[0] not in levels:
                raise InputError(f"an objective's branch {tuple(branch)} is at none of its {len(levels)} offsets")
        if not self.branches or not callable(self.direction):
            raise InputError("an objective needs a direction, to be called, and the branches that it reads")
        object.__setattr__(self, "branches", frozenset(Branch(*branch) for branch in self.branches))  # pyright: ignore[reportArgumentType]

    def coupling_at(self, progress: float) -> float:
        return self.coupling(progress) if callable(self.coupling) else self.coupling


def _listed(pairs: Collection[tuple[str, str]]) -> str:
    return ", ".join(map(str, sorted(pairs)))
