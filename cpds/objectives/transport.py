"""Directions that carry the source to the target along a prior's velocities, as flow-based editors do.

In x / (alpha + sigma), with the flow time s = sigma / (alpha + sigma), every schedule is a flow: its velocity is noise
minus clean latents. A step of plain gradient descent with learning rate 1 is then a step of the published sampler; a
renderer takes the same direction as a gradient.
"""

from cpds.objectives.base import EditPair, Objective, Predictions, Weights
from cpds.objectives.distillation import BOTH
from cpds.types import Latents


def flowedit(pair: EditPair, predictions: Predictions, weights: Weights) -> Latents:
    """(s - s_next) (v_T - v_S), each guided under its own prompt  (FlowEdit, Kulikov 2024, Alg. 1)."""
    edited, source = (predictions.velocity(half, predictions.guided(half)) for half in ("target", "source"))
    return weights.spacing * (edited - source)


def dvrf(pair: EditPair, predictions: Predictions, weights: Weights) -> Latents:
    """(s - s_next) (v_T - v_S + (1 - eta) dz)  (Delta Velocity Rectified Flow, Beaudouin 2025); eta is the coupling.

    The size of the step is FlowEdit's, one of the two in the published code.
    """
    return flowedit(pair, predictions, weights) + weights.spacing * (1 - weights.coupling) * (pair.target - pair.source)


def flowalign(pair: EditPair, predictions: Predictions, weights: Weights) -> Latents:
    """(s - s_next) (v_T - v_S) + zeta / K (z0_T - z0_S), of K steps  (FlowAlign, Kim 2025: zeta / K 0.01, K 33).

    v_T is guided from the source's prompt to the target's, v_S is the source's, and z0 is what they say is clean. Of
    v_T - v_S the second term takes s zeta / K back: were that 0.01 in every step of a long edit, none is left.
    """
    edited, source = predictions.guided("target", instead_of="source"), predictions["source", "source"]
    velocity = predictions.velocity("target", edited) - predictions.velocity("source", source)
    clean = predictions.clean("target", edited) - predictions.clean("source", source)
    return weights.spacing * velocity + weights.share * weights.options["zeta"] * clean


def chordedit(pair: EditPair, predictions: Predictions, weights: Weights) -> Latents:
    """-(t R(t - d) + d R(t)) / (t + d), R = z0(T, tgt) - z0(T, src), without guidance  (ChordEdit, 2026).

    t and d are fractions of the schedule; the second question is asked d earlier. For priors of few steps, in one step
    of learning rate 1, which the published code follows by a denoising step from t 0.3 under the target's prompt.
    """

    def residual(at: int) -> Latents:
        clean = [predictions.clean("target", predictions["target", p, at], at) for p in ("target", "source")]
        return clean[0] - clean[1]

    t, chord = weights.time, CHORD
    return -(t * residual(1) + chord * residual(0)) / (t + chord)


def progress(done: float) -> float:
    """A coupling that grows with the edit, from none to FlowEdit's."""
    return done


CHORD = 0.15  # of the schedule, between its two questions
TWICE = tuple(("target", prompt, at) for prompt in ("target", "source") for at in (0, 1))

TRANSPORT = {
    "flowedit": Objective(flowedit, BOTH, coupling=1.0, clean=True),
    "dvrf": Objective(dvrf, BOTH, coupling=progress, clean=True),
    "flowalign": Objective(
        flowalign,
        (("source", "source"), ("target", "source"), ("target", "target")),
        coupling=1.0,
        options={"zeta": 0.33},
        clean=True,
        guides=("target",),
    ),
    "chordedit": Objective(chordedit, TWICE, offsets=(0.0, -CHORD), clean=True, guides=()),
}
