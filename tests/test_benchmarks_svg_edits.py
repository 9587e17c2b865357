"""Lists of SVG edits that share no concept, and what is measured in a result."""

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("resvg_py")

from benchmarks import svg_edits, svg_icons
from benchmarks.svg_edits import Metrics, SvgEditsConfig, table, usable
from benchmarks.svg_icons import IconEdit, edits
from cpds.errors import InputError
from cpds.evaluation.cases import CLASSIFIER, EMOJI_EDIT
from cpds.evaluation.classifier import IconClassifier
from scripts.emoji_prior.icons import MASTER, Icons, concepts_by_kind
from scripts.emoji_prior.packages import PACKAGES

HEAD = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 36 36">'
HEART = "M36 11c0-6-4-10-10-10-3 0-6 2-8 4-2-2-5-4-8-4C4 1 0 5 0 11c0 9 10 18 18 24C26 29 36 20 36 11z"
JOB = IconEdit("twemoji", "red-heart", "red heart", "blue heart", "blue-heart")


def heart(color: str) -> str:
    return f'{HEAD}<path fill="{color}" d="{HEART}"/></svg>'


def make_icons() -> Icons:
    """The same square for every concept, in every style."""
    names = [name for table in concepts_by_kind().values() for name in table]
    styles = [PACKAGES[package].style for package in svg_icons.SETS]
    square = torch.full((1, 4, MASTER, MASTER), 255, dtype=torch.uint8)
    return Icons(
        square.expand(len(names) * 5, -1, -1, -1), [n for _ in styles for n in names], sorted(styles * len(names))
    )


def test_tuning_and_judging_share_no_concept() -> None:
    lists = {which: edits(which, make_icons, lambda job: True) for which in ("tuning", "judging", "first")}
    assert {which: len(jobs) for which, jobs in lists.items()} == dict.fromkeys(lists, 20)
    used = {which: {name for job in jobs for name in (job.icon, job.target)} for which, jobs in lists.items()}
    assert used["tuning"].isdisjoint(used["judging"])
    assert used["first"].isdisjoint(used["tuning"] | used["judging"])
    for which in ("tuning", "judging"):
        assert len({job.name for job in lists[which]}) == 20
        assert [job.package for job in lists[which]] == [package for package in svg_icons.SETS for _ in range(4)]
        assert lists[which] == edits(which, make_icons, lambda job: True)  # the same each time


def test_an_edit_is_usable_where_both_icons_are_told_apart() -> None:
    icons = {"twemoji/red-heart": heart("#f00"), "twemoji/blue-heart": heart("#00f")}
    assert usable(icons, lambda svg: "blue-heart" if b"#00f" in svg else "red-heart", JOB)
    assert not usable(icons, lambda svg: "blue-heart", JOB)
    assert not usable(icons, lambda svg: "red-heart", JOB)
    assert not usable({"twemoji/red-heart": heart("#f00")}, lambda svg: "blue-heart", JOB)
    assert not usable({**icons, "twemoji/red-heart": f"{HEAD}</svg>"}, lambda svg: "", JOB)


def test_the_ground_truth_itself_has_the_best_score() -> None:
    classifier = IconClassifier.load(EMOJI_EDIT / CLASSIFIER)
    metrics = Metrics(classifier, lambda a, b: (a - b).abs().mean((1, 2, 3)))  # pyright: ignore[reportArgumentType]
    red, blue = (heart(color).encode() for color in ("#dd2e44", "#5dadec"))
    perfect, none = metrics.score(blue, blue, "blue-heart"), metrics.score(red, blue, "blue-heart")
    assert perfect == {
        "found": "blue-heart",
        "target_accuracy": 1.0,
        "lpips_ground_truth": 0.0,
        "chamfer_ground_truth": 0.0,
    }
    assert none["found"] != "blue-heart"
    assert none["target_accuracy"] == none["chamfer_ground_truth"] == 0
    assert none["lpips_ground_truth"] > 0.05
    assert "lpips_ground_truth" not in Metrics(classifier, None).score(red, blue, "blue-heart")


def test_an_edit_counts_with_its_mean_over_the_seeds() -> None:
    def row(edit: str, seed: int | None, accuracy: float) -> dict:
        return {
            **{"edit": edit, "package": "noto", "seed": seed, "target_accuracy": accuracy},
            **{"chamfer_ground_truth": 0.02, "seconds": 3.0},
        }

    rows = [row("a", None, 0.0), row("b", None, 0.0)]
    rows += [row("a", 0, 1.0), row("a", 1, 0.0), row("b", 0, 0.5), row("b", 1, 0.5)]
    lines = table(rows).splitlines()
    assert "LPIPS" not in lines[0]
    assert lines[2] == "| unedited | 2 |  | 0 | 0.02 | 3 |"
    assert lines[3] == "| edited | 2 | 2 | 0.5 | 0.02 | 3 |"
    assert lines[4] == "| edited, noto | 2 | 2 | 0.5 | 0.02 | 3 |"
    assert len(lines) == 5


def test_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an edit that paints the heart blue."""
    icons = {"twemoji/red-heart": heart("#dd2e44"), "twemoji/blue-heart": heart("#5dadec")}
    monkeypatch.delenv("CPDS_ALEXNET", raising=False)
    monkeypatch.setattr(svg_edits, "documents", lambda sets: icons)
    monkeypatch.setattr(svg_edits, "load_prior", lambda device: None)
    monkeypatch.setattr(svg_edits, "edits", lambda *_: [JOB])
    monkeypatch.setattr(svg_edits, "edited", lambda source, *_: source.replace(b"#dd2e44", b"#5dadec"))
    svg_edits.main(SvgEditsConfig(tmp_path, seeds=2))
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [(r["seed"], r["target_accuracy"]) for r in rows] == [(None, 0.0), (0, 1.0), (1, 1.0)]
    assert (tmp_path / f"{JOB.name}-1.svg").read_bytes() == heart("#5dadec").encode()
    assert (tmp_path / "table.md").read_text().count("\n") == 5
    assert (tmp_path / "sheet.png").is_file()


@pytest.mark.parametrize(("name", "value"), [("seeds", 0), ("limit", 0), ("preset", "magic")])
def test_bad_settings_are_named(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"{name} must be .*{value}"):
        SvgEditsConfig(**{name: value})  # pyright: ignore[reportArgumentType]
