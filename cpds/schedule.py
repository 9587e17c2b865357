"""Noise schedules: how a latent is noised, how a network's output becomes epsilon, and PDS's posterior weights.

A schedule of either kind maps a timestep t to alpha and sigma: one from alpha-bar is a table of whole timesteps, a flow
takes any real t. The guidance sees no difference, as it asks for (alpha, sigma, epsilon) alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cpds.types import Latents, Timesteps

Parameterization = Literal["epsilon", "v_prediction", "flow"]
GOLDEN = (5**0.5 - 1) / 2  # the fraction whose multiples lie most evenly


@dataclass(frozen=True)
class NoiseSchedule:
    """x_t = alpha_t z + sigma_t eps, for timesteps 0 … T-1; tables in float64 on the CPU.

    With a `shift` it is a flow: the tables hold its whole timesteps, and every real t between may be asked for.
    """

    alpha: Float[Tensor, " T"]
    sigma: Float[Tensor, " T"]
    parameterization: Parameterization = "epsilon"
    shift: float | None = None

    @classmethod
    def from_alpha_bar(cls, alpha_bar: Sequence[float] | Tensor, parameterization: Parameterization) -> "NoiseSchedule":
        """Variance-preserving schedule (DDPM, Ho 2020) from the cumulative products alpha-bar, one per timestep."""
        a = torch.as_tensor(alpha_bar, dtype=torch.float64, device="cpu")
        return cls(a.sqrt(), (1 - a).sqrt(), parameterization)

    @classmethod
    def scaled_linear(
        cls,
        start: float = 0.00085,
        end: float = 0.012,
        steps: int = 1000,
        parameterization: Parameterization = "epsilon",
    ) -> "NoiseSchedule":
        """Stable Diffusion's schedule: the square roots of beta are linear in t."""
        beta = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
        return cls.from_alpha_bar((1 - beta).cumprod(0), parameterization)

    @classmethod
    def flow(cls, steps: int = 1000, shift: float = 1.0) -> "NoiseSchedule":
        """Flow matching: x_t = (1 - s) z + s eps, s = (t+1)/T, warped by `shift` as SD3 does (Esser 2024, Eq. 23).

        Networks are asked at s itself; for an edit, which draws t, the shift is but the density of s.
        """
        s = _shifted(torch.arange(1, steps + 1, dtype=torch.float64) / steps, shift)
        return cls(1 - s, s, "flow", shift)

    def __len__(self) -> int:
        return len(self.alpha)

    def at(self, t: Timesteps) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """alpha_t and sigma_t in float64 on the CPU; of a flow for any real t, else for whole ones."""
        t = t.cpu()
        if self.shift is None:
            return self.alpha[t], self.sigma[t]
        s = _shifted((t.double() + 1) / len(self), self.shift)
        return 1 - s, s

    def alpha_bar_at(self, t: Timesteps) -> Float[Tensor, " b"]:
        """`alpha_bar` at timesteps."""
        alpha, sigma = self.at(t)
        return alpha**2 / (alpha**2 + sigma**2)

    def flow_time_at(self, t: Timesteps) -> Float[Tensor, " b"]:
        """`flow_time` at timesteps."""
        alpha, sigma = self.at(t)
        return sigma / (alpha + sigma)

    def draw(self, order: str, low: int, high: int, step: int, steps: int, generator: torch.Generator) -> Timesteps:
        """The step-th of `steps` timesteps from low … high, in one of the orders of TIMESTEP_SAMPLERS; a flow's are
        float64."""
        return TIMESTEP_SAMPLERS[order](low, high, step, steps, generator, whole=self.shift is None)

    @property
    def alpha_bar(self) -> Float[Tensor, " T"]:
        """Signal share of the equivalent variance-preserving process, alpha² / (alpha² + sigma²)."""
        return self.alpha**2 / (self.alpha**2 + self.sigma**2)

    @property
    def flow_time(self) -> Float[Tensor, " T"]:
        """s = sigma / (alpha + sigma): 0 without noise, 1 without signal; a flow's own time."""
        return self.sigma / (self.alpha + self.sigma)

    def timestep_at(self, flow_time: float) -> int:
        """The timestep whose flow time is nearest."""
        return int((self.flow_time - flow_time).abs().argmin())

    def _at(self, t: Timesteps, like: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t for each of a batch, to be combined with `like`."""
        alpha, sigma = beside(torch.stack(self.at(t)), t, like)
        return alpha, sigma

    def add_noise(self, z: Latents, eps: Latents, t: Timesteps) -> Latents:
        """x_t = alpha_t z + sigma_t eps  (DDPM, Eq. 4)."""
        alpha, sigma = self._at(t, z)
        return alpha * z + sigma * eps

    def denoised(self, x_t: Latents, eps: Latents, t: Timesteps) -> Latents:
        """z = (x_t - sigma_t eps) / alpha_t."""
        alpha, sigma = self._at(t, x_t)
        return (x_t - sigma * eps) / alpha

    def to_epsilon(self, output: Latents, x_t: Latents, t: Timesteps) -> Latents:
        """The network's raw output as a noise prediction, whatever it was trained to predict.

        v_prediction: v = alpha eps - sigma z (Salimans & Ho 2022, D).  flow: v = eps - z.
        """
        if self.parameterization == "epsilon":
            return output
        alpha, sigma = self._at(t, x_t)
        if self.parameterization == "v_prediction":
            return alpha * output + sigma * x_t
        return x_t + alpha * output

    def target(self, z: Latents, eps: Latents, t: Timesteps) -> Latents:
        """What the network is trained to put out at x_t: epsilon, v, or the flow's velocity (see `to_epsilon`)."""
        if self.parameterization == "epsilon":
            return eps
        if self.parameterization == "v_prediction":
            alpha, sigma = self._at(t, z)
            return alpha * eps - sigma * z
        return eps - z

    def posterior_weights(self, t: Timesteps, stride: int = 2) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """(psi, chi), float64: the weights of Δz and Δeps in PDS (Koo 2024, Eq. 12 and 14), per timestep.

        The posterior steps from t to t - stride with the *one-step* beta_t, which is what the published code does;
        stride 1 makes psi exactly 0. Raises ValueError where t <= stride (no earlier step has noise).

        The posterior is that of a Markov chain, which a flow does not have: these are the weights of the
        variance-preserving process x_t / sqrt(alpha² + sigma²), whose latents and noise are the flow's own, so that the
        direction needs no rescaling. Limits: that chain's steps are the flow's t, and beta_t and with it both weights
        depend on their number T and on the shift; towards pure noise alpha-bar vanishes and both grow without bound.
        """
        if stride < 1:
            raise ValueError(f"stride must be >= 1, got {stride}")
        if (lowest := float(t.min())) <= stride:
            raise ValueError(f"timestep {lowest:g} has no posterior at stride {stride}: use timesteps > {stride}")
        a_t, a_s = self.alpha_bar_at(t), self.alpha_bar_at(t - stride)
        step_alpha = a_t / self.alpha_bar_at(t - 1)
        beta = 1 - step_alpha
        c0 = a_s.sqrt() * beta / (1 - a_t)
        c1 = step_alpha.sqrt() * (1 - a_s) / (1 - a_t)
        std = ((1 - a_s) / (1 - a_t) * beta).sqrt()
        psi = (a_s.sqrt() - c0 - c1 * a_t.sqrt()) / std
        chi = c0 * ((1 - a_t) / a_t).sqrt() / std
        # with stride 1 the bracket is zero in exact arithmetic; do not leave rounding noise
        return (torch.zeros_like(psi) if stride == 1 else psi), chi


def all_same(t: Timesteps) -> bool:
    """Whether a batch has one timestep, as those of an edit have; on the CPU."""
    return bool((t == t[0]).all())


def beside(tables: Float[Tensor, "k b"], t: Timesteps, like: Tensor) -> Tensor:
    """`tables` of numbers for timesteps `t`, to be combined with a batch such as `like`.

    Where all timesteps are the same each row is a number without dimensions on the CPU, for which no device waits; else
    they are brought to where `like` is in one copy.
    """
    if all_same(t):
        return tables[:, 0].to(like.dtype)
    return tables.to(like).view(*tables.shape, *[1] * (like.ndim - 1))


def filled(t: Timesteps, device: torch.device) -> Timesteps:
    """`t` on a device, which waits for none that is the same throughout."""
    if t.device.type == "cpu" and all_same(t):
        return torch.full(t.shape, t[0].item(), dtype=t.dtype, device=device)
    return t.to(device)


def _shifted(s: Tensor, shift: float) -> Tensor:
    return shift * s / (1 + (shift - 1) * s)


def uniform(low: int, high: int, step: int, steps: int, generator: torch.Generator, *, whole: bool = True) -> Timesteps:
    """One timestep drawn uniformly from low … high, as DDS, CDS and PDS do."""
    if whole:
        return torch.randint(low, high + 1, (1,), generator=generator)
    return low + (high - low) * torch.rand(1, generator=generator, dtype=torch.float64)


def non_increasing(
    low: int, high: int, step: int, steps: int, generator: torch.Generator, *, whole: bool = True
) -> Timesteps:
    """One timestep from the step-th of `steps` equal slices of high … low: from coarse to fine (DreamTime, 2023)."""
    slice_height = (high - low) / steps
    draw = torch.rand(1, generator=generator, dtype=torch.float64)
    t = high - (step + draw) * slice_height
    return (t.round().long() if whole else t).clamp(low, high)


def descending(
    low: int, high: int, step: int, steps: int, generator: torch.Generator | None = None, *, whole: bool = True
) -> Timesteps:
    """The step-th of `steps` timesteps evenly spaced from high down to low, as a sampler goes; nothing is drawn."""
    t = high - (high - low) * step / max(1, steps - 1)
    return torch.tensor([round(t)]) if whole else torch.tensor([t], dtype=torch.float64)


def low_discrepancy(
    low: int, high: int, step: int, steps: int, generator: torch.Generator, *, whole: bool = True
) -> Timesteps:
    """One timestep of a sequence that covers low … high evenly over every stretch of the run, in no order.

    Kronecker's sequence of the golden ratio, frac(1/2 + k g): the largest gap of n in a row is below 1.9 / n, where
    independent draws leave ln(n) / n. Each is moved by a draw of at most half of 1 / steps.
    """
    draw = torch.rand(1, generator=generator, dtype=torch.float64)
    t = low + (0.5 + step * GOLDEN + (draw - 0.5) / steps) % 1 * (high - low)
    return (t.round().long() if whole else t).clamp(low, high)


TIMESTEP_SAMPLERS = {
    "uniform": uniform,
    "low-discrepancy": low_discrepancy,
    "non-increasing": non_increasing,
    "descending": descending,
}
