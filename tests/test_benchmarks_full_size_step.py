"""The benchmark of one step at a prior's own size, at toy sizes."""

import re

import pytest

from benchmarks.full_size_step import Config, main
from cpds import PRESETS


@pytest.mark.parametrize("family", ["SDXL", "SD3.5-medium"])
def test_a_step_is_made_and_measured(family: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(Config(family, toy=True))
    printed = capsys.readouterr().out
    assert re.search(rf"^{re.escape(family)}, bf16: 0.00 billion parameters, 32 px", printed)
    moved = re.search(r"one step in \d+ s; peak resident memory (\S+) GiB; moved (\S+)$", printed.strip())
    assert moved is not None
    assert 0.1 < float(moved[1]) < 100
    assert float(moved[2]) == pytest.approx(
        PRESETS["cpds"].lr, abs=0.001
    )  # the preset's first learning rate times a unit gradient
