"""Workers that a Ray cluster runs: the same driver, the same results; skipped where Ray is not installed."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from batches import SHORT, write_manifest

from cpds.apps.batch.driver import tasks_of, work
from cpds.apps.batch.executor import Outcome, Ready, Setup
from cpds.apps.batch.manifest import read_manifest
from cpds.apps.batch.ray_cluster import RayCluster, RayWorker
from cpds.apps.batch.worker import EditWorker
from cpds.errors import InputError
from cpds.priors.options import PriorOptions

ray = pytest.importorskip("ray")
ROW = {"source": "cat.png", "prompt": "a cat", "target_prompt": "a dog", **SHORT}


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray on a busy machine: its own limits are 15 s for a node to begin."""
    limits = {"RAY_agent_register_timeout_ms": "200000", "RAY_raylet_start_wait_time_s": "200"}
    for name, value in (limits | {"RAY_USAGE_STATS_ENABLED": "0"}).items():
        monkeypatch.setenv(name, value)


def pid_of(worker: RayWorker) -> int:
    """The process of an idle actor on this machine."""
    return ray.get(worker.actor.__ray_call__.remote(lambda _: os.getpid()))


def test_a_killed_actor_is_replaced_and_every_row_is_done_once(
    tmp_path: Path, tiny_folder: Path, image_file: Path
) -> None:
    rows = read_manifest(
        write_manifest(tmp_path / "manifest.jsonl", [{**ROW, "id": f"r{i}", "seed": i} for i in range(12)])
    )
    setup = Setup(str(tiny_folder), PriorOptions(), tmp_path / "results")
    begun: list[RayWorker] = []
    pids: list[int] = []

    class Watched(RayCluster):
        def start(self, place: str) -> RayWorker:
            begun.append(super().start(place))
            pids.append(pid_of(begun[-1]))
            return begun[-1]

    outcomes: list[Outcome] = []
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    cluster = Watched.connect(setup, "", ["cpu"], 2)
    for event in work(tasks_of(rows, 1), cluster):
        if isinstance(event, Ready):
            assert event.device == "cpu"
            continue
        outcomes.append(event)
        if len(outcomes) == 3:
            os.kill(pids[0], signal.SIGKILL)
    assert sorted(o.id for o in outcomes) == sorted(row.id for row in rows)
    assert {o.error for o in outcomes} == {None}
    assert len(begun) in (2, 3)
    assert not ray.is_initialized()
    inline = EditWorker(Setup(str(tiny_folder), PriorOptions(), tmp_path / "inline"), "cpu")
    inline.load()
    inline.edit(rows[:1])
    assert (tmp_path / "results/r0.png").read_bytes() == (tmp_path / "inline/r0.png").read_bytes()


def test_more_workers_than_the_cluster_has_room_for(tmp_path: Path) -> None:
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    with pytest.raises(InputError, match="3 workers were asked for, and the cluster has room for 1: take fewer"):
        RayCluster.connect(Setup(None, PriorOptions(), tmp_path), "", ["cpu"], 3)
    assert not ray.is_initialized()


def test_ray_itself_may_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("the versions differ\nand more")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(InputError, match=r"no Ray cluster answers at auto \(the versions differ\): check"):
        RayCluster.connect(Setup(None, PriorOptions(), tmp_path), "auto", [], None)
