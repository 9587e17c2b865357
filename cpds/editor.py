"""The edit loop for everything but nerfstudio."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cpds.config import EditConfig
from cpds.errors import EditDiverged, InputError
from cpds.guidance import Guidance, StepResult
from cpds.guidance_scale import settled
from cpds.objectives.base import Objective
from cpds.objectives.losses import pull
from cpds.optimizers import OPTIMIZERS
from cpds.parts import require_kind
from cpds.polish import polish, proposed, require_latents
from cpds.presets import PRESETS
from cpds.priors.base import Prior
from cpds.profiling import timed
from cpds.redraw import Lead, distance, image_edit, image_of
from cpds.rendered import Rendered
from cpds.representation import ParamGroup, Redrawable, Representation, Revisable
from cpds.selection.base import PatchSelector
from cpds.settling import Settling
from cpds.state import Callback, EditState, fetched, finite, finite_flags, preview_of
from cpds.types import Images, Scalar


@dataclass(frozen=True)
class OwnParts:
    """Parts of an edit from outside of this package, in place of those that its config names."""

    objective: Objective | None = None
    selectors: Sequence[PatchSelector] | None = None  # one for each edit
    optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer] | None = None  # of groups with params and lr


def step_generator(seed: int, step: int) -> torch.Generator:
    """The randomness of one step, from the seed and the step alone: a resumed run draws what it would have drawn."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


def learning_rate(config: EditConfig, lr: float, step: int, latent_area: int) -> float:
    """A group's at a step: times lr_decay over the run, exponentially; with area scaling times 2000 / (h w)."""
    lr = lr * config.lr_decay ** (step / max(1, config.num_inference_steps - 1))
    return lr * 2000 / latent_area if config.lr_scaling == "area" else lr


def own_preset(representation: Representation[Any]) -> EditConfig:
    """The settings that a representation names. Raises InputError for a name that no preset has."""
    if representation.preset not in PRESETS:
        raise InputError(f"there is no preset {representation.preset!r}: name one of {', '.join(PRESETS)}")
    return PRESETS[representation.preset]


def settled_edit(config: EditConfig, prior: Prior) -> EditConfig:
    """The same settings with guidance, where none was given, as it is usual for the prior."""
    if not isinstance(config, EditConfig):
        raise InputError(f"the config is of type {type(config).__name__}: give an EditConfig, such as PRESETS['cpds']")
    return replace(config, guidance=settled(config.guidance, prior))


def start(
    representation: Representation[Any],
    prior: Prior,
    prompt: str | Sequence[str],
    target_prompt: str | Sequence[str],
    config: EditConfig | None = None,
    parts: OwnParts | None = None,
) -> EditState:
    """Set up an edit without running it."""
    require_kind(representation, Representation, "representation")
    require_kind(prior, Prior, "prior")
    for what, given in (("prompt", prompt), ("target prompt", target_prompt)):
        require_texts(given, what)
    config, parts = settled_edit(config or own_preset(representation), prior), parts or OwnParts()
    if config.polish:
        require_latents(representation)
    guidance = Guidance(
        prior,
        prompt,
        target_prompt,
        config.guidance,
        steps=config.num_inference_steps,
        seed=config.seed,
        lr_scaling=config.lr_scaling,
        objective=parts.objective,
        selectors=parts.selectors,
    )
    groups = representation.param_groups()
    names = [g.name for g in groups]
    if len(set(names)) < len(names):
        raise InputError(f"two parameter groups have one name, of {', '.join(names)}: give each its own")
    if unknown := sorted(set(config.group_lrs) - set(names)):
        raise InputError(
            f"group_lrs names {', '.join(unknown)}, but what is edited has {', '.join(names)}: leave the others out"
        )
    make = parts.optimizer or OPTIMIZERS[config.optimizer]
    optimizer = make([{"params": g.tensors, "lr": rate, "base": rate} for g, rate in base_rates(config, groups)])
    if config.stop_below and guidance.edits > 1:
        raise InputError(
            f"stop_below {config.stop_below} is for one edit at a time, not for {guidance.edits} together: edit them "
            "one by one, or leave it at 0"
        )
    lead = None
    if config.redraw_steps:
        own = OwnParts(parts.objective, parts.selectors)
        lead = start(image_of(representation, prior), prior, prompt, target_prompt, image_edit(config), own)
    rendered, settling = Rendered(representation, prior), Settling(config.stop_below, groups)
    return EditState(representation, prior, rendered, guidance, optimizer, config, settling, lead=lead)


def require_texts(given: object, what: str) -> None:
    """InputError unless this is a text, or several in order, one for each edit."""
    texts = [given] if isinstance(given, str) else given
    if not (isinstance(texts, Sequence) and texts and all(isinstance(text, str) for text in texts)):
        raise InputError(f"the {what} must be a text, or a list of texts, one for each edit, got {given!r}")


def base_rates(config: EditConfig, groups: Sequence[ParamGroup]) -> list[tuple[ParamGroup, float]]:
    """Each group with its learning rate: as group_lrs has it, else lr, else the group's own."""
    return [(g, config.group_lrs.get(g.name, g.lr if config.lr is None else config.lr)) for g in groups]


def run(state: EditState, callbacks: Sequence[Callback] = ()) -> EditState:
    """Optimize until the last step, or until the edit has settled.

    Raises EditDiverged, with the last good parameters in place, on NaN.
    """
    representation, config = state.representation, state.config
    with timed("callbacks and files"):
        for callback in callbacks:
            callback.started(state)
    wanted = None
    if state.lead is not None:
        with timed("image to follow"):
            edited = preview_of(run(state.lead, [Lead(state, callbacks)]))
            assert isinstance(representation, Redrawable)
            moving = {g.name for g, rate in base_rates(config, representation.param_groups()) if rate}
            wanted = representation.follow(edited, state.step, moving)
            if wanted is not edited and not state.step:  # made of parameters, which may have reached it
                with torch.no_grad():
                    view = representation.sample_view(0, step_generator(config.seed, 0))
                    state.settling.reached = torch.equal(representation.render(view), wanted)
    while state.step < config.num_inference_steps and not state.settling.settled:
        generator = step_generator(config.seed, state.step)
        view = representation.sample_view(state.step, generator)
        if wanted is None:
            result, loss = directed(state, view, generator)
        else:
            result, loss = followed(state, view, wanted)
        height, width = result.gradient.shape[-2:]
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(config, group["base"], state.step, height * width)
        state.optimizer.zero_grad()
        if not loss.requires_grad:
            raise InputError(
                "what was rendered has no gradient to the parameters: neither render nor encode may detach"
            )
        with timed("renderer's backward"):
            loss.backward()
        with timed("optimizer"):
            result = update(state, result)
            representation.project()
        state.step += 1
        if isinstance(representation, Revisable):
            propose = partial(proposed, state) if wanted is None else lambda _: wanted
            representation.revise(state.step, config.num_inference_steps, propose)
        state.settling.look(state.step)
        with timed("callbacks and files"):
            for callback in callbacks:
                callback.stepped(state, result)
    polish(state)
    require_finite_polish(state)
    with timed("callbacks and files"):
        for callback in callbacks:
            callback.finished(state)
    return state


def directed(state: EditState, view: Any, generator: torch.Generator) -> tuple[StepResult, Scalar]:
    """The prior's step for a view, and the scalar whose gradient it is."""
    with timed("renderer"):
        latents, source = state.rendered.latents(view), state.rendered.source_latents(view)
    with timed("guidance"):
        result = state.guidance.step(source, latents, state.step, generator)
    return result, pull(latents, result.gradient)  # `latents.backward(gradient)` would import sympy first


def followed(state: EditState, view: Any, wanted: Images) -> tuple[StepResult, Scalar]:
    """A step of a view towards `wanted`: no direction of the prior's."""
    assert state.lead is not None
    with timed("renderer"):
        loss = distance(state.representation.render(view), wanted)
    none = torch.zeros_like(state.lead.rendered.source_latents(view))
    return StepResult(none, {"image": loss.detach()}, {}), loss


@torch.no_grad()
def update(state: EditState, result: StepResult) -> StepResult:
    """The optimizer's step; the result with its numbers on the host, for which alone a GPU is waited for.

    Raises EditDiverged, the parameters left as they were, where it meets NaN or infinity.
    """
    parameters = [x for g in state.optimizer.param_groups for x in g["params"]]
    before = [x.clone() for x in parameters]
    gradients = [x.grad for x in parameters if x.grad is not None]
    state.optimizer.step()
    moments = [v for per in state.optimizer.state.values() for v in per.values() if isinstance(v, Tensor)]
    flags = finite_flags([*result.losses.values(), result.gradient, *gradients, *parameters, *moments])
    losses, metrics, whole = (
        {f"{part}.{k}": v for k, v in values.items()}
        for part, values in (("loss", result.losses), ("metric", result.metrics), ("finite", dict(enumerate(flags))))
    )
    numbers = fetched({**losses, **metrics, **whole})
    if all(numbers[name] for name in whole):
        filter_updates(state.representation.param_groups(), before)
        return StepResult(
            result.gradient,
            {k: torch.tensor(numbers[f"loss.{k}"], dtype=v.dtype) for k, v in result.losses.items()},
            {k: numbers[f"metric.{k}"] for k in result.metrics},
        )
    for x, good in zip(parameters, before, strict=True):
        x.copy_(good)
    bad = [name for name, loss in result.losses.items() if not finite([loss])]
    if bad:
        where = f" (first in its {bad[0]} loss)"
    else:
        where = " (in the renderer's part)" if finite([result.gradient]) else ""
    raise EditDiverged(
        f"step {state.step + 1} gave NaN or infinite values{where} and was not applied: "
        "lower lr or guidance_scale, or use fp32"
    )


@torch.no_grad()
def require_finite_polish(state: EditState) -> None:
    """EditDiverged, with what the last step left put back, where the polish gave NaN or infinity."""
    groups = state.representation.param_groups()
    if not state.unpolished or finite([x for group in groups for x in group.tensors]):
        return
    for group in groups:
        for i, x in enumerate(group.tensors):
            x.copy_(state.unpolished[f"param.{group.name}.{i}"])
    raise EditDiverged(
        f"polish {state.config.polish:g} gave NaN or infinite values and was not applied: lower guidance_scale, leave "
        "polish at 0, or use fp32"
    )


def filter_updates(groups: Sequence[ParamGroup], before: Sequence[Tensor]) -> None:
    """Take of the step since `before` what the groups' filters leave of it."""
    earlier = iter(before)
    for group in groups:
        for x in group.tensors:
            was = next(earlier)
            if group.filter_update is not None:
                x.copy_(group.filter_update(was, x.detach().clone()))


def edit(
    representation: Representation[Any],
    prior: Prior,
    prompt: str | Sequence[str],
    target_prompt: str | Sequence[str],
    config: EditConfig | None = None,
    callbacks: Sequence[Callback] = (),
    parts: OwnParts | None = None,
) -> EditState:
    """Edit `representation` in place from what `prompt` says to what `target_prompt` says.

    `config` is by default the preset that the representation names. A representation of several images takes a prompt
    of each kind for every image. `parts` are an objective, selectors or an optimizer of your own.
    """
    return run(start(representation, prior, prompt, target_prompt, config, parts), callbacks)
