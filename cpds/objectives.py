"""Edit directions in latent space: pure functions of one noised pair and the two guided predictions."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from cpds.schedule import NoiseSchedule
from cpds.types import Latents, Scalar, Timesteps


@dataclass(frozen=True)
class EditPair:
    """Source and edited latent with all the randomness that they share: x_t = alpha_t z + sigma_t eps for both."""

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


@dataclass(frozen=True)
class Guided:
    """Classifier-free-guided noise predictions of both halves; `source` is None where no objective asks for it."""

    source: Latents | None
    target: Latents


@dataclass(frozen=True)
class PosteriorSettings:
    """PDS's two knobs: the posterior's stride, and a multiplier of psi."""

    stride: int = 2
    w_identity: float = 1.0


def sds(pair: EditPair, guided: Guided, schedule: NoiseSchedule, posterior: PosteriorSettings) -> Latents:
    """w(t) (eps_tgt - eps), w = 1 - alpha_bar_t  (DreamFusion, Poole 2022, Eq. 3)."""
    weight = (1 - schedule.alpha_bar[pair.t.cpu()]).to(pair.eps)
    return weight.view(-1, 1, 1, 1) * (guided.target - pair.eps)


def dds(pair: EditPair, guided: Guided, schedule: NoiseSchedule, posterior: PosteriorSettings) -> Latents:
    """eps_tgt - eps_src  (Delta Denoising Score, Hertz 2023, Eq. 3)."""
    assert guided.source is not None
    return guided.target - guided.source


def pds(pair: EditPair, guided: Guided, schedule: NoiseSchedule, posterior: PosteriorSettings) -> Latents:
    """psi (z_tgt - z_src) + chi (eps_tgt - eps_src)  (Posterior Distillation Sampling, Koo 2024, Eq. 14)."""
    assert guided.source is not None
    psi, chi = (w.to(pair.eps).view(-1, 1, 1, 1) for w in schedule.posterior_weights(pair.t, posterior.stride))
    drift = pair.target.detach() - pair.source
    return posterior.w_identity * psi * drift + chi * (guided.target - guided.source)


@dataclass(frozen=True)
class Objective:
    """A direction, and whether it needs the source branch's predictions."""

    direction: Callable[[EditPair, Guided, NoiseSchedule, PosteriorSettings], Latents]
    needs_source: bool = True


OBJECTIVES = {
    "sds": Objective(sds, needs_source=False),
    "dds": Objective(dds),
    "cds": Objective(dds),
    "pds": Objective(pds),
    "cpds": Objective(pds),
}


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
