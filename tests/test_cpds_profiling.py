"""A run's profile: each moment belongs to one part, and the parts sum to the whole."""

import time
from itertools import count
from pathlib import Path

import pytest
from conftest import randn

from cpds import profiling
from cpds.config import EditConfig, GuidanceConfig
from cpds.priors.unet import UNetPrior
from cpds.profiling import LOADING, REST, begin, profiled, timed
from cpds.session import RunOptions, edit_in_folder
from representations.latent import LatentImage

NAMED = (
    "loading",
    "prompts",
    "guidance forwards",
    "contrast",
    "contrast's backward",
    "optimizer",
    "callbacks and files",
)


def test_the_innermost_part_is_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by one second whenever it is read: a part's seconds are the times it is changed or left."""
    ticks = count()
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: float(next(ticks)))
    waits: list[None] = []
    begin()  # 0
    with profiled(lambda: waits.append(None)) as profile, timed("outer"):  # 1, 2; 3
        with timed("inner"):  # 4
            pass  # 5
        with pytest.raises(KeyError), timed("inner"):  # 6
            raise KeyError  # 7
    # 8; 9
    assert profile.seconds == {LOADING: 1, REST: 2, "outer": 3, "inner": 2}
    assert len(waits) == 7  # at each reading once it had begun
    with profiled(lambda: None) as following:  # 10, 11
        pass  # 12
    assert following.seconds == {LOADING: 1, REST: 1}


def test_without_a_profile_nothing_is_counted() -> None:
    with timed("anything"):
        pass
    with profiled(lambda: None) as profile:
        pass
    with timed("anything"):
        pass
    assert profile.seconds.keys() == {LOADING, REST}


def test_the_parts_of_a_run_sum_to_the_whole(prior: UNetPrior, tmp_path: Path) -> None:
    config = EditConfig(GuidanceConfig("cpds", n_patches=8), 3, "sgd", 0.05)
    began = time.perf_counter()
    begin()
    image = LatentImage(randn(0, 1, 3, 20, 24).sigmoid(), prior)
    edit_in_folder(image, prior, "a cat", "a dog", tmp_path / "run", config, options=RunOptions(profile=True))
    elapsed = time.perf_counter() - began
    rows = [line.split(" s ")[0].rsplit(maxsplit=1) for line in (tmp_path / "run/profile.txt").read_text().splitlines()]
    seconds = {name: float(value) for name, value in rows}
    whole = seconds.pop("whole")
    assert sum(seconds.values()) == pytest.approx(whole, abs=0.001 * len(seconds))
    assert whole <= elapsed
    assert whole == pytest.approx(elapsed, rel=0.2)
    assert {*NAMED} <= seconds.keys()
    assert sum(seconds[name] for name in NAMED) > whole / 2
