"""Edit pairs from made-up icons: what a pair promises holds in its images."""

import json
import random
from pathlib import Path

import pytest
import torch

from cpds.evaluation.cases import load_cases
from scripts.emoji_prior import benchmark, icons
from scripts.emoji_prior.benchmark import BenchmarkConfig, draw_pair, draw_split, key, render
from scripts.emoji_prior.icons import Icons, Scene

SHADES = {"cat-face": 255, "dog-face": 180, "pig-face": 90}


def make_icons() -> Icons:
    """Discs (the pig a little smaller) in three styles; the third concept's disc is red, green or blue by style."""
    side = icons.MASTER
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    radius = ((x - side / 2) ** 2 + (y - side / 2) ** 2).sqrt()
    rgba, concept, style = [], [], []
    for i, name in enumerate(["flat", "3d", "noto"]):
        for what, shade in SHADES.items():
            alpha = (radius < side * (0.45 if what == "pig-face" else 0.48)) * 255
            colours = [torch.full_like(alpha, shade if i == k else 30) for k in range(3)]
            rgba.append(torch.stack([*colours, alpha]))
            concept.append(what)
            style.append(name)
    return Icons(torch.stack(rgba).byte(), concept, style)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"animal": {name: [name.replace("-", " ")] for name in SHADES}}
    monkeypatch.setattr(benchmark, "load_icons", lambda names: make_icons())
    monkeypatch.setattr(benchmark, "concepts_by_kind", lambda: table)
    monkeypatch.setattr(benchmark, "concepts", lambda: table["animal"])
    monkeypatch.setattr(benchmark, "held_out_pairs", lambda: {("dog-face", "3d"), ("pig-face", "flat")})


@pytest.mark.parametrize("kind", ["animal", "background", "style"])
@pytest.mark.parametrize("held_out", [True, False])
def test_a_pair_differs_as_its_kind_says(kind: str, held_out: bool) -> None:
    made, rng = make_icons(), random.Random(0)
    for _ in range(10):
        pair = draw_pair(made, kind, held_out, rng)
        a, b = ((made.concept[s.icon], made.style[s.icon]) for s in (pair.source, pair.ground_truth))
        assert (b in benchmark.held_out_pairs()) == held_out == ("held-out" in pair.tags)
        differs = {
            "concept": a[0] != b[0],
            "style": a[1] != b[1],
            "background": pair.source.rgb != pair.ground_truth.rgb,
        }
        wanted = {"animal": "concept", "background": "background", "style": "style"}[kind]
        assert {k for k, v in differs.items() if v} == {wanted}
        assert pair.expect["concept"] == b[0]
        assert b[0].replace("-", " ") in pair.target_prompt
        assert pair.ground_truth.colour in pair.target_prompt
        assert pair.source.colour in pair.prompt
        source, ground_truth, mask = render(made, pair)
        assert (source - ground_truth)[:, mask[0] == 0].abs().max() < 1 / 255
        assert (source - ground_truth).abs().max() > 0.05


def test_icons_of_other_shapes_are_no_pair() -> None:
    made = make_icons()
    made.rgba[1::3, 3, :, : icons.MASTER * 2 // 3] = 0  # what is left of the dogs is a third
    for _ in range(10):
        pair = draw_pair(made, "animal", False, random.Random(0))
        assert "dog-face" not in {made.concept[s.icon] for s in (pair.source, pair.ground_truth)}


def test_splits_share_no_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "COUNTS", {"animal": 4, "background": 6})
    taken: set = set()
    one = draw_split(make_icons(), 1.0, random.Random(0), taken)
    other = draw_split(make_icons(), 0.4, random.Random(1), taken)
    assert len(one) == 10
    assert len(other) == 4
    assert len({key(p) for p in [*one, *other]}) == 14
    assert sum("held-out" in p.tags for p in one) == 5


def test_what_is_written_is_read_as_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "COUNTS", {"animal": 4})
    monkeypatch.setattr(benchmark, "DEMO", [("cat-face", "pig-face")])
    benchmark.main(BenchmarkConfig(tmp_path / "a"))
    benchmark.main(BenchmarkConfig(tmp_path / "b"))
    cases = load_cases(tmp_path / "a")
    assert [len(load_cases(tmp_path / "a", s)) for s in ("test", "validation", "demo")] == [4, 2, 10]
    assert len({case.id for case in cases}) == 16
    assert all(
        json.loads(line)["ground_truth"] for line in (tmp_path / "a" / "manifest.jsonl").read_text().splitlines()
    )
    for file in (tmp_path / "a").rglob("*.*"):  # the same seed draws the same images
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes()


def test_background_pairs_may_not_change_the_icon() -> None:
    made = make_icons()
    scene = Scene(0, 0.8, 0.1, 0.1, "white", (250, 250, 250))
    other = Scene(0, 0.8, 0.1, 0.1, "blue", (75, 125, 230))
    pair = benchmark.Pair("background", scene, other, "", "", {}, [])
    _, _, mask = render(made, pair)
    assert mask[0, 64, 64] == 0
    assert mask[0, 2, 2] == 1
