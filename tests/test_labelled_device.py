"""The labelled device against functions with known faults, and against the CPU where nothing is wrong."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import randn
from labelled_device import DEVICE, labelled_device
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, scaled_dot_product_attention

CPU = torch.device("cpu")


def there(seed: int, *shape: int) -> Tensor:
    """Normal numbers on the device."""
    return randn(seed, *shape).to(DEVICE)


class Doubled(torch.autograd.Function):
    """A function of ours whose backward works with a tensor of its own: on `device`, None: where the gradient is."""

    device: torch.device | None = None

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * torch.full((3,), 2.0, device=Doubled.device or gradients[0].device)


def through(device: torch.device | None, x: Tensor) -> None:
    Doubled.device = device
    Doubled.apply(x.requires_grad_()).sum().backward()  # pyright: ignore[reportAttributeAccessIssue]


def index(x: Tensor, at: Tensor, value: Any) -> None:
    x[at] = value


ONES, FIRST = torch.ones(3), torch.tensor([0])


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        # ---- mixed devices
        (lambda x: x + ONES, {"mixed devices": 1}),
        (lambda x: x.add_(ONES), {"mixed devices": 1}),
        (lambda x: torch.cat([x, ONES]), {"mixed devices": 1}),
        (lambda x: torch.stack([x[0], ONES[0]]), {"mixed devices": 1}),  # a number, but joining takes none
        (lambda x: nn.Linear(3, 2)(x), {"mixed devices": 1}),  # a network that was never moved
        (lambda x: ONES[(x > 9).long()], {"mixed devices": 1}),
        (lambda x: torch.where(x > 0, x, ONES), {"mixed devices": 1}),
        (lambda x: x.scatter(0, FIRST, 1.0), {"mixed devices": 1}),
        (lambda x: x + torch.zeros_like(x, device="cpu"), {"mixed devices": 1}),
        (lambda x: index(x, (x > 9).long(), ONES), {"mixed devices": 1}),
        (lambda x: through(CPU, x), {"mixed devices": 1}),  # in the backward of a function of ours
        # ---- generators
        (lambda x: torch.randn(3, device=DEVICE, generator=torch.Generator()), {"CPU generator": 1}),
        (lambda x: torch.randperm(3, generator=torch.Generator(), device="cuda"), {"CPU generator": 1}),
        (lambda x: torch.randn_like(x, generator=torch.Generator()), {"CPU generator": 1}),
        (lambda x: x.normal_(generator=torch.Generator()), {"CPU generator": 1}),
        # ---- the host waits
        (lambda x: x[0].item(), {"synchronization": 1}),
        (lambda x: float(x[0]) + int(x[1]), {"synchronization": 2}),
        (lambda x: f"{x[0]:.3g}", {"synchronization": 1}),
        (lambda x: 1 if (x > 0).any() else 2, {"synchronization": 1}),
        (lambda x: [0.0, 1.0, 2.0][x[0].long()], {"synchronization": 1}),  # __index__
        (lambda x: x.tolist(), {"synchronization": 1}),
        (lambda x: x.cpu(), {"synchronization": 1}),
        (lambda x: x.to("cpu", torch.float64), {"synchronization": 1}),
        (lambda x: x.to(ONES), {"synchronization": 1}),
        (lambda x: ONES.clone().copy_(x), {"synchronization": 1}),
        (lambda x: x.nonzero(), {"synchronization": 1}),
        (lambda x: torch.where(x > 0), {"synchronization": 1}),
        (lambda x: x[x > 0], {"synchronization": 1}),
        (lambda x: x.masked_select(x > 0), {"synchronization": 1}),
        (lambda x: x.unique(), {"synchronization": 1}),
        (lambda x: torch.equal(x, x.clone()), {"synchronization": 1}),
        (lambda x: torch.allclose(x, x), {"synchronization": 1}),
        (lambda x: torch.linalg.inv(x.diag() + 9), {"synchronization": 1}),  # asks whether it is singular
        (lambda x: x.repeat_interleave(torch.tensor([1, 2, 0], device=DEVICE)), {"synchronization": 1, "copy": 1}),
        (lambda x: x.repeat_interleave(torch.ones_like(x).long()), {"synchronization": 1}),
        (lambda x: index(x, x > 0, x[x > 0] + 1), {"synchronization": 2}),
        (
            lambda x: x.masked_fill(x > 0, x[0]).index_fill(0, (x > 9).long(), x[0]),
            {"synchronization": 2},
        ),  # the number is read
        (lambda x: save({"x": x}), {"synchronization": 1}),
        # ---- host to device
        (lambda x: torch.tensor([1.0, 2.0], device=DEVICE), {"copy": 1}),
        (lambda x: torch.as_tensor(np.ones(3), device=DEVICE), {"copy": 1}),
        (lambda x: x.new_tensor([1.0, 2.0]), {"copy": 1}),
        (lambda x: ONES.to(x), {"copy": 1}),
        (lambda x: ONES.to(device="cuda:0", dtype=torch.float64), {"copy": 1}),
        (lambda x: ONES.cuda(), {"copy": 1}),
        (lambda x: ONES.to(DEVICE, non_blocking=True), {"queued copy": 1}),
        (lambda x: x.copy_(ONES), {"copy": 1}),
        (lambda x: x[FIRST], {"copy": 1}),  # the index is copied
        (lambda x: index(x, (x > 9).long(), torch.tensor(1.0)), {"copy": 1}),  # the number is
        (lambda x: (ONES.clone().requires_grad_().to(DEVICE) * x).sum().backward(), {"copy": 1, "synchronization": 1}),
        # ---- nothing
        (lambda x: x + torch.tensor(1.0), {}),  # a number may be on the CPU
        (lambda x: 2 * x + torch.zeros(3, device=x.device) + x.new_ones(3), {}),
        (lambda x: index(x, x > 0, 1.0), {}),  # a mask filled with a number
        (lambda x: x.to(DEVICE, torch.float64).to(x), {}),
        (lambda x: x.cuda() + torch.ones_like(x) + torch.randn(3, device=DEVICE), {}),
        (lambda x: float(ONES.sum()), {}),  # was never there
        (lambda x: torch.randn(3, generator=torch.Generator()), {}),
        (lambda x: x.to("meta") + torch.empty(3, device="meta"), {}),
        (lambda x: through(None, x), {}),
        (lambda x: x.repeat_interleave(torch.ones_like(x).long(), output_size=3), {}),
        (lambda x: x.view(3, 1).expand(3, 4).T.sum(0).sort().values.topk(2).indices, {}),
    ],
)
def test_every_kind_of_fault_is_found(act: Callable[[Tensor], object], expected: dict[str, int]) -> None:
    with labelled_device() as record:
        x = there(0, 3).abs() / 9
        record.clear()
        act(x)
    assert record.counts() == expected, str(record)


def test_the_line_that_caused_it_is_named() -> None:
    with labelled_device() as record:
        x = there(0, 3)
        record.clear()
        for _ in range(2):
            float(x[0])
    [((kind, where), times)] = record.events.items()
    assert (kind, times) == ("synchronization", 2)
    assert where.startswith("tests/test_labelled_device.py:")
    assert where.endswith("  float(x[0])  [_local_scalar_dense]")
    assert str(record) == f"   2 x {kind}  {where}"


def test_what_is_over_a_ceiling_is_said_line_by_line() -> None:
    with labelled_device() as record:
        x = there(0, 3)
        y = x + float(x[0])
    here = "tests/test_labelled_device.py"
    assert record.over({"copy": {here: 1}, "synchronization": {"cpds/": 9, here: 1}}) == ""
    first, second = record.over({"copy": {"tests/": 1}, "synchronization": {"cpds/": 9}}).splitlines()
    assert first == "1 x synchronization instead of 0:"
    assert second.startswith(f"   1 x {here}:")
    assert second.endswith("  y = x + float(x[0])  [_local_scalar_dense]")
    assert len(y) == 3


@pytest.mark.parametrize("read", [lambda x: x.numpy(), np.asarray, lambda x: x.detach().numpy()])
def test_numpy_is_refused_as_torch_refuses_it(read: Callable[[Tensor], object]) -> None:
    with labelled_device():
        x = there(0, 3)
        with pytest.raises(TypeError, match=r"can't convert cuda:0 device type tensor to numpy"):
            read(x)
        assert np.array_equal(x.cpu().numpy(), read(ONES * randn(0, 3)))  # pyright: ignore[reportArgumentType]


def test_whatever_shares_memory_shares_the_label() -> None:
    with labelled_device():
        x, here = there(0, 4, 6), randn(0, 4, 6)
        parameter, put = nn.Parameter(x), torch.zeros(1)
        put.data = x
        moved = nn.Conv2d(1, 1, 1).to("cuda")
        on = [x.T, x[1:, ::2], x.view(-1), x.detach(), parameter, put, parameter.data, *moved.parameters(), x.half()]
        assert [t.device for t in on] == [DEVICE] * len(on)
        assert all(t.is_cuda and not t.is_cpu for t in on)
        off = [here, here.to("cpu"), x.cpu(), x.detach().cpu().T, torch.zeros(2), torch.empty_like(x, device="cpu")]
        assert [t.device for t in off] == [CPU] * len(off)
    assert x.device == CPU  # outside of the context


class Small(nn.Module):
    """Something of each kind that networks are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Linear(8, 8)
        self.register_buffer("shift", torch.linspace(0, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = interpolate(self.norm(self.conv(x)).relu(), scale_factor=0.5, mode="bicubic", antialias=True)
        rows = self.linear(x.flatten(2).transpose(1, 2)) + self.shift
        rows = torch.cat([scaled_dot_product_attention(part, part, part) for part in rows.chunk(2)])
        return pad(rows, (0, 1)).cumsum(1)[:, rows[0, :, 0].argsort()].tanh()


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW"])
def test_training_gives_the_cpus_numbers_and_nothing_to_report(optimizer: str) -> None:
    def train(device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
        torch.manual_seed(0)
        net, x = Small().to(device), randn(0, 4, 3, 8, 8).to(device)
        steps = getattr(torch.optim, optimizer)(net.parameters(), lr=0.1)
        for _ in range(3):
            steps.zero_grad()
            net(x).square().mean().backward()
            steps.step()
        gradients = [p.grad for p in net.parameters() if p.grad is not None]
        moments = [v for state in steps.state.values() for k, v in state.items() if k != "step" and v is not None]
        return [p.detach() for p in net.parameters()], [*gradients, *moments]

    plain, others = train(CPU)
    with labelled_device() as record:
        labelled, its = train(DEVICE)
        assert {t.device for t in (*labelled, *its)} == {DEVICE}
    assert record.counts() == {"copy": len(plain) + 2}, str(record)  # parameters, buffer and input
    for a, b in zip([*plain, *others], [*labelled, *its], strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_come_back_from_where_their_tensors_went() -> None:
    with labelled_device():
        x = randn(0, 3).requires_grad_()
        y = x.to(DEVICE)
        (gradient,) = torch.autograd.grad(y.square().sum(), y, retain_graph=True)
        y.square().sum().backward()
        assert x.grad is not None
        assert (gradient.device, x.grad.device) == (DEVICE, CPU)
    assert torch.equal(x.grad, 2 * x)


def test_what_is_saved_and_loaded_is_on_the_cpu_until_it_is_moved() -> None:
    with labelled_device():
        net = nn.Linear(3, 2).to(DEVICE)
        steps = torch.optim.Adam(net.parameters())
        net(there(0, 3)).sum().backward()
        steps.step()
        saved = load(save(net.state_dict()))
        assert {x.device for x in saved.values()} == {CPU}
        net.load_state_dict(saved)
        again = torch.optim.Adam(net.parameters())
        again.load_state_dict(copy.deepcopy(steps.state_dict()))
        moments = [(k, v.device) for state in again.state.values() for k, v in state.items()]
        assert moments == [("step", CPU), ("exp_avg", DEVICE), ("exp_avg_sq", DEVICE)] * 2
