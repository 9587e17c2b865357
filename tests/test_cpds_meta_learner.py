"""The Meta-Learner: its features against loops, that it knows no place and no channel, its weights, its training."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn.functional import normalize

from cpds.selection.base import Cells
from cpds.selection.meta_learner import FEATURES, SHIPPED, MetaLearner, StayNet, features
from scripts.emoji_prior.meta_learner import MetaLearnerConfig, auc, train

ROWS, COLUMNS = 3, 5


def cells(seed: int = 0, width: int = 8, rows: int = ROWS, columns: int = COLUMNS) -> Cells:
    generator = torch.Generator().manual_seed(seed)
    x = normalize(torch.randn(rows * columns, width, generator=generator), dim=1)
    return Cells(x, x, (rows, columns), torch.rand(rows * columns, generator=generator))


def column(cells: Cells, name: str) -> list[float]:
    return features(cells)[:, FEATURES.index(name)].tolist()


def around(i: int, reach: int) -> list[int]:
    """Cells of the map within `reach` rows and columns of cell i, itself among them."""
    r, c = divmod(i, COLUMNS)
    rows = range(max(0, r - reach), min(ROWS, r + reach + 1))
    return [a * COLUMNS + b for a in rows for b in range(max(0, c - reach), min(COLUMNS, c + reach + 1))]


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


def mean(x: list[float]) -> float:
    return sum(x) / len(x)


def test_features_are_the_naive_ones() -> None:
    shown = cells()
    x, r = shown.source, shown.change.tolist()
    n = len(r)
    near, wide = ([around(i, reach) for i in range(n)] for reach in (1, 2))
    stays, changes = ([i for i in range(n) if (r[i] < 0.32) == calm] for calm in (True, False))

    def over_attention(i: int, temperature: float) -> list[float]:
        weights = [math.exp(float(x[i] @ x[j]) / temperature) for j in range(n)]
        return [w / sum(weights) for w in weights]

    expected = {
        "relevance": r,
        "its square root": [v**0.5 for v in r],
        "its rank": [sum(w < v for w in r) / n for v in r],
        "mean of 3x3": [mean([r[j] for j in js]) for js in near],
        "maximum of 3x3": [max(r[j] for j in js) for js in near],
        "minimum of 3x3": [min(r[j] for j in js) for js in near],
        "mean of 5x5": [mean([r[j] for j in js]) for js in wide],
        "maximum of 5x5": [max(r[j] for j in js) for js in wide],
        "likeness to 3x3": [cosine(x[i], x[js].mean(0)) for i, js in enumerate(near)],
        "likeness to what stays": [cosine(x[i], x[stays].mean(0)) for i in range(n)],
        "likeness to what changes": [cosine(x[i], x[changes].mean(0)) for i in range(n)],
        "entropy of attention": [
            -sum(p * math.log(p) for p in over_attention(i, 0.07)) / math.log(n) for i in range(n)
        ],
        "the map's mean": [mean(r)] * n,
        "median": [sorted(r)[n // 2]] * n,
        "deviation": [mean([(v - mean(r)) ** 2 for v in r]) ** 0.5] * n,
        "share that changes": [len(changes) / n] * n,
        "10 % quantile": [sorted(r)[1]] * n,  # of 15
        "25 % quantile": [sorted(r)[4]] * n,
        "75 % quantile": [sorted(r)[10]] * n,
        "90 % quantile": [sorted(r)[13]] * n,
    }
    for name, t in (("mean over attention", 0.07), ("over sharper attention", 0.03), ("over softer attention", 0.2)):
        expected[name] = [sum(p * v for p, v in zip(over_attention(i, t), r, strict=True)) for i in range(n)]
    whole = {"mean likeness to 3x3": "likeness to 3x3", "mean likeness to what stays": "likeness to what stays"}
    for name, of in {**whole, "mean entropy": "entropy of attention"}.items():
        expected[name] = [mean(expected[of])] * n
    expected["roughness"] = [mean([abs(a - b) for a, b in zip(r, expected["mean of 3x3"], strict=True)])] * n
    correlated = {"with 3x3": "mean of 3x3", "over attention": "mean over attention"}
    for name, of in {**correlated, "with likeness to what changes": "likeness to what changes"}.items():
        found = torch.corrcoef(torch.tensor([r, expected[of]]))[0, 1]
        expected[f"correlation {name}"] = [float(found)] * n
    assert expected.keys() == set(FEATURES)
    for name, values in expected.items():
        assert column(shown, name) == pytest.approx(values, abs=1e-5), name


def test_features_know_no_channel_and_no_place() -> None:
    """Other axes of the features change nothing; a turned or mirrored map is one turned or mirrored."""
    shown = cells()
    axes = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1))).Q
    torch.testing.assert_close(features(replace(shown, source=shown.source @ axes)), features(shown))
    order = torch.arange(ROWS * COLUMNS).view(ROWS, COLUMNS)
    for moved in (order.T, order.flip(0), order.flip(1)):
        i = moved.flatten()
        turned = Cells(shown.source[i], shown.target[i], (moved.shape[0], moved.shape[1]), shown.change[i])
        torch.testing.assert_close(features(turned), features(shown)[i])


@pytest.mark.parametrize("relevance", [0.0, 0.1, 1.0])  # nothing to change, all calm, all to change
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 4), (4, 4)])
def test_features_are_finite_on_any_map(rows: int, columns: int, relevance: float) -> None:
    shown = cells(rows=rows, columns=columns)
    assert features(replace(shown, relevance=torch.full((rows * columns,), relevance))).isfinite().all()


def test_the_shipped_network_is_small_and_says_how_it_was_made() -> None:
    assert SHIPPED.stat().st_size < 24 * 2**10
    with safe_open(SHIPPED, "pt") as file:
        made = file.metadata()
    assert {"pairs", "seed", "prior"} <= made.keys()
    assert any("meta-learner" in name for name in made)


def test_the_shipped_network_tells_calm_from_changing() -> None:
    """A map that the prior is certain of: a block of high relevance whose features are alike, among low."""
    block = torch.zeros(16, 16, dtype=torch.bool)
    block[4:12, 4:12] = True
    block = block.flatten()
    generator = torch.Generator().manual_seed(0)
    means = torch.where(block[:, None], *torch.randn(2, 1, 32, generator=generator))
    x = normalize(means + 0.5 * torch.randn(256, 32, generator=generator), dim=1)
    relevance = torch.where(block, 0.8, 0.1) + 0.05 * torch.rand(256, generator=generator)
    shown, selector = Cells(x, x, (16, 16), relevance), MetaLearner.load(torch.device("cpu"))
    chosen = selector.select(shown, 64, torch.Generator().manual_seed(0))
    assert len(chosen) == 64
    assert not block[chosen].any()
    staying = selector.net(features(shown)) > 0
    assert float(staying[block].float().mean()) < 0.05
    assert float(staying[~block].float().mean()) > 0.8  # a seventh of them touch the block


class Fixed(StayNet):
    """Its logit is relevance less a limit."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        return self.limit - x[..., 0]


@pytest.mark.parametrize("limit", [-1.0, 0.0, 0.3, 0.6, 2.0])
@pytest.mark.parametrize("n", [2, 4, 100])
def test_what_should_stay_is_chosen_or_the_two_likeliest(limit: float, n: int) -> None:
    shown = cells()
    staying = [i for i, r in enumerate(shown.change.tolist()) if r < limit]
    if len(staying) < 2:
        staying = shown.change.argsort()[:2].tolist()
    chosen = MetaLearner(Fixed(limit)).select(shown, n, torch.Generator().manual_seed(0)).tolist()
    assert len(chosen) == len(set(chosen)) == min(n, len(staying))
    assert set(chosen) <= set(staying)


def test_weights_of_other_features_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = StayNet()
    net.save(tmp_path / "net.safetensors", {})
    again = StayNet.load(tmp_path / "net.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))
    monkeypatch.setattr("cpds.selection.meta_learner.FEATURES", FEATURES[::-1])
    with pytest.raises(ValueError, match="was trained on other features"):
        StayNet.load(tmp_path / "net.safetensors")


# ---- training


def test_auc_is_the_share_of_pairs_in_order() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 6, (40,), generator=generator).float()
    positive = torch.rand(40, generator=generator) > 0.6
    good, bad = scores[positive].tolist(), scores[~positive].tolist()
    naive = sum((a > b) + (a == b) / 2 for a in good for b in bad) / len(good) / len(bad)
    assert auc(scores, positive) == pytest.approx(naive, abs=1e-12)
    assert auc(scores, torch.ones(40, dtype=torch.bool)) is None


def test_training_finds_a_rule_repeats_itself_and_shows_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = 3 + 2 * torch.randn(4000, len(FEATURES), generator=generator)
    y = (x[:, 0] * (x[:, 1] - 3) < 0).float()
    config = MetaLearnerConfig(steps=300, batch=256, lr=1e-2)
    before = torch.random.get_rng_state()
    net, again = (train(x, y, torch.arange(3000), config) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    right = (net(x[3000:]) > 0) == (y[3000:] > 0)
    assert float(right.float().mean()) > 0.85  # it is even by chance
    assert "Meta-Learner: 100%" in (shown := capsys.readouterr().err)
    assert "300/300 [" in shown
    assert "step/s]" in shown
