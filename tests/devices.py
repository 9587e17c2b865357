"""Where a test computes: on the CPU, on a labelled device (labelled_device.py), and on a CUDA card where there is one.

A plugin of pytest's: fixtures are `place`, and `prior_at`, which loads a tiny prior of any family there. A test that
takes `place` runs in all three with the same code, so that its own mistakes (a tensor compared with one of another
device, a setting that only CUDA takes) show before it first meets a card. `python -m pytest -m gpu` runs those on CUDA.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from labelled_device import labelled_device
from tiny_priors import Family
from torch import Tensor

from cpds.priors.diffusers_prior import DiffusersPrior
from cpds.priors.load import load_prior
from cpds.priors.options import PriorOptions

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
CARD = pytest.param("cuda", marks=gpu)


def everywhere(name: str, values: Iterable[str], labelled: Iterable[str] = ()) -> pytest.MarkDecorator:
    """parametrize `name` and the place: all values on the CPU and on a card, and some on a labelled device, which is
    slow and shows the same for most."""
    values = list(values)
    found = [*((x, "cpu") for x in values), *((x, "labelled") for x in labelled)]
    cards = [pytest.param(x, "cuda", marks=gpu) for x in values]
    return pytest.mark.parametrize((name, "place"), [*found, *cards], indirect=["place"])


@dataclass(frozen=True)
class Place:
    """A device; `rounds` where its arithmetic is not the CPU's to the last bit, or not twice the same."""

    kind: str  # cpu, labelled or cuda
    device: torch.device

    @property
    def rounds(self) -> bool:
        return self.kind == "cuda"

    def assert_close(self, found: Tensor, wanted: Tensor, tolerance: float) -> None:
        """Finite, and `error` at most `tolerance`; 1e-6 where the arithmetic is the CPU's."""
        assert bool(torch.isfinite(found).all())
        assert error(found, wanted) <= (tolerance if self.rounds else 1e-6)


def error(found: Tensor, wanted: Tensor) -> float:
    """||found - wanted|| / ||wanted|| in float64; NaN, which passes no comparison, where either is not finite."""
    found, wanted = (x.detach().cpu().double() for x in (found, wanted))
    assert found.shape == wanted.shape
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-30))


@pytest.fixture(params=["cpu", "labelled", CARD])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Full precision on a card: no TF32. A labelled device must have met nothing that fails on one."""
    with ExitStack() as stack:
        if request.param == "labelled":
            monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**34, 2**34))
            monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"the GPU at {device}")
            record = stack.enter_context(labelled_device())
            yield Place("labelled", torch.device("cuda", 0))
            assert record.faults() == ""
            return
        if request.param == "cuda":
            stack.enter_context(torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False))
            yield Place("cuda", torch.device("cuda", 0))
            return
        yield Place("cpu", torch.device("cpu"))


@pytest.fixture
def prior_at(place: Place, families: Callable[[str], Family]) -> Callable[..., DiffusersPrior]:
    """Loads a tiny prior of a family onto the place, in fp32 unless asked otherwise."""

    def load(name: str = "sd", **options: Any) -> DiffusersPrior:
        settings = PriorOptions(**{"torch_dtype": "fp32"} | options)
        loaded = load_prior(families(name).folder, device=str(place.device), options=settings)
        assert isinstance(loaded, DiffusersPrior)
        return loaded

    return load
