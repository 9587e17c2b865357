"""The training loop of both networks: optimizer, schedule, moving average, log and checkpoints.

The names in a checkpoint are those that runs begun earlier have: such a run can be resumed.
"""

import random
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from cpds.config import require
from scripts.emoji_prior.checkpoints import save
from scripts.emoji_prior.muon import Muon
from scripts.emoji_prior.processes import Processes
from scripts.emoji_prior.settings import TrainConfig


def lr_factor(step: int, steps: int, decay: float, warmup: int = 100) -> float:
    """Learning-rate factor: linear warm-up, constant, linear to zero over the last `decay` of the steps."""
    return min(1.0, (step + 1) / warmup, max(0.0, (steps - step) / (decay * steps)))


class TrainingLoop:
    """The loop of one network, which goes on where its checkpoint in `config.out` ends."""

    def __init__(
        self, config: TrainConfig, name: str, module: nn.Module, steps: int, lr: float, average_decay: float
    ) -> None:
        self.config, self.name, self.module, self.steps = config, name, module, steps
        self.lr, self.average_decay = lr, average_decay
        if config.optimizer == "muon" and name == "denoiser":
            self.optimizer = Muon(module, lr, weight_decay=0.01)
        else:
            self.optimizer = AdamW(module.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.01)
        self.average = {k: v.detach().clone() for k, v in module.state_dict().items()}
        self.processes = Processes(config.device)
        self.step = 0
        self.path = config.out / f"{name}.pt"
        if self.path.exists():
            state = torch.load(self.path, map_location=config.device)
            same = ("muon" in state["optimiser"]) == isinstance(self.optimizer, Muon)
            require(same, f"{self.path} was trained by another optimizer than {config.optimizer}: go on with that one")
            module.load_state_dict(state["module"])
            self.optimizer.load_state_dict(state["optimiser"])
            self.average, self.step = state["average"], state["step"]

    def train(self, loss_of: Callable[[random.Random, torch.Generator], Tensor], on_save: Callable[[], None]) -> None:
        """Train until `steps`, then leave the averaged weights in the module.

        `loss_of` draws the whole batch of a step, which is the same in every process, and gives the loss of the
        process's share. One process prints and saves.
        """
        began, since, total, saved = time.time(), self.step, 0.0, time.time()
        while self.step < self.steps:
            # every step has its own seed, so that a resumed run sees the same batches
            seed = hash((self.config.seed, self.name == "denoiser", self.step))
            loss = loss_of(random.Random(seed), torch.Generator().manual_seed(seed % 2**63))
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * lr_factor(self.step, self.steps, self.config.decay)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            total += self.processes.average(self.module.parameters(), loss)
            nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
            self.optimizer.step()
            self.step += 1
            mix = min(self.average_decay, self.step / (self.step + 10))
            with torch.no_grad():
                for key, value in self.module.state_dict().items():
                    self.average[key].lerp_(value, 1 - mix) if value.is_floating_point() else None
            if not self.processes.main:
                continue
            if self.step % 50 == 0:
                pace = (time.time() - began) / (self.step - since)
                left = f"{pace * (self.steps - self.step) / 3600:.1f} h left"
                line = f"{self.name} {self.step}/{self.steps} loss {total / 50:.4f} {pace:.2f} s/step, {left}"
                print(line, flush=True)
                total = 0.0
            regular = self.step % self.config.save_every == 0 or self.step == self.steps
            if regular or time.time() - saved > 60 * self.config.save_minutes:
                state = {"module": self.module.state_dict(), "optimiser": self.optimizer.state_dict()}
                save({**state, "average": self.average, "step": self.step}, self.path)
                saved = time.time()
                if regular:
                    on_save()
        self.module.load_state_dict(self.average)
