"""One edit step: prior, source and edited latent in; losses whose gradients are the edit out.

The only place of classifier-free guidance. At the step's cost: three samples through the network without gradient, and
one (the edited latent under the target prompt) with gradient from the feature taps down. Methods without the
contrastive loss run all four without gradient.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from cpds.config import GuidanceConfig
from cpds.contrast import cut_loss
from cpds.errors import InputError
from cpds.objectives import OBJECTIVES, EditPair, Guided, PosteriorSettings, proximity_loss, pull
from cpds.priors.base import Conditioning, Prior
from cpds.schedule import TIMESTEP_SAMPLERS
from cpds.selectors import make_selector
from cpds.types import Features, Latents, Scalar


@dataclass(frozen=True)
class StepResult:
    """One step's losses, by name; their sum is what to differentiate. `metrics` are for the log."""

    losses: dict[str, Scalar]
    metrics: dict[str, float]

    @property
    def total(self) -> Scalar:
        return torch.stack(list(self.losses.values())).sum()


class Guidance:
    """The edit from `prompt` to `target_prompt` as seen by `prior`; holds the prompts' encodings and the selectors.

    Several edits at once: give a prompt for each. A step's latents are then those of the first edit's views, those of
    the second's, and so on, as many for each. Every edit sees the noise, timesteps and patches that it sees alone.
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
    ) -> None:
        prompts, targets = ([p] if isinstance(p, str) else list(p) for p in (prompt, target_prompt))
        if len(prompts) != len(targets):
            raise InputError(f"{len(prompts)} prompts but {len(targets)} target prompts: give one of each for an edit")
        self.prior, self.config, self.steps, self.lr_scaling = prior, config, steps, lr_scaling
        self.objective = OBJECTIVES[config.method]
        self.edits = len(prompts)
        self.say(prompts, targets)
        length = len(prior.schedule)
        self.low, self.high = math.ceil(config.t_min * length), math.floor(config.t_max * length)
        if self.low > self.high:
            raise InputError(f"no timestep lies between t_min {config.t_min} and t_max {config.t_max}: widen the range")
        if config.uses_posterior and not bool(prior.schedule.alpha_bar[self.high] > 0):
            raise InputError(f"t_max {config.t_max} reaches pure noise, where {config.method} has no weights: lower it")
        if config.uses_posterior and self.low <= config.stride:
            raise InputError(
                f"stride {config.stride} reaches below timestep 1 from the lowest timestep {self.low}: "
                "raise t_min or lower the stride"
            )
        self.selectors = [
            make_selector(config.patch_selector, width=prior.feature_width, seed=seed, device=prior.device)
            for _ in prompts
        ]

    def say(self, prompts: Sequence[str], targets: Sequence[str]) -> None:
        """Ask for other edits from the next step on, as many as before. Raises InputError for an empty prompt."""
        for name, texts in {"prompt": prompts, "target prompt": targets}.items():
            if not all(text.strip() for text in texts):
                raise InputError(f"the {name} is empty: say in words what the picture shows")
        embeds = self.prior.embed([*prompts, *targets, self.config.negative_prompt]).embeds
        self.source_text, self.target_text, self.uncond = (
            Conditioning(e) for e in embeds.split([self.edits, self.edits, 1])
        )

    def step(self, source: Latents, target: Latents, step: int, generator: torch.Generator) -> StepResult:
        """Losses of one step; gradients reach `target`. `source` is constant. All randomness from `generator` (CPU)."""
        config, schedule = self.config, self.prior.schedule
        if len(source) % self.edits:
            raise ValueError(f"{len(source)} views cannot be shared out among {self.edits} edits")
        source = source.detach()
        # 2000 / (h w) belongs to the score term alone: the other losses undo what the learning rate holds of it
        undo = target.shape[-2] * target.shape[-1] / 2000 if self.lr_scaling == "area" else 1.0
        losses = {"anchor": undo * config.w_proximity * proximity_loss(source, target)} if config.w_proximity else {}
        if config.normalize_gradient and target.requires_grad:
            target = target.clone()  # a node of its own, whose hook sees the sum of all losses' gradients
            target.register_hook(self._unit_rms)  # of all but the anchor's
        t = TIMESTEP_SAMPLERS[config.timesteps](self.low, self.high, step, self.steps, generator)
        pair = EditPair.draw(source, target, t, generator, self.edits)
        guided, before, after = self._predict(pair)
        posterior = PosteriorSettings(config.stride, config.w_identity)
        with torch.no_grad():
            direction = self.objective.direction(pair, guided, schedule, posterior)
        losses[config.method] = config.w_direction * pull(target, direction)
        metrics = {
            "timestep": float(t),
            "direction": float(direction.square().mean().sqrt()),
            "forwards": float(len(target) * (4 if self.objective.needs_source else 2)),  # samples through the network
        }
        if config.uses_cut:
            cut = torch.stack(
                [
                    cut_loss(
                        [f.chunk(self.edits)[i] for f in before],
                        [f.chunk(self.edits)[i] for f in after],
                        sizes=config.patch_size,
                        n_patches=config.n_patches,
                        temperature=config.temperature,
                        selector=selector,
                        generator=generator.clone_state(),
                    )
                    for i, selector in enumerate(self.selectors)
                ]
            ).sum()
            losses["cut"] = undo * config.w_cut * cut
            metrics["cut"] = float(cut.detach()) / self.edits
            if (step + 1) % config.selector_every == 0:
                metrics |= mean_metrics([selector.update() for selector in self.selectors])
        return StepResult(losses, metrics)

    def _predict(self, pair: EditPair) -> tuple[Guided, tuple[Features, ...], tuple[Features, ...]]:
        """Guided predictions of both halves, and with the contrastive loss both halves' features."""
        n, schedule, cut = len(pair.source), self.prior.schedule, self.config.uses_cut
        src_text, tgt_text, uncond = (x.expand(n) for x in (self.source_text, self.target_text, self.uncond))
        noised_target = schedule.add_noise(pair.target, pair.eps, pair.t)
        fixed = noised_target.detach()
        latents, texts = [fixed], uncond
        if self.objective.needs_source:
            noised_source = schedule.add_noise(pair.source, pair.eps, pair.t)
            latents = [noised_source, noised_source, fixed]
            texts = src_text + uncond + uncond
        if not cut:
            latents, texts = [*latents, fixed], texts + tgt_text
        with torch.no_grad():
            constant = self.prior.denoise(torch.cat(latents), pair.t.repeat(len(latents)), texts, tap=cut)
        parts = list(constant.eps.split(n))
        before = tuple(f[:n] for f in constant.features)
        after: tuple[Features, ...] = ()
        if cut:
            live = self.prior.denoise(noised_target, pair.t, tgt_text, tap=True)
            parts.append(live.eps.detach())
            after = live.features
        *source, target_uncond, target_cond = parts
        return Guided(self._mix(*source) if source else None, self._mix(target_cond, target_uncond)), before, after

    def _unit_rms(self, gradient: Latents) -> Latents:
        """Each edit's gradient, all its views together, at root mean square 1; a zero gradient stays zero."""
        flat = gradient.reshape(self.edits, -1)
        flat = flat / flat.abs().amax(1, keepdim=True).clamp(min=1e-30)  # first, so that no square overflows
        rms = flat.square().mean(1, keepdim=True).sqrt()
        return (flat / rms.clamp(min=1e-30)).view_as(gradient)

    def _mix(self, cond: Latents, uncond: Latents) -> Latents:
        return mixed(cond, uncond, self.config.guidance_scale)


def mixed(cond: Latents, uncond: Latents, scale: float) -> Latents:
    """eps_uncond + omega (eps_cond - eps_uncond)  (Ho & Salimans 2021)."""
    return uncond + scale * (cond - uncond)


def mean_metrics(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each figure's mean over all that report it."""
    found: dict[str, list[float]] = {}
    for one in figures:
        for name, value in one.items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}
