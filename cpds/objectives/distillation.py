"""Directions that distill a prior's score: SDS and what became of it."""

from cpds.objectives.base import EditPair, Objective, Predictions, Weights
from cpds.types import Latents


def sds(pair: EditPair, predictions: Predictions, weights: Weights) -> Latents:
    """w(t) (eps_tgt - eps), w = 1 - alpha_bar_t  (DreamFusion, Poole 2022, Eq. 3)."""
    return weights.one_minus_alpha_bar * (predictions.guided("target") - pair.eps)


def dds(pair: EditPair, predictions: Predictions, weights: Weights) -> Latents:
    """eps_tgt - eps_src  (Delta Denoising Score, Hertz 2023, Eq. 3)."""
    return predictions.guided("target") - predictions.guided("source")


def pds(pair: EditPair, predictions: Predictions, weights: Weights) -> Latents:
    """psi (z_tgt - z_src) + chi (eps_tgt - eps_src)  (Posterior Distillation Sampling, Koo 2024, Eq. 14)."""
    delta = predictions.guided("target") - predictions.guided("source")
    return weights.psi * (pair.target - pair.source) + weights.changes * weights.chi * delta


def csd(pair: EditPair, predictions: Predictions, weights: Weights) -> Latents:
    """w1 eps(T, tgt) + (w2 - w1) eps(T, null) - w2 eps(T, src)  (Classifier Score Distillation, Yu 2023, editing).

    The paper's code has no values for editing: w1 and w2 are those that its refinement of shapes ends with.
    """
    toward, away = weights.options["w1"], weights.options["w2"]
    tgt, null, src = (predictions["target", prompt] for prompt in ("target", "null", "source"))
    return toward * tgt + (away - toward) * null - away * src


def lusd(pair: EditPair, predictions: Predictions, weights: Weights) -> Latents:
    """(1 - l) M (eps(T, tgt) - eps(T, src)) + l dz  (Localized Update Score Distillation, Chinchuthakun 2025).

    The paper takes M from cross- and self-attention and blends it in over the run; here it is where the prior tells the
    prompts apart (`localize`), from the first step on.
    """
    share = weights.options["pull"]
    score = predictions["target", "target"] - predictions["target", "source"]
    return (1 - share) * weights.changes * score + share * (pair.target - pair.source)


TARGET = (("target", "target"), ("target", "null"))
BOTH = (*TARGET, ("source", "source"), ("source", "null"))
PROMPTS = (("target", "target"), ("target", "source"))

DISTILLATION = {
    "sds": Objective(sds, TARGET, guides=("target",)),
    "dds": Objective(dds, BOTH),
    "cds": Objective(dds, BOTH, contrast=True),
    "pds": Objective(pds, BOTH, posterior=True, localizes=True),
    "cpds": Objective(pds, BOTH, posterior=True, localizes=True, contrast=True),
    "csd": Objective(csd, (*PROMPTS, ("target", "null")), options={"w1": 1.0, "w2": 0.5}, guides=(), reads_null=True),
    "lusd": Objective(lusd, PROMPTS, options={"pull": 0.02}, localizes=True, guides=()),
}
