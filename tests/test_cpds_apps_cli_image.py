"""`cpds image`: what a run leaves behind, formats, and folders of images of which some are bad."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import icc
import pytest
import torch
from conftest import FILES, SEVERAL, steps_of
from PIL import Image
from safetensors.torch import load_file

from cpds.apps.cli.jobs import fresh_folder
from cpds.callbacks import MetricsLog
from cpds.config import EditConfig, GuidanceConfig
from cpds.images import SourceImage, open_source
from cpds.priors.unet import UNetPrior

Edit = Callable[..., int]
Command = Callable[..., list[str]]
SIZE = (40, 28)


# ---- one run


def test_run_folder_holds_everything(edit: Edit, tmp_path: Path, tiny_folder: Path) -> None:
    assert edit(num_inference_steps=4, seed=11) == 0
    out = tmp_path / "out"
    assert {p.name for p in out.iterdir()} == FILES
    assert steps_of(out) == [1, 2, 3, 4]
    config = json.loads((out / "config.json").read_text())
    assert (config["prompt"], config["target_prompt"]) == ("a cat", "a dog")
    assert config["prior"].startswith("tiny@")
    assert config["prior"].endswith("float32")
    assert config["edit"].keys() == EditConfig.__dataclass_fields__.keys()
    assert config["edit"]["guidance"].keys() == GuidanceConfig.__dataclass_fields__.keys()
    assert config["edit"]["seed"] == 11
    assert {"python", "cpds", "torch", "diffusers", "transformers", "device"} <= config["environment"].keys()
    assert config["environment"]["threads"] == torch.get_num_threads()
    assert int(load_file(out / "checkpoint.safetensors")["step"]) == 4
    with Image.open(out / "before_after.png") as comparison, Image.open(out / "trajectory.gif") as gif:
        assert comparison.size == (2 * SIZE[0] + 8, SIZE[1])
        assert gif.size == SIZE


def test_same_seed_same_bytes_other_seed_other_bytes(edit: Edit, tmp_path: Path, image_file: Path) -> None:
    results = []
    for n, seed in enumerate((3, 3, 4)):
        assert edit(save_path=tmp_path / f"run{n}", seed=seed) == 0
        results.append((tmp_path / f"run{n}/result.png").read_bytes())
    assert results[0] == results[1]
    assert results[0] != results[2]
    with Image.open(image_file) as source, Image.open(tmp_path / "run0/result.png") as result:
        assert source.tobytes() != result.tobytes()


@pytest.mark.parametrize("size", [(16, 16), (33, 57), (201, 31), (4000, 100)])  # smallest; odd upright; wide; very wide
def test_result_has_the_images_size(edit: Edit, tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, "teal").save(tmp_path / "odd.bmp")
    assert edit(img_path=tmp_path / "odd.bmp", num_inference_steps=1) == 0
    with Image.open(tmp_path / "out/result.png") as result:
        assert (result.size, result.mode) == (size, "RGB")


def test_image_formats(edit: Edit, tmp_path: Path, image_file: Path) -> None:
    (tmp_path / "album").mkdir()
    suffixes = ("jpg", "jpeg", "png", "webp", "bmp", "JPG", "gif", "tif", "tiff")
    with Image.open(image_file) as source:
        for n, suffix in enumerate(suffixes):
            source.save(tmp_path / f"album/{n}.{suffix}")
    assert edit(img_path=tmp_path / "album", num_inference_steps=1) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {f"{n}-a-dog" for n in range(len(suffixes))} | SEVERAL
    for n in range(len(suffixes)):
        with Image.open(tmp_path / f"out/{n}-a-dog/result.png") as result:
            assert result.size == SIZE


def test_a_very_long_image_is_edited_with_fewer_pixels_and_the_note_tells(
    edit: Edit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cpds.images.LONGEST", 512)
    Image.new("RGB", (800, 20), "teal").save(tmp_path / "long.png")
    assert edit(img_path=tmp_path / "long.png", num_inference_steps=1) == 0
    assert "long.png: it is so long that it is edited at 808x24 px" in capsys.readouterr().err
    latent = load_file(tmp_path / "out/checkpoint.safetensors")["param.latent.0"]
    assert latent.shape[-2:] == (24 // 4, 808 // 4)
    with Image.open(tmp_path / "out/result.png") as result:
        assert result.size == (800, 20)


def test_result_keeps_alpha_and_profile_and_what_is_lost_is_printed(
    edit: Edit, tmp_path: Path, image_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Image.open(image_file) as plain:
        source = plain.copy()
    alpha = Image.new("L", SIZE, 255)
    alpha.paste(0, (0, 0, 12, SIZE[1]))
    source.putalpha(alpha)
    exif = Image.Exif()
    exif[0x010F] = "Canon"
    source.save(tmp_path / "clear.png", icc_profile=icc.rgb_profile(), exif=exif)
    assert edit(img_path=tmp_path / "clear.png") == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "note" in line]
    assert len(notes) == 2
    assert all(f"{tmp_path / 'clear.png'}: " in line for line in notes)
    assert "keeps its transparency" in notes[1]
    assert "not copied into the result: EXIF (camera, date, place)" in notes[0]
    with Image.open(tmp_path / "out/result.png") as result:
        assert (result.mode, result.size) == ("RGBA", SIZE)
        assert result.getchannel("A").tobytes() == alpha.tobytes()
        assert result.info["icc_profile"] == icc.rgb_profile()
        assert not result.getexif()
        held, shown = (0, 0, 12, SIZE[1]), (12, 0, *SIZE)
        assert result.crop(held).tobytes() == source.crop(held).tobytes()
        assert result.crop(shown).tobytes() != source.crop(shown).tobytes()
    with Image.open(tmp_path / "out/before_after.png") as comparison:
        assert comparison.mode == "RGB"
        assert comparison.getpixel((2, 2)) == comparison.getpixel((SIZE[0] + 8 + 2, 2)) == (255, 255, 255)
    source.putalpha(128)
    source.save(tmp_path / "clear.png", icc_profile=icc.rgb_profile())
    assert edit(num_inference_steps=4, resume=True) == 2  # another file


def test_default_folder_is_new_each_time(edit: Edit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert edit(save_path=None, num_inference_steps=1) == 0
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {"cat-a-dog", "cat-a-dog-2"}
    assert fresh_folder("cat-a-dog") == Path("runs/cat-a-dog-3")


def test_script_is_the_same_command(
    command: Command, edit: Edit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Path(__file__).parents[1] / "scripts/edit_image.py"
    monkeypatch.setattr(sys, "argv", [str(script), *command()[1:]])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(script), run_name="__main__")
    assert stop.value.code == 0
    assert edit(save_path=tmp_path / "again") == 0
    assert (tmp_path / "out/result.png").read_bytes() == (tmp_path / "again/result.png").read_bytes()
    assert "trajectory.gif" in capsys.readouterr().out


# ---- folders with bad images


@pytest.fixture
def album(tmp_path: Path, image_file: Path) -> Path:
    """Two good images among files that are none, hidden, damaged or too small."""
    folder = tmp_path / "album"
    folder.mkdir()
    with Image.open(image_file) as source:
        source.save(folder / "good.png")
        source.save(folder / "moving.gif", save_all=True, append_images=[source.rotate(90)])
        source.save(folder / "half.jpg")
    (folder / "half.jpg").write_bytes((folder / "half.jpg").read_bytes()[:-300])
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    (folder / "bad.png").write_text("text")
    (folder / "empty.webp").touch()
    (folder / "photo.heic").write_bytes(b"another format")
    (folder / "._good.png").write_bytes(b"what a Mac leaves")
    (folder / "notes.txt").write_text("no image")
    (folder / "photo").write_bytes(image_file.read_bytes())
    (folder / "more").mkdir()
    return folder


def test_bad_images_of_a_folder_are_skipped_and_listed_at_the_end(
    edit: Edit, tmp_path: Path, album: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edit(img_path=album, num_inference_steps=1) == 1
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"good-a-dog", "moving-a-dog", *SEVERAL}
    told = capsys.readouterr().err.splitlines()
    skipped = [line for line in told if line.startswith("cpds: skipped: ")]
    assert told[-len(skipped) :] == skipped
    for line, words in zip(
        skipped, ["bad.png is not", "dot.png is 1x1", "empty.webp is not", "half.jpg is damaged", "heic"], strict=True
    ):
        assert words in line
    assert "cpds: note: 5 of 7 images are skipped and listed at the end" in told
    assert any("moving.gif: it is an animation with 2 frames: the first is taken" in line for line in told)
    (passed,) = (line for line in told if "passed over" in line)
    assert passed.endswith(
        "3 of 10 are passed over (folders, or without the ending of an image): more, notes.txt, photo"
    )
    assert not any("._good" in line for line in told)


def test_a_folder_with_bad_images_is_resumed_where_it_was(
    edit: Edit, tmp_path: Path, album: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (album / "moving.gif").unlink()  # one good image is left

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "stepped", stop)
        assert edit(img_path=album) == 130
    told = capsys.readouterr().err
    assert f"go on with: cpds image --resume {tmp_path / 'out'}\n" in told  # the folder of runs, not the one run
    assert "cpds: skipped: " in told.splitlines()[-1]
    assert edit(resume=True) == 1
    assert {p.name for p in (tmp_path / "out/good-a-dog").iterdir()} == FILES
    with Image.open(album / "good.png") as good:
        good.save(album / "bad.png")  # fixed: the others keep their folders
    before = (tmp_path / "out/good-a-dog/result.png").stat().st_mtime_ns
    assert edit(resume=True) == 1
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"bad-a-dog", "good-a-dog", *SEVERAL}
    assert (tmp_path / "out/good-a-dog/result.png").stat().st_mtime_ns == before
    capsys.readouterr()
    assert edit(resume=True) == 1  # only bad ones are left: they are named again
    assert capsys.readouterr().err.count("cpds: skipped: ") == 4


def test_images_that_do_not_fit_the_mask_are_skipped(
    edit: Edit, tmp_path: Path, image_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "album").mkdir()
    with Image.open(image_file) as source:
        source.save(tmp_path / "album/fits.png")
        source.resize((30, 28)).save(tmp_path / "album/small.png")
    mask = Image.new("RGBA", SIZE, (0, 0, 0, 0))
    mask.paste((255, 0, 0, 255), (0, 0, 20, 28))
    mask.save(tmp_path / "mask.png")
    assert edit(img_path=tmp_path / "album", mask=tmp_path / "mask.png", num_inference_steps=2) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith(f"cpds: skipped: {tmp_path / 'album/small.png'}: mask ")
    assert sum("what is painted may change, and what is transparent is held" in line for line in told) == 1
    with Image.open(image_file) as before, Image.open(tmp_path / "out/fits-a-dog/result.png") as after:
        assert before.crop((20, 0, 40, 28)).tobytes() == after.crop((20, 0, 40, 28)).tobytes()
        assert before.tobytes() != after.tobytes()


# ---- the same work once


@pytest.mark.parametrize("kept", [10_000_000, 0])  # images that are kept, and those that would take too much memory
def test_a_source_with_several_targets_is_decoded_once(
    edit: Edit, tmp_path: Path, image_file: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    opened: list[Path] = []

    def counted(path: Path) -> SourceImage:
        opened.append(path)
        return open_source(path)

    monkeypatch.setattr("cpds.images.open_source", counted)
    monkeypatch.setattr("cpds.apps.cli.image.KEPT", kept)
    assert edit(trg_prompt=["a dog", "a pig", "a cow"], num_inference_steps=1) == 0
    assert opened == [image_file] * (1 if kept else 4)  # else to check it, and for each edit
    results = {(p / "result.png").read_bytes() for p in (tmp_path / "out").iterdir() if p.is_dir()}
    assert len(results) == 3


def test_what_is_the_same_in_every_frame_is_computed_once(
    edit: Edit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, calls = UNetPrior.decode, []

    def counted(self: UNetPrior, latents: torch.Tensor) -> torch.Tensor:
        calls.append(latents)
        return decode(self, latents)

    monkeypatch.setattr(UNetPrior, "decode", counted)
    assert edit(num_inference_steps=3, polish=0) == 0
    assert len(list((tmp_path / "out/frames").iterdir())) == 3
    assert len(calls) == 3 + 1  # the frames, of which the last is the result, and the source
