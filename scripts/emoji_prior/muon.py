"""Muon (Jordan 2024): steps in orthogonal directions, so that those that gradients seldom have count too."""

from typing import Any

import torch
from torch import nn
from torch.optim import AdamW

OUTER = (".conv_in.", ".conv_out.", "embedding.weight")  # of a network's first and last layers


class Muon:
    """torch's Muon on weights of hidden layers, each as a matrix (out, in * kernel); AdamW on all other parameters.

    Both have steps of the same size (Liu 2025), so that one learning rate serves. Needs torch 2.9.
    """

    def __init__(self, module: nn.Module, lr: float, weight_decay: float) -> None:
        named = list(module.named_parameters())
        hidden = [p.ndim > 1 and not any(part in name for part in OUTER) for name, p in named]
        self.module = module
        self.weights = [p for (_, p), inside in zip(named, hidden, strict=True) if inside]
        self.matrices = [p.detach().flatten(1).clone() for p in self.weights]
        self.muon = torch.optim.Muon(self.matrices, lr, weight_decay, adjust_lr_fn="match_rms_adamw")
        others = [p for (_, p), inside in zip(named, hidden, strict=True) if not inside]
        self.adamw = AdamW(others, lr, betas=(0.9, 0.99), weight_decay=weight_decay)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Of both, to set learning rates."""
        return [*self.muon.param_groups, *self.adamw.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Of the module."""
        self.module.zero_grad(set_to_none)

    @torch.no_grad()
    def step(self) -> None:
        """Of both."""
        for weight, matrix in zip(self.weights, self.matrices, strict=True):
            matrix.copy_(weight.flatten(1))
            matrix.grad = None if weight.grad is None else weight.grad.flatten(1)
        self.muon.step()
        for weight, matrix in zip(self.weights, self.matrices, strict=True):
            weight.copy_(matrix.view(weight.shape))
        self.adamw.step()

    def state_dict(self) -> dict[str, Any]:
        """Of both, by name."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What `state_dict` gave."""
        self.muon.load_state_dict(state["muon"])
        self.adamw.load_state_dict(state["adamw"])
