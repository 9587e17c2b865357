"""A running edit, and what may watch it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from cpds.config import EditConfig
from cpds.errors import EditDiverged
from cpds.guidance import Guidance, StepResult
from cpds.moments import load_moments, moments
from cpds.priors.base import Prior
from cpds.rendered import Rendered
from cpds.representation import Representation
from cpds.settling import Settling
from cpds.types import Images


@dataclass
class EditState:
    """A running edit, as callbacks see it. `step` counts the finished steps."""

    representation: Representation[Any]
    prior: Prior
    rendered: Rendered[Any]
    guidance: Guidance
    optimizer: torch.optim.Optimizer
    config: EditConfig
    settling: Settling
    step: int = 0
    lead: "EditState | None" = None  # the edit of the image that this one follows
    unpolished: dict[str, Tensor] = field(default_factory=dict)  # once polished: what the last step left

    def __repr__(self) -> str:
        kind = type(self.representation).__name__
        return f"EditState({kind}, step {self.step} of {self.config.num_inference_steps})"

    @property
    def parts(self) -> "list[EditState]":
        """In the order in which they run: the edit of the image that this one follows, if it does, and itself."""
        return [self] if self.lead is None else [self.lead, self]

    def tensors(self) -> dict[str, Tensor]:
        """Parameters, optimizer moments, selector and step: all that a resumed run needs, as flat named tensors."""
        saved = {"step": torch.tensor(self.step)}
        for group in self.representation.param_groups():
            saved |= {f"param.{group.name}.{i}": x.detach() for i, x in enumerate(group.tensors)}
        saved |= self.unpolished  # a run that is made longer goes on from there
        saved |= {f"optimizer.{k}": v for k, v in moments(self.optimizer).items()}
        saved |= {f"settling.{k}": v for k, v in self.settling.tensors().items()}
        for i, selector in enumerate(self.guidance.selectors):
            saved |= {f"selector.{i}.{k}": v for k, v in selector.state().items()}
        if self.lead is not None:
            saved |= {f"lead.{k}": v for k, v in self.lead.tensors().items()}
        return saved

    @torch.no_grad()
    def load(self, saved: dict[str, Tensor]) -> None:
        """Go on from what `tensors` gave. ValueError for what is no state of this edit."""
        fresh = self.tensors()
        for key, value in saved.items():
            if not finite([value]):
                raise ValueError(f"{key} holds NaN or infinite values")
            if key.startswith(("step", "param.", "settling.")) and key in fresh and not _alike(value, fresh[key]):
                raise ValueError(f"{key} is {_described(value)} instead of {_described(fresh[key])}")
        if missing := sorted(fresh.keys() - saved.keys()):
            raise ValueError(f"{missing[0]} is missing")
        step, steps = int(saved["step"]), self.config.num_inference_steps
        if not 0 <= step <= steps:
            raise ValueError(f"step {step} is not in 0 ... {steps}")
        self.step = step
        self.unpolished = {}
        for group in self.representation.param_groups():
            for i, x in enumerate(group.tensors):
                x.copy_(saved[f"param.{group.name}.{i}"])
        load_moments(self.optimizer, _below(saved, "optimizer."))
        self.settling.load(_below(saved, "settling."))
        for i, selector in enumerate(self.guidance.selectors):
            state = _below(saved, f"selector.{i}.")
            selector.load_state({k: v.to(self.prior.device) for k, v in state.items()})
        if self.lead is not None:
            self.lead.load(_below(saved, "lead."))
        if unknown := sorted(saved.keys() ^ self.tensors().keys()):  # what has taken no part
            raise ValueError(f"{unknown[0]} is no part of this edit's state")


def preview_of(state: EditState) -> Images:
    """What is edited as it looks now. EditDiverged where that has NaN or infinite values."""
    images = state.representation.preview()
    if not finite([images]):
        raise EditDiverged(
            f"step {state.step} left NaN or infinite values in what is shown: lower lr or guidance_scale, or use fp32"
        )
    return images


@runtime_checkable
class Callback(Protocol):
    """Told when an edit starts, after each step, and when its last step is done.

    One that has a method `led(state)` is also told after each step of the image that an edit follows (redraw_steps).
    """

    def started(self, state: EditState) -> None: ...

    def stepped(self, state: EditState, result: StepResult) -> None: ...

    def finished(self, state: EditState) -> None: ...


def finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no tensor holds a NaN or an infinity; a GPU is waited for once, however many there are."""
    return all(map(bool, finite_flags(tensors)))


def finite_flags(tensors: Sequence[Tensor]) -> list[Tensor]:
    """For each device, there: whether no tensor on it holds a NaN or an infinity."""
    answers: dict[torch.device, list[Tensor]] = {}
    for x in tensors:
        answers.setdefault(x.device, []).append(torch.isfinite(x).all())
    return [torch.stack(each).all() for each in answers.values()]


def fetched(values: Mapping[str, float | Tensor]) -> dict[str, float]:
    """Numbers, some of them in tensors without dimensions; each device is waited for once, however many it holds."""
    found, places = dict(values), dict[torch.device, list[str]]()
    for name, x in values.items():
        if isinstance(x, Tensor):
            places.setdefault(x.device, []).append(name)
    for names in places.values():
        numbers = torch.stack([values[name].detach() for name in names])  # pyright: ignore[reportAttributeAccessIssue]
        found |= zip(names, numbers.tolist(), strict=True)
    return {name: float(x) for name, x in found.items()}


def _below(saved: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, under the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in saved.items() if k.startswith(prefix)}


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype


def _described(x: Tensor) -> str:
    return f"{tuple(x.shape)} of {str(x.dtype).removeprefix('torch.')}"
