"""nerfstudio's optimizers, for networks whose gradients may overflow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from nerfstudio.engine.optimizers import Optimizers
from torch import Tensor

from cpds.errors import InputError
from cpds.terminal import print_status

MAX_SKIPPED = 10  # steps one after the other


class FiniteOptimizers(Optimizers):
    """Skips a step, with a message, where a parameter's gradient is infinite or NaN.

    tiny-cuda-nn's networks compute theirs in half precision: a view's gradient may be finite and theirs not. Adam would
    carry that into all of its later steps.
    """

    skipped = 0
    skipped_in_a_row = 0

    def optimizer_scaler_step_some(self, grad_scaler: Any, param_groups: list[str]) -> None:
        """A step of the groups, or of none. Raises InputError where none was made for too long."""
        overflowed = [name for name in param_groups if not finite_gradients(self.parameters[name])]
        if not overflowed:
            self.skipped_in_a_row = 0
            super().optimizer_scaler_step_some(grad_scaler, param_groups)
            return
        self.skipped, self.skipped_in_a_row = self.skipped + 1, self.skipped_in_a_row + 1
        reason = f"the gradients of {' and '.join(overflowed)} have NaN or infinite values"
        if self.skipped_in_a_row >= MAX_SKIPPED:
            raise InputError(
                f"{reason}, {MAX_SKIPPED} steps in a row: networks in half precision overflow, so lower "
                "pipeline.loss_weight (Adam's steps stay as long as they are), or train the base scene with "
                "pipeline.model.implementation torch"
            )
        print_status(f"step skipped: {reason} ({self.skipped} so far)")


def finite_gradients(parameters: Iterable[Tensor]) -> bool:
    """Whether all gradients that there are have finite values alone."""
    found = [x.grad.isfinite().all() for x in parameters if x.grad is not None]
    return not found or bool(torch.stack(found).all())
