"""Patch selectors by name."""

import torch

from cpds.errors import InputError
from cpds.parts import imported
from cpds.selection.base import PatchSelector, WithoutLearning
from cpds.selection.classifiers import ClassifierPatches, sklearn_classifier
from cpds.selection.learned import LearnedPatches
from cpds.selection.meta_learner import MetaLearner
from cpds.selection.rules import CalmPatches, DiscriminativePatches, LowEntropyPatches, RandomPatches

RULES = {
    "random": RandomPatches,
    "qs-attn": LowEntropyPatches,
    "enco-dag": DiscriminativePatches,
    "relevance": CalmPatches,
}


def make_selector(name: str, *, width: int, seed: int, device: torch.device) -> PatchSelector:
    """The selector called `name`, or made by the class at an import path; `width` is that of the widest features."""
    if name in RULES:
        return RULES[name]()
    if name == "meta-learner":
        return MetaLearner.load(device)
    if name == "learned":
        return LearnedPatches(width, seed, device)
    if name not in ("svm", "knn", "forest"):
        try:
            own = imported(name, "patch_selector")(width=width, seed=seed, device=device)
        except TypeError as err:
            raise InputError(f"patch_selector {name} cannot be made with width, seed and device ({err})") from err
        if not isinstance(own, PatchSelector):
            raise InputError(f"patch_selector {name} makes a {type(own).__name__}, which is no PatchSelector")
        return own
    make = sklearn_classifier(name)
    make(seed)  # say at once, not ten steps later, that scikit-learn is missing
    return ClassifierPatches(width, seed, make)


def make_selectors(name: str, count: int, *, width: int, seed: int, device: torch.device) -> list[PatchSelector]:
    """One for each of so many edits; one for all where nothing in it changes."""
    first = make_selector(name, width=width, seed=seed, device=device)
    if isinstance(first, WithoutLearning):
        return [first] * count
    return [first, *(make_selector(name, width=width, seed=seed, device=device) for _ in range(count - 1))]
