"""Patch selectors: valid choices, seeds, resuming, and that the learning ones learn."""

import sys
from collections.abc import Mapping

import pytest
import torch
from labelled_device import DEVICE, labelled_device
from safetensors.torch import load, save
from torch import Tensor
from torch.nn.functional import normalize

from cpds.selectors import LearnedPatches, PatchSelector, drift_labels, make_selector

WIDTH = 16
NAMES = ["random", "learned", "svm", "knn", "forest"]
LEARNING = NAMES[1:]
CPU = torch.device("cpu")


def make(name: str, seed: int = 0) -> PatchSelector:
    if name in ("svm", "knn", "forest"):
        pytest.importorskip("sklearn")
    return make_selector(name, width=WIDTH, seed=seed, device=CPU)


def pairs(seed: int, n: int = 64, width: int = WIDTH) -> tuple[Tensor, Tensor]:
    """Patches before and after: the fifth whose first four entries sum highest drifts far, the rest hardly."""
    generator = torch.Generator().manual_seed(seed)
    source = normalize(torch.randn(n, width, generator=generator), dim=1)
    signal = source[:, :4].sum(1)
    far = signal >= signal.topk(round(0.2 * n)).values[-1]
    moved = torch.randn(n, width, generator=generator)
    return source, normalize(source + moved * torch.where(far, 0.5, 0.01)[:, None], dim=1)


def teach(selector: PatchSelector, first: int, updates: int, each: int = 4) -> list[Mapping[str, float]]:
    figures = []
    for u in range(updates):
        for i in range(each):
            selector.observe(*pairs(first + u * each + i, width=WIDTH if i % 2 else WIDTH // 2))
        figures.append(selector.update())
    return figures


def choices(selector: PatchSelector, n: int = 10) -> list[list[int]]:
    return [selector.select(pairs(s)[0], n, torch.Generator().manual_seed(s)).tolist() for s in range(3)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize(
    ("rows", "n", "width"),
    [
        (64, 10, WIDTH),  # fewer than there are
        (12, 12, WIDTH),  # all
        (7, 256, WIDTH),  # more than there are
        (20, 5, 6),  # a narrower layer
    ],
)
def test_choices_are_distinct_and_valid(name: str, taught: bool, rows: int, n: int, width: int) -> None:
    selector = make(name)
    if taught:
        teach(selector, 0, 1)
    chosen = selector.select(pairs(5, rows, width)[0], n, torch.Generator().manual_seed(0)).tolist()
    assert len(chosen) == len(set(chosen)) == min(n, rows)
    assert set(chosen) <= set(range(rows))


@pytest.mark.parametrize("name", NAMES)
def test_one_seed_gives_one_run(name: str) -> None:
    one, two = make(name, 3), make(name, 3)
    assert teach(one, 0, 2) == teach(two, 0, 2)
    assert choices(one) == choices(two)


def test_choice_follows_the_step_while_it_is_by_chance() -> None:
    assert len({tuple(c) for c in choices(make("random"))}) == 3


def test_nets_differ_by_seed_and_leave_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    one, two = make("learned", 0), make("learned", 1)
    for selector in (one, two):
        teach(selector, 0, 1)
    assert choices(one) != choices(two)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", LEARNING)
def test_before_the_first_update_patches_are_chosen_at_random(name: str) -> None:
    selector = make(name)
    selector.observe(*pairs(0))
    assert choices(selector) == choices(make("random"))
    selector.load_state(load(save(selector.state())))  # a resumed run knows no more
    assert choices(selector) == choices(make("random"))
    selector.update()
    assert choices(selector) != choices(make("random"))


def test_a_resumed_runs_step_counters_are_on_the_cpu() -> None:
    """Where torch's Adam keeps them: it reads each at every step, and a GPU would be waited for."""
    fresh, resumed = make("learned"), make("learned")
    assert isinstance(resumed, LearnedPatches)
    teach(fresh, 0, 2)
    with labelled_device():
        resumed.load_state({k: v.to(DEVICE) for k, v in fresh.state().items()})
        counters = [state["step"] for state in resumed.optimizer.state.values()]
        assert [counter.device.type for counter in counters] == ["cpu"] * 6
    assert [float(counter) for counter in counters] == [10.0] * 6  # 2 updates of 5 epochs


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("updates", "pending"),
    [
        (0, 0),  # fresh
        (0, 2),  # before the first update
        (2, 0),  # right after an update
        (2, 3),  # between two updates
    ],
)
def test_resuming_continues_identically(name: str, updates: int, pending: int) -> None:
    unbroken = make(name, 1)
    teach(unbroken, 0, updates)
    for i in range(pending):
        unbroken.observe(*pairs(100 + i))
    resumed = make(name, 1)
    resumed.load_state(load(save(unbroken.state())))
    assert choices(resumed) == choices(unbroken)
    assert teach(resumed, 200, 2) == teach(unbroken, 200, 2)
    assert choices(resumed) == choices(unbroken)


@pytest.mark.parametrize("name", LEARNING)
def test_learning_beats_the_majority_and_chance_on_fresh_patches(name: str) -> None:
    selector = make(name)
    figures = teach(selector, 0, 60 if name == "learned" else 3, each=6)
    source, target = pairs(10_000, n=2000)
    fresh = drift_labels(source, target)
    assert float(fresh.mean()) == pytest.approx(0.2)
    selector.observe(source, target)
    if name == "learned":
        assert figures[-1]["selector_loss"] < 0.8 * figures[0]["selector_loss"]
        late, majority = (sum(f[k] for f in figures[-10:]) / 10 for k in ("selector_accuracy", "selector_majority"))
        assert late > majority + 0.03
    chosen = selector.select(source, 400, torch.Generator())
    assert float(fresh[chosen].mean()) > 0.4  # twice what chance would find


@pytest.mark.parametrize("name", LEARNING)
def test_accuracy_is_of_patches_not_yet_learnt(name: str) -> None:
    selector = make(name)
    first, second = teach(selector, 0, 2)
    assert "selector_accuracy" not in first  # nothing is known at the first update
    assert second["selector_accuracy"] != second["selector_loss"]
    assert 0.7 < second["selector_majority"] < 0.9


@pytest.mark.parametrize("name", NAMES)
def test_update_without_observations_learns_nothing(name: str) -> None:
    selector = make(name)
    before = choices(selector)
    assert selector.update() == {}
    selector.load_state(load(save(selector.state())))  # a resumed run has seen nothing either
    assert selector.update() == {}
    assert choices(selector) == before


@pytest.mark.parametrize("n", [1, 2, 5, 7, 10, 64])
def test_drift_labels_mark_the_furthest_fifth(n: int) -> None:
    source, target = pairs(0, 1000)
    source, target = source[:n], target[:n]
    drift = [sum(x * x for x in row) for row in (source - target).tolist()]
    furthest = sorted(range(n), key=lambda i: -drift[i])[: max(1, round(0.2 * n))]
    assert drift_labels(source, target).nonzero()[:, 0].tolist() == sorted(furthest)


@pytest.mark.parametrize("name", ["svm", "knn", "forest"])
def test_missing_scikit_learn_is_said_at_once_with_the_remedy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("sklearn", "sklearn.ensemble", "sklearn.neighbors", "sklearn.svm"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"patch selector '{name}'.*pip install -e '\.\[selectors\]'"):
        make_selector(name, width=WIDTH, seed=0, device=CPU)
