"""Patch selectors: valid choices, seeds, resuming, and that the learning ones learn."""

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import get_args

import pytest
import torch
from labelled_device import DEVICE, labelled_device
from safetensors.torch import load, save
from torch.nn.functional import normalize

from cpds.config import SelectorName
from cpds.selection.base import Cells, PatchSelector, attention, by_score, entropy, jointly
from cpds.selection.learned import LearnedPatches
from cpds.selection.learning import drift_labels
from cpds.selection.make import make_selector, make_selectors
from cpds.selection.meta_learner import MetaLearner

WIDTH = 16
LEARNING = ["learned", "svm", "knn", "forest"]
NAMES = list(get_args(SelectorName))
CPU = torch.device("cpu")


def make(name: str, seed: int = 0) -> PatchSelector:
    if name in ("svm", "knn", "forest"):
        pytest.importorskip("sklearn")
    return make_selector(name, width=WIDTH, seed=seed, device=CPU)


def pairs(seed: int, n: int = 64, width: int = WIDTH) -> Cells:
    """Patches before and after: the fifth whose first four entries sum highest drifts far, the rest hardly."""
    generator = torch.Generator().manual_seed(seed)
    source = normalize(torch.randn(n, width, generator=generator), dim=1)
    signal = source[:, :4].sum(1)
    far = signal >= signal.topk(round(0.2 * n)).values[-1]
    moved = torch.randn(n, width, generator=generator)
    target = normalize(source + moved * torch.where(far, 0.5, 0.01)[:, None], dim=1)
    rows = next(r for r in range(round(n**0.5), 0, -1) if n % r == 0)
    relevance = torch.where(torch.arange(n) < n // 5, 0.9, 0.05) + 0.1 * torch.rand(n, generator=generator)
    return Cells(source, target, (rows, n // rows), relevance)


def teach(selector: PatchSelector, first: int, updates: int, each: int = 4) -> list[Mapping[str, float]]:
    figures = []
    for u in range(updates):
        for i in range(each):
            selector.observe(pairs(first + u * each + i, width=WIDTH if i % 2 else WIDTH // 2))
        figures.append(selector.update())
    return figures


def choices(selector: PatchSelector, n: int = 10) -> list[list[int]]:
    return [selector.select(pairs(s), n, torch.Generator().manual_seed(s)).tolist() for s in range(3)]


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
    chosen = selector.select(pairs(5, rows, width), n, torch.Generator().manual_seed(0)).tolist()
    fewest = 2 if name in ("relevance", "meta-learner") else min(n, rows)  # these take none that should change
    assert fewest <= len(chosen) == len(set(chosen)) <= min(n, rows)
    assert set(chosen) <= set(range(rows))


@pytest.mark.parametrize("name", NAMES)
def test_one_seed_gives_one_run(name: str) -> None:
    one, two = make(name, 3), make(name, 3)
    assert teach(one, 0, 2) == teach(two, 0, 2)
    assert choices(one) == choices(two)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LEARNING])
def test_choice_follows_the_step_where_chance_takes_part(name: str) -> None:
    selector, cells = make(name), pairs(0)
    drawn = [selector.select(cells, 10, torch.Generator().manual_seed(s)).tolist() for s in range(5)]
    assert len({tuple(sorted(c)) for c in drawn}) > 1


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
    selector.observe(pairs(0))
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
        unbroken.observe(pairs(100 + i))
    resumed = make(name, 1)
    resumed.load_state(load(save(unbroken.state())))
    assert choices(resumed) == choices(unbroken)
    assert teach(resumed, 200, 2) == teach(unbroken, 200, 2)
    assert choices(resumed) == choices(unbroken)


@pytest.mark.parametrize("name", LEARNING)
def test_learning_beats_the_majority_and_chance_on_fresh_patches(name: str) -> None:
    selector = make(name)
    figures = teach(selector, 0, 60 if name == "learned" else 3, each=6)
    cells = pairs(10_000, n=2000)
    fresh = drift_labels(cells.source, cells.target)
    assert float(fresh.mean()) == pytest.approx(0.2)
    selector.observe(cells)
    if name == "learned":
        assert figures[-1]["selector_loss"] < 0.8 * figures[0]["selector_loss"]
        late, majority = (sum(f[k] for f in figures[-10:]) / 10 for k in ("selector_accuracy", "selector_majority"))
        assert late > majority + 0.03
    chosen = selector.select(cells, 400, torch.Generator())
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
    cells = pairs(0, 1000)
    source, target = cells.source[:n], cells.target[:n]
    drift = [sum(x * x for x in row) for row in (source - target).tolist()]
    furthest = sorted(range(n), key=lambda i: -drift[i])[: max(1, round(0.2 * n))]
    assert drift_labels(source, target).nonzero()[:, 0].tolist() == sorted(furthest)


@pytest.mark.parametrize("name", ["svm", "knn", "forest"])
def test_missing_scikit_learn_is_said_at_once_with_the_remedy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("sklearn", "sklearn.ensemble", "sklearn.neighbors", "sklearn.svm"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"patch selector '{name}'.*pip install -e '\.\[selectors\]'"):
        make_selector(name, width=WIDTH, seed=0, device=CPU)


# ---- rules


def chosen_by(name: str, cells: Cells, n: int, seed: int = 0) -> list[int]:
    return make(name).select(cells, n, torch.Generator().manual_seed(seed)).tolist()


def with_relevance(relevance: list[float], seed: int = 0) -> Cells:
    """Random features in one row of cells."""
    x = normalize(torch.randn(len(relevance), 6, generator=torch.Generator().manual_seed(seed)), dim=1)
    return Cells(x, x, (1, len(relevance)), torch.tensor(relevance))


def test_entropy_is_the_naive_sum_and_that_of_look_alikes_is_highest() -> None:
    lone, twins = torch.eye(8)[:3], torch.eye(8)[3:4].repeat(5, 1)
    seen = attention(torch.cat([twins, lone]), 0.5)
    naive = [-sum(p * math.log(p) for p in row) for row in seen.double().tolist()]
    assert entropy(seen).tolist() == pytest.approx(naive, abs=1e-5)
    assert min(naive[:5]) > max(naive[5:])


@pytest.mark.parametrize("seed", range(5))
def test_qs_attn_takes_what_nothing_resembles(seed: int) -> None:
    x = torch.cat([torch.eye(8)[3:4].repeat(13, 1), torch.eye(8)[:3]])
    assert sorted(chosen_by("qs-attn", Cells(x, x, (4, 4)), 3, seed)) == [13, 14, 15]


@pytest.mark.parametrize("seed", range(5))
def test_half_of_enco_dags_are_the_most_relevant_of_four_times_as_many(seed: int) -> None:
    cells = with_relevance([i / 40 for i in range(40)])
    everywhere = chosen_by("enco-dag", cells, 10, seed)  # four times ten are all of them
    assert sorted(everywhere[:5]) == [35, 36, 37, 38, 39]
    few = chosen_by("enco-dag", cells, 4, seed)
    drawn = torch.randperm(40, generator=torch.Generator().manual_seed(seed))[:16].tolist()
    assert sorted(few[:2]) == sorted(drawn)[-2:]


@pytest.mark.parametrize(
    ("relevance", "n", "wanted"),
    [
        ([0.1, 0.9, 0.31, 0.33, 0.0], 5, {0, 2, 4}),  # no more than are calm
        ([0.9, 0.5, 0.8, 0.4], 4, {1, 3}),  # none is: the two calmest
        ([0.9, 0.5, 0.1, 0.4], 4, {2, 3}),  # one is
        ([0.9], 4, {0}),  # there are no two
    ],
)
def test_relevance_takes_calm_cells_alone(relevance: list[float], n: int, wanted: set[int]) -> None:
    assert set(chosen_by("relevance", with_relevance(relevance), n)) == wanted


def test_relevance_takes_calm_cells_equally_often() -> None:
    cells, counts = with_relevance([0.1, 0.2, 0.3, 0.0, 0.9]), [0] * 5
    for seed in range(800):
        for i in chosen_by("relevance", cells, 2, seed):
            counts[i] += 1
    assert counts[4] == 0
    assert counts[:4] == pytest.approx([400] * 4, abs=70)  # five standard deviations


@pytest.mark.parametrize("name", ["enco-dag", "relevance", "meta-learner"])
def test_relevance_is_asked_for_by_those_that_read_it(name: str) -> None:
    assert make(name).needs_relevance
    with pytest.raises(ValueError, match="there is no relevance map"):
        make(name).select(replace(pairs(0), relevance=None), 4, torch.Generator())


def test_others_do_not_ask_for_relevance() -> None:
    for name in ("random", "qs-attn", "learned"):
        assert not make(name).needs_relevance
        assert len(make(name).select(replace(pairs(0), relevance=None), 4, torch.Generator())) == 4


@pytest.mark.parametrize("noise", [0.5, 1.0])
def test_noisy_scores_are_drawn_from_their_softmax(noise: float) -> None:
    scores = torch.tensor([0.0, 1.0, 2.0, -1.0])
    firsts = [int(by_score(scores, 1, torch.Generator().manual_seed(s), noise)) for s in range(2000)]
    weights = [math.exp(x / noise) for x in scores.tolist()]
    for i, w in enumerate(weights):
        p = w / sum(weights)
        assert firsts.count(i) / 2000 == pytest.approx(p, abs=5 * (p * (1 - p) / 2000) ** 0.5)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LEARNING])
def test_rules_wait_for_a_gpu_once_at_most(name: str) -> None:
    with labelled_device() as record:
        selector = make_selector(name, width=WIDTH, seed=0, device=DEVICE)
        cells = pairs(0)
        assert cells.relevance is not None
        cells = Cells(cells.source.to(DEVICE), cells.target.to(DEVICE), cells.grid, cells.relevance)
        record.clear()
        selector.select(cells, 10, torch.Generator())
    assert record.faults() == ""
    waits = 1 if name == "meta-learner" else 0  # how many stay
    assert record.count("synchronization") == waits, str(record)
    assert record.count("copy") <= 2


# ---- those of a batch


def batch_of(name: str, count: int = 3) -> list[PatchSelector]:
    """Selectors of several edits, in double precision where they compute, so that only rounding is small."""
    selectors = make_selectors(name, count, width=WIDTH, seed=0, device=CPU)
    for one in selectors:
        if isinstance(one, LearnedPatches | MetaLearner):
            one.net.double()
    return selectors


def seen_by(count: int, first: int, n: int = 64, width: int = WIDTH) -> list[Cells]:
    """A layer's cells of as many images, in double precision."""
    found = [pairs(first + i, n, width) for i in range(count)]
    return [replace(one, source=one.source.double(), target=one.target.double()) for one in found]


def draws(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(count)]


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_does_what_each_selector_does_alone(name: str) -> None:
    if name in LEARNING[1:]:
        pytest.importorskip("sklearn")
    alone, batch = batch_of(name), batch_of(name)
    jointly_ = jointly(batch)
    for update in range(3):
        for layer, width in enumerate((WIDTH, WIDTH, WIDTH // 2)):
            cells = seen_by(3, 100 * update + 10 * layer, width=width)
            for n in (10, 64):
                picked = [one.select(c, n, g).tolist() for one, c, g in zip(alone, cells, draws(3), strict=True)]
                assert [p.tolist() for p in jointly_.select_all(batch, cells, n, draws(3))] == picked
            for one, c in zip(alone, cells, strict=True):
                one.observe(c)
            jointly_.observe_all(batch, cells)
        each = [pytest.approx(one.update(), rel=1e-6) for one in alone]
        assert jointly_.update_all(batch) == each
    for one, other in zip(alone, batch, strict=True):
        found, wanted = other.state(), one.state()
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-9)
    load(save({f"{i}.{k}": v for i, one in enumerate(batch) for k, v in one.state().items()}))  # none shares memory


@pytest.mark.parametrize("name", ["learned", "meta-learner"])
def test_what_selectors_of_one_kind_do_is_done_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of(name)
    kind = type(batch[0])
    for method in ("select",) if name == "meta-learner" else ("select", "observe", "update"):
        monkeypatch.setattr(kind, method, lambda *_: pytest.fail("alone"))
    for _ in range(2):
        assert len(jointly(batch).select_all(batch, seen_by(3, 0), 10, draws(3))) == 3
        jointly(batch).observe_all(batch, seen_by(3, 0))
        jointly(batch).update_all(batch)


def test_one_that_was_taught_otherwise_is_no_part_of_a_batch() -> None:
    """Nor is a subclass, which may choose in a way of its own, nor one of another network."""
    batch, alone = batch_of("learned", 2), batch_of("learned", 2)
    cells = seen_by(2, 50)
    for selectors in (batch, alone):
        selectors[0].observe(cells[1])
        selectors[0].update()
    picked = [one.select(c, 10, g).tolist() for one, c, g in zip(alone, cells, draws(2), strict=True)]
    assert [p.tolist() for p in jointly(batch).select_all(batch, cells, 10, draws(2))] == picked
    batch[1].observe(cells[1])
    assert jointly(batch).update_all(batch)[0] == {}

    class Own(LearnedPatches):
        def select(self, cells: Cells, n: int, generator: torch.Generator) -> torch.Tensor:
            return torch.arange(2)

    own = Own(WIDTH, 0, CPU)
    assert jointly([own, own]).select_all([own, own], cells, 10, draws(2))[0].tolist() == [0, 1]
    one, other = MetaLearner.load(CPU), MetaLearner.load(CPU)
    other.net.mean.fill_(torch.nan)  # nothing stays
    picked = MetaLearner.select_all([one, other], [pairs(0), pairs(0)], 10, draws(2))
    assert [len(p) for p in picked] == [10, 2]


def test_what_never_changes_is_made_once_for_all_edits() -> None:
    assert len({id(one) for one in batch_of("meta-learner")}) == 1
    assert len({id(one) for one in batch_of("learned")}) == 3
