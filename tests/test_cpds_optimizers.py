"""An edit's optimizers take torch's own steps, and load no compiler."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from conftest import randn
from torch import Tensor

from cpds.optimizers import OPTIMIZERS

THEIRS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def steps(kind: Any) -> tuple[Tensor, dict]:
    """Where three steps lead, the last with what was saved after two, and the state."""
    x = randn(0, 5, 3).requires_grad_()
    optimizer = kind([{"params": [x], "lr": 0.1}])
    for i in range(3):
        if i == 2:
            saved = optimizer.state_dict()
            optimizer = kind([{"params": [x], "lr": 0.3}])
            optimizer.load_state_dict(saved)
        optimizer.zero_grad()
        assert x.grad is None
        (x.sin() * randn(i, 5, 3)).sum().backward()
        optimizer.step()
    return x.detach(), optimizer.state_dict()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_steps_are_torchs(name: str) -> None:
    (ours, state), (theirs, wanted) = steps(OPTIMIZERS[name]), steps(THEIRS[name])
    assert torch.equal(ours, theirs)
    assert state["param_groups"] == wanted["param_groups"]
    torch.testing.assert_close(state["state"], wanted["state"], rtol=0, atol=0)


def test_no_compiler_is_loaded() -> None:
    code = (
        "import sys, torch; from cpds.optimizers import OPTIMIZERS\n"
        "for kind in OPTIMIZERS.values():\n"
        "    x = torch.ones(2, requires_grad=True); optimizer = kind([{'params': [x], 'lr': 0.1}])\n"
        "    optimizer.zero_grad(); x.sum().backward(); optimizer.step()\n"
        "    optimizer.load_state_dict(optimizer.state_dict())\n"
        "print('torch._dynamo' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"
