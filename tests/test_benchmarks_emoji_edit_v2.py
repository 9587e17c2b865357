"""The committed data set emoji-edit v2: what its README promises holds in its files."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from cpds.evaluation.cases import EMOJI_EDIT, classifier_file, load_cases
from cpds.evaluation.classifier import IconClassifier
from cpds.images import open_image
from cpds.masks import open_mask

V2 = EMOJI_EDIT.with_name("emoji_edit_v2")
ROWS = [json.loads(line) for line in (V2 / "manifest.jsonl").read_text().splitlines()]
SPLITS = {"test": 160, "validation": 60}


@pytest.mark.parametrize(("split", "count"), SPLITS.items())
def test_splits_are_balanced(split: str, count: int) -> None:
    tags = Counter(tag for row in ROWS if row["split"] == split for tag in row["tags"])
    assert tags["seen"] == tags["held-out"] == count / 2
    assert sum(tags[f"{n}"] for n in ("1 icon", "2 icons", "3 icons")) == count
    assert all(abs(tags[n] - count / 3) < 1 for n in ("1 icon", "2 icons", "3 icons"))


def test_it_is_read_as_a_data_set(tmp_path: Path) -> None:
    files = ("source", "ground_truth", "mask")
    rows = [{**r, **{f: str(V2 / r[f]) for f in files}} for r in ROWS]
    without_crop = [{name: value for name, value in row.items() if name != "crop"} for row in rows]
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, without_crop)))
    cases = load_cases(tmp_path)
    assert Counter(case.split for case in cases) == SPLITS
    assert {case.size for case in cases} == {(128, 128)}
    assert sum(file.stat().st_size for file in V2.rglob("*.*")) < 10e6


def test_it_asks_for_no_edit_of_emoji_edit() -> None:
    """By the prompts: those of v2 name a pattern, so that only a plain source could be the same."""
    old = {(c.prompt, c.target_prompt) for c in load_cases("emoji-edit")}
    assert old.isdisjoint((row["prompt"], row["target_prompt"]) for row in ROWS)
    assert len({(row["prompt"], row["target_prompt"]) for row in ROWS}) == len(ROWS)


def test_only_what_the_mask_allows_differs_and_the_classifier_tells_it() -> None:
    classifier = IconClassifier.load(classifier_file("emoji-edit"))
    for row in ROWS:
        source, ground_truth = (open_image(V2 / row[name]) for name in ("source", "ground_truth"))
        mask = open_mask(V2 / row["mask"], source).round()
        differs = (source - ground_truth).abs()
        assert float((differs * (1 - mask)).max()) < 1.5 / 255, row["id"]
        assert float((differs * mask).max()) > 0.1, row["id"]
        left, top, right, bottom = row["crop"]
        assert right - left == bottom - top > 0
        assert min(left, top) >= 0
        assert max(right, bottom) <= 128
        if "background" not in row["tags"]:  # the crop holds all that may change
            outside = mask.clone()
            outside[..., top:bottom, left:right] = 0
            assert float(outside.sum()) == 0, row["id"]
        shown = torch.cat([source, ground_truth])[..., top:bottom, left:right]
        told = [all(c[h] == n for h, n in row["expect"].items()) for c in classifier.classify(shown)]
        assert told == [False, True], row["id"]
