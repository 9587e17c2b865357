"""The benchmark of starting up finds the moments in what the demo edit prints, in their order."""

import os
import sys
from pathlib import Path

import pytest

from benchmarks.startup import LOADING, STEP, StartupConfig, cpu_seconds, start_up
from cpds.errors import InputError

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def test_the_moments_of_the_demo_come_in_order() -> None:
    found = start_up(ROOT)
    assert 0 < found[LOADING].clock < found[STEP].clock
    assert 0 < found[LOADING].cpu < found[STEP].cpu


def test_cpu_time_is_that_of_the_process() -> None:
    before, times = cpu_seconds(os.getpid()), os.times()
    assert before == pytest.approx(times.user + times.system, abs=0.1)


def test_a_folder_without_the_demo_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no checkout"):
        StartupConfig(checkouts=(tmp_path,))


def test_a_failed_edit_is_told(tmp_path: Path) -> None:
    (tmp_path / "cpds" / "assets" / "demo").mkdir(parents=True)
    with pytest.raises(InputError, match="failed"):
        start_up(tmp_path)
