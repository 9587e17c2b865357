"""Muon beside AdamW in one optimizer: which parameter takes whose step, and how large it is."""

import copy

import torch
from torch import nn

from scripts.emoji_prior.muon import Muon

LR = 0.01


class Net(nn.Module):
    """Layers whose names are those of the denoiser's."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.ModuleDict(
            {"conv_in": nn.Conv2d(3, 8, 3), "hidden": nn.Conv2d(8, 16, 3), "out": nn.Linear(16, 4)}
        )
        self.token_embedding = nn.Embedding(5, 16)


def stepped(module: nn.Module, optimizer: Muon | torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """How the parameters change in one step of random gradients."""
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer.zero_grad()
    assert all(p.grad is None for p in module.parameters())
    generator = torch.Generator().manual_seed(1)
    for p in module.parameters():
        p.grad = torch.randn(p.shape, generator=generator)
    optimizer.step()
    return {name: p.detach() - before[name] for name, p in module.named_parameters()}


def test_hidden_matrices_move_orthogonally_and_the_rest_as_adamw_moves_it():
    torch.manual_seed(0)
    net = Net()
    net.net["hidden"].to(memory_format=torch.channels_last)  # pyright: ignore
    other = copy.deepcopy(net)
    ours = stepped(net, Muon(net, LR, 0.0))
    adamw = stepped(other, torch.optim.AdamW(other.parameters(), LR, betas=(0.9, 0.99), weight_decay=0.0))
    for name, change in ours.items():
        if name not in ("net.hidden.weight", "net.out.weight"):
            torch.testing.assert_close(change, adamw[name])
            continue
        matrix = change.flatten(1)
        values = torch.linalg.svdvals(matrix) / (LR * 0.2 * max(matrix.shape) ** 0.5)
        assert 0.6 < values.min() <= values.max() < 1.3  # what five Newton-Schulz steps leave of 1
        assert 0.1 * LR < matrix.square().mean().sqrt() < 0.3 * LR  # as AdamW's steps are


def test_a_learning_rate_reaches_every_parameter():
    net = Net()
    optimizer = Muon(net, LR, 0.0)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    assert all(change.eq(0).all() for change in stepped(net, optimizer).values())
