"""Losses beside an objective."""

from cpds.types import Latents, Scalar


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
