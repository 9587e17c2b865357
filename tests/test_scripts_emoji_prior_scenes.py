"""Scene pairs from made-up icons: one thing changes; and no edit is both trained on and tested."""

import colorsys
import random
from itertools import islice

import pytest
import torch

from scripts.emoji_prior import benchmark, benchmark_v2, pairs, scene_drawer
from scripts.emoji_prior.benchmark_v2 import Benchmark
from scripts.emoji_prior.collages import centres, draw_collage
from scripts.emoji_prior.icons import MASTER, Icons
from scripts.emoji_prior.pairs import emoji_edit_keys, training_edits, training_pairs
from scripts.emoji_prior.scene_drawer import SceneDrawer
from scripts.emoji_prior.scenes import GAP, PATTERNS, SIDE, ScenePair, crop_box, edit_key, render_scenes

TABLE = {
    "animal": ["cat-face", "dog-face", "pig-face", "fox", "bear", "owl"],
    "food": ["pizza", "cookie", "melon", "lemon"],
    "colour": ["red-heart", "blue-heart", "green-heart", "red-circle", "blue-circle"],
    "object": ["bell", "drum", "key", "tent"],
}
HELD_OUT = {("dog-face", "3d"), ("blue-heart", "flat"), ("melon", "3d"), ("key", "flat")}
KINDS = tuple(benchmark.COUNTS)


def make_icons() -> Icons:
    """Discs of a color for each concept, darker in 3d."""
    y, x = torch.meshgrid(*[torch.arange(MASTER) - MASTER / 2] * 2, indexing="ij")
    alpha = (torch.hypot(x, y) < 0.47 * MASTER) * 255.0
    names = [name for group in TABLE.values() for name in group]
    rgba, concept, style = [], [], []
    for i, name in enumerate(names):
        for kind, value in (("flat", 1.0), ("3d", 0.5)):
            rgb = colorsys.hsv_to_rgb(i / len(names), 1.0, value)
            rgba.append(torch.stack([*(torch.full_like(alpha, 255 * v) for v in rgb), alpha]))
            concept.append(name)
            style.append(kind)
    return Icons(torch.stack(rgba).byte(), concept, style)


@pytest.fixture(scope="module")
def made() -> Icons:
    return make_icons()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, made: Icons) -> None:
    table = {kind: {name: [name.replace("-", " ")] for name in names} for kind, names in TABLE.items()}
    groups = {"plant": {}, "face": {}, **table}
    words = {name: w for group in table.values() for name, w in group.items()}
    for module in (benchmark, scene_drawer):
        monkeypatch.setattr(module, "concepts_by_kind", lambda: groups)
        monkeypatch.setattr(module, "held_out_pairs", lambda: HELD_OUT)
    for module in (benchmark, pairs, benchmark_v2):
        monkeypatch.setattr(module, "concepts", lambda: words)
        monkeypatch.setattr(module, "load_icons", lambda names, cache=None: made)
    monkeypatch.setattr(benchmark, "COUNTS", dict.fromkeys(KINDS, 2))
    monkeypatch.setattr(benchmark, "DEMO", [("cat-face", "pig-face")])


def drawn(made: Icons, kind: str, count: int, held_out: bool, n: int = 3) -> list[ScenePair]:
    drawer, rng = SceneDrawer(made), random.Random(f"{kind} {count}")
    return [drawer.draw(kind, count, PATTERNS[i % 5], held_out, rng) for i in range(n)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("held_out", [True, False])
def test_one_thing_differs_and_the_mask_says_where(made: Icons, kind: str, count: int, held_out: bool) -> None:
    if kind == "style" and held_out:
        held_out = False  # none of these is drawn in a style that is told apart by its name alone
    for pair in drawn(made, kind, count, held_out):
        before, after = ([(made.concept[s.icon], made.style[s.icon]) for s in c.scenes] for c in ends(pair))
        changed = [i for i in range(count) if before[i] != after[i]]
        same_background = pair.source.background == pair.ground_truth.background
        assert (changed, same_background) == (([], False) if kind == "background" else ([pair.changed], True))
        (a, s), (b, t) = before[pair.changed], after[pair.changed]
        assert (a == b) == (kind in ("style", "background"))
        assert (s == t) == (kind != "style")
        assert ((b, t) in HELD_OUT) == held_out == ("held-out" in pair.tags)
        if kind != "background":
            assert HELD_OUT.isdisjoint(before)
        assert pair.expect["concept"] == b
        source, ground_truth, mask = render_scenes(made, pair)
        differs = (source - ground_truth).abs().amax(0)
        assert differs[mask[0] == 0].max() < 1 / 255
        assert differs[mask[0] == 1].max() > 0.1
        if kind != "background":
            others = [c for i, c in enumerate(draw_collage(made, pair.source, SIDE)[1]) if i != pair.changed]
            assert all(float((c * mask).max()) == 0 for c in others)  # nor does its margin touch another icon


def ends(pair: ScenePair) -> tuple:
    return pair.source, pair.ground_truth


@pytest.mark.parametrize("count", [1, 2, 3])
def test_icons_keep_apart_and_the_crop_holds_the_one_that_changes(made: Icons, count: int) -> None:
    for pair in drawn(made, "animal", count, False, 6):
        scenes = pair.source.scenes
        for i, a in enumerate(scenes):
            assert all(max(map(abs, centres(a, b))) >= (a.size + b.size) / 2 + GAP for b in scenes[:i])
            assert min(a.left, a.top) >= 0
            assert max(a.left, a.top) + a.size <= 1
        left, top, right, bottom = crop_box(pair)
        assert right - left == bottom - top
        assert 0 <= min(left, top) < max(right, bottom) <= SIDE
        outside = torch.ones(SIDE, SIDE)
        outside[top:bottom, left:right] = 0
        assert float((draw_collage(made, pair.source, SIDE)[1][pair.changed] * outside).max()) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_say_what_is_where(made: Icons, kind: str) -> None:
    signs = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
    for count in (1, 2, 3):
        for pair in drawn(made, kind, count, False, 5):
            for collage, prompt in zip(ends(pair), (pair.prompt, pair.target_prompt), strict=True):
                what, where = prompt.split(" on ", 1)
                assert where == collage.background.words()
                nouns = [made.concept[s.icon].replace("-", " ") for s in collage.scenes]
                at = [what.index(noun) for noun in nouns]
                assert at == sorted(at)
                for words, (right, down) in signs.items():
                    if words in what:
                        offset = centres(*collage.scenes)
                        assert offset[0] * right + offset[1] * down > 0
                if kind == "style":
                    assert all(f"{made.style[s.icon]} {n}" in what for s, n in zip(collage.scenes, nouns, strict=True))


def test_an_edit_is_the_same_in_both_directions(made: Icons) -> None:
    (pair,) = drawn(made, "food", 2, False, 1)
    back = ScenePair("food", pair.ground_truth, pair.source, pair.changed, "", "", {}, [])
    assert edit_key(made, pair) == edit_key(made, back)
    other = next(p for p in drawn(made, "food", 2, False, 20) if p.expect != pair.expect)
    assert edit_key(made, pair) != edit_key(made, other)


def test_no_edit_is_trained_on_and_tested(made: Icons, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Benchmark, "_verdict", lambda self, drawn: "kept")
    v2 = Benchmark(made, None, None)  # pyright: ignore[reportArgumentType]
    counts = {"animal": 2, "background": 8}
    tested = [edit_key(made, d.pair) for i in range(2) for d in v2.split(counts, random.Random(i))]
    assert len(tested) == len(set(tested)) == 20
    v1 = emoji_edit_keys(made)
    assert v1.isdisjoint(tested)
    edits = list(islice(training_edits(made, 0), 100))
    trained = {edit_key(made, pair) for pair in edits}
    assert trained.isdisjoint(v1)
    assert trained.isdisjoint(tested)
    assert not any("held-out" in pair.tags for pair in edits)


def test_what_the_classifier_misses_is_drawn_anew(made: Icons, monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = iter(["missed", "blurred", "kept"] * 4)
    monkeypatch.setattr(Benchmark, "_verdict", lambda self, drawn: next(verdicts))
    v2 = Benchmark(made, None, None)  # pyright: ignore[reportArgumentType]
    pairs = [d.pair for d in v2.split({"background": 4}, random.Random(0))]
    assert v2.verdicts == {"missed": 4, "blurred": 4, "kept": 4}
    assert [len(p.source.scenes) for p in pairs] == [1, 2, 3, 1]
    assert [p.tags[1] for p in pairs] == ["seen", "held-out"] * 2


def test_training_pairs_are_seeded_images(made: Icons) -> None:
    few, many = training_pairs(4, 3), training_pairs(6, 3)
    for a, b in zip(few, many, strict=False):
        assert a[3:] == b[3:]
        assert all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))
    assert [p.prompt for p in training_pairs(4, 4)] != [p.prompt for p in few]
    for pair in many:
        assert pair.source.shape == pair.ground_truth.shape == (3, SIDE, SIDE)
        assert pair.mask.shape == (1, SIDE, SIDE)
        assert min(pair.source.min(), pair.ground_truth.min()) >= 0
        assert max(pair.source.max(), pair.ground_truth.max()) <= 1
        outside = (1 - pair.mask).bool().expand_as(pair.source)
        assert not bool(outside.any()) or (pair.source - pair.ground_truth)[outside].abs().max() < 1 / 255
    with pytest.raises(ValueError, match="count must be >= 1, got 0"):
        training_pairs(0)
