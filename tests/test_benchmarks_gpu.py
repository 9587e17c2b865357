"""The benchmark for a GPU at toy sizes: what a row holds, what comes first, what keeps a row from being measured."""

import ctypes
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro

from benchmarks import gpu, gpu_step
from benchmarks.gpu import GpuConfig, departures, main, measured, reason_to_leave_out, results, rows
from benchmarks.gpu_sizes import SIZES, networks
from benchmarks.gpu_step import Row, matrix_rate, measure
from benchmarks.gpu_table import COLUMNS
from cpds.errors import InputError
from scripts import cuda_device
from scripts.prior_sizes import OUT as COUNTED

TOY: dict[str, Any] = {"device": "cpu", "toy": True}
ONE = GpuConfig("cpu", True, Path("toy.md"), ("SD1.5",), ("fp32",), (1,), (False,), 1)


@pytest.mark.parametrize("model", SIZES)
def test_a_row_holds_its_figures(model: str) -> None:
    """Twice the edits are twice the work; share, rate and work belong together."""
    one, two = (measure(Row(model, "fp32", n, steps=1, **TOY)) for n in (1, 2))
    assert "left_out" not in one
    assert two["tflop"] == pytest.approx(2 * one["tflop"], rel=0.02)  # modulation is of a prompt, whatever the views
    assert one["tflop_per_second"] == pytest.approx(one["tflop"] / one["seconds"])
    assert one["share_of_peak"] == pytest.approx(one["tflop_per_second"] / one["peak_tflop_per_second"])
    assert one["px"] == 32
    assert 0 < one["weights_gib"] < 0.01 < one["memory_gib"]


def test_full_sizes_are_those_that_are_counted() -> None:
    counted = {row["config"]: row["parameters"] for row in json.loads(COUNTED.read_text())}
    for size in SIZES.values():
        net, _ = networks(size, toy=False)
        assert sum(x.numel() for x in net.parameters()) == counted[size.network]


def test_the_peak_is_that_of_the_products_it_times(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))  # every product takes a second
    assert matrix_rate(torch.device("cpu"), torch.float32, rounds=1) == 2 * 512**3


def test_memory_that_does_not_suffice_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu_step, "prior_of", full)
    assert measure(Row(**TOY))["left_out"] == "memory does not suffice for a step"


def test_what_departs_least_comes_first() -> None:
    found = rows(GpuConfig())
    assert len(found) == len(set(found)) == 4 * 3 * 2 * 2
    assert [departures(row) for row in found] == sorted(map(departures, found))
    assert [(r.model, r.dtype) for r in found[:4]] == [
        *(("SD1.5", "fp16"), ("SDXL", "fp16"), ("SD3.5-medium", "bf16"), ("FLUX.1-dev", "bf16"))
    ]
    assert not any(r.compile or r.targets > 1 for r in found[:4])


def test_what_cannot_fit_is_not_tried() -> None:
    """FLUX.1 has 11.9 billion parameters: 22 GiB in half precision, 44 in full."""
    flux = Row("FLUX.1-dev", "bf16")
    assert reason_to_leave_out(flux, 24 * 2**30) is None
    assert (
        reason_to_leave_out(replace(flux, dtype="fp32"), 24 * 2**30)
        == "its weights are 44.6 GiB, and 24.0 GiB are free"
    )
    assert reason_to_leave_out(replace(flux, dtype="fp16"), 2**40) == "fp16 overflows in networks of this family"


def test_one_row_in_a_process_of_its_own(tmp_path: Path) -> None:
    flags = "--device cpu --toy --models SD1.5 --dtypes fp32 --targets 1 --compile False --steps 1"
    main(tyro.cli(GpuConfig, args=[*flags.split(), "--out", str(tmp_path / "toy.md")]))
    (row,) = json.loads((tmp_path / "toy.json").read_text())
    assert row.keys() >= COLUMNS.keys()
    text = (tmp_path / "toy.md").read_text()
    assert f"| SD1.5 | 32 | fp32 | 1 |  | {row['seconds']:.3g} |" in text
    assert "Toy sizes" in text


def test_one_rows_failure_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does one that takes too long; and time that is used up leaves the others as not reached."""
    outcomes = iter([{"left_out": "failed: x"}, dict.fromkeys(COLUMNS, 1.0) | {"px": 32}])

    def fake(row: Row, seconds: float) -> dict[str, Any]:
        assert seconds <= 60
        now[0] += 149
        return next(outcomes)

    monkeypatch.setattr(gpu, "measured", fake)
    config = replace(ONE, out=tmp_path / "toy.md", targets=(1, 2, 3), row_minutes=1.0, minutes=5.0)
    now = [0.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    main(config)
    found = json.loads((tmp_path / "toy.json").read_text())
    assert [row.get("left_out") for row in found] == ["failed: x", None, "not reached in 5 minutes"]
    lines = (tmp_path / "toy.md").read_text().splitlines()[-3:]
    assert [line.count("|") for line in lines] == [len(COLUMNS) + 6] * 3
    assert "| failed: x |" in lines[0]


def test_a_row_that_fails_or_takes_too_long_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    row = rows(ONE)[0]
    assert measured(row, 0.2) == {"left_out": "took longer than 0 s"}
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert measured(row, 30) == {"left_out": "failed: exit code 1"}


def test_the_minutes_may_have_begun_before() -> None:
    (found,) = results(replace(ONE, since=time.time() - 3600))
    assert found[0]["left_out"] == "not reached in 20 minutes"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"out": None}, "only full sizes on CUDA belong in gpu.md"),
        ({"device": "cuda", "out": None}, "only full sizes on CUDA belong in gpu.md"),
        ({"out": Path("table.txt")}, r"out must be a name with \.md, got table\.txt"),
        ({"targets": (0,)}, "targets must be >= 1, got 0"),
        ({"models": ()}, "models is empty"),
        ({"minutes": 0.0}, "must be > 0"),
    ],
)
def test_bad_settings(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        replace(ONE, **changes)


def test_without_a_card_it_is_said_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "problem", lambda: "no CUDA device can be used here: x")
    monkeypatch.setattr(gpu, "results", lambda _: pytest.fail("it ran"))
    with pytest.raises(InputError, match="no CUDA device can be used here"):
        main(GpuConfig(out=tmp_path / "gpu.md"))


class Driver:
    """As much of libcuda as is asked."""

    def __init__(self, cards: int) -> None:
        self.cards = cards

    def cuInit(self, _: int) -> int:
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.cards
        return 0


def test_what_a_card_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert "there is no NVIDIA driver" in str(cuda_device.problem())
    assert "--device cpu --toy" in str(cuda_device.problem())
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver(0))
    assert "has no card to offer" in str(cuda_device.problem())
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver(1))
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "is built without CUDA" in str(cuda_device.problem())
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "update the driver" in str(cuda_device.problem())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cuda_device.problem() is None
