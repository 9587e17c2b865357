"""The edit loop for everything but nerfstudio."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cpds.callbacks import Callback
from cpds.config import EditConfig
from cpds.errors import InputError
from cpds.guidance import Guidance, StepResult
from cpds.moments import load_moments, moments
from cpds.presets import PRESETS
from cpds.priors.base import Prior
from cpds.representation import Representation

OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class EditDiverged(RuntimeError):
    """NaN or infinite values appeared; the representation holds the last good state."""


@dataclass
class EditState:
    """A running edit, as callbacks see it. `step` counts the finished steps."""

    representation: Representation[Any]
    prior: Prior
    guidance: Guidance
    optimizer: torch.optim.Optimizer
    config: EditConfig
    step: int = 0

    def tensors(self) -> dict[str, Tensor]:
        """Parameters, optimizer moments, selector and step: all that a resumed run needs, as flat named tensors."""
        saved = {"step": torch.tensor(self.step)}
        for group in self.representation.param_groups():
            saved |= {f"param.{group.name}.{i}": x.detach() for i, x in enumerate(group.tensors)}
        saved |= {f"optimizer.{k}": v for k, v in moments(self.optimizer).items()}
        for i, selector in enumerate(self.guidance.selectors):
            saved |= {f"selector.{i}.{k}": v for k, v in selector.state().items()}
        return saved

    @torch.no_grad()
    def load(self, saved: dict[str, Tensor]) -> None:
        """Go on from what `tensors` gave. ValueError for what is no state of this edit."""
        fresh = self.tensors()
        for key, value in saved.items():
            if not finite([value]):
                raise ValueError(f"{key} holds NaN or infinite values")
            if key.startswith(("step", "param.")) and key in fresh and not alike(value, fresh[key]):
                raise ValueError(f"{key} is {described(value)} instead of {described(fresh[key])}")
        if missing := sorted(fresh.keys() - saved.keys()):
            raise ValueError(f"{missing[0]} is missing")
        step, steps = int(saved["step"]), self.config.num_inference_steps
        if not 0 <= step <= steps:
            raise ValueError(f"step {step} is not in 0 ... {steps}")
        self.step = step
        for group in self.representation.param_groups():
            for i, x in enumerate(group.tensors):
                x.copy_(saved[f"param.{group.name}.{i}"])
        load_moments(self.optimizer, below(saved, "optimizer."))
        for i, selector in enumerate(self.guidance.selectors):
            state = below(saved, f"selector.{i}.")
            selector.load_state({k: v.to(self.prior.device) for k, v in state.items()})
        if unknown := sorted(saved.keys() ^ self.tensors().keys()):  # what has taken no part
            raise ValueError(f"{unknown[0]} is no part of this edit's state")


def below(saved: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, under the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in saved.items() if k.startswith(prefix)}


def alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype


def described(x: Tensor) -> str:
    return f"{tuple(x.shape)} of {str(x.dtype).removeprefix('torch.')}"


def step_generator(seed: int, step: int) -> torch.Generator:
    """The randomness of one step, from the seed and the step alone: a resumed run draws what it would have drawn."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


def step_size(config: EditConfig, lr: float, step: int, latent_area: int) -> float:
    """A group's step size: falls exponentially by lr_final / lr over the run, times 2000 / (h w) with area scaling."""
    if config.lr_final is not None:
        lr = lr * (config.lr_final / config.lr) ** (step / max(1, config.num_inference_steps - 1))
    return lr * 2000 / latent_area if config.lr_scaling == "area" else lr


def start(
    representation: Representation[Any],
    prior: Prior,
    prompt: str | Sequence[str],
    target_prompt: str | Sequence[str],
    config: EditConfig,
) -> EditState:
    """Set up an edit without running it."""
    guidance = Guidance(
        prior,
        prompt,
        target_prompt,
        config.guidance,
        steps=config.num_inference_steps,
        seed=config.seed,
        lr_scaling=config.lr_scaling,
    )
    groups = [
        {"params": g.tensors, "lr": config.lr, "base": config.group_lrs.get(g.name, config.lr)}
        for g in representation.param_groups()
    ]
    names = [g.name for g in representation.param_groups()]
    if unknown := sorted(set(config.group_lrs) - set(names)):
        raise InputError(
            f"group_lrs names {', '.join(unknown)}, but what is edited has {', '.join(names)}: leave the others out"
        )
    return EditState(representation, prior, guidance, OPTIMIZERS[config.optimizer](groups), config)


def run(state: EditState, callbacks: Sequence[Callback] = ()) -> EditState:
    """Optimise until the last step. Raises EditDiverged, with the last good parameters in place, on NaN."""
    representation, config = state.representation, state.config
    for callback in callbacks:
        callback.started(state)
    while state.step < config.num_inference_steps:
        generator = step_generator(config.seed, state.step)
        view = representation.sample_view(generator=generator)
        latents = representation.latents(state.prior, view)
        source = representation.source_latents(state.prior, view)
        terms = state.guidance.step(source, latents, state.step, generator)
        for group in state.optimizer.param_groups:
            group["lr"] = step_size(config, group["base"], state.step, latents.shape[-1] * latents.shape[-2])
        state.optimizer.zero_grad()
        terms.total.backward()
        update(state, terms)
        representation.project()
        state.step += 1
        for callback in callbacks:
            callback.stepped(state, terms)
    for callback in callbacks:
        callback.finished(state)
    return state


@torch.no_grad()
def update(state: EditState, terms: StepResult) -> None:
    """The optimizer's step. Raises EditDiverged, the parameters left as they were, where it meets NaN or infinity."""
    parameters = [x for g in state.optimizer.param_groups for x in g["params"]]
    before = [x.clone() for x in parameters]
    if finite([terms.total, *(x.grad for x in parameters if x.grad is not None)]):
        state.optimizer.step()
        moments = [v for per in state.optimizer.state.values() for v in per.values() if isinstance(v, Tensor)]
        if finite([*parameters, *moments]):
            return
    for x, good in zip(parameters, before, strict=True):
        x.copy_(good)
    raise EditDiverged(
        f"step {state.step + 1} gave NaN or infinite values and was not applied: "
        "lower lr or guidance_scale, or use fp32"
    )


def finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no tensor holds a NaN or an infinity."""
    return all(bool(torch.isfinite(x).all()) for x in tensors)


def edit(
    representation: Representation[Any],
    prior: Prior,
    prompt: str | Sequence[str],
    target_prompt: str | Sequence[str],
    config: EditConfig | None = None,
    callbacks: Sequence[Callback] = (),
) -> EditState:
    """Edit `representation` in place from what `prompt` says to what `target_prompt` says.

    `config` is by default the preset that the representation names, else cpds.

    A representation of several pictures takes a prompt of each kind for every picture.
    """
    config = config or PRESETS[getattr(representation, "preset", "cpds")]
    return run(start(representation, prior, prompt, target_prompt, config), callbacks)
