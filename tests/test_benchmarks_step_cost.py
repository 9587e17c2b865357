"""The benchmark's two steps at toy sizes: one gradient, and what each of them asks of the network."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks import step_cost
from benchmarks.gpu_sizes import SIZES
from benchmarks.step_cost import Config, Steps, main, one_alone
from cpds.errors import InputError

TOY = Config("toy", rounds=1)


@pytest.fixture(params=["SD1.5", "SDXL", "SD3.5-medium"])
def family(request: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """A family at toy size."""
    monkeypatch.setitem(SIZES, "SD1.5", SIZES[request.param])
    return request.param


@pytest.mark.parametrize("targets", [1, 3])
def test_both_steps_have_one_gradient(family: str, targets: int) -> None:
    steps = Steps(replace(TOY, targets=targets))
    found, expected = steps.ours(2), steps.plain(2)
    assert float(expected.norm()) > 0
    assert float((found - expected).norm()) <= 1e-4 * float(expected.norm())
    assert not torch.equal(steps.plain(3), expected)  # each step has draws of its own


def test_latents_of_a_side(family: str) -> None:
    steps = Steps(replace(TOY, side=16))
    assert steps.ours(0).shape[2:] == steps.plain(0).shape[2:] == (16, 16)


def test_the_plain_step_leaves_the_prior_as_it_was() -> None:
    steps = Steps(TOY)
    before, processors = steps.ours(0), {k: type(x) for k, x in steps.prior.net.attn_processors.items()}
    steps.plain(0)
    assert not any(x.requires_grad or x.grad is not None for x in steps.prior.net.parameters())
    assert {k: type(x) for k, x in steps.prior.net.attn_processors.items()} == processors
    assert torch.equal(steps.ours(0), before)


def test_the_plain_step_takes_gradients_of_weights_and_both_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    steps, seen = Steps(TOY), []
    monkeypatch.setattr(steps.prior.net, "zero_grad", lambda **_: seen.append(steps.prior.net.conv_in.weight.grad))
    steps.plain(0)
    assert float(seen[0].abs().max()) > 0


@pytest.mark.parametrize(("which", "targets", "samples"), [("plain", 1, 6), ("ours", 1, 4), ("ours", 4, 10)])
def test_samples(which: Any, targets: int, samples: int) -> None:
    found = one_alone(replace(TOY, targets=targets), which)
    assert found["samples"] == samples
    assert found["gib"] > 0


def test_a_row(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = {"plain": iter([9.0, 6.0, 8.0]), "ours": iter([9.0, 4.0, 2.0])}  # the first of several does not count
    gradient = torch.ones(1)
    monkeypatch.setattr(step_cost, "timed", lambda _s, which, _i: (next(clock[which]), gradient))
    monkeypatch.setattr(step_cost, "alone", lambda _, which: {"samples": 6, "gib": {"plain": 2.0, "ours": 0.5}[which]})
    main(replace(TOY, targets=2, rounds=2))
    row = capsys.readouterr().out.splitlines()[-1].strip("| ").split(" | ")
    assert row[:4] == ["toy", "0 M", "fp32", "2"]
    assert row[4:8] == ["7", "1.5", "5.50", "6; 3"]  # 6 / 2 and 8 / 1
    assert row[8] == "2.00; 0.50"
    assert float(row[9]) == 0


def test_alone_is_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def run(command: list[str], **_: Any) -> Any:
        calls.append(command)
        return type("Done", (), {"stdout": 'cpds: loading\n{"samples": 6, "gib": 1}\n'})

    monkeypatch.setattr(step_cost.subprocess, "run", run)
    assert step_cost.alone(replace(TOY, dtype="bf16", side=16), "plain") == json.loads('{"samples": 6, "gib": 1}')
    assert calls[0][1:4] == ["-m", "benchmarks.step_cost", "toy"]
    assert calls[0][4:] == ["--only=plain", "--dtype=bf16", "--targets=1", "--side=16", "--device=cpu"]


@pytest.mark.parametrize("settings", [{"targets": 0}, {"targets": 7}, {"rounds": 0}, {"side": 12}, {"side": 0}])
def test_settings_that_mean_nothing(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        replace(TOY, **settings)
