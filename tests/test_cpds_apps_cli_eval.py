"""`cpds eval`: every flag is read, bad input is one sentence, and a row is what `cpds image` makes."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from batches import Inline
from conftest import PRIOR_OPTIONS, randn
from datasets import make_dataset
from PIL import Image
from safetensors.torch import load_file, save_file

from cpds.apps.cli.eval import EvalArgs
from cpds.apps.cli.main import main, parse
from cpds.apps.cli.workers import WorkerArgs
from cpds.evaluation import editors
from cpds.evaluation.formats import COLUMNS
from cpds.evaluation.runner import read_rows
from cpds.images import open_image, png, to_pil


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "data")


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
    tables = json.loads((tmp_path / "eval" / "table.json").read_text())
    assert set(tables) == {"all 5 cases", "even, 3 cases", "odd, 2 cases"}
    assert set(tables["all 5 cases"]) == set(names)
    line = tables["all 5 cases"][names[0]]
    assert line["samples"] == [40, 40, 40]  # two steps of four, twelve for the map, ten steps of two to polish
    assert {"structure_distance", "psnr_outside_mask", "ssim_outside_mask", "mse_outside_mask"} <= set(line)
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


PLAIN = {"lr": None, "n_patches": None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "batch must be >= 1, got 0"),
        ({"limit": 0}, "limit must be >= 1, got 0"),
        ({"label": "../x"}, "label '../x' names a folder"),
        ({"split": "tset"}, "holds no case of split 'tset'"),
        ({"tag": "aminal"}, "no case has the tag 'aminal': there are "),
        ({"clip": "/nowhere/clip"}, "clip '/nowhere/clip' is neither a local folder nor"),
        ({"dino": "/nowhere/vit"}, "dino '/nowhere/vit' is neither a local folder nor"),
        ({"lpips": True, "lpips_weights": "/nowhere/alexnet.pth"}, "alexnet.pth, which does not exist"),
        ({"lpips": True, "lpips_weights": "/nowhere/a.pth"}, "as --lpips_weights, or leave LPIPS out with --no-lpips"),
        ({"device": "tpu"}, "device 'tpu' is not usable here"),
        ({"strength": 0.5}, "strength is for the baselines (sdedit, ddim-inversion, ddpm-inversion), not for preset"),
        ({"preset": "sdedit"}, "sdedit has no n_patches, lr: its settings are guidance_scale, source_guidance_scale, "),
        ({**PLAIN, "preset": "sdedit", "strength": 1.5}, "strength must be > 0 and at most 1, got 1.5"),
        ({**PLAIN, "preset": "sdedit", "source_guidance_scale": 2}, "sdedit inverts nothing: leave source_guidance"),
        (
            {**PLAIN, "preset": "sdedit", "few_step": "True", "guidance_scale": 3},
            "few steps and takes no guidance: set",
        ),
        (
            {**PLAIN, "preset": "sdedit", "few_step": "True", "negative_prompt": "a pig"},
            "negative_prompt 'a pig' would not be read",
        ),
        ({**PLAIN, "preset": "sdedit", "strength": 0.001}, "is more than the 1 timesteps up to strength 0.001"),
        ({"patch_selector": "oracle"}, "patch_selector oracle needs ground truths: case c3 has none"),
        ({"patch_selector": "orakel"}, "patch_selector must be one of random, "),
        ({"sweep": "seed=1", "label": "x"}, "label names one setting: leave it out of a sweep"),
        ({"sweep": "seed=1", "seed": 2}, "seed is given and swept: leave one of them out"),
        ({"sweep": "preset=pdf"}, "preset must be one of cpds, pds, "),
        ({"sweep": "preset=pds", "preset": "dds"}, "preset is given and swept: leave one of them out"),
        ({"sweep": "method=pds,no.such:thing"}, "no.such:thing"),  # not even the first is edited
        ({"sweep": "stop_below=0,0.5"}, "stop_below is for one edit at a time: set batch to 1, not "),
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


def test_missing_lpips_is_reported_before_the_prior_is_loaded(
    evaluate: Callable[..., int], capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_args: Any, **_kwargs: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path))
    for place in ("cpds.evaluation.networks.urlopen", "torch.hub.urlopen"):
        monkeypatch.setattr(place, unreachable)
    monkeypatch.setattr("cpds.priors.load.load_prior", lambda *_, **__: pytest.fail("the prior was loaded"))
    assert evaluate(lpips=True) == 2
    error = capsys.readouterr().err
    assert "Name or service not known" in error
    assert "as --lpips_weights, or leave LPIPS out with --no-lpips" in error


def test_classes_unknown_to_the_classifier_are_named(evaluate: Callable[..., int], data: Path, capsys: Any) -> None:
    rows = [json.loads(line) for line in (data / "manifest.jsonl").read_text().splitlines()]
    rows[0]["expect"] = {"concept": "unheard-of"}
    (data / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert evaluate() == 2
    assert "expect has classes that the icon classifier does not know: concept 'unheard-of'" in capsys.readouterr().err


def test_without_torchmetrics_the_remedy_is_named(
    evaluate: Callable[..., int], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", None)
    assert evaluate() == 2
    assert "evaluations need torchmetrics: pip install -e '.[metrics]'" in capsys.readouterr().err


def test_settings_with_other_metrics_share_no_table(evaluate: Callable[..., int], tmp_path: Path, vit: Path) -> None:
    assert evaluate(label="a") == 0
    assert evaluate(label="b", dino=vit) == 0
    assert set(json.loads((tmp_path / "eval" / "table.json").read_text())["all 5 cases"]) == {"b"}
    assert evaluate(label="c") == 0
    assert set(json.loads((tmp_path / "eval" / "table.json").read_text())["all 5 cases"]) == {"a", "c"}
    assert json.loads((tmp_path / "eval" / "c" / "config.json").read_text())["command"].startswith("cpds eval ")


@pytest.mark.parametrize(
    "name", ["table.csv", "config.json", "x/config.json", "x/rows.jsonl", "x/sheet.png", "x/results/c0.png"]
)
def test_files_of_something_else_are_not_replaced(
    evaluate: Callable[..., int], tmp_path: Path, capsys: Any, name: str
) -> None:
    file = tmp_path / "eval" / name
    file.parent.mkdir(parents=True)
    file.write_text('{"command": "image"}')
    assert evaluate(label="x", limit=1) == 2
    assert "choose another folder" in capsys.readouterr().err.splitlines()[-1]
    assert [f.relative_to(tmp_path / "eval").as_posix() for f in (tmp_path / "eval").rglob("*.*")] == [name]
    assert file.read_text() == '{"command": "image"}'


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


# ---- sweeps and baselines


def test_a_sweep_is_the_single_commands(typed: Callable[..., list[str]], tmp_path: Path) -> None:
    """In one folder each, resumed alike, with one line for both seeds."""
    plain = {"out": tmp_path / "one", "lr": None, "n_patches": None, "num_inference_steps": 4}
    sweep = [*typed(**plain), "--sweep", "preset=pds,sdedit,dds-paper", "seed=0,1"]
    assert main(sweep) == 0
    for preset in ("pds", "sdedit", "dds-paper"):
        for seed in (0, 1):
            assert main(typed(**plain | {"out": tmp_path / "many", "preset": preset, "seed": seed})) == 0
    one, many = found(tmp_path / "one"), found(tmp_path / "many")
    assert one == many
    assert {place.split("/")[0] for place in one["places"]} == {
        f"{preset} num_inference_steps=4{seed}" for preset in ("pds", "sdedit", "dds-paper") for seed in ("", " seed=1")
    }
    for name in ("one", "many"):
        lines = json.loads((tmp_path / name / "table.json").read_text())["all 5 cases"]
        assert {label: line["seeds"] for label, line in lines.items()} == {
            f"{preset} num_inference_steps=4": 2 for preset in ("pds", "sdedit", "dds-paper")
        }
        assert {label.split()[0]: line["samples"][0] for label, line in lines.items()} == {
            "pds": 16,
            "sdedit": 8,
            "dds-paper": 16,
        }
    results = list((tmp_path / "one").glob("*/results/*.png"))
    times = [file.stat().st_mtime_ns for file in results]
    assert main(sweep) == 0  # nothing is left to do
    assert [file.stat().st_mtime_ns for file in results] == times


def test_settings_without_effect_are_named_once(typed: Callable[..., list[str]], capsys: Any) -> None:
    """Whether swept or given, and only for those settings that do not read them."""
    words = [*typed(lr=None, n_patches=3, limit=1), "--sweep", "preset=pds,dds,cpds", "w_cut=0.5,0"]
    assert main(words) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cpds: note: ")]
    assert sorted(line.removeprefix("cpds: note: ") for line in told if "no effect" in line) == [
        "n_patches has no effect here: w_cut is 0",
        "w_cut, n_patches have no effect here: method dds has no contrastive loss",
        "w_cut, n_patches have no effect here: method pds has no contrastive loss",
    ]


def test_flags_hold_for_every_preset_of_a_sweep(typed: Callable[..., list[str]], tmp_path: Path) -> None:
    """Those too that are what the default preset has: guidance 5 is cpds's own, and not pds-paper's."""
    argv = typed(lr=None, n_patches=None, guidance_scale=5, limit=1)
    assert main([*argv, "--sweep", "preset=cpds,pds-paper"]) == 0
    configs = [json.loads(file.read_text()) for file in (tmp_path / "eval").glob("*/config.json")]
    assert [config["edit"]["guidance"]["guidance_scale"] for config in configs] == [5, 5]
    assert sorted(config["edit"]["optimizer"] for config in configs) == ["adamw", "sgd"]  # each preset's own


@pytest.mark.parametrize("command", ["image", "svg", "splats"])
def test_other_commands_have_no_baselines(command: str, capsys: Any) -> None:
    assert main([command, "--preset", "sdedit", "--prompt", "a", "--target_prompt", "b"]) == 2
    assert "sdedit" in capsys.readouterr().err


def test_a_pie_bench_folder_gives_the_fields_table(
    tmp_path: Path, tiny_folder: Path, clip: Path, vit: Path, weights: Path, capsys: Any
) -> None:
    folder = tmp_path / "pie"
    (folder / "annotation_images" / "1").mkdir(parents=True)
    table: dict[str, Any] = {}
    for i in range(2):
        image = randn(i, 1, 3, 32, 32).sigmoid()
        (folder / "annotation_images" / "1" / f"{i}.png").write_bytes(png(to_pil(image)))
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
    assert main(["eval", str(folder), *flags, "--there_and_back"]) == 0  # a folder of its own
    assert {"psnr_back", "lpips_back"} <= json.loads((tmp_path / "o" / "table.json").read_text())["all 2 cases"][
        "cpds n_patches=8 num_inference_steps=1 there and back"
    ].keys()
    more = {"target_accuracy", "lpips_ground_truth", "psnr_back", "lpips_back"}
    for column in COLUMNS.keys() - more:  # which need more than PIE-Bench has, or other flags
        assert COLUMNS[column] in header
    for row in read_rows(tmp_path / "o" / "x").values():
        assert 0 <= row["mse_outside_mask"] <= 1
        assert -1 <= row["ssim_outside_mask"] <= 1
        assert -100 <= row["clip_whole"] <= 100
        assert row["lpips_outside_mask"] >= 0


def found(here: Path) -> dict[str, Any]:
    """What evaluations left: each case's place, pixels, and metrics (time aside); not what config.json notes."""
    folders = [file.parent for file in here.rglob("rows.jsonl")]
    rows = {folder / name: row for folder in folders for name, row in read_rows(folder).items()}
    assert rows
    return {
        "places": {str(at.relative_to(here)) for at in rows},
        "pixels": {at.name: (at.parent / "results" / f"{at.name}.png").read_bytes() for at in rows},
        "metrics": {at.name: {k: row[k] for k in COLUMNS if k in row and k != "seconds"} for at, row in rows.items()},
    }


BASELINE = {**PLAIN, "preset": "ddim-inversion"}


@pytest.fixture
def pairs(data: Path, tmp_path: Path, weights: Path, clip: Path, vit: Path) -> dict[str, tuple[str, dict, dict]]:
    """Two evaluations that differ in one flag alone: (what first differs, flags of both, flags of the second)."""
    rows = [json.loads(line) for line in (data / "manifest.jsonl").read_text().splitlines()]
    rows[4]["split"] = "dev"
    (data / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    shutil.copytree(data, tmp_path / "other")
    shutil.copyfile(data / "ground_truth-0.png", tmp_path / "other/source-0.png")
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
        "strength": ("pixels", BASELINE, {"strength": 0.3}),
        "sweep": ("places", {"label": None}, {"sweep": "seed=1,2"}),
        "there_and_back": ("metrics", {}, {"there_and_back": True}),
        "lpips": ("metrics", {"lpips_weights": weights}, {"lpips": True}),
        "lpips_weights": ("metrics", {"lpips": True, "lpips_weights": weights}, {"lpips_weights": negative}),
        "clip": ("metrics", {}, {"clip": clip}),
        "dino": ("metrics", {}, {"dino": vit}),
    }


def test_batch_is_how_many_are_edited_at_once(evaluate: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    real, sizes = editors.start, []

    def start(image: Any, prior: Any, prompts: str | list[str], *rest: Any) -> Any:
        if isinstance(prompts, list):  # else the setting is only checked
            sizes.append(len(prompts))
        return real(image, prior, prompts, *rest)

    monkeypatch.setattr(editors, "start", start)
    for batch, want in {1: [1] * 5, 2: [2, 1, 2], 8: [3, 2]}.items():  # three images of one size, two of another
        sizes.clear()
        assert evaluate(batch=batch, label=f"batch {batch}") == 0
        assert sizes == want


def test_an_absent_device_is_refused(evaluate: Callable[..., int], capsys: Any) -> None:
    assert evaluate(device="cpu", limit=1) == 0
    assert evaluate(device="cuda:99", limit=1) == 2
    assert "device 'cuda:99' is not usable here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "asked"),
    [({"devices": "cpu"}, (("cpu",), None, None)), ({"workers": 2}, ((), 2, None)), ({"ray": True}, ((), None, ()))],
)
def test_workers_make_the_edits(
    evaluate: Callable[..., int], monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any], asked: tuple[Any, ...]
) -> None:
    """What they make: test_cpds_apps_batch_evaluating.py."""
    found: list[Any] = []

    def executor(args: WorkerArgs, make: Any) -> Inline:
        found.append((args.devices, args.workers, args.ray))
        return Inline(make)

    monkeypatch.setattr(WorkerArgs, "executor", executor)
    assert evaluate(limit=1, label="x", **flags) == 0
    assert found == [asked]


HAS_A_TEST = {"batch": test_batch_is_how_many_are_edited_at_once, "device": test_an_absent_device_is_refused}
HAS_A_TEST |= dict.fromkeys(("devices", "workers", "ray"), test_workers_make_the_edits)


@pytest.mark.parametrize("name", [f.name for f in fields(EvalArgs) if f.name not in PRIOR_OPTIONS | HAS_A_TEST.keys()])
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
