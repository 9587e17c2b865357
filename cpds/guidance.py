"""One edit step: prior, source and edited latents in; the gradient that is the edit out.

At the step's cost: the branches that the objective names, in one batch without gradient; with the contrastive loss one
of them (the edited latents under the target prompt) with gradient from the tapped features down.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from cpds.config import GuidanceConfig
from cpds.contrast import cut_loss
from cpds.errors import InputError
from cpds.objectives import OBJECTIVES, Branch, EditPair, Half, Objective, Predictions, Weights, proximity_loss
from cpds.parts import imported, require_kind
from cpds.priors.base import Conditioning, Prediction, Prior
from cpds.schedule import TIMESTEP_SAMPLERS
from cpds.selection.base import PatchSelector
from cpds.selection.make import make_selector
from cpds.types import Features, Latents, Scalar

BEFORE, AFTER = Branch("source", "source"), Branch("target", "target")  # whose features the contrastive loss compares
ORDER = (BEFORE, Branch("source", "null"), Branch("target", "null"), AFTER)  # in the batch; others come after


@dataclass(frozen=True)
class StepResult:
    """One step's gradient in latent space, as it is to be applied; its parts' values and metrics are for the log."""

    gradient: Latents
    losses: dict[str, Scalar]
    metrics: dict[str, float]


class Guidance:
    """The edit from `prompt` to `target_prompt` as seen by `prior`; holds the prompts' encodings and the selectors.

    Several edits at once: give a prompt for each. A step's latents are then those of the first edit's views, those of
    the second's, and so on, as many for each. Every edit sees the noise, timesteps and patches that it sees alone.
    An `objective` and `selectors` (one for each edit) of your own come before those that the config names.
    """

    def __init__(
        self,
        prior: Prior,
        prompt: str | Sequence[str],
        target_prompt: str | Sequence[str],
        config: GuidanceConfig,
        *,
        steps: int,
        seed: int = 0,
        lr_scaling: Literal["area", "none"] = "none",  # what the optimizer does to its learning rate
        objective: Objective | None = None,
        selectors: Sequence[PatchSelector] | None = None,
    ) -> None:
        prompts, targets = ([p] if isinstance(p, str) else list(p) for p in (prompt, target_prompt))
        if len(prompts) != len(targets):
            raise InputError(f"{len(prompts)} prompts but {len(targets)} target prompts: give one of each for an edit")
        self.prior, self.config, self.steps, self.lr_scaling = prior, config, steps, lr_scaling
        self.objective = objective or OBJECTIVES.get(config.method) or imported(config.method, "method", Objective)
        if not isinstance(self.objective, Objective):
            raise InputError(f"the objective is of type {type(self.objective).__name__}: it must be an Objective")
        self.contrast = self.objective.contrast and config.w_cut > 0
        if self.contrast and not prior.feature_width:
            raise InputError(
                f"method {config.method} needs self-attention features, which this prior has not: take pds"
            )
        self.edits = len(prompts)
        self.set_prompts(prompts, targets)
        self.low, self.high = self._timesteps()
        self.selectors = list(selectors or (self._selector(seed) for _ in prompts))
        for selector in self.selectors:
            require_kind(selector, PatchSelector, "patch selector")
        if len(self.selectors) != self.edits:
            raise InputError(f"{len(self.selectors)} patch selectors for {self.edits} edits: give one for each")

    def _selector(self, seed: int) -> PatchSelector:
        return make_selector(
            self.config.patch_selector, width=self.prior.feature_width, seed=seed, device=self.prior.device
        )

    def set_prompts(self, prompts: Sequence[str], targets: Sequence[str]) -> None:
        """Ask for other edits from the next step on, as many as before. Raises InputError for an empty prompt."""
        for name, texts in {"prompt": prompts, "target prompt": targets}.items():
            if not all(text.strip() for text in texts):
                raise InputError(f"the {name} is empty: say in words what the image shows")
        every = self.prior.embed([*prompts, *targets, self.config.negative_prompt])
        source, target, null = every.split([self.edits, self.edits, 1])
        self.conditioning = {"source": source, "target": target, "null": null}

    def step(self, source: Latents, target: Latents, step: int, generator: torch.Generator) -> StepResult:
        """One step's gradient for `target`; neither argument receives any. All randomness is from `generator` (CPU)."""
        if len(source) % self.edits:
            raise ValueError(f"{len(source)} views cannot be shared out among {self.edits} edits")
        source, target, config = source.detach(), target.detach(), self.config
        t = TIMESTEP_SAMPLERS[config.timesteps](self.low, self.high, step, self.steps, generator)
        pair = EditPair.draw(source, target, t, generator, self.edits)
        live = target.clone().requires_grad_()
        predictions, before, after = self._predict(pair, live)
        stride = config.stride if self.objective.posterior else None
        weights = Weights.at(pair.t, self.prior.schedule, target, config.w_identity, stride)
        with torch.no_grad():
            direction = self.objective.direction(pair, predictions, weights)
        if not isinstance(direction, Tensor) or direction.shape != target.shape:
            found = tuple(direction.shape) if isinstance(direction, Tensor) else type(direction).__name__
            raise InputError(f"the objective's direction is {found}: it must be a tensor {tuple(target.shape)}")
        metrics = {
            "timestep": float(t),
            "direction": float(direction.square().mean().sqrt()),
            "forwards": float(len(target) * len(predictions.eps)),  # samples through the network
        }
        gradient = config.w_direction * direction
        losses = {"direction": config.w_direction * (target * direction).sum()}
        # 2000 / (h w) belongs to the direction alone: the other losses undo what the learning rate holds of it
        undo = target.shape[-2] * target.shape[-1] / 2000 if self.lr_scaling == "area" else 1.0
        if self.contrast:
            with torch.enable_grad():
                cut = self._cut_loss(before, after, None, generator)
                loss = undo * config.w_cut * cut
            losses["cut"] = loss.detach()
            gradient = gradient + torch.autograd.grad(loss, live)[0]
            metrics["cut"] = float(cut.detach()) / self.edits
            if (step + 1) % config.selector_every == 0:
                metrics |= mean_metrics([selector.update() for selector in self.selectors])
        if config.normalize_gradient:
            gradient = self._unit_rms(gradient)
        if config.w_proximity:
            with torch.enable_grad():
                loss = undo * config.w_proximity * proximity_loss(source, live)
            losses["proximity"] = loss.detach()
            gradient = torch.autograd.grad(loss, live)[0] + gradient
        return StepResult(gradient, losses, metrics)

    def _predict(self, pair: EditPair, live: Latents) -> tuple[Predictions, tuple[Features, ...], tuple[Features, ...]]:
        """The objective's predictions, and with the contrastive loss the features of both halves.

        `live` are the target's latents that the latter's gradient is taken in.
        """
        n, contrast = len(pair.source), {BEFORE, AFTER} if self.contrast else set()
        named: set[Any] = {*self.objective.branches, *contrast}
        branches: list[Branch] = sorted(named, key=lambda b: (ORDER.index(b) if b in ORDER else len(ORDER), b))
        fixed = [branch for branch in branches if not (contrast and branch == AFTER)]
        with torch.no_grad():
            halves: set[Half] = {branch.half for branch in fixed}
            x_t = {half: self._noised(pair, half) for half in halves}
            found = self._denoise(pair, torch.cat([x_t[branch.half] for branch in fixed]), fixed)
        eps = dict(zip(fixed, found.eps.split(n), strict=True))
        after: tuple[Features, ...] = ()
        if contrast:
            with torch.enable_grad():
                found_live = self._denoise(pair, self._noised(replace(pair, target=live), "target"), [AFTER])
            eps[AFTER], after = found_live.eps.detach(), found_live.features
            self._check(after)
        return Predictions(eps, self.config.guidance_scale), tuple(f[:n] for f in found.features), after

    def _check(self, features: Sequence[Features]) -> None:
        """InputError unless a prior's features are what the contrastive loss can take."""
        for f in features:
            if f.ndim != 4 or f.shape[1] > self.prior.feature_width:
                raise InputError(
                    f"the prior's features are {tuple(f.shape)}: they must be (b, d, h, w), with d up to "
                    f"its feature_width, {self.prior.feature_width}"
                )
            if not f.requires_grad:
                raise InputError("the prior's features have no gradient to x_t: its denoise must not switch it off")

    def _noised(self, pair: EditPair, half: Half) -> Latents:
        return pair.noised(half, self.prior.schedule, self.objective.coupling)

    def _denoise(self, pair: EditPair, x_t: Latents, branches: Sequence[Branch]) -> Prediction:
        conditioning = [self.conditioning[branch.prompt].repeat(len(pair.source)) for branch in branches]
        return self.prior.denoise(x_t, pair.t.repeat(len(branches)), Conditioning.cat(conditioning), tap=self.contrast)

    def _cut_loss(
        self,
        before: tuple[Features, ...],
        after: tuple[Features, ...],
        relevance: Tensor | None,
        generator: torch.Generator,
    ) -> Scalar:
        """Of all edits, each with its own patches."""
        maps = [None] * self.edits if relevance is None else relevance.chunk(self.edits)
        halves = zip(*(zip(*(f.chunk(self.edits) for f in half), strict=True) for half in (before, after)), strict=True)
        losses = [
            cut_loss(source, target, change, self.config, selector, generator.clone_state())
            for selector, change, (source, target) in zip(self.selectors, maps, halves, strict=True)
        ]
        return torch.stack(losses).sum()

    def _unit_rms(self, gradient: Latents) -> Latents:
        """Each edit's gradient, all its views together, at root mean square 1; a zero gradient stays zero."""
        flat = gradient.reshape(self.edits, -1)
        flat = flat / flat.abs().amax(1, keepdim=True).clamp(min=1e-30)  # first, so that no square overflows
        rms = flat.square().mean(1, keepdim=True).sqrt()
        return (flat / rms.clamp(min=1e-30)).view_as(gradient)

    def _timesteps(self) -> tuple[int, int]:
        """The lowest and the highest. Raises InputError where there is none, or the objective cannot take it."""
        config, schedule = self.config, self.prior.schedule
        low, high = math.ceil(config.t_min * len(schedule)), math.floor(config.t_max * len(schedule))
        if low > high:
            raise InputError(f"no timestep lies between t_min {config.t_min} and t_max {config.t_max}: widen the range")
        if self.objective.posterior and not bool(schedule.alpha_bar[high] > 0):
            raise InputError(f"t_max {config.t_max} reaches pure noise, where {config.method} has no weights: lower it")
        if self.objective.posterior and low <= config.stride:
            raise InputError(
                f"stride {config.stride} reaches below timestep 1 from the lowest timestep {low}: "
                "raise t_min or lower the stride"
            )
        return low, high


def mean_metrics(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each metric's mean over all that report it."""
    found: dict[str, list[float]] = {}
    for one in metrics:
        for name, value in one.items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}
