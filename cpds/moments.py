"""An optimizer's moments as flat named tensors, and back; what does not fit its parameters is refused."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer


def moments(optimizer: Optimizer) -> dict[str, Tensor]:
    """'<parameter>.<name>' for every moment that the optimizer holds; parameters are counted through its groups."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{k}": torch.as_tensor(v) for i, own in state.items() for k, v in own.items() if v is not None}


def after_one_step(optimizer: Optimizer) -> dict[str, Tensor] | None:
    """Shapes and types of the moments that an optimizer of this kind holds once every parameter had a gradient.

    None where one step cannot be tried on tensors without values.
    """
    groups = [
        {**group, "params": [torch.zeros_like(x, device="meta", requires_grad=True) for x in group["params"]]}
        for group in optimizer.param_groups
    ]
    for x in (x for group in groups for x in group["params"]):
        x.grad = torch.zeros_like(x)
    try:
        trial = type(optimizer)(groups)  # pyright: ignore[reportCallIssue]
        trial.step()
    except Exception:  # of whoever wrote it: it reads numbers, or needs more than its parameters
        return None
    return moments(trial)


def load_moments(optimizer: Optimizer, saved: Mapping[str, Tensor]) -> None:
    """Go on from what `moments` gave. ValueError for moments that this optimizer does not have, or not all of.

    Where that is not known, for moments that do not broadcast to their parameter.
    """
    expected = after_one_step(optimizer)
    shapes = {str(i): x.shape for i, x in enumerate(x for group in optimizer.param_groups for x in group["params"])}
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in saved.items():
        i, _, name = key.partition(".")
        if expected is None:
            fits = i in shapes and broadcasts(value.shape, shapes[i])
        else:
            fits = key in expected and (value.shape, value.dtype) == (expected[key].shape, expected[key].dtype)
        if not fits:
            raise ValueError(f"the optimizer has no moment {key} of shape {tuple(value.shape)}, {value.dtype}")
        # Adam reads its step counter on the CPU: on a GPU each parameter would make every step wait
        states.setdefault(int(i), {})[name] = value.cpu() if name == "step" else value
    for i, own in states.items():
        if expected is not None and len(own) != sum(key.startswith(f"{i}.") for key in expected):
            raise ValueError(f"parameter {i} lacks some of the optimizer's moments")
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})


def broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    """Whether a tensor of one shape expands to another."""
    return len(shape) <= len(to) and all(a in (1, b) for a, b in zip(shape[::-1], to[::-1], strict=False))
