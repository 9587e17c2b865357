"""Workers that a Ray cluster runs: on a stand-in for Ray, and, where it is installed, on Ray itself."""

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from batches import SHORT, write_manifest

from cpds.apps.batch import ray_cluster
from cpds.apps.batch.driver import tasks_of, work
from cpds.apps.batch.executor import Outcome, Ready, Setup
from cpds.apps.batch.manifest import read_manifest
from cpds.apps.batch.ray_cluster import RayCluster, RayWorker
from cpds.apps.batch.rows import Row
from cpds.apps.batch.worker import EditWorker
from cpds.errors import InputError
from cpds.priors.options import PriorOptions

ROW = {"source": "cat.png", "prompt": "a cat", "target_prompt": "a dog", **SHORT}


@pytest.fixture
def rows(tmp_path: Path, image_file: Path) -> list[Row]:
    return read_manifest(
        write_manifest(tmp_path / "manifest.jsonl", [{**ROW, "id": f"r{i}", "seed": i} for i in range(12)])
    )


# ---- a stand-in


class StandIn:
    """Of Ray what `RayCluster` uses: actors live in this process, answers are computed when they are asked for."""

    class exceptions:
        class RayError(Exception):
            pass

    def __init__(self, **resources: float) -> None:
        self.resources, self.asked = resources, []
        self.address: Any = "not yet"
        self.killed: list[Any] = []
        self.die_at = 0  # the answer instead of which an actor dies

    def init(self, address: str | None, **_: Any) -> None:
        self.address = address

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def shutdown(self) -> None:
        self.address = None

    def remote(self, **resources: float) -> Any:
        self.asked.append(resources)
        return lambda kind: Remote(lambda *arguments: Actor(kind(*arguments)))

    def wait(self, answers: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        return answers[:num_returns], answers[num_returns:]

    def get(self, answer: Any) -> Any:
        self.die_at -= 1
        if self.die_at == 0:
            raise self.exceptions.RayError
        return answer()

    def kill(self, actor: Any) -> None:
        self.killed.append(actor)


class Remote:
    def __init__(self, call: Any) -> None:
        self.remote = call


class Actor:
    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __getattr__(self, name: str) -> Remote:
        return Remote(lambda *arguments: lambda: getattr(self.thing, name)(*arguments))


def connect(monkeypatch: pytest.MonkeyPatch, setup: Setup, ray: StandIn, *asked: Any) -> RayCluster:
    monkeypatch.setattr(ray_cluster, "installed", lambda: ray)
    return RayCluster.connect(partial(EditWorker, setup), *asked)


def test_an_actor_that_dies_is_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_folder: Path, rows: list[Row]
) -> None:
    ray, setup = StandIn(CPU=2.0), Setup(str(tiny_folder), PriorOptions(), tmp_path / "results")
    cluster = connect(monkeypatch, setup, ray, "", [], 2)
    assert (ray.address, list(cluster.places)) == (None, ["cpu", "cpu"])
    ray.die_at = 4  # the second answer after both have loaded
    outcomes = [event for event in work(tasks_of(rows[:4], 1), cluster) if isinstance(event, Outcome)]
    assert sorted((o.id, o.error) for o in outcomes) == [(f"r{i}", None) for i in range(4)]
    assert sorted(o.attempts for o in outcomes) == [1, 1, 1, 2]
    assert ray.asked == [{"num_cpus": 1, "num_gpus": 0}] * 3
    assert len(ray.killed) == 3


@pytest.mark.parametrize(
    ("resources", "asked", "places"),
    [
        ({"CPU": 8.0, "GPU": 3.0}, ("auto", [], None), ["cuda"] * 3),
        ({"CPU": 8.0, "GPU": 3.0}, ("auto", [], 2), ["cuda"] * 2),
        ({"CPU": 8.0, "GPU": 3.0}, ("auto", ["cpu"], 5), ["cpu"] * 5),
        ({"CPU": 8.0}, ("auto", [], None), ["cpu"]),
    ],
)
def test_each_gpu_of_the_cluster_gets_a_worker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, resources: Any, asked: Any, places: list[str]
) -> None:
    ray = StandIn(**resources)
    cluster = connect(monkeypatch, Setup(None, PriorOptions(), tmp_path), ray, *asked)
    assert (ray.address, list(cluster.places)) == ("auto", places)
    cluster.start(places[0])
    assert ray.asked == [{"num_cpus": 1, "num_gpus": int(places[0] == "cuda")}]


def test_more_workers_than_the_cluster_has_room_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ray = StandIn(CPU=8.0, GPU=2.0)
    with pytest.raises(InputError, match="3 workers were asked for, and the cluster has room for 2: take fewer"):
        connect(monkeypatch, Setup(None, PriorOptions(), tmp_path), ray, "", [], 3)
    assert ray.address is None  # let go of


def test_ray_itself_may_refuse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Refusing(StandIn):
        def init(self, address: str | None, **_: Any) -> None:
            raise ConnectionError("the versions differ\nand more")

    with pytest.raises(InputError, match=r"no Ray cluster answers at auto \(the versions differ\): check"):
        connect(monkeypatch, Setup(None, PriorOptions(), tmp_path), Refusing(), "auto", [], None)


# ---- Ray itself


def test_a_killed_process_of_ray_is_replaced_and_every_row_is_done_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_folder: Path, rows: list[Row]
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    setup = Setup(str(tiny_folder), PriorOptions(), tmp_path / "results")
    pids: list[int] = []

    class Watched(RayCluster):
        def start(self, place: str) -> RayWorker:
            worker = super().start(place)
            pids.append(ray.get(worker.actor.__ray_call__.remote(lambda _: os.getpid())))
            return worker

    outcomes: list[Outcome] = []
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    for event in work(tasks_of(rows, 1), Watched.connect(partial(EditWorker, setup), "", ["cpu"], 2)):
        if isinstance(event, Ready):
            continue
        outcomes.append(event)
        if len(outcomes) == 3:
            os.kill(pids[0], signal.SIGKILL)
    assert sorted(o.id for o in outcomes) == sorted(row.id for row in rows)
    assert {o.error for o in outcomes} == {None}
    assert len(pids) in (2, 3)  # it may have been killed when nothing was left to begin
    assert not ray.is_initialized()
    inline = EditWorker(Setup(str(tiny_folder), PriorOptions(), tmp_path / "inline"), "cpu")
    inline.load()
    inline.edit(rows[:1])
    assert (tmp_path / "results/r0.png").read_bytes() == (tmp_path / "inline/r0.png").read_bytes()
