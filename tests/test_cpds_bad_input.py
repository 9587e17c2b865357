"""Whatever is wrong with the input: one sentence, exit code 2, and nothing on the disk is touched."""

import errno
import json
import math
import os
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import snapshot
from PIL import Image
from safetensors.torch import load_file, save_file

from cpds.errors import InputError
from cpds.priors.load import resolve_device
from cpds.priors.unet import UNetPrior

Edit = Callable[..., int]


# ---- images and masks


def noise(size: tuple[int, int]) -> Image.Image:
    return Image.frombytes("RGB", size, bytes(range(256)) * (size[0] * size[1] * 3 // 256 + 1))


def encoded(form: str, size: tuple[int, int] = (40, 28)) -> bytes:
    buffer = BytesIO()
    noise(size).save(buffer, form)
    return buffer.getvalue()


def encoded_flat(value: int) -> bytes:
    buffer = BytesIO()
    Image.new("L", (40, 28), value).save(buffer, "png")
    return buffer.getvalue()


def clear() -> bytes:
    buffer = BytesIO()
    Image.new("RGBA", (40, 28), (200, 0, 0, 0)).save(buffer, "png")
    return buffer.getvalue()


CLEAR = clear()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("gone.png", None, ["gone.png", "does not exist"]),  # a missing file
        ("x" * 300, None, ["xxx", "cannot be read"]),  # no file system takes the name
        ("notes.png", b"not an image", ["notes.png", "not an image"]),  # another kind of file
        ("empty.jpg", b"", ["empty.jpg", "not an image"]),  # no bytes
        ("half.jpg", encoded("jpeg")[:-200], ["half.jpg", "damaged", "truncated"]),  # cut off while downloading
        ("half.png", encoded("png")[:-200], ["half.png", "damaged"]),
        ("half.webp", encoded("webp")[:-20], ["half.webp"]),
        ("broken.png", encoded("png").replace(b"IDAT", b"IDAX"), ["broken.png", "not an image"]),  # bytes overwritten
        ("dot.png", encoded("png", (1, 1)), ["dot.png", "1x1", "16x16"]),  # too small
        ("line.png", encoded("png", (40, 15)), ["line.png", "40x15", "16x16"]),
        ("wide.png", encoded("png", (20000, 16)), ["wide.png", "20000x16", "scale it down"]),  # too large
        ("clear.png", CLEAR, ["clear.png", "transparent everywhere"]),
    ],
)
def test_unusable_images(refused: Callable, tmp_path: Path, name: str, content: bytes | None, words: list) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    refused(*words, img_path=name)


def test_a_bomb_is_told_apart_from_damage(refused: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    refused("cat.png", "too many pixels", "scale it down")


def test_folder_without_images(refused: Callable, tmp_path: Path) -> None:
    (tmp_path / "album").mkdir()
    (tmp_path / "album/notes.txt").write_text("no image")
    (tmp_path / "album/folder.png").mkdir()
    refused("album", "holds no image", ".webp", img_path="album")


def test_a_folder_of_bad_images_alone(refused: Callable, tmp_path: Path) -> None:
    (tmp_path / "album").mkdir()
    for n in range(5):
        (tmp_path / f"album/{n}.png").write_bytes(b"not an image")
    refused("no image of album can be edited", "0.png is not an image", "2.png", "and 2 more", img_path="album")


def test_a_folder_whose_images_all_have_another_size_than_the_mask(refused: Callable, tmp_path: Path) -> None:
    (tmp_path / "album").mkdir()
    noise((40, 28)).save(tmp_path / "album/a.png")
    noise((30, 28)).save(tmp_path / "mask.png")
    refused("no image of album can be edited", "mask.png is 30x28 px", img_path="album", mask="mask.png")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("gone.png", None, ["gone.png", "does not exist"]),
        ("small.png", encoded("png", (20, 28)), ["small.png", "20x28", "40x28", "same size"]),
        ("turned.png", encoded("png", (28, 40)), ["28x40", "40x28"]),  # width and height swapped
        ("notes.png", b"not an image", ["notes.png", "not an image"]),
        ("black.png", encoded_flat(0), ["black.png", "black or transparent everywhere", "nothing could change"]),
        ("ones.png", encoded_flat(1), ["ones.png", "brightest value is 1 of 255"]),  # 0 and 1 for 0 and 255
    ],
)
def test_unusable_masks(refused: Callable, tmp_path: Path, name: str, content: bytes | None, words: list) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    refused(*words, mask=name)


# ---- prompts


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": " \t"}, "the prompt is empty"),
        ({"trg_prompt": ""}, "a target prompt is empty"),
        ({"trg_prompt": ["a dog", " "]}, "a target prompt is empty"),
        ({"trg_prompt": []}, "there is no target prompt"),
    ],
)
def test_empty_prompts(refused: Callable, changes: dict, words: str) -> None:
    refused(words, **changes)


def test_a_long_prompt_warns_and_names_what_is_cut(
    edit: Edit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "a b c d e f g h i j " * 3 + "x y z"  # every letter is a token of the tiny prior, which takes 30
    assert edit(trg_prompt=long, num_inference_steps=1) == 0
    warning = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cpds: warning: ")]
    assert len(warning) == 1
    assert "30 tokens" in warning[0]
    assert "cut: 'x y z'" in warning[0]
    assert edit(trg_prompt=long[:-5], num_inference_steps=1, save_path=tmp_path / "fits") == 0
    assert "warning" not in capsys.readouterr().err
    one, two = (load_file(tmp_path / f / "checkpoint.safetensors")["param.latent.0"] for f in ("out", "fits"))
    assert torch.equal(one, two)  # what was named is all that was cut


# ---- flags


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        *[(f, v, f) for f in ("guidance_scale", "w_direction", "w_cut", "w_identity") for v in ("-0.1", "nan", "inf")],
        *[(f, v, f) for f in ("lr", "lr_decay", "temperature") for v in ("0", "-1", "nan", "inf")],
        ("lr", "1e300", "1e+300"),  # no float32 holds it
        ("group_lrs", ["latent", "0"], "latent"),
        ("group_lrs", ["xyz", "0.1"], "xyz"),  # no such group here
        *[(f, v, f) for f in ("num_inference_steps", "stride", "selector_every") for v in ("0", "-1")],
        ("n_patches", "1", "n_patches must be >= 2"),
        ("patch_size", "0", "patch_size"),
        ("patch_size", [], "patch_size"),
        ("t_min", "0", "t_min"),
        ("t_min", "0.96", "t_min 0.96 and t_max 0.95"),
        ("t_max", "1", "t_max 1"),
        ("t_max", "nan", "t_max nan"),
        ("stride", "60", "stride 60"),  # reaches below the lowest timestep
        ("seed", "-1", "seed"),
        ("seed", str(2**32), "4294967295"),
        ("resolution", "15", "resolution must be >= 16"),
        ("resolution", "5000", "at most 4096 px, got 5000"),
        ("method", "magic", "method must be one of sds, dds, cds, pds, cpds, or the import path"),
        ("method", "magic.of:mine", "method magic.of:mine cannot be imported"),
        ("patch_selector", "magic", "patch_selector must be one of random, learned, svm, knn, forest, or the import"),
    ],
)
def test_bad_values(refused: Callable, flag: str, value: Any, words: str) -> None:
    refused(words, **{flag: value})


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("num_inference_steps", "2.5", "2.5"),  # not of the flag's kind
        ("num_inference_steps", "many", "many"),
        ("w_cut", "much", "much"),
        ("seed", [], "Missing value for argument '--seed'"),
        ("resume", [], "Missing value for argument '--resume'"),
        ("preset", "magic", "'magic'"),  # unknown choices
        ("optimizer", "magic", "'magic'"),
        ("timesteps", "magic", "'magic'"),
        ("lr_scaling", "magic", "'magic'"),
        ("torch_dtype", "fp8", "'fp8'"),
        ("wcut", "3", "Unrecognized options: --wcut"),
        ("trg_prompt", None, "--trg-prompt"),  # flags left out
        ("prompt", None, "--prompt"),
        ("img_path", None, "--img-path"),
    ],
)
def test_what_cannot_be_parsed(
    edit: Edit, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, value: Any, words: str
) -> None:
    before = snapshot(tmp_path)
    assert edit(**{flag: value}) == 2
    box = capsys.readouterr().err
    assert words in box
    assert "Traceback" not in box
    assert "cpds: error" not in box
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("device", ["cuda:99", "foo", "meta", "cpu:x", ""])  # absent, unknown, without memory, misspelt
def test_absent_devices(refused: Callable, device: str) -> None:
    refused("device", repr(device), "auto", device=device)


# ---- priors


def rewrite_index(folder: Path, change: Callable[[dict], object]) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    change(index)
    (folder / "model_index.json").write_text(json.dumps(index))


def weights(folder: Path, part: str) -> Path:
    (file,) = (folder / part).glob("*.safetensors")
    return file


def drop_a_tensor(file: Path) -> None:
    tensors = load_file(file)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, file, metadata={"format": "pt"})


PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
NETWORKS = PARTS[:3]
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    **{f"no {p}": (lambda f, p=p: shutil.rmtree(f / p), p) for p in PARTS},
    **{f"{p} empty": (lambda f, p=p: (shutil.rmtree(f / p), (f / p).mkdir()), p) for p in PARTS},
    **{f"{p} unlisted": (lambda f, p=p: rewrite_index(f, lambda i: i.pop(p)), p) for p in PARTS},
    **{f"{p} null": (lambda f, p=p: rewrite_index(f, lambda i: i.update({p: [None, None]})), p) for p in NETWORKS},
    **{f"{p} without weights": (lambda f, p=p: weights(f, p).unlink(), p) for p in NETWORKS},
    **{f"{p} with garbage": (lambda f, p=p: weights(f, p).write_bytes(b"garbage" * 9), "cannot") for p in NETWORKS},
    **{f"{p} cut": (lambda f, p=p: os.truncate(weights(f, p), 2000), "cannot be loaded") for p in NETWORKS},
    **{f"{p} lacks a tensor": (lambda f, p=p: drop_a_tensor(weights(f, p)), p) for p in ("unet", "vae")},
    **{f"{p} without config": (lambda f, p=p: (f / p / "config.json").unlink(), "cannot") for p in NETWORKS},
    "no index": (lambda f: (f / "model_index.json").unlink(), "model_index.json"),
    "index is no JSON": (lambda f: (f / "model_index.json").write_text("{"), "not valid JSON"),
    "index is garbage": (lambda f: (f / "model_index.json").write_bytes(b"\xff\x00garbage"), "not valid JSON"),
    **{
        f"index is {text}": (lambda f, t=text: (f / "model_index.json").write_text(t), "not a JSON object")
        for text in ("[]", "null", "5", '"unet"')
    },
    "index is empty": (lambda f: (f / "model_index.json").write_text("{}"), "cannot be loaded"),
    "another family": (
        lambda f: rewrite_index(f, lambda i: i.update(_class_name="StableDiffusionXLPipeline")),
        "StableDiffusionXLPipeline",
    ),
    "unknown prediction": (
        lambda f: (f / "scheduler/scheduler_config.json").write_text(
            (f / "scheduler/scheduler_config.json").read_text().replace("epsilon", "sample")
        ),
        "'sample'",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_priors(refused: Callable, tmp_path: Path, tiny_folder: Path, damage: str) -> None:
    shutil.copytree(tiny_folder, tmp_path / "damaged")
    break_it, words = DAMAGE[damage]
    break_it(tmp_path / "damaged")
    refused("prior", "damaged", words, prior=tmp_path / "damaged")


@pytest.mark.parametrize("name", ["nobody/has-this", "no such name", "/no/such/folder", "cat.png", "x" * 300])
def test_unknown_priors(refused: Callable, name: str) -> None:
    refused(name, "local folder", prior=name)


def test_a_folder_that_is_no_pipeline(refused: Callable, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    refused("photos", "model_index.json", "diffusers' layout", prior=tmp_path / "photos")


# ---- places to write


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("cat.png", "is a file"),  # a file where the folder should be
        ("cat.png/below", "cannot be written"),
        ("x" * 300, "cannot be written"),  # no file system takes the name
        ("mine", "already holds result.png"),  # somebody's own file
        ("run", "already holds config.json"),  # another run
    ],
)
def test_unusable_output_folders(refused: Callable, tmp_path: Path, place: str, words: str) -> None:
    for folder, file in {"mine": "result.png", "run": "config.json"}.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text("{}")
    refused(words, place[:20], save_path=tmp_path / place)


def test_a_full_disk_leaves_no_half_written_folder(refused: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused("out", "No space left on device", "choose another")


def test_a_disk_that_fills_up_keeps_the_run(
    edit: Edit, tmp_path: Path, sentence: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, calls = os.fsync, []

    def fills_up(descriptor: int) -> None:
        calls.append(0)
        if len(calls) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fills_up)
        assert edit() == 2
    assert f"make room and go on with: cpds image --resume {tmp_path / 'out'}" in sentence()
    assert edit(resume=True) == 0
    assert edit(save_path=tmp_path / "whole") == 0
    assert (tmp_path / "out/result.png").read_bytes() == (tmp_path / "whole/result.png").read_bytes()
    assert not list(tmp_path.rglob("*.part"))


# ---- resume


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 9}, ["(seed was 0, is now 9)"]),
        ({"w_cut": 2, "lr": 3}, ["w_cut was", "lr was 20.0, is now 3.0"]),
        ({"method": "dds"}, ["(method was 'cpds', is now 'dds')"]),
        ({"prompt": "a bird"}, ["prompt was 'a cat', is now 'a bird'"]),
        ({"trg_prompt": "a pig"}, ["target_prompt was ['a dog'], is now ['a pig']"]),
        ({"torch_dtype": "bf16"}, ["prior was", "float32", "bfloat16"]),
        ({"num_inference_steps": 2}, ["num_inference_steps was 3, is now 2", "longer, not shorter"]),
        ({"preset": "dds"}, ["preset was 'cpds', is now 'dds'"]),
        ({"resolution": 40}, ["resolution was None, is now 40"]),
        ({"no_keep_unchanged": True}, ["keep_unchanged was True, is now False"]),
        ({"resume": "out", "save_path": "two"}, ["leave out save_path"]),
        ({"img_path": "other.png"}, ["source.image"]),
        ({"mask": "other.png"}, ["source.mask"]),
        ({"save_path": "elsewhere"}, ["no run to resume in elsewhere"]),
    ],
)
def test_resume_with_other_settings(
    edit: Edit, refused: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict, words: list
) -> None:
    noise((40, 28)).save(tmp_path / "other.png")
    assert edit() == 0
    capsys.readouterr()
    refused(*words, **{"resume": True} | changes)


def rewrite(change: Callable[[dict], object]) -> Callable[[Path], object]:
    """Change the tensors of a checkpoint."""

    def damage(file: Path) -> None:
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)

    return damage


def spoiled(name: str, value: float) -> Callable[[Path], object]:
    return rewrite(lambda t: t[name].view(-1)[:1].fill_(value))


LATENT, MOMENT, NET = "param.latent.0", "optimizer.0.exp_avg", "selector.0.net.0.weight"
DAMAGED_CHECKPOINTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut off": (lambda file: os.truncate(file, file.stat().st_size // 2), "damaged"),
    "empty": (lambda file: os.truncate(file, 0), "damaged"),
    "garbage": (lambda file: file.write_bytes(b"garbage" * 99), "damaged"),
    "a folder": (lambda file: (file.unlink(), file.mkdir()), "damaged"),
    "of another program": (lambda file: save_file({"x": torch.zeros(1)}, file), "missing"),
    "of another shape": (rewrite(lambda t: t.update({LATENT: torch.zeros(1, 4, 3, 3)})), LATENT),
    "that would broadcast": (rewrite(lambda t: t.update({LATENT: torch.zeros(1, 4, 1, 1)})), LATENT),
    "of another precision": (rewrite(lambda t: t.update({LATENT: t[LATENT].double()})), "float64"),
    "NaN": (spoiled(LATENT, math.nan), f"{LATENT} holds NaN"),
    "infinity": (spoiled(LATENT, math.inf), f"{LATENT} holds NaN or infinite"),
    "NaN in a moment": (spoiled(MOMENT, math.nan), f"{MOMENT} holds NaN"),
    "NaN in the selector": (spoiled(NET, math.nan), f"{NET} holds NaN"),
    "step 10**9": (rewrite(lambda t: t.update(step=torch.tensor(10**9))), "step 1000000000 is not in 0 ... 5"),
    "step -5": (rewrite(lambda t: t.update(step=torch.tensor(-5))), "step -5 is not in 0 ... 5"),
    "step 1.5": (rewrite(lambda t: t.update(step=torch.tensor(1.5))), "step"),
    "two steps": (rewrite(lambda t: t.update(step=torch.tensor([1, 2]))), "step"),
    "no step": (rewrite(lambda t: t.pop("step")), "step is missing"),
    "no latent": (rewrite(lambda t: t.pop(LATENT)), f"{LATENT} is missing"),
    "half of the moments": (rewrite(lambda t: t.pop(MOMENT)), "parameter 0 lacks"),
    "a moment of another shape": (rewrite(lambda t: t.update({MOMENT: torch.zeros(2)})), "no moment 0.exp_avg"),
    "a moment too many": (rewrite(lambda t: t.update({"optimizer.7.exp_avg": torch.zeros(2)})), "7.exp_avg"),
    "a tensor too many": (rewrite(lambda t: t.update(x=torch.zeros(1))), "x is no part"),
    "a selector too many": (rewrite(lambda t: t.update({"selector.1.x": torch.zeros(0, 16)})), "selector.1.x"),
    "a selector of another width": (rewrite(lambda t: t.update({"selector.0.x": torch.zeros(4, 5)})), "patches"),
    "patches without labels": (rewrite(lambda t: t.update({"selector.0.y": torch.zeros(1)})), "patches"),
    "a selector's moment": (rewrite(lambda t: t.update({"selector.0.adam.0.exp_avg": torch.zeros(3)})), "no moment"),
    "no generator": (rewrite(lambda t: t.pop("selector.0.generator")), "generator is missing"),
    "a broken generator": (rewrite(lambda t: t["selector.0.generator"].fill_(7)), "checkpoint"),
}


@pytest.mark.parametrize("damage", DAMAGED_CHECKPOINTS)
def test_damaged_checkpoints(
    edit: Edit,
    refused: Callable,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    pressed: Callable[[int], Any],
    damage: str,
) -> None:
    with pressed(3):
        flags = {"num_inference_steps": 5, "optimizer": "adam", "patch_selector": "learned", "selector_every": 2}
        assert edit(**flags) == 130
    break_it, words = DAMAGED_CHECKPOINTS[damage]
    break_it(tmp_path / "out/checkpoint.safetensors")
    capsys.readouterr()
    refused("checkpoint.safetensors is damaged", words, "start the run anew", resume=True)


def in_config(change: Callable[[dict], object]) -> Callable[[str], str]:
    """Change the document in a config.json."""

    def damage(text: str) -> str:
        document = json.loads(text)
        change(document)
        return json.dumps(document)

    return damage


DAMAGED_CONFIGS: dict[str, tuple[Callable[[str], str | bytes], str]] = {
    "cut off": (lambda _: '{"prompt": ', "not valid JSON"),
    "null": (lambda _: "null", "holds None"),
    "a number": (lambda _: "3", "holds 3"),
    "a list": (lambda _: "[]", "holds []"),
    "a text": (lambda _: '"\\u001b[31m"', "holds '\\x1b[31m'"),
    "deep": (lambda _: "[" * 100_000, "not valid JSON"),
    "deep but closed": (lambda _: "[" * 100_000 + "]" * 100_000, "not valid JSON"),
    "bytes": (lambda _: b"\xff\xfe\0{}", "not valid JSON"),
    "of an older version": (in_config(lambda d: d.pop("arguments")), "arguments is None"),
    "without steps": (in_config(lambda d: d["edit"].pop("num_inference_steps")), "lacks edit.num_inference_steps"),
    "with another setting": (in_config(lambda d: d["edit"].update(magic=3)), "unknown is edit.magic"),
    "edit is a list": (in_config(lambda d: d.update(edit=[])), "edit is []"),
    "lr is a text": (in_config(lambda d: d["edit"].update(lr="fast")), "edit.lr is 'fast'"),
    "lr is NaN": (in_config(lambda d: d["edit"].update(lr=math.nan)), "edit.lr is nan"),
    "lr is huge": (in_config(lambda d: d["edit"].update(lr=10**400)), "edit.lr is 1"),
    "steps are true": (in_config(lambda d: d["edit"].update(num_inference_steps=True)), "num_inference_steps is True"),
    "steps are -1": (in_config(lambda d: d["edit"].update(num_inference_steps=-1)), "must be >= 1, got -1"),
    "an unknown method": (in_config(lambda d: d["edit"]["guidance"].update(method="magic")), "method must be one of"),
    "rates of groups": (in_config(lambda d: d["edit"].update(group_lrs={"latent": "x"})), "group_lrs.latent is 'x'"),
    "no target": (in_config(lambda d: d["arguments"].update(target_prompt=[])), "which edits"),
    "two targets": (in_config(lambda d: d["arguments"].update(target_prompt=["a", "b"])), "which edits"),
    "a path with NUL": (in_config(lambda d: d["arguments"].update(img_path="a\0b")), "img_path is 'a\\x00b'"),
    "half a letter": (in_config(lambda d: d["arguments"].update(prompt="\ud800")), "prompt is '\\ud800'"),
}


@pytest.mark.parametrize("damage", DAMAGED_CONFIGS)
def test_damaged_configs(
    edit: Edit, refused: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    assert edit(num_inference_steps=1) == 0
    break_it, words = DAMAGED_CONFIGS[damage]
    config = tmp_path / "out/config.json"
    broken = break_it(config.read_text())
    config.write_bytes(broken if isinstance(broken, bytes) else broken.encode())
    capsys.readouterr()
    refused("config.json is damaged", words, "start the run anew", resume=True)


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda _: "null", "holds None"),
        (in_config(lambda d: d.update(edits=[])), "which edits"),
        (in_config(lambda d: d.update(edits=[["", "a dog"]])), "edits is ['', 'a dog']"),
        (in_config(lambda d: d.update(edits=2 * [["", "a dog", "same"]])), "which edits"),
        (in_config(lambda d: d.update(edits=[["", "a dog", "../elsewhere"]])), "leads out of its folder"),
        (in_config(lambda d: d.update(edits=[["/etc/passwd", "a dog", "x"]])), "leads out of its folder"),
    ],
)
def test_damaged_plans(
    edit: Edit,
    refused: Callable,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    break_it: Callable[[str], str],
    words: str,
) -> None:
    assert edit(num_inference_steps=1, trg_prompt=["a dog", "a pig"]) == 0
    plan = tmp_path / "out/plan.json"
    plan.write_text(break_it(plan.read_text()))
    capsys.readouterr()
    refused("plan.json is damaged", words, resume=True)


@pytest.mark.parametrize("finished", [True, False])
def test_a_damaged_config_among_several(
    edit: Edit, tmp_path: Path, sentence: Callable[[], str], capsys: pytest.CaptureFixture[str], finished: bool
) -> None:
    assert edit(num_inference_steps=1, trg_prompt=["a dog", "a pig"]) == 0
    (tmp_path / "out/cat-a-dog/config.json").write_text("3")
    if not finished:
        (tmp_path / "out/cat-a-pig/result.png").unlink()
    capsys.readouterr()
    assert edit(resume=True) == 2
    assert "cat-a-dog/config.json is damaged" in sentence()


LOGS: dict[str, tuple[bytes, bool]] = {  # in the place of the second of three lines, and whether that is printed
    "nothing": (b"", True),
    "an empty object": (b"{}", True),
    "a number": (b"3", True),
    "another step": (b'{"step": "two"}', True),
    "bytes": (b"\xff\xfe\0", True),
    "deep": (b"[" * 100_000, True),
    "of a step to come": (b'{"step": 99}', False),
}


@pytest.mark.parametrize("damage", LOGS)
def test_damaged_logs(
    edit: Edit, tmp_path: Path, capsys: pytest.CaptureFixture[str], pressed: Callable[[int], Any], damage: str
) -> None:
    with pressed(3):
        assert edit(num_inference_steps=4) == 130
    log = tmp_path / "out/metrics.jsonl"
    first, _, third = log.read_bytes().splitlines(keepends=True)
    line, told = LOGS[damage]
    log.write_bytes(first + line + b"\n" + third + b'{"step": 3, "dire')  # the last one is cut off by a kill
    capsys.readouterr()
    assert edit(resume=True) == 0
    kept = log.read_bytes().splitlines(keepends=True)
    assert kept[:2] == [first, third]
    assert [json.loads(x)["step"] for x in kept] == [1, 3, 4]
    message = [x for x in capsys.readouterr().err.splitlines() if "warning" in x]
    assert len(message) == told
    assert all("metrics.jsonl: 1 of 3 lines cannot be read and are dropped" in x for x in message)


def test_frames_that_are_foreign_or_damaged(
    edit: Edit, tmp_path: Path, capsys: pytest.CaptureFixture[str], pressed: Callable[[int], Any]
) -> None:
    with pressed(3):
        assert edit(num_inference_steps=5) == 130
    frames = tmp_path / "out/frames"
    mine = {"abc.png": b"mine", "²³²³²³.png": b"mine too", "000001.txt": b"notes"}
    for name, content in mine.items():
        (frames / name).write_bytes(content)
    os.truncate(frames / "000002.png", 60)
    (frames / "000003.png").write_bytes(encoded("png", (99, 99)))
    capsys.readouterr()
    assert edit(resume=True) == 0
    message = [x for x in capsys.readouterr().err.splitlines() if "cpds:" in x]
    assert message == [
        f"cpds: warning: {frames / f'00000{i}.png'} is damaged: it is left out of trajectory.gif" for i in (2, 3)
    ]
    assert {name: (frames / name).read_bytes() for name in mine} == mine
    with Image.open(tmp_path / "out/trajectory.gif") as gif:
        assert gif.n_frames == 4  # the source, frames 1 and 4, the result, which is frame 5


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"patch_size": 999}, "patch_size (999,) is larger than every feature map"),  # the first step says so
        ({"trg_prompt": ["a dog", "a pig"], "patch_size": 999}, "larger than every feature map"),
        ({"checkpoint_every": 0}, "checkpoint_every must be >= 1, got 0"),
    ],
)
def test_a_refused_setting_leaves_the_folder_free(
    edit: Edit, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: dict, words: str
) -> None:
    before = snapshot(tmp_path)
    assert edit(save_path=tmp_path / "deep/er", **flags) == 2
    assert words in capsys.readouterr().err
    assert snapshot(tmp_path) == before
    good = {k: v for k, v in flags.items() if k == "trg_prompt"}
    assert edit(save_path=tmp_path / "deep/er", num_inference_steps=1, **good) == 0


# ---- NaN


def finite(checkpoint: Path) -> bool:
    return all(bool(x.isfinite().all()) for x in load_file(checkpoint).values())


@pytest.mark.parametrize(
    "flags",
    [
        {"lr": "1e30"},  # the next step's network overflows
        {"lr": "1e31", "guidance_scale": "1e12"},  # the latent itself does
        {"guidance_scale": "1e30", "optimizer": "adam", "no-normalize_gradient": True},  # the optimizer's moments do
        {"w_cut": "1e300"},  # the loss does
        {"guidance_scale": "1e300"},  # so does a gradient that is to be brought to unit size
    ],
)
def test_divergence_is_told_and_nothing_bad_is_saved(
    edit: Edit, tmp_path: Path, sentence: Callable[[], str], flags: dict
) -> None:
    assert edit(num_inference_steps=20, **flags) == 2
    message = sentence()
    assert "NaN" in message
    assert "lower lr" in message
    assert finite(tmp_path / "out/checkpoint.safetensors")
    assert not (tmp_path / "out/result.png").exists()
    log = tmp_path / "out/metrics.jsonl"
    for line in log.read_text().splitlines() if log.exists() else []:
        json.loads(line, parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
    assert edit(num_inference_steps=20, resume=True, **flags) == 2  # it says so again instead of breaking
    assert "NaN" in sentence()


def test_a_run_that_met_nan_goes_on_where_it_was_good(
    edit: Edit, tmp_path: Path, sentence: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {"patch_selector": "learned", "selector_every": 2, "num_inference_steps": 14}
    denoise, calls = UNetPrior.denoise, []

    def breaks(self: UNetPrior, *args: Any, **kwargs: Any) -> Any:
        calls.append(0)
        prediction = denoise(self, *args, **kwargs)
        if len(calls) > 24:  # two calls a step: the thirteenth
            prediction.eps.fill_(float("nan"))
        return prediction

    with monkeypatch.context() as patch:
        patch.setattr(UNetPrior, "denoise", breaks)
        assert edit(**flags) == 2
    assert "step 13 gave NaN or infinite values and was not applied" in (message := sentence())
    assert "the state after step 10 is kept" in message
    state = load_file(tmp_path / "out/checkpoint.safetensors")
    assert int(state["step"]) == 10
    assert finite(tmp_path / "out/checkpoint.safetensors")
    assert edit(resume=True, **flags) == 0
    assert edit(save_path=tmp_path / "whole", **flags) == 0
    assert (tmp_path / "out/result.png").read_bytes() == (tmp_path / "whole/result.png").read_bytes()


def test_out_of_memory_is_one_sentence(
    edit: Edit, sentence: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(UNetPrior, "denoise", full)
        assert edit() == 2
    assert "lower --resolution" in sentence()
    assert edit() == 0  # the folder is still free


def test_a_device_that_is_not_here_is_answered_with_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match=r"'cuda:7' is not usable here: take auto, cpu(, mps)?, cuda:0, cuda:1$"):
        resolve_device("cuda:7")
