"""Evaluations: what they measure, that they go on where they stopped, and the table."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import randn
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from cpds.apps.cli.eval import EvalArgs
from cpds.apps.cli.main import main, parse
from cpds.errors import InputError
from cpds.evaluation.cases import EMOJI_EDIT, Case, load_cases
from cpds.evaluation.classifier import IconClassifier
from cpds.evaluation.metrics import psnr
from cpds.evaluation.runner import COLUMNS, Evaluation, Instruments, bootstrap, read_rows, summary, table
from cpds.images import open_image, png, to_pil


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five cases of two sizes, with masks; the first three have a truth."""
    folder = tmp_path / "data"
    folder.mkdir()
    lines = []
    for i in range(5):
        size = (32, 32) if i < 3 else (48, 32)
        for j, name in enumerate(("source", "truth")):
            picture = randn(10 * i + j, 1, 3, size[1], size[0]).sigmoid()
            (folder / f"{name}-{i}.png").write_bytes(png(to_pil(picture)))
        mask = Image.new("L", size)
        mask.paste(255, (0, 0, size[0] // 2, size[1]))
        mask.save(folder / f"mask-{i}.png")
        row: dict[str, Any] = {"id": f"c{i}", "source": f"source-{i}.png", "mask": f"mask-{i}.png"}
        row |= {"prompt": "a cat", "target_prompt": f"dog {i}", "tags": ["even" if i % 2 == 0 else "odd"]}
        if i < 3:
            row["truth"] = f"truth-{i}.png"
        lines.append(json.dumps(row))
    (folder / "manifest.jsonl").write_text("\n".join(lines))
    return folder


def darken(cases: list[Case], sources: Tensor) -> tuple[Tensor, float]:
    """An 'edit' that takes 0.2 off inside the mask and 0.1 outside."""
    masks = torch.cat([m for c in cases if (m := c.open_mask(open_image(c.source))) is not None])
    return (sources - 0.1 - 0.1 * masks).clamp(0, 1), 8.0


def test_figures_are_those_of_the_saved_pictures(data: Path, tmp_path: Path) -> None:
    cases, folder = load_cases(data), tmp_path / "out" / "dark"
    rows = Evaluation(folder, {"data": "x"}).run(cases, darken, Instruments(), 2)
    assert [row["id"] for row in rows] == [c.id for c in cases]
    for case, row in zip(cases, rows, strict=True):
        source, result = open_image(case.source), open_image(folder / "results" / f"{case.id}.png")
        mask = case.open_mask(source)
        assert mask is not None
        assert row["psnr_outside"] == pytest.approx(float(psnr(result, source, 1 - mask)), abs=1e-4)
        assert row["forwards"] == 8
    assert {row["id"]: row for row in rows} == read_rows(folder)


def test_what_did_not_change_has_a_finite_psnr(data: Path, tmp_path: Path) -> None:
    rows = Evaluation(tmp_path / "same", {}).run(load_cases(data), lambda _, x: (x, 0.0), Instruments(), 8)
    assert {row["psnr_outside"] for row in rows} == {100.0}


def test_each_figure_is_taken_from_what_its_name_says(data: Path) -> None:
    case = load_cases(data)[0]
    source, truth = open_image(case.source), case.open_ground_truth()
    mask = case.open_mask(source)
    assert truth is not None
    assert mask is not None
    result = (source + truth) / 2
    kept = 1 - mask
    meant = {"result": result, "source": source, "truth": truth, "kept": result * kept, "was": source * kept}
    meant["edited"] = result * mask

    def name(x: Tensor) -> str:
        return next(k for k, v in meant.items() if torch.equal(v, x))

    calls: list[tuple[str, ...]] = []

    def compare(a: Tensor, b: Tensor) -> Tensor:
        calls.append((name(a), name(b)))
        return torch.tensor([float(len(calls))])

    def clip(x: Tensor, texts: list[str]) -> Tensor:
        calls.append((name(x), *texts))
        return torch.tensor([float(len(calls))])

    figures = Instruments(structure=compare, lpips=compare, clip=clip).score(case, result)
    said = {
        k: calls[int(v) - 1] for k, v in figures.items() if k not in ("psnr_outside", "mse_outside", "ssim_outside")
    }
    assert said == {
        "lpips_source": ("result", "source"),
        "lpips_truth": ("result", "truth"),
        "structure": ("result", "source"),
        "clip_whole": ("result", "dog 0"),
        "lpips_outside": ("kept", "was"),
        "clip_edited": ("edited", "dog 0"),
    }


def test_a_case_that_may_change_everywhere_has_no_figures_outside(data: Path) -> None:
    Image.new("L", (32, 32), 255).save(data / "mask-0.png")
    rows = [Instruments().score(case, open_image(case.source)) for case in load_cases(data)[:2]]
    assert "psnr_outside" not in rows[0]
    assert "psnr_outside" in rows[1]


def test_an_interrupted_evaluation_goes_on(data: Path, tmp_path: Path) -> None:
    cases, folder = load_cases(data), tmp_path / "out" / "dark"
    seen: list[str] = []

    def stop_after_three(group: list[Case], sources: Tensor) -> tuple[Tensor, float]:
        if len(seen) >= 3:
            raise KeyboardInterrupt
        seen.extend(case.id for case in group)
        return darken(group, sources)

    with pytest.raises(KeyboardInterrupt):
        Evaluation(folder, {"lr": 1}).run(cases, stop_after_three, Instruments(), 2)
    assert list(read_rows(folder)) == seen == ["c0", "c1", "c2"]
    with (folder / "rows.jsonl").open("a") as stream:
        stream.write('{"id": "c3", "psnr')  # killed in the middle of a line
    assert redone(folder, cases) == ["c3", "c4"]
    assert len((folder / "rows.jsonl").read_text().splitlines()) == 5
    with pytest.raises(InputError, match=r"made with other settings \(lr was 1, is now 2\): take another --out"):
        Evaluation(folder, {"lr": 2})


def redone(folder: Path, cases: list[Case]) -> list[str]:
    """Ids of the cases that another run of the same setting edits."""
    again: list[str] = []

    def note(group: list[Case], sources: Tensor) -> tuple[Tensor, float]:
        again.extend(case.id for case in group)
        return darken(group, sources)

    Evaluation(folder, {"lr": 1}).run(cases, note, Instruments(), 2)
    return again


def test_rows_of_cases_that_changed_since_are_made_again(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "dark"
    assert len(redone(folder, load_cases(data))) == 5
    assert redone(folder, load_cases(data)) == []
    text = (data / "manifest.jsonl").read_text()
    (data / "manifest.jsonl").write_text(text.replace("dog 1", "a pig"))  # another prompt
    (data / "truth-2.png").write_bytes((data / "truth-0.png").read_bytes())  # another truth
    (folder / "results" / "c4.png").unlink()  # a picture is gone
    assert redone(folder, load_cases(data)) == ["c1", "c2", "c4"]


def test_a_setting_without_a_row_may_be_corrected(tmp_path: Path) -> None:
    Evaluation(tmp_path / "x", {"lr": 1})
    Evaluation(tmp_path / "x", {"lr": 2})
    assert json.loads((tmp_path / "x" / "config.json").read_text())["lr"] == 2


def test_the_judge_counts_a_case_only_if_all_that_is_expected_is_seen(data: Path) -> None:
    class Fixed(IconClassifier):
        def names(self, images: Tensor) -> list[dict[str, str]]:
            return [{"concept": "dog", "style": "3d"}] * len(images)

    expected = [{"concept": "dog"}, {"concept": "dog", "style": "3d"}, {"concept": "dog", "style": "flat"}]
    cases = [replace(case, expect=e) for case, e in zip(load_cases(data)[:3], expected, strict=True)]
    tools = Instruments(judge=Fixed({}))
    assert [tools.score(case, open_image(case.source))["target"] for case in cases] == [1, 1, 0]


def test_judge_saves_and_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    judge = IconClassifier({"concept": ["cat", "dog", "pig"], "style": ["flat", "3d"]}).eval()
    judge.save(tmp_path / "classifier.safetensors")
    again = IconClassifier.load(tmp_path / "classifier.safetensors")
    images = randn(0, 4, 3, 40, 40).sigmoid()
    assert again.names(images) == judge.names(images)
    assert again.classes == judge.classes
    assert torch.allclose(again(images)["concept"], judge(images)["concept"], atol=0.05)


def test_the_judge_knows_the_truths_and_rejects_the_sources() -> None:
    judge, cases = IconClassifier.load(EMOJI_EDIT / "classifier.safetensors"), load_cases("emoji-edit", "test")[::2]
    tools = Instruments(judge=judge)
    truths, sources = 0.0, 0.0
    for case in cases:
        truth = case.open_ground_truth()
        assert truth is not None
        truths += tools.score(case, truth)["target"]
        sources += tools.score(case, open_image(case.source))["target"]
    assert truths / len(cases) >= 0.95
    assert sources / len(cases) <= 0.02


# ---- statistics


def test_bootstrap_interval_of_a_mean_is_as_wide_as_theory_says() -> None:
    values = randn(0, 400).double() * 2 + 5
    middle, low, high = bootstrap(values)
    assert middle == pytest.approx(float(values.mean()))
    half = 1.96 * float(values.std()) / 20
    assert low == pytest.approx(middle - half, abs=0.25 * half)
    assert high == pytest.approx(middle + half, abs=0.25 * half)
    assert bootstrap(values) == (middle, low, high)  # seeded
    assert bootstrap(torch.tensor([1.0, 2.0, 900.0]).double(), median=True)[0] == 2


def test_table_has_a_line_for_each_setting_and_a_column_for_each_figure() -> None:
    rows = [
        {"id": "a", "tags": [], "target": 1.0, "seconds": 2.0},
        {"id": "b", "tags": [], "target": 0.0, "seconds": 2.0},
    ]
    text = table({"cpds": rows, "pds": rows[:1]}).splitlines()
    assert text[0] == f"| setting | {COLUMNS['target']} | {COLUMNS['seconds']} |"
    assert text[2] == "| cpds | 0.5 [0, 1] | 2 |"
    assert text[3] == "| pds | 1 | 2 |"
    assert summary(rows)["target"] == (0.5, 0.0, 1.0)


# ---- the command


@pytest.fixture
def typed(data: Path, tiny_folder: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Arguments of a short `cpds eval`; keywords replace or add flags, None leaves one out, True is a bare flag."""

    def build(data: Path = data, **changes: Any) -> list[str]:
        flags = {"prior": tiny_folder, "out": tmp_path / "eval", "num_inference_steps": 2, "lr": 20, "n_patches": 8}
        flags |= {"device": "cpu"} | changes
        kept = {k: v for k, v in flags.items() if v is not None}
        words = [w for k, v in kept.items() for w in (f"--{k}", *([] if v is True else [str(v)]))]
        return ["eval", str(data), "--no-lpips", *words]

    return build


@pytest.fixture
def evaluate(typed: Callable[..., list[str]]) -> Callable[..., int]:
    """Run `cpds eval` in this process; its exit code."""
    return lambda **changes: main(typed(**changes))


def test_two_settings_make_two_lines(evaluate: Callable[..., int], tmp_path: Path, capsys: Any) -> None:
    assert evaluate() == 0
    assert evaluate(preset="dds", batch=1) == 0
    text = capsys.readouterr().out
    assert text.rstrip().endswith((tmp_path / "eval" / "table.md").read_text().rstrip())
    names = sorted(p.name for p in (tmp_path / "eval").iterdir() if p.is_dir())
    assert names == ["cpds n_patches=8 num_inference_steps=2 lr=20.0", "dds n_patches=8 num_inference_steps=2 lr=20.0"]
    figures = json.loads((tmp_path / "eval" / "table.json").read_text())
    assert set(figures) == {"all 5 cases", "even, 3 cases", "odd, 2 cases"}
    assert set(figures["all 5 cases"]) == set(names)
    line = figures["all 5 cases"][names[0]]
    assert line["forwards"] == [8, 8, 8]  # two steps, three samples without gradient and one with
    assert {"structure", "psnr_outside", "ssim_outside", "mse_outside"} <= set(line)
    for name in names:
        pages = tmp_path / "eval" / name
        assert len(list((pages / "results").glob("*.png"))) == 5
        with Image.open(pages / "sheet.png") as sheet:
            assert sheet.height > 128


def test_a_row_of_the_table_is_the_edit_of_cpds_image(
    evaluate: Callable[..., int], data: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    assert evaluate(label="x", batch=3, preset="cpds") == 0
    same = ["--prior", str(tiny_folder), "--num_inference_steps", "2", "--lr", "20", "--n_patches", "8"]
    where = ["--img_path", str(data / "source-1.png"), "--save_path", str(tmp_path / "one"), "--device", "cpu"]
    assert main(["image", "--prompt", "a cat", "--trg_prompt", "dog 1", *where, *same]) == 0
    alone, row = (open_image(tmp_path / f) for f in ("one/result.png", "eval/x/results/c1.png"))
    assert (alone - row).abs().max() <= 1.5 / 255
    assert (alone - open_image(data / "source-1.png")).abs().max() > 0.1


def test_done_work_is_not_done_again(evaluate: Callable[..., int], tmp_path: Path) -> None:
    assert evaluate(label="x") == 0
    results = tmp_path / "eval" / "x" / "results"
    times = {p.name: p.stat().st_mtime_ns for p in results.iterdir()}
    assert evaluate(label="x") == 0
    assert {p.name: p.stat().st_mtime_ns for p in results.iterdir()} == times


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "batch must be >= 1, got 0"),
        ({"limit": 0}, "limit must be >= 1, got 0"),
        ({"label": "../x"}, "label '../x' names a folder"),
        ({"split": "tset"}, "holds no case of split 'tset'"),
        ({"tag": "aminal"}, "no case has the tag 'aminal': there are "),
        ({"clip": "/nowhere/clip"}, "--clip '/nowhere/clip' is neither a local folder nor"),
        ({"dino": "/nowhere/vit"}, "--dino '/nowhere/vit' is neither a local folder nor"),
        ({"lpips": True, "lpips_weights": "/nowhere/alexnet.pth"}, "cannot be loaded from /nowhere/alexnet.pth"),
        ({"lpips": True, "lpips_weights": "/nowhere/a.pth"}, "as --lpips_weights, or leave LPIPS out with --no-lpips"),
        ({"device": "tpu"}, "device 'tpu' is not usable here"),
        ({"prior": "/nowhere/prior"}, "prior '/nowhere/prior' is neither a local folder nor"),
    ],
)
def test_bad_flags(
    evaluate: Callable[..., int], capsys: Any, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    assert evaluate(**changes) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "eval").exists()


def test_the_command_chooses_its_threads(
    evaluate: Callable[..., int], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.setenv("OMP_WAIT_POLICY", "")
    assert evaluate(limit=1) == 0
    assert "Computing with 1 CPU thread" in capsys.readouterr().err


def test_missing_lpips_is_said_before_the_prior_is_loaded(
    evaluate: Callable[..., int], capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_args: Any, **_kwargs: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path))
    for place in ("cpds.evaluation.networks.urlopen", "torch.hub.urlopen"):
        monkeypatch.setattr(place, unreachable)
    monkeypatch.setattr("cpds.priors.base.load_prior", lambda *_, **__: pytest.fail("the prior was loaded"))
    assert evaluate(lpips=True) == 2
    error = capsys.readouterr().err
    assert "Name or service not known" in error
    assert "as --lpips_weights, or leave LPIPS out with --no-lpips" in error


def test_what_the_judge_does_not_know_is_named(evaluate: Callable[..., int], data: Path, capsys: Any) -> None:
    rows = [json.loads(line) for line in (data / "manifest.jsonl").read_text().splitlines()]
    rows[0]["expect"] = {"concept": "unheard-of"}
    (data / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert evaluate() == 2
    assert "expect names what the judge does not know: concept 'unheard-of'" in capsys.readouterr().err


def test_without_torchmetrics_the_remedy_is_named(
    evaluate: Callable[..., int], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", None)
    assert evaluate() == 2
    assert "evaluations need torchmetrics: pip install -e '.[metrics]'" in capsys.readouterr().err


def test_one_picture_that_diverges_spoils_no_other(
    evaluate: Callable[..., int], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evaluate(label="plain") == 0
    from cpds import editor

    real_start, real_run, bad = editor.start, editor.run, []

    def start(image: Any, prior: Any, prompts: Any, targets: Any, config: Any) -> Any:
        state = real_start(image, prior, prompts, targets, config)
        bad.extend([state] if "dog 1" in targets else [])
        return state

    def run(state: Any, callbacks: Any) -> Any:
        if any(state is one for one in bad):
            raise editor.EditDiverged("step 1 gave NaN")
        return real_run(state, callbacks)

    monkeypatch.setattr(editor, "start", start)
    monkeypatch.setattr(editor, "run", run)
    assert evaluate(label="broken") == 0
    assert "c1: step 1 gave NaN; its last good state is judged" in capsys.readouterr().err
    for name in ("c0", "c2", "c4"):
        a, b = (open_image(tmp_path / "eval" / label / "results" / f"{name}.png") for label in ("plain", "broken"))
        assert (a - b).abs().max() <= 1.5 / 255


def test_settings_judged_by_other_instruments_share_no_table(
    evaluate: Callable[..., int], tmp_path: Path, vit: Path
) -> None:
    assert evaluate(label="a") == 0
    assert evaluate(label="b", dino=vit) == 0
    assert set(json.loads((tmp_path / "eval" / "table.json").read_text())["all 5 cases"]) == {"b"}
    assert evaluate(label="c") == 0
    assert set(json.loads((tmp_path / "eval" / "table.json").read_text())["all 5 cases"]) == {"a", "c"}
    assert json.loads((tmp_path / "eval" / "c" / "config.json").read_text())["command"].startswith("cpds eval ")


def test_other_settings_under_the_same_label_are_refused(evaluate: Callable[..., int], capsys: Any) -> None:
    assert evaluate(label="x") == 0
    assert evaluate(label="x", seed=1) == 2
    assert "edit.seed was 0, is now 1" in capsys.readouterr().err


def test_limit_spreads_over_the_set_and_split_keeps_its_own(
    evaluate: Callable[..., int], data: Path, tmp_path: Path
) -> None:
    assert evaluate(label="few", limit=2) == 0
    assert list(read_rows(tmp_path / "eval" / "few")) == ["c0", "c2"]
    rows = [json.loads(line) for line in (data / "manifest.jsonl").read_text().splitlines()]
    rows[3]["split"] = "dev"
    (data / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert evaluate(label="dev", split="dev") == 0
    assert list(read_rows(tmp_path / "eval" / "dev")) == ["c3"]


def test_a_pie_bench_folder_gives_the_fields_table(
    tmp_path: Path, tiny_folder: Path, clip: Path, vit: Path, weights: Path, capsys: Any
) -> None:
    folder = tmp_path / "pie"
    (folder / "annotation_images" / "1").mkdir(parents=True)
    table: dict[str, Any] = {}
    for i in range(2):
        picture = randn(i, 1, 3, 32, 32).sigmoid()
        (folder / "annotation_images" / "1" / f"{i}.png").write_bytes(png(to_pil(picture)))
        table[f"00000000000{i}"] = {
            "image_path": f"1/{i}.png",
            "original_prompt": "a [cat]",
            "editing_prompt": "a [dog]",
            "editing_type_id": "1",
            "mask": [200, 300],
        }
    (folder / "mapping_file.json").write_text(json.dumps(table))
    flags = ["--prior", str(tiny_folder), "--num_inference_steps", "1", "--n_patches", "8", "--device", "cpu"]
    flags += ["--clip", str(clip), "--dino", str(vit), "--lpips_weights", str(weights), "--out", str(tmp_path / "o")]
    assert main(["eval", str(folder), *flags, "--label", "x"]) == 0
    header = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| setting"))
    for column in ("structure", "psnr_outside", "lpips_outside", "mse_outside", "ssim_outside", "clip_whole"):
        assert COLUMNS[column] in header
    assert COLUMNS["clip_edited"] in header
    for row in read_rows(tmp_path / "o" / "x").values():
        assert 0 <= row["mse_outside"] <= 1
        assert -1 <= row["ssim_outside"] <= 1
        assert -100 <= row["clip_whole"] <= 100
        assert row["lpips_outside"] >= 0


# ---- no flag is idle


def found(here: Path) -> dict[str, Any]:
    """What evaluations left: each case's place, pixels, and figures (time aside); not what config.json notes."""
    folders = [file.parent for file in here.rglob("rows.jsonl")]
    rows = {folder / name: row for folder in folders for name, row in read_rows(folder).items()}
    assert rows
    return {
        "places": {str(at.relative_to(here)) for at in rows},
        "pixels": {at.name: (at.parent / "results" / f"{at.name}.png").read_bytes() for at in rows},
        "figures": {at.name: {k: row[k] for k in COLUMNS if k in row and k != "seconds"} for at, row in rows.items()},
    }


@pytest.fixture
def pairs(data: Path, tmp_path: Path, weights: Path, clip: Path, vit: Path) -> dict[str, tuple[str, dict, dict]]:
    """Two evaluations that differ in one flag alone: (what first differs, flags of both, flags of the second)."""
    rows = [json.loads(line) for line in (data / "manifest.jsonl").read_text().splitlines()]
    rows[4]["split"] = "dev"
    (data / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    shutil.copytree(data, tmp_path / "other")
    shutil.copyfile(data / "truth-0.png", tmp_path / "other/source-0.png")
    negative = tmp_path / "negative.safetensors"
    save_file({k: -v for k, v in load_file(weights).items()}, negative)
    return {
        "split": ("places", {}, {"split": "dev"}),
        "limit": ("places", {}, {"limit": 2}),
        "tag": ("places", {}, {"tag": "odd"}),
        "out": ("places", {}, {"out": "elsewhere"}),
        "label": ("places", {}, {"label": "y"}),
        "data": ("pixels", {}, {"data": tmp_path / "other"}),
        "preset": ("pixels", {}, {"preset": "sds"}),
        "prior": ("pixels", {}, {"prior": None}),
        "resolution": ("pixels", {}, {"resolution": 64}),
        "keep_unchanged": ("pixels", {}, {"no-keep_unchanged": True}),
        "torch_dtype": ("pixels", {}, {"torch_dtype": "bf16"}),
        "edit": ("pixels", {}, {"seed": 3}),
        "lpips": ("figures", {"lpips_weights": weights}, {"lpips": True}),
        "lpips_weights": ("figures", {"lpips": True, "lpips_weights": weights}, {"lpips_weights": negative}),
        "clip": ("figures", {}, {"clip": clip}),
        "dino": ("figures", {}, {"dino": vit}),
    }


def test_batch_is_how_many_are_edited_at_once(evaluate: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    from cpds import editor

    real, sizes = editor.start, []

    def start(image: Any, prior: Any, prompts: list[str], *rest: Any) -> Any:
        sizes.append(len(prompts))
        return real(image, prior, prompts, *rest)

    monkeypatch.setattr(editor, "start", start)
    for batch, want in {1: [1] * 5, 2: [2, 1, 2], 8: [3, 2]}.items():  # three pictures of one size, two of another
        sizes.clear()
        assert evaluate(batch=batch, label=f"batch {batch}") == 0
        assert sizes == want


def test_an_absent_device_is_refused(evaluate: Callable[..., int], capsys: Any) -> None:
    assert evaluate(device="cpu", limit=1) == 0
    assert evaluate(device="cuda:99", limit=1) == 2
    assert "device 'cuda:99' is not usable here" in capsys.readouterr().err


HAS_A_TEST = {"batch": test_batch_is_how_many_are_edited_at_once, "device": test_an_absent_device_is_refused}


@pytest.mark.parametrize("name", [f.name for f in fields(EvalArgs) if f.name not in HAS_A_TEST])
def test_every_flag_changes_what_is_found(
    typed: Callable[..., list[str]], pairs: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert name in pairs, f"{name} is a new flag: give it two evaluations that differ by it, or a test of its own"
    what, both, second = pairs[name]
    both = {"out": "eval", "label": "x", "limit": 1} | both
    commands = [typed(**both), typed(**both), typed(**both | second)]
    one, _, other = map(parse, commands)
    changed = {f.name for f in fields(EvalArgs) if getattr(one, f.name) != getattr(other, f.name)}
    assert changed == ({name, "edit"} if name == "preset" else {name})  # a preset is settings
    results = []
    for n, command in enumerate(commands):
        (tmp_path / f"run{n}").mkdir()
        monkeypatch.chdir(tmp_path / f"run{n}")
        assert main(command) == 0
        results.append(found(tmp_path / f"run{n}"))
    first, again, changed = results
    assert first == again
    assert next((k for k in first if first[k] != changed[k]), "nothing") == what
