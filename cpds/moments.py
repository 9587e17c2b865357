"""An optimizer's moments as flat named tensors, and back; what does not fit its parameters is refused."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer


def moments(optimizer: Optimizer) -> dict[str, Tensor]:
    """'<parameter>.<name>' for every moment that the optimizer holds; parameters are counted through its groups."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{k}": torch.as_tensor(v) for i, own in state.items() for k, v in own.items() if v is not None}


def after_one_step(optimizer: Optimizer) -> dict[str, Tensor]:
    """Shapes and types of the moments that an optimizer of this kind holds once every parameter had a gradient."""
    everything = [x for group in optimizer.param_groups for x in group["params"]]
    parameters = [torch.zeros_like(x, device="meta", requires_grad=True) for x in everything]
    for x in parameters:
        x.grad = torch.zeros_like(x)
    trial = type(optimizer)(parameters)  # pyright: ignore[reportCallIssue]
    trial.param_groups[0].update(optimizer.defaults)
    trial.step()
    return moments(trial)


def load_moments(optimizer: Optimizer, saved: Mapping[str, Tensor]) -> None:
    """Go on from what `moments` gave. ValueError for moments that this optimizer does not have, or not all of."""
    expected = after_one_step(optimizer)
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in saved.items():
        if key not in expected or value.shape != expected[key].shape or value.dtype != expected[key].dtype:
            raise ValueError(f"the optimizer has no moment {key} of shape {tuple(value.shape)}, {value.dtype}")
        i, name = key.split(".", 1)
        # Adam reads its step counter on the CPU: on a GPU each parameter would make every step wait
        states.setdefault(int(i), {})[name] = value.cpu() if name == "step" else value
    for i, own in states.items():
        if len(own) != sum(key.startswith(f"{i}.") for key in expected):
            raise ValueError(f"parameter {i} lacks some of the optimizer's moments")
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
