"""Training by several processes, one for each GPU, as accelerate launches them: each computes its share of a batch."""

from collections.abc import Iterable
from typing import cast

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor, nn

from cpds.config import require


class Processes:
    """This process among those of the run; there may be one alone."""

    def __init__(self, device: str) -> None:
        cpu = torch.device(device).type == "cpu"  # accelerate numbers CPUs, which a checkpoint cannot be loaded to
        self.state = PartialState(cpu=cpu)
        self.count = self.state.num_processes
        self.device = str(self.state.device) if self.count > 1 and not cpu else device
        self.main = self.state.is_main_process

    def share(self, batch: int) -> slice:
        """This process's rows of a batch; InputError where not all would have as many."""
        even = batch % self.count == 0
        require(even, f"a batch of {batch} cannot be shared by {self.count} processes: take a multiple")
        return slice(self.state.process_index, None, self.count)

    def average(self, parameters: Iterable[nn.Parameter], loss: Tensor) -> float:
        """Give every process the mean of all gradients; the mean of all losses."""
        if self.count == 1:
            return loss.item()
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([*(g.flatten().float() for g in gradients), loss.detach().view(1).float()])
        *means, mean = cast(Tensor, reduce(flat, "mean")).split([*(g.numel() for g in gradients), 1])
        for gradient, of_all in zip(gradients, means, strict=True):
            gradient.copy_(of_all.view_as(gradient))
        return mean.item()
