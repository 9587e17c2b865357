"""`cpds image` as a user types it: the papers' flags, what a run leaves behind, and going on after an interruption."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import icc
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from cpds.apps.cli.image import ImageArgs
from cpds.apps.cli.jobs import fresh_folder, slug
from cpds.apps.cli.main import main, parse
from cpds.callbacks import ImageOutputs, MetricsLog
from cpds.config import EditConfig, GuidanceConfig
from cpds.presets import PRESETS, PRESETS_FOR

Edit = Callable[..., int]
Command = Callable[..., list[str]]
FILES = {
    "result.png",
    "before_after.png",
    "trajectory.gif",
    "metrics.jsonl",
    "config.json",
    "checkpoint.safetensors",
    "frames",
    ".lock",
}
SEVERAL = {"plan.json", ".lock"}  # beside the folders of several edits
SIZE = (40, 28)


def settings(*flags: str) -> EditConfig:
    args = parse(["image", "--img_path", "x", "--prompt", "a", "--trg_prompt", "b", *flags])
    assert isinstance(args, ImageArgs)
    return args.edit


def steps_of(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


# ---- flags


def test_the_papers_flag_names() -> None:
    flags = (
        "--num_inference_steps 7 --w_cut 3 --w_direction 2 --patch_size 1 2 4 --n_patches 9 --seed 5 --guidance_scale 4"
    )
    words = ["--negative_prompt", "a pig", "--patch_selector", "svm", "--save_path", "o", "--torch_dtype", "bf16"]
    paths = ["--mask", "m.png", "--resolution", "64", "--prior", "p", "--device", "cpu"]
    needed = ["image", "--img_path", "x.png", "--prompt", "a", "--trg_prompt", "b", "c d"]
    for spell in (lambda f: f, lambda f: f.replace("_", "-")):  # as in the papers' scripts; with dashes
        args = parse([spell(w) if w.startswith("--") else w for w in [*needed, *flags.split(), *words, *paths]])
        assert isinstance(args, ImageArgs)
        assert args.img_path == Path("x.png")
        assert (args.prompt, args.target_prompt) == ("a", ("b", "c d"))
        assert (args.save_path, args.mask, args.prior) == (Path("o"), Path("m.png"), "p")
        assert (args.torch_dtype, args.device, args.resolution) == ("bf16", "cpu", 64)
        edit, guidance = args.edit, args.edit.guidance
        assert (edit.num_inference_steps, edit.seed) == (7, 5)
        assert (guidance.w_cut, guidance.w_direction, guidance.guidance_scale) == (3, 2, 4)
        assert (guidance.patch_size, guidance.n_patches) == ((1, 2, 4), 9)
        assert (guidance.negative_prompt, guidance.patch_selector) == ("a pig", "svm")


@pytest.mark.parametrize(
    ("flags", "preset"),
    [
        ([], "cpds"),  # the default
        *[(["--method", m], m) for m in ("sds", "dds", "cds", "pds", "cpds")],  # a method alone brings its own preset
        (["--method=dds"], "dds"),  # with an equals sign
        *[(["--preset", p], p) for p in PRESETS_FOR["image"]],  # every one for images by name
    ],
)
def test_settings_start_from_the_preset(flags: list[str], preset: str) -> None:
    assert settings(*flags) == PRESETS[preset]


def test_explicit_flags_beat_the_preset() -> None:
    both = settings("--preset", "cds-paper", "--method", "dds", "--w_cut", "0.5", "--lr", "3")
    assert (both.guidance.method, both.guidance.w_cut, both.lr) == ("dds", 0.5, 3)
    assert both.num_inference_steps == PRESETS["cds-paper"].num_inference_steps
    assert settings("--lr", "3", "--method", "sds").lr == 3


def test_help_and_presets_come_without_torch() -> None:
    code = (
        "import sys\nfrom cpds.apps.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print('heavy', [m for m in ('torch', 'diffusers', 'numpy') if m in sys.modules])"
    )
    for words in (["--help"], ["image", "--help"], ["eval", "--help"], ["presets"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stdout.rstrip().endswith("heavy []")


def test_help_explains_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["image", "--help"]) == 0
    shown = capsys.readouterr().out.replace("-", "_")
    for name in (
        *GuidanceConfig.__dataclass_fields__,
        *EditConfig.__dataclass_fields__,
        *ImageArgs.__dataclass_fields__,
    ):
        assert name in ("guidance", "edit") or f"__{name}" in shown, name


def test_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    assert [line.split(":")[0].strip() for line in capsys.readouterr().out.splitlines()] == list(PRESETS)


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


# ---- several edits


def test_folder_times_targets_without_collisions(edit: Edit, tmp_path: Path, image_file: Path) -> None:
    album = tmp_path / "album"
    album.mkdir()
    (album / "notes.txt").write_text("not an image")
    with Image.open(image_file) as source:
        source.save(album / "cat.png")
        source.save(album / "cat.jpg")
    targets = ["a dog", "a dog!", "?!"]  # alike but for punctuation; nothing but punctuation
    assert edit(img_path=album, trg_prompt=targets, num_inference_steps=1) == 0
    runs = sorted(p for p in (tmp_path / "out").iterdir() if p.is_dir())
    assert len(runs) == 6
    asked = {tuple(json.loads((r / "config.json").read_text())[k] for k in ("target_prompt",)) for r in runs}
    assert asked == {(t,) for t in targets}
    assert all({p.name for p in r.iterdir()} == FILES for r in runs)
    digests = [json.loads((r / "config.json").read_text())["source"]["image"] for r in runs]
    assert {digests.count(d) for d in digests} == {3}  # each image once a target


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
    assert not any("._good" in line or "notes.txt" in line for line in told)


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


def test_each_target_starts_from_the_source(edit: Edit, tmp_path: Path) -> None:
    assert edit(trg_prompt=["a pig", "a dog"]) == 0
    assert edit(trg_prompt=["a dog"], save_path=tmp_path / "alone") == 0
    alone = (tmp_path / "alone/result.png").read_bytes()
    assert (tmp_path / "out/cat-a-dog/result.png").read_bytes() == alone
    assert (tmp_path / "out/cat-a-pig/result.png").read_bytes() != alone


def test_names_stay_short_enough_for_file_systems(edit: Edit, tmp_path: Path, image_file: Path) -> None:
    long = image_file.rename(tmp_path / ("猫" * 80 + ".png"))
    assert edit(img_path=long, trg_prompt=["犬" * 30, "豚" * 30], prompt="cat", num_inference_steps=1) == 0
    assert len([p for p in (tmp_path / "out").iterdir() if p.is_dir()]) == 2
    assert slug("A dog, with (two) ears!") == "a-dog-with-two-ears"


def test_a_taken_folder_stops_before_the_first_edit(edit: Edit, tmp_path: Path) -> None:
    (tmp_path / "out/cat-a-dog").mkdir(parents=True)
    (tmp_path / "out/cat-a-dog/result.png").write_bytes(b"mine")
    assert edit(trg_prompt=["a pig", "a dog"]) == 2
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["cat-a-dog"]


def test_folder_resume_skips_finished_and_starts_missing(
    edit: Edit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edit(trg_prompt=["a dog", "a pig"]) == 0
    done, missing = tmp_path / "out/cat-a-dog", tmp_path / "out/cat-a-pig"
    want = (missing / "result.png").read_bytes()
    for file in sorted(missing.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    missing.rmdir()
    before = {p: p.stat().st_mtime_ns for p in done.rglob("*")}
    capsys.readouterr()
    assert edit(resume=True) == 0
    assert f"{done} is already finished" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in done.rglob("*")} == before
    assert (missing / "result.png").read_bytes() == want


# ---- resume

ZYGOTE = """
import json, os, sys
from diffusers import StableDiffusionPipeline
from cpds import callbacks, editor
from cpds.priors import unet as diffusion
from cpds.apps.cli.main import main
for line in sys.stdin:  # a fork for each command: the imports are paid for once
    if (pid := os.fork()) == 0:
        sys.stdout = sys.stderr
        os._exit(main(json.loads(line)))
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Interrupted:
    """Runs `cpds` in processes of their own and sends each a signal when its log has so many lines."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, "-c", ZYGOTE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def __call__(self, argv: list[str], lines: int, what: signal.Signals, metrics: Path) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(argv), file=self.process.stdin, flush=True)
        pid = int(self.process.stdout.readline())
        end = time.monotonic() + 300
        while time.monotonic() < end and not (metrics.exists() and metrics.read_bytes().count(b"\n") >= lines):
            time.sleep(0.002)
        os.kill(pid, what)
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interrupted]:
    runner = Interrupted(tmp_path_factory.mktemp("interrupted") / "stderr")
    yield runner
    assert runner.process.stdin is not None
    runner.process.stdin.close()
    runner.process.wait(300)


STEPS = 16
LEARNED = {"method": "cpds", "patch_selector": "learned", "num_inference_steps": STEPS}
ADAMW = {"method": "pds", "optimizer": "adamw", "lr": 0.3, "num_inference_steps": STEPS}
WHOLE: dict[str, dict[str, bytes]] = {}


def whole(edit: Edit, folder: Path, flags: dict) -> dict[str, bytes]:
    """What a run without interruption leaves."""
    if str(flags) not in WHOLE:
        assert edit(save_path=folder / "whole", **flags) == 0
        WHOLE[str(flags)] = {
            f: (folder / "whole" / f).read_bytes() for f in ("result.png", "metrics.jsonl", "trajectory.gif")
        }
    return WHOLE[str(flags)]


def leaves(folder: Path, flags: dict) -> dict[str, bytes]:
    return {f: (folder / f).read_bytes() for f in WHOLE[str(flags)]}


@pytest.mark.parametrize(
    ("flags", "moments"),
    [
        (
            LEARNED,
            (1, 3, 13),
        ),  # at once; before and after the tenth step, when the selector learns and a state is saved
        (ADAMW, (3, 13)),  # before and after that state
    ],
)
def test_killed_and_resumed_equals_uninterrupted(
    edit: Edit, command: Command, interrupted: Interrupted, tmp_path: Path, flags: dict, moments: tuple[int, ...]
) -> None:
    want = whole(edit, tmp_path, flags)
    for lines in moments:
        out = tmp_path / f"killed{lines}"
        argv = command(save_path=out, **flags)
        assert interrupted(argv, lines, signal.SIGKILL, out / "metrics.jsonl") == -signal.SIGKILL
        assert not (out / "result.png").exists()
        assert edit(save_path=out, resume=True, **flags) == 0
        assert steps_of(out) == list(range(1, STEPS + 1))
        assert leaves(out, flags) == want
        assert not list(out.rglob("*.part"))


def test_ctrl_c_leaves_a_resumable_folder(
    edit: Edit, command: Command, interrupted: Interrupted, tmp_path: Path
) -> None:
    want, out = whole(edit, tmp_path, LEARNED), tmp_path / "out"
    assert interrupted(command(**LEARNED), 4, signal.SIGINT, out / "metrics.jsonl") == 130
    stopped = len(steps_of(out))
    assert 4 <= stopped < STEPS
    assert int(load_file(out / "checkpoint.safetensors")["step"]) == stopped  # nothing is lost
    told = interrupted.log.read_text()
    assert f"Stopped after step {stopped}; go on with: cpds image --resume {out}" in told
    assert "Traceback" not in told
    assert edit(resume=True, **LEARNED) == 0
    assert leaves(out, LEARNED) == want


def test_killed_before_the_first_step(edit: Edit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise SystemExit("killed")

    assert edit(save_path=tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "started", killed)
        with pytest.raises(SystemExit):
            edit()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [".lock", "config.json"]
    assert edit(resume=True) == 0
    assert (tmp_path / "out/result.png").read_bytes() == (tmp_path / "whole/result.png").read_bytes()


@pytest.mark.parametrize("presses", [1, 2])  # one stops after the step; a second one stops at once, within a step
def test_ctrl_c_never_saves_half_a_step(
    edit: Edit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], presses: int
) -> None:
    from cpds.selectors import LearnedPatches

    want = whole(edit, tmp_path, LEARNED)
    observe, seen = LearnedPatches.observe, []

    def press(self: LearnedPatches, *args: object) -> None:
        seen.append(0)
        for _ in range(presses if len(seen) == 50 else 0):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        observe(self, *args)  # pyright: ignore

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(LearnedPatches, "observe", press)
        assert edit(**LEARNED) == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert "go on with: cpds image --resume" in capsys.readouterr().err
    assert edit(resume=True, **LEARNED) == 0
    assert leaves(tmp_path / "out", LEARNED) == want


def test_ctrl_c_while_the_images_are_written_stops_the_batch(
    edit: Edit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = ImageOutputs.finished

    def press(self: ImageOutputs, state: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        finished(self, state)  # pyright: ignore

    monkeypatch.setattr(ImageOutputs, "finished", press)
    assert edit(trg_prompt=["a pig", "a dog"], num_inference_steps=1) == 130
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"cat-a-pig"} | SEVERAL
    assert {p.name for p in (tmp_path / "out/cat-a-pig").iterdir()} == FILES


def test_batch_names_its_own_folder_when_stopped(
    edit: Edit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MetricsLog, "stepped", stop)
    assert edit(trg_prompt=["a pig", "a dog"]) == 130
    assert capsys.readouterr().err.rstrip().endswith(f"cpds image --resume {tmp_path / 'out'}")


def test_resume_of_a_finished_run_changes_nothing(
    edit: Edit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edit() == 0
    before = {p: (p.stat().st_mtime_ns, p.is_dir() or p.read_bytes()) for p in (tmp_path / "out").rglob("*")}
    capsys.readouterr()
    assert edit(resume=True) == 0
    assert capsys.readouterr().err.strip() == f"{tmp_path / 'out'} is already finished"
    assert {p: (p.stat().st_mtime_ns, p.is_dir() or p.read_bytes()) for p in (tmp_path / "out").rglob("*")} == before
