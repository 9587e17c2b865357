"""Data sets: every layout is read, every problem is named before any work."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cpds.errors import InputError
from cpds.evaluation import cases as evaluation_cases
from cpds.evaluation.cases import CLASSIFIER, EMOJI_EDIT, classifier_file, from_runs, load_cases, select
from cpds.images import open_image


def save(path: Path, size: tuple[int, int] = (32, 24), colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def row(name: str = "a", **changes: Any) -> dict[str, Any]:
    plain = {"id": name, "source": f"{name}.png", "prompt": "a cat", "target_prompt": "a dog"}
    return {k: v for k, v in (plain | changes).items() if v is not None}


def manifest(folder: Path, *rows: Any) -> Path:
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n\n")
    return path


def test_a_manifest_with_everything(tmp_path: Path) -> None:
    for name in ("a", "b", "ground_truth"):
        save(tmp_path / f"{name}.png")
    mask = Image.new("L", (32, 24))
    mask.paste(255, (0, 0, 16, 24))
    mask.save(tmp_path / "mask.png")
    line = row(
        "b", mask="mask.png", ground_truth="ground_truth.png", split="dev", tags=["x"], expect={"concept": "dog"}
    )
    path = manifest(tmp_path, row("a"), line)
    assert load_cases(path) == load_cases(tmp_path)
    plain, full = load_cases(path)
    assert (plain.id, plain.source, plain.prompt, plain.target_prompt) == ("a", tmp_path / "a.png", "a cat", "a dog")
    assert plain.open_mask(open_image(plain.source)) is None
    assert plain.open_ground_truth() is None
    got = full.open_mask(open_image(full.source))
    assert got is not None
    assert got.sum() == 16 * 24
    assert (full.tags, full.expect) == (("x",), {"concept": "dog"})
    assert [c.id for c in load_cases(path, "dev")] == ["b"]


def test_a_mask_with_transparency_holds_what_is_transparent(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    mask = Image.new("RGBA", (32, 24), (0, 0, 0, 0))
    mask.paste((255, 255, 255, 255), (0, 0, 8, 24))
    mask.save(tmp_path / "mask.png")
    with pytest.warns(UserWarning, match="what is transparent is held"):
        (case,) = load_cases(manifest(tmp_path, row("a", mask="mask.png")))
    with pytest.warns(UserWarning, match="what is transparent is held"):
        got = case.open_mask(open_image(case.source))
    assert got is not None
    assert got.sum() == 8 * 24


def test_empty_cells_and_a_byte_order_mark_are_no_problem(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    line = json.dumps(row() | {"mask": None, "split": None, "prompt": "a\u2028cat"}, ensure_ascii=False)
    (tmp_path / "manifest.jsonl").write_text("\ufeff" + line, "utf-8")
    (case,) = load_cases(tmp_path)
    assert (case.mask, case.split, case.prompt, case.size) == (None, "test", "a\u2028cat", (32, 24))


def test_a_crop_is_what_the_classifier_is_shown(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (case,) = load_cases(manifest(tmp_path, row(crop=[4, 2, 32, 18])))
    image = torch.arange(3 * 24 * 32).view(1, 3, 24, 32) / 2304
    assert torch.equal(case.cropped(image), image[:, :, 2:18, 4:32])
    (whole,) = load_cases(manifest(tmp_path, row()))
    assert torch.equal(whole.cropped(image), image)


def test_a_crop_belongs_to_the_digest_of_a_case_that_has_one(tmp_path: Path) -> None:
    """Folders of cases without one stay valid: this is the digest as it was before there were crops."""
    save(tmp_path / "a.png")
    digests = set()
    for crop in (None, [0, 0, 32, 24], [0, 0, 31, 24]):
        (case,) = load_cases(manifest(tmp_path, row(crop=crop)))
        digests.add(case.digest())
    texts = json.dumps(["a cat", "a dog", {}, ()]).encode()
    before = hashlib.sha256(texts + b"|" + (tmp_path / "a.png").read_bytes() + b"||").hexdigest()[:16]
    assert before in digests
    assert len(digests) == 3


PROBLEMS = {
    "line 1: crop must be a list of 4 whole numbers": [row(crop=[0, 0, 16])],
    "line 1: crop must be a list of 4 whole numbers: left, top": [row(crop=[0, 0, 16, 16.5])],
    "a: crop .0, 0, 33, 24. must lie inside of the source's 32x24 px": [row(crop=[0, 0, 33, 24])],
    "a: crop .-1, 0, 32, 24. must lie inside of the source's 32x24 px": [row(crop=[-1, 0, 32, 24])],
    "a: crop .16, 0, 0, 24. must lie inside of the source's 32x24 px": [row(crop=[16, 0, 0, 24])],
    "a: crop .0, 4, 32, 19. must lie inside of the source's 32x24 px and be at least 16 px": [row(crop=[0, 4, 32, 19])],
    "line 1 is no JSON object": ["not json", row()],
    "line 1: unknown column 'promt'": [row(promt="x")],
    "line 1: prompt must be a text that is not empty": [row(prompt=" ")],
    "line 1: target_prompt must be a text": [row(target_prompt=None)],
    "line 1: mask must be a text": [row(mask=3)],
    "line 1: tags must be a list of texts": [row(tags="x")],
    "line 1: expect must be an object of texts": [row(expect={"concept": 1})],
    "id 'a' occurs twice": [row(), row()],
    "id 'a/b' must be letters": [row("a/b", source="a.png")],
    r"a: source: image \S*gone.png does not exist": [row(source="gone.png")],
    r"a: source: \S*text.png is not an image": [row(source="text.png")],
    r"a: source: image \S*tiny.png is 8x8 px: it must be at least 16x16": [row(source="tiny.png")],
    "a: mask is 16x16 px but the source 32x24": [row(mask="small.png")],
    "a: ground_truth is 16x16 px but the source 32x24": [row(ground_truth="small.png")],
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_each_problem_is_named(tmp_path: Path, problem: str) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "small.png", (16, 16))
    save(tmp_path / "tiny.png", (8, 8))
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InputError, match=problem):
        load_cases(manifest(tmp_path, *PROBLEMS[problem]))


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    rows = [row("a"), row("a"), row("b"), row("c", tag=["x"]), *(row(f"gone-{i}") for i in range(30))]
    with pytest.raises(InputError) as caught:
        load_cases(manifest(tmp_path, *rows))
    text = str(caught.value)
    assert all(x in text for x in ("'a' occurs twice", "b: source", "unknown column 'tag'"))
    assert sum("gone-" in line for line in text.splitlines()) == 30


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("nowhere", "there is no data set .*nowhere: give emoji-edit"),
        ("", "has neither manifest.jsonl nor mapping_file.json"),  # an empty folder
        ("empty.jsonl", "holds no case"),
    ],
)
def test_places_without_data(tmp_path: Path, where: str, message: str) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InputError, match=message):
        load_cases(tmp_path / where)


def test_an_unknown_split_is_named(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    with pytest.raises(InputError, match="holds no case of split 'tset': check its spelling"):
        load_cases(manifest(tmp_path, row()), "tset")


def test_cases_are_selected_evenly_and_by_tag(tmp_path: Path) -> None:
    rows = [row(f"{i}", source="a.png", tags=["even" if i % 2 == 0 else "odd"]) for i in range(9)]
    save(tmp_path / "a.png")
    cases = load_cases(manifest(tmp_path, *rows))
    assert select(cases) == cases
    assert [c.id for c in select(cases, limit=3)] == ["0", "3", "6"]
    assert [c.id for c in select(cases, tag="odd", limit=9)] == ["1", "3", "5", "7"]
    with pytest.raises(InputError, match="no case has the tag 'old': there are even, odd"):
        select(cases, tag="old")


def test_the_classifier_beside_a_manifest_is_preferred(tmp_path: Path) -> None:
    path = manifest(tmp_path, row())
    assert classifier_file(path) == classifier_file("emoji-edit") == EMOJI_EDIT / CLASSIFIER
    (tmp_path / CLASSIFIER).touch()
    assert classifier_file(path) == classifier_file(tmp_path) == tmp_path / CLASSIFIER


def test_without_a_checkout_it_is_said_where_emoji_edit_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(evaluation_cases.DATA_SETS, "emoji-edit", tmp_path / "emoji_edit")
    monkeypatch.setattr(evaluation_cases, "EMOJI_EDIT", tmp_path / "emoji_edit")
    with pytest.raises(InputError, match=r"not installed with the package: get the folder benchmarks/emoji_edit of"):
        load_cases("emoji-edit")
    with pytest.raises(InputError, match=r"put classifier\.safetensors from the folder benchmarks/emoji_edit of"):
        classifier_file(manifest(tmp_path, row(expect={"concept": "dog"})))


# ---- PIE-Bench


def pie(folder: Path, **changes: Any) -> Path:
    save(folder / "annotation_images" / "0_random" / "1.png", (20, 16))
    entry = {
        "image_path": "0_random/1.png",
        "original_prompt": "a [round] cake on  a table",
        "editing_prompt": "a [square] cake on a table",
        "editing_instruction": "make it square",
        "editing_type_id": "4",
        "blended_word": "cake cake",
        "mask": [22, 3, 44, 2],
    }
    (folder / "mapping_file.json").write_text(json.dumps({"000000000001": entry | changes}))
    return folder


def test_pie_bench(tmp_path: Path) -> None:
    (case,) = load_cases(pie(tmp_path))
    assert (case.id, case.tags) == ("000000000001", ("type 4",))
    assert (case.prompt, case.target_prompt) == ("a round cake on a table", "a square cake on a table")
    mask = case.open_mask(open_image(case.source))
    assert mask is not None
    want = torch.zeros(16, 20)
    want[1, 2:5] = 1  # pixels 22, 23, 24
    want[2, 4:6] = 1  # 44, 45
    want[[0, -1]] = 1
    want[:, [0, -1]] = 1
    assert torch.equal(mask[0, 0], want)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": [10]}, "needs image_path, original_prompt, editing_prompt, and mask"),
        ({"mask": "x"}, "needs image_path"),
        ({"editing_prompt": None}, "needs image_path"),
        ({"image_path": "2.png"}, r"source: image \S*2.png does not exist"),
        ({"editing_prompt": "[ ]"}, "000000000001: a prompt is empty"),
    ],
)
def test_damaged_pie_bench(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_cases(pie(tmp_path, **changes))


def test_runs_beyond_the_image_are_cut() -> None:
    assert torch.equal(from_runs((25, 99), 5, 6), from_runs((25, 5), 5, 6))
    assert from_runs((14, 1), 5, 6)[0, 0, 2, 2] == 1


# ---- emoji-edit


def test_emoji_edit_is_complete_and_half_of_it_is_held_out() -> None:
    cases = load_cases("emoji-edit")
    splits = {s: [c for c in cases if c.split == s] for s in ("test", "validation", "demo")}
    assert len(splits["test"]) >= 240
    assert len(splits["demo"]) == 40
    for name in ("test", "validation"):
        held_out = sum("held-out" in case.tags for case in splits[name])
        assert 2 * held_out == len(splits[name])
    assert {c.tags[0] for c in splits["test"]} == {"animal", "food", "object", "colour", "background", "style"}
    size = sum(f.stat().st_size for f in EMOJI_EDIT.rglob("*") if f.is_file())
    assert size < 8 * 2**20


def test_the_ground_truth_of_emoji_edit_differs_inside_the_mask_alone() -> None:
    for case in load_cases("emoji-edit")[::17]:
        source, ground_truth = open_image(case.source), case.open_ground_truth()
        assert ground_truth is not None
        mask = case.open_mask(source)
        assert mask is not None
        outside = (mask == 0).expand_as(source)
        assert outside.any()
        assert (source - ground_truth)[outside].abs().max() < 1.5 / 255
        assert (source - ground_truth).abs().max() > 0.1


def test_pairs_called_held_out_are_what_the_prior_never_saw() -> None:
    from scripts.emoji_prior.icons import concepts, held_out_pairs

    cases = load_cases("emoji-edit", "test")
    of_style = [case for case in cases if case.tags[0] == "style"]  # the others' style is not in the manifest
    assert len(of_style) == 28
    for case in of_style:
        pair = case.expect["concept"], case.expect["style"]
        assert (pair in held_out_pairs()) == ("held-out" in case.tags)
    assert {case.expect["concept"] for case in cases} <= concepts().keys()
