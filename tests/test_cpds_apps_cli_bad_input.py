"""Whatever is wrong with the input: one sentence, exit code 2, and nothing on the disk is touched."""

import errno
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import snapshot
from PIL import Image
from safetensors.torch import load_file

from cpds.apps.cli.main import main

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
        ("cat.svg", b"<svg/>", ["cat.svg is an SVG, not an image", "with cpds svg"]),
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
        ("gone.png", None, ["mask gone.png does not exist"]),
        (".", None, ["mask . is a folder: name a file"]),
        ("line.png", encoded("png", (40, 15)), ["mask line.png is 40x15 px: it must be"]),
        ("half.png", encoded("png")[:-200], ["mask half.png is damaged"]),
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


# ---- memory


@pytest.mark.parametrize(
    "err",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:126] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
    ],
)
def test_too_little_memory_names_the_switch(
    edit: Edit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sentence: Callable[[], str], err: Exception
) -> None:
    def full(*_args: Any, **_kwargs: Any) -> None:
        raise err

    monkeypatch.setattr("cpds.priors.load.load_prior", full)
    assert edit() == 2
    assert sentence() == "cpds: error: out of memory: lower --resolution, or take --low_memory"
    dreambooth = (
        f"dreambooth --instances {tmp_path / 'cat.png'} --save_path {tmp_path / 'run'} --prompt cat --device cpu"
    )
    monkeypatch.setattr("cpds.personalize.run.load_prior", full)
    assert main(dreambooth.split()) == 2
    assert "take --gradient_checkpointing and --mixed_precision bf16" in sentence()


# ---- flags


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        *[(f, v, f) for f in ("guidance_scale", "w_direction", "w_cut", "w_identity") for v in ("-0.1", "nan", "inf")],
        *[(f, v, f) for f in ("lr", "lr_decay", "temperature") for v in ("0", "-1", "nan", "inf")],
        ("lr", "1e300", "1e+300"),  # no float32 holds it
        ("group_lrs", ["latent", "-0.1"], "latent"),
        ("group_lrs", ["xyz", "0.1"], "xyz"),  # no such group here
        *[(f, v, f) for f in ("num_inference_steps", "stride", "selector_every") for v in ("0", "-1")],
        ("n_patches", "1", "n_patches must be >= 2"),
        *[("patch_share", v, "patch_share must be in (0, 1]") for v in ("0", "-0.1", "1.1", "nan")],
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
        ("method", "magic", "chordedit, or the import path of your own"),
        ("method_options", ["zeta", "1"], "method cpds has no option zeta"),
        ("guidance_interval", ["0.7", "0.3"], "guidance_interval must be two times in 0 ... 1, in order"),
        ("redraw_steps", "5", "redraw_steps is for drawings, and what is edited is none: leave it at 0"),
        ("true_guidance_scale", "3", "as FLUX.1 dev does, and this one does not: leave it at 1"),
        ("polish", "1", "polish must be at least 0 and below 1"),
        ("method", "magic.of:mine", "method magic.of:mine cannot be imported"),
        ("patch_selector", "magic", "meta-learner, or the import path of your own"),
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
        ("patch_loss", "magic", "'magic'"),
        ("guidance_schedule", "magic", "'magic'"),
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


# ---- places to write


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("cat.png", "is a file"),  # a file where the folder should be
        ("cat.png/below", "cannot be written"),
        ("x" * 300, "cannot be written"),  # no file system takes the name
        ("mine", "already holds result.png"),  # somebody's own file
        ("run", "already holds config.json"),  # another run
        (".", "is the folder of cat.png, where results would be taken for sources"),
    ],
)
def test_unusable_output_folders(refused: Callable, tmp_path: Path, place: str, words: str) -> None:
    for folder, file in {"mine": "result.png", "run": "config.json"}.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text("{}")
    refused(words, place[:20], save_path=tmp_path / place)


@pytest.mark.parametrize("flag", ["save_path", "img_path", "mask"])
def test_an_empty_path_is_not_the_current_folder(refused: Callable, tmp_path: Path, flag: str) -> None:
    refused(f"{flag} is empty", **{flag: ""})


def test_a_folder_of_one_image_does_not_hold_its_run(refused: Callable, edit: Edit, tmp_path: Path) -> None:
    """Nor are results edited by a second run, wherever below they are."""
    (tmp_path / "album").mkdir()
    noise((40, 28)).save(tmp_path / "album/a.png")
    refused("save_path album is the folder of a.png", img_path="album", save_path="album")
    for place in ("album/one", "album/two"):
        assert edit(img_path="album", save_path=place, num_inference_steps=1) == 0
    assert (tmp_path / "album/one/result.png").read_bytes() == (tmp_path / "album/two/result.png").read_bytes()


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
