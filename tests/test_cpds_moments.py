"""Moments of every kind of optimizer come back as they were saved, and what does not fit is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import randn
from torch import Tensor, nn
from torch.optim import ASGD, SGD, Adafactor, Adam, Optimizer

from cpds.moments import load_moments, moments

Make = Callable[[list[dict[str, Any]]], Optimizer]


class Closed(SGD):
    """Of somebody who asks for more than parameters."""

    def __init__(self, groups: Any, lr: float) -> None:
        super().__init__(groups, lr, momentum=0.9)


MAKERS: dict[str, Make] = {
    "adam": Adam,
    "adafactor": Adafactor,  # reads numbers of tensors, which have none on the meta device
    "asgd": ASGD,
    "sgd with momentum in one group": lambda groups: SGD([groups[0] | {"momentum": 0.9}, groups[1]], lr=0.1),
    "sgd with momentum in the other": lambda groups: SGD([groups[0], groups[1] | {"momentum": 0.9}], lr=0.1),
    "with an argument that must be given": lambda groups: Closed(groups, 0.1),
}


def started(make: Make) -> tuple[list[Tensor], Optimizer]:
    parameters: list[Tensor] = [nn.Parameter(randn(0, 4, 3)), nn.Parameter(randn(1, 5))]
    return parameters, make([{"params": [x]} for x in parameters])


def step(parameters: list[Tensor], optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    sum(x.sin().sum() for x in parameters).backward()  # pyright: ignore[reportAttributeAccessIssue]
    optimizer.step()


@pytest.mark.parametrize("name", MAKERS)
def test_resumed_is_uninterrupted(name: str) -> None:
    whole, first = started(MAKERS[name])
    for _ in range(2):
        step(whole, first)
    again, second = started(MAKERS[name])
    with torch.no_grad():
        for x, saved in zip(again, whole, strict=True):
            x.copy_(saved)
    load_moments(second, {k: x.clone() for k, x in moments(first).items()})
    step(whole, first)
    step(again, second)
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(("key", "shape"), [("2.step", ()), ("x", ()), ("0.exp_avg", (3, 4)), ("1.row_var", (4, 5))])
def test_what_fits_no_parameter_is_refused(name: str, key: str, shape: tuple[int, ...]) -> None:
    parameters, optimizer = started(MAKERS[name])
    step(parameters, optimizer)
    with pytest.raises(ValueError, match=key):
        load_moments(optimizer, {**moments(optimizer), key: torch.zeros(shape)})


def test_a_parameter_that_lacks_a_moment_is_refused() -> None:
    parameters, optimizer = started(Adam)
    step(parameters, optimizer)
    saved = moments(optimizer)
    del saved["1.exp_avg"]
    with pytest.raises(ValueError, match="parameter 1 lacks some"):
        load_moments(optimizer, saved)
