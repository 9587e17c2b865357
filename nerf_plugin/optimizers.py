"""nerfstudio's optimizers, for networks whose gradients may overflow."""

from __future__ import annotations

import sys
from typing import Any

import torch
from nerfstudio.engine.optimizers import Optimizers

from cpds.errors import InputError

IN_A_ROW = 10  # steps that may be skipped one after the other


class FiniteOptimizers(Optimizers):
    """Skips a step, and says so, where a parameter's gradient is infinite or NaN.

    tiny-cuda-nn's networks compute theirs in half precision: a view's gradient may be finite and theirs not. Adam would
    carry that into all of its later steps.
    """

    skipped = 0
    in_a_row = 0

    def optimizer_scaler_step_some(self, grad_scaler: Any, param_groups: list[str]) -> None:
        """A step of the groups, or of none. Raises InputError where none was made for too long."""
        spoilt = [name for name in param_groups if not finite(self.parameters[name])]
        if not spoilt:
            self.in_a_row = 0
            super().optimizer_scaler_step_some(grad_scaler, param_groups)
            return
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        why = f"the gradients of {' and '.join(spoilt)} have NaN or infinite values"
        if self.in_a_row >= IN_A_ROW:
            raise InputError(
                f"{why}, {IN_A_ROW} steps in a row: networks in half precision overflow, so lower loss_weight (Adam's "
                "steps stay as long as they are), or train the base scene with --pipeline.model.implementation torch"
            )
        print(f"step skipped: {why} ({self.skipped} so far)", file=sys.stderr)


def finite(parameters: Any) -> bool:
    """Whether all gradients that there are have finite values alone."""
    found = [x.grad.isfinite().all() for x in parameters if x.grad is not None]
    return not found or bool(torch.stack(found).all())
