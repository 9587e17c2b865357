"""Commands choose a number of CPU threads and how they wait; the user's choice stands; the library changes nothing."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from cpds import threads
from cpds.apps.cli.main import main
from cpds.priors.base import Prior
from cpds.threads import available, choose_threads


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine with 3 cores, whose user has set nothing."""
    for name in threads.COUNTS + threads.WAITING:
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(threads, "QUOTA", Path("/no/quota"))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    available.cache_clear()
    yield
    torch.set_num_threads(before)
    available.cache_clear()


@dataclass
class Sized:
    parameters: int
    device: Any = field(default_factory=lambda: torch.device("cpu"))


def chosen(prior: Any) -> int:
    count = choose_threads(prior)
    assert count == torch.get_num_threads()
    return count


@pytest.mark.parametrize(
    ("parameters", "count", "message"),
    [
        (6_000_000, 1, "1 CPU thread, enough for a small prior"),  # the embedded one
        (860_000_000, 3, "3 CPU threads"),  # Stable Diffusion 1.5
    ],
)
def test_the_priors_size_decides(monkeypatch: Any, capsys: Any, parameters: int, count: int, message: str) -> None:
    assert chosen(Sized(parameters)) == count
    assert message in capsys.readouterr().err
    other = 860_000_000 if count == 1 else 6_000_000
    assert chosen(Sized(other)) == 4 - count  # the machine's cores are not forgotten by the first choice
    assert chosen(Sized(parameters)) == count


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("200000 100000", 2),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("900000 100000", 3),  # more than there are
        ("max 100000", 3),
        ("", 3),  # not a quota
    ],
)
def test_a_containers_quota_counts(monkeypatch: Any, tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(threads, "QUOTA", tmp_path / "cpu.max")
    assert chosen(Sized(860_000_000)) == cores


@pytest.mark.parametrize("name", threads.COUNTS)
@pytest.mark.parametrize("parameters", [6_000_000, 860_000_000])
def test_the_users_number_stands(monkeypatch: Any, capsys: Any, name: str, parameters: int) -> None:
    monkeypatch.setenv(name, "2")
    torch.set_num_threads(2)  # as torch does by itself at its start
    assert chosen(Sized(parameters)) == 2
    assert capsys.readouterr().err == ""


def test_a_prior_on_a_gpu_leaves_the_cpu_alone(capsys: Any) -> None:
    assert chosen(Sized(6_000_000, torch.device("cuda", 0))) == 3
    assert capsys.readouterr().err == ""


def test_the_commands_choose(command: Callable[..., list[str]], capsys: Any, tmp_path: Path) -> None:
    assert main(command(num_inference_steps=1)) == 0
    assert torch.get_num_threads() == 1
    assert "Computing with 1 CPU thread" in capsys.readouterr().err


def test_the_library_does_not(prior: Prior, tiny_folder: Path) -> None:
    from cpds import edit, load_prior
    from cpds.config import EditConfig, GuidanceConfig
    from representations.latent import LatentImage

    loaded = load_prior(tiny_folder, device="cpu")
    config = EditConfig(GuidanceConfig(n_patches=8), 1)
    edit(LatentImage(torch.full((1, 3, 32, 32), 0.5), loaded), loaded, "a cat", "a dog", config)
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(
    ("given", "policy"),
    [
        ({}, "PASSIVE"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"),
        ({"OMP_NUM_THREADS": "2"}, None),  # who sets threads knows how they should wait
        ({"GOMP_SPINCOUNT": "100"}, None),
    ],
)
def test_commands_wait_passively_before_torch_is_there(given: dict[str, str], policy: str | None) -> None:
    code = "import os, sys; from cpds.apps.cli.main import main; main(['presets']); "
    code += "assert 'torch' not in sys.modules; print(os.environ.get('OMP_WAIT_POLICY'))"
    env = {k: v for k, v in os.environ.items() if k not in threads.COUNTS + threads.WAITING} | given
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(policy)
