"""One edit step: prior, source and edited latents in; the gradient that is the edit out.

At the step's cost: the branches that the objective names, in one batch without gradient; with the contrastive loss one
of them (the edited latents under the target prompt) with gradient from the tapped features down. Edits of one source
share what is asked of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from cpds.alike import DIFFERENT, Alike, alike_views
from cpds.config import GuidanceConfig
from cpds.contrast import cut_loss
from cpds.errors import InputError
from cpds.guidance_scale import GuidanceScale, require_guidance, settled
from cpds.noise_levels import NoiseLevels
from cpds.objectives.base import Branch, EditPair, Half, Objective, Predictions, Relevance, Weights
from cpds.objectives.losses import proximity_loss
from cpds.objectives.table import OBJECTIVES
from cpds.parts import imported, require_kind
from cpds.priors.base import Conditioning, Prior
from cpds.profiling import timed
from cpds.relevance import RelevanceMaps
from cpds.selection.base import PatchSelector, jointly
from cpds.selection.make import make_selectors
from cpds.types import Features, Latents, Scalar, Timesteps

BEFORE, AFTER = Branch("source", "source"), Branch("target", "target")  # whose features the contrastive loss compares
HALVES: tuple[Half, Half] = ("source", "target")
ORDER = (BEFORE, Branch("source", "null"), Branch("target", "null"), AFTER)  # in the batch; others come after


@dataclass(frozen=True)
class StepResult:
    """One step's gradient in latent space, as it is to be applied; its parts' values and metrics are for the log.

    Numbers that are computed where the prior is stay there: `state.fetched` brings all at once.
    """

    gradient: Latents
    losses: dict[str, Scalar]
    metrics: dict[str, float | Scalar]


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
        self.config = config = settled(config, prior)
        self.prior, self.lr_scaling = prior, lr_scaling
        self.objective = objective or OBJECTIVES.get(config.method) or imported(config.method, "method", Objective)
        if not isinstance(self.objective, Objective):
            raise InputError(f"the objective is of type {type(self.objective).__name__}: it must be an Objective")
        self.contrast = self.objective.contrast and config.w_cut > 0
        if self.contrast and not prior.feature_width:
            raise InputError(
                f"method {config.method} needs self-attention features, which this prior has not: take pds"
            )
        if unknown := sorted(set(config.method_options) - set(self.objective.options)):
            known = ", ".join(self.objective.options) or "none"
            raise InputError(f"method {config.method} has no option {unknown[0]}: it has {known}")
        require_guidance(prior, config)
        self.edits = len(prompts)
        self._maps, self._same = RelevanceMaps(prior, seed), WeakTensorKeyDictionary()
        self.set_prompts(prompts, targets)
        self.levels = NoiseLevels(self.objective, config, prior.schedule, steps)
        chosen, width, device = config.patch_selector, prior.feature_width, prior.device
        self.selectors = list(selectors or make_selectors(chosen, len(prompts), width=width, seed=seed, device=device))
        for selector in self.selectors:
            require_kind(selector, PatchSelector, "patch selector")
        if len(self.selectors) != self.edits:
            raise InputError(f"{len(self.selectors)} patch selectors for {self.edits} edits: give one for each")

    def set_prompts(self, prompts: Sequence[str], targets: Sequence[str]) -> None:
        """Ask for other edits from the next step on, as many as before. Raises InputError for an empty prompt."""
        for name, texts, what in (("prompt", prompts, "shows"), ("target prompt", targets, "should become")):
            if not all(text.strip() for text in texts):
                raise InputError(f"the {name} is empty: say in words what the image {what}")
        with timed("prompts"):
            every = self.prior.embed([*prompts, *targets, self.config.negative_prompt])
        source, target, null = every.split([self.edits, self.edits, 1])
        self.conditioning = {"source": source, "target": target, "null": null}
        self._prompts = tuple(prompts)
        self._maps.clear()
        self._same.clear()

    def step(self, source: Latents, target: Latents, step: int, generator: torch.Generator) -> StepResult:
        """One step's gradient for `target`; neither argument receives any. All randomness is from `generator` (CPU).

        What is known of a `source` is kept for as long as that very tensor is: pass a view's again, not a copy.
        """
        if len(source) % self.edits:
            raise InputError(f"{len(source)} views for {self.edits} prompts: give as many views for each prompt")
        config = self.config
        relevance, same = self.relevance(source), self._alike(source)
        source, target = source.detach(), target.detach()
        t = self.levels.draw(step, generator)
        pair = EditPair.draw(source, target, t, generator, self.edits)
        if config.reestimate_noise:
            pair = self._reestimated(pair, same)
        live = target.clone().requires_grad_()
        predictions, before, after = self._predict(pair, live, self.levels.weights(pair, step, relevance), same)
        asked = [*predictions.eps, *[BEFORE] * config.reestimate_noise]
        direction = self._direction(pair, predictions)
        kept = self._kept(direction)
        direction = kept * direction
        metrics: dict[str, float | Scalar] = {
            "timestep": float(t),
            "direction": direction.square().mean().sqrt(),
            # through the network, maps aside, which are made once for a view
            "samples": float(sum(shared(branch, same).count(len(target)) for branch in asked)),
        }
        gradient = config.w_direction * direction
        losses = {"direction": config.w_direction * (target * direction).sum()}
        # 2000 / (h w) belongs to the direction alone: the other losses undo what the learning rate holds of it
        undo = target.shape[-2] * target.shape[-1] / 2000 if self.lr_scaling == "area" else 1.0
        if self.contrast:
            with torch.enable_grad(), timed("contrast"):
                cut = cut_loss(before, after, relevance, config, self.selectors, generator)
                loss = undo * config.w_cut * cut
            losses["cut"] = loss.detach()
            with timed("contrast's backward"):
                gradient = gradient + kept * torch.autograd.grad(loss, live)[0]
            metrics["cut"] = cut.detach() / self.edits
            if (step + 1) % config.selector_every == 0:
                metrics |= mean_metrics(jointly(self.selectors).update_all(self.selectors))
        if config.normalize_gradient:
            gradient = self._unit_rms(gradient)
        if config.w_proximity:
            with torch.enable_grad():
                loss = undo * config.w_proximity * proximity_loss(source, live)
            losses["proximity"] = loss.detach()
            gradient = torch.autograd.grad(loss, live)[0] + gradient
        return StepResult(gradient, losses, metrics)

    def relevance(self, source: Latents) -> Relevance | None:
        """Where the edit belongs, if that is asked for; on the CPU."""
        selecting = self.contrast and any(selector.needs_relevance for selector in self.selectors)
        if not (self.config.localize or selecting):
            return None
        prompts = self.conditioning["source"], self.conditioning["target"]
        return self._maps.of(source, *prompts, self.edits, self._alike(source))

    def _alike(self, source: Latents) -> Alike:
        """Which views are the same to the prior before the edit."""
        if source not in self._same:
            self._same[source] = alike_views(source, self._prompts)
        return self._same[source]

    def _reestimated(self, pair: EditPair, same: Alike) -> EditPair:
        """With eps + (1 - s) (v(x_t) + z - eps) for eps, after RFDS-Rev (Yang 2024), here of the source."""
        schedule = self.prior.schedule
        with torch.no_grad():
            x_t = pair.noised("source", schedule)
            (found,), _ = self._denoise({BEFORE: (x_t, pair.t)}, same)
            s = schedule.flow_time_at(pair.t).to(found).view(-1, 1, 1, 1)
            seen = found - schedule.denoised(x_t, found, pair.t) + pair.source
        return replace(pair, eps=pair.eps + (1 - s) * (seen - pair.eps))

    def _direction(self, pair: EditPair, predictions: Predictions) -> Latents:
        """The objective's, held back where the edit does not belong. InputError for what is no direction."""
        weights, config = predictions.levels[0], self.config
        with torch.no_grad():
            direction = self.objective.direction(pair, predictions, weights)
        if not isinstance(direction, Tensor) or direction.shape != pair.target.shape:
            found = tuple(direction.shape) if isinstance(direction, Tensor) else type(direction).__name__
            raise InputError(f"the objective's direction is {found}: it must be a tensor {tuple(pair.target.shape)}")
        if config.localize and not self.objective.localizes:
            direction = weights.changes * direction
        return direction

    def _kept(self, direction: Latents) -> Tensor:
        """1 for views of edits whose direction is as strong as is asked for, 0 for those whose step is left out."""
        rms = direction.reshape(self.edits, -1).square().mean(1).sqrt()
        kept = (rms >= self.config.min_direction).repeat_interleave(len(direction) // self.edits)
        return kept.to(direction).view(-1, 1, 1, 1)

    def _predict(
        self, pair: EditPair, live: Latents, levels: tuple[Weights, ...], same: Alike
    ) -> tuple[Predictions, tuple[Features, ...], tuple[Features, ...]]:
        """The objective's predictions, and with the contrastive loss the features of both halves.

        `live` are the target's latents that the latter's gradient is taken in.
        """
        contrast = {BEFORE, AFTER} if self.contrast else set()
        scale = GuidanceScale.mixing(self.config, self.prior, levels[0].time)
        spared = set() if self.objective.reads_null else {half for half in HALVES if scale.omega(half) == 1}
        named: set[Any] = {b for b in self.objective.branches if not (b[1] == "null" and b[0] in spared)} | contrast
        branches: list[Branch] = sorted(named, key=lambda b: (ORDER.index(b) if b in ORDER else len(ORDER), b))
        fixed = [branch for branch in branches if not (contrast and branch == AFTER)]
        moved, coupling = self.levels.moved(pair), levels[0].coupling
        with torch.no_grad():
            halves: set[tuple[Half, int]] = {(branch.half, branch.at) for branch in branches}
            x_t: dict[tuple[Half, int], Latents] = {
                (half, at): moved[at].noised(half, self.prior.schedule, coupling) for half, at in halves
            }
            asked = {branch: (x_t[branch.half, branch.at], moved[branch.at].t) for branch in fixed}
            found, before = self._denoise(asked, same, tap=self.contrast)
        eps = dict(zip(fixed, found, strict=True))
        after: tuple[Features, ...] = ()
        if contrast:
            with torch.enable_grad():
                x_live = replace(pair, target=live).noised("target", self.prior.schedule, coupling)
                (found_live,), after = self._denoise({AFTER: (x_live, pair.t)}, DIFFERENT, tap=True)
            eps[AFTER] = found_live.detach()
            self._check(after)
        return Predictions(eps, scale, x_t, levels), before, after

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

    def _denoise(
        self, asked: Mapping[Branch, tuple[Latents, Timesteps]], same: Alike, *, tap: bool = False
    ) -> tuple[list[Latents], tuple[Features, ...]]:
        """Each branch's predictions at x_t and t, and with `tap` the features of the first branch."""
        kinds = {branch: shared(branch, same) for branch in asked}
        x_t = [kinds[branch].distinct(x) for branch, (x, _) in asked.items()]
        t = [t[: len(x)] for x, (_, t) in zip(x_t, asked.values(), strict=True)]  # one timestep for all views
        prompts = [self.conditioning[b.prompt].repeat(len(x)).distinct(kinds[b]) for b, (x, _) in asked.items()]
        if self.prior.guidance == "embedded":
            scale = GuidanceScale.at(self.config, float(t[0][0]) / len(self.prior.schedule))
            prompts = [text.at_scale(scale.omega(branch.half)) for text, branch in zip(prompts, asked, strict=True)]
        sizes = [len(x) for x in x_t]
        first, tapped = next(iter(kinds.values())), sizes[0] if tap else 0
        with timed("guidance forwards"):
            found = self.prior.denoise(torch.cat(x_t), torch.cat(t), Conditioning.cat(prompts), tap=tapped)
        eps = [kind.spread(x) for kind, x in zip(kinds.values(), found.eps.split(sizes), strict=True)]
        return eps, tuple(first.spread(f if len(f) == tapped else f[:tapped]) for f in found.features)

    def _unit_rms(self, gradient: Latents) -> Latents:
        """Each edit's gradient, all its views together, at root mean square 1; a zero gradient stays zero."""
        flat = gradient.reshape(self.edits, -1)
        flat = flat / flat.abs().amax(1, keepdim=True).clamp(min=1e-30)  # first, so that no square overflows
        rms = flat.square().mean(1, keepdim=True).sqrt()
        return (flat / rms.clamp(min=1e-30)).view_as(gradient)


def shared(branch: Branch, same: Alike) -> Alike:
    """Which views of a branch are the same, where those of the source are the `same` under the edits' own prompts."""
    return same if branch.half == "source" and branch.prompt != "target" else DIFFERENT


def mean_metrics(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each metric's mean over all that report it."""
    found: dict[str, list[float]] = {}
    for one in metrics:
        for name, value in one.items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}
