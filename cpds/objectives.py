"""Objectives: edit directions in latent space, pure functions of one noised pair and the network's predictions.

An objective states what it needs beside its formula; Guidance computes that and nothing else. One of your own is an
`Objective` object, passed to `edit` or named by its import path: docs/extending.md.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cpds.errors import InputError
from cpds.schedule import NoiseSchedule
from cpds.types import Latents, Scalar, Timesteps

Half = Literal["source", "target"]
Prompt = Literal["source", "target", "null"]
PerSample = Float[Tensor, "b 1 1 1"]


class Branch(NamedTuple):
    """One question to the network: which half of the pair is noised, and under which prompt it is denoised."""

    half: Half
    prompt: Prompt


@dataclass(frozen=True)
class EditPair:
    """Source and edited latents with all the randomness that they share: x_t = alpha_t z + sigma_t eps for both."""

    source: Latents
    target: Latents
    eps: Latents
    t: Timesteps

    @classmethod
    def draw(
        cls, source: Latents, target: Latents, t: Int[Tensor, " 1"], generator: torch.Generator, edits: int = 1
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
class Predictions:
    """The network's noise predictions by branch, not mixed: `predictions[half, prompt]`."""

    eps: Mapping[Branch, Latents]
    guidance_scale: float

    def __getitem__(self, branch: tuple[Half, Prompt]) -> Latents:
        if branch not in self.eps:
            raise InputError(f"the objective reads {tuple(branch)}, which is not among the branches that it names")
        return self.eps[Branch(*branch)]

    def guided(self, half: Half) -> Latents:
        """Classifier-free guidance of a half under its own prompt."""
        return mixed(self[half, half], self[half, "null"], self.guidance_scale)


@dataclass(frozen=True)
class Weights:
    """What an objective may weigh with, at the step's timesteps: x_t = alpha z + sigma eps."""

    alpha: PerSample
    sigma: PerSample
    alpha_bar: PerSample
    one_minus_alpha_bar: PerSample  # taken in float64, as the difference loses digits
    posterior: tuple[PerSample, PerSample] | None = None

    @property
    def psi(self) -> PerSample:
        """PDS's weight of the latents' difference, times w_identity."""
        return self._of_the_posterior[0]

    @property
    def chi(self) -> PerSample:
        """PDS's weight of the predictions' difference."""
        return self._of_the_posterior[1]

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
        at = t.cpu()
        exact = schedule.alpha_bar[at]
        posterior = () if stride is None else schedule.posterior_weights(t, stride)
        tables = torch.stack([schedule.alpha[at], schedule.sigma[at], exact, 1 - exact, *posterior])
        alpha, sigma, alpha_bar, rest, *psi_chi = tables.to(like).view(len(tables), -1, 1, 1, 1)  # one copy
        return cls(alpha, sigma, alpha_bar, rest, (w_identity * psi_chi[0], psi_chi[1]) if psi_chi else None)


@dataclass(frozen=True)
class Objective:
    """A direction, which z is moved against, and the facts that decide what is computed for it.

    `direction` (pair, predictions, weights) -> (b, c, h, w). `branches`: the predictions that it reads. `coupling`: see
    EditPair.noised. `posterior`: whether it reads psi and chi (then the timesteps must lie above the stride).
    `contrast`: whether the contrastive loss on self-attention features goes with it.
    """

    direction: Callable[[EditPair, Predictions, Weights], Latents]
    branches: Collection[tuple[str, str]]  # of (half, prompt), kept as a frozenset of Branch
    coupling: float = 0.0
    posterior: bool = False
    contrast: bool = False

    def __post_init__(self) -> None:
        known = {(half, prompt) for half in get_args(Half) for prompt in get_args(Prompt)}
        if odd := [tuple(branch) for branch in self.branches if tuple(branch) not in known]:
            raise InputError(f"an objective names the branch {odd[0]}: there are {', '.join(map(str, sorted(known)))}")
        if not self.branches or not callable(self.direction):
            raise InputError("an objective needs a direction, to be called, and the branches that it reads")
        object.__setattr__(self, "branches", frozenset(Branch(*branch) for branch in self.branches))  # pyright: ignore[reportArgumentType]


def sds(pair: EditPair, predictions: Predictions, weights: Weights) -> Latents:
    """w(t) (eps_tgt - eps), w = 1 - alpha_bar_t  (DreamFusion, Poole 2022, Eq. 3)."""
    return weights.one_minus_alpha_bar * (predictions.guided("target") - pair.eps)


def dds(pair: EditPair, predictions: Predictions, weights: Weights) -> Latents:
    """eps_tgt - eps_src  (Delta Denoising Score, Hertz 2023, Eq. 3)."""
    return predictions.guided("target") - predictions.guided("source")


def pds(pair: EditPair, predictions: Predictions, weights: Weights) -> Latents:
    """psi (z_tgt - z_src) + chi (eps_tgt - eps_src)  (Posterior Distillation Sampling, Koo 2024, Eq. 14)."""
    delta = predictions.guided("target") - predictions.guided("source")
    return weights.psi * (pair.target - pair.source) + weights.chi * delta


TARGET = {Branch("target", "target"), Branch("target", "null")}
BOTH = TARGET | {Branch("source", "source"), Branch("source", "null")}

OBJECTIVES = {
    "sds": Objective(sds, TARGET),
    "dds": Objective(dds, BOTH),
    "cds": Objective(dds, BOTH, contrast=True),
    "pds": Objective(pds, BOTH, posterior=True),
    "cpds": Objective(pds, BOTH, posterior=True, contrast=True),
}


def mixed(cond: Latents, uncond: Latents, scale: float) -> Latents:
    """eps_uncond + omega (eps_cond - eps_uncond)  (Ho & Salimans 2021)."""
    return uncond + scale * (cond - uncond)


def pull(x: Latents, direction: Latents) -> Scalar:
    """A scalar whose gradient in `x` is `direction`."""
    return (x * direction.detach()).sum()


def proximity_loss(source: Latents, target: Latents) -> Scalar:
    """Sum over the latents' cells of x²/2 / (1 + x²), x = |z_tgt - z_src|  (Geman & McClure 1985).

    Its gradient, dz / (1 + x²)², holds cells back that have moved little and lets go of those that an edit has moved by
    more than 1: priors scale their latents to a standard deviation near that.
    """
    moved = (target - source).square().sum(1)
    return (moved / 2 / (1 + moved)).sum()
