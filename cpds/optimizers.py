"""The optimizers that an edit may name: torch's, without what loads torch's compiler."""

import inspect
from typing import Any

import torch

WRAPPED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict", "step")  # for compilers' sake


def eager(kind: type[torch.optim.Optimizer]) -> Any:
    """`kind` with the same arithmetic, for loops that are not compiled.

    torch wraps these methods so that torch.compile leaves them alone. Each wrapper imports the compiler when it is
    first called, which takes longer than torch's own import.
    """
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in WRAPPED}
    methods["step"] = torch.no_grad()(methods["step"])  # which its wrapper saw to
    return type(kind.__name__, (kind,), methods)


OPTIMIZERS = {
    name: eager(getattr(torch.optim, kind)) for name, kind in {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}.items()
}
