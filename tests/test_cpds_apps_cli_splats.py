"""`cpds splats` from the command line to its run folder: what it writes, what its flags do, what it refuses."""

import json
import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PRIOR_OPTIONS, randn, resuming
from PIL import Image

from cpds.apps.cli.main import main, parse
from cpds.apps.cli.splats import SplatArgs
from cpds.presets import PRESETS
from representations.splats.config import SplatConfig
from representations.splats.ply import Gaussians, SplatFile

Edit = Callable[..., int]


def write_scene(path: Path) -> None:
    """Thirty grey gaussians about the origin."""
    n = 30
    quats = torch.tensor([[1.0, 0, 0, 0]]).repeat(n, 1)
    scales = torch.full((n, 3), math.log(0.15))
    gaussians = Gaussians(
        0.4 * randn(0, n, 3), quats, scales, torch.ones(n, 1), 0.5 * randn(1, n, 3), 0.1 * randn(2, n, 3, 3)
    )
    SplatFile.of(gaussians).write(path, gaussians)


def write_cameras(path: Path, count: int = 3) -> None:
    """Cameras in a row, all looking along -z (OpenGL) at the origin from 4 away."""
    frames = []
    for i in range(count):
        pose = np.eye(4)
        pose[:3, 3] = (0.1 * i, 0, 4)
        frames.append({"file_path": f"images/{i}.png", "transform_matrix": pose.tolist()})
    size = {"w": 48, "h": 32, "fl_x": 60.0, "fl_y": 60.0, "cx": 24.0, "cy": 16.0, "camera_model": "PINHOLE"}
    path.write_text(json.dumps(size | {"frames": frames}))


@pytest.fixture
def edit(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Edit:
    """Run a short `cpds splats`; keywords replace or add flags, None leaves one out, True is a bare flag."""
    monkeypatch.chdir(tmp_path)
    write_scene(tmp_path / "scene.ply")
    write_cameras(tmp_path / "transforms.json")
    plain = {
        "cameras": tmp_path / "transforms.json",
        "prompt": "a cat",
        "trg_prompt": "a dog",
        "prior": tiny_folder,
        "save_path": tmp_path / "out",
        "num_inference_steps": 4,
        "n_patches": 8,
        "view_every": 2,
        "device": "cpu",
    }

    def run(scene: Any = tmp_path / "scene.ply", **changes: Any) -> int:
        argv = ["splats", str(scene)]
        for flag, value in resuming(plain, changes).items():
            if value is not None:
                values = [] if value is True else value if isinstance(value, list | tuple) else [value]
                argv += [f"--{flag}", *map(str, values)]
        return main(argv)

    return run


def result(folder: Path) -> bytes:
    return (folder / "result.ply").read_bytes()


def test_run_folder_holds_everything(edit: Edit, tmp_path: Path) -> None:
    before = (tmp_path / "scene.ply").read_bytes()
    assert edit(ply_every=2) == 0
    files = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    frames = {f"frames/{i:06d}.png" for i in range(1, 5)}
    plain = {".lock", "config.json", "metrics.jsonl", "checkpoint.safetensors", "result.png", "before_after.png"}
    assert files == plain | frames | {"trajectory.gif", "result.ply", "ply/000002.ply", "ply/000004.ply"}
    assert (tmp_path / "scene.ply").read_bytes() == before != result(tmp_path / "out")
    again = SplatFile.read(tmp_path / "out/result.ply").gaussians
    assert again.means.shape == (30, 3)
    assert again.rest.shape == (30, 3, 3)


def test_stopped_and_resumed_equals_uninterrupted(edit: Edit, tmp_path: Path, pressed: Callable[[int], Any]) -> None:
    assert edit(save_path=tmp_path / "whole") == 0
    with pressed(3):
        assert edit() == 130
    assert not (tmp_path / "out/result.ply").exists()
    assert edit(resume=True) == 0
    for name in ("result.ply", "result.png", "metrics.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_cameras_of_3dgs_and_colmap_give_the_same_edit(edit: Edit, tmp_path: Path) -> None:
    """The three views of `write_cameras`, in the two other formats; names without their folder, as 3DGS has them."""
    place = {"rotation": np.diag([1, -1, -1]).tolist(), "width": 48, "height": 32, "fx": 60.0, "fy": 60.0}
    listed = [{"id": i, "img_name": f"{i}", "position": [0.1 * i, 0, 4], **place} for i in range(3)]
    (tmp_path / "trained by 3dgs").mkdir()
    (tmp_path / "trained by 3dgs/cameras.json").write_text(json.dumps(listed))
    sparse = tmp_path / "capture/sparse/0"
    sparse.mkdir(parents=True)
    (sparse / "cameras.txt").write_text("1 SIMPLE_PINHOLE 48 32 60 24 16\n")
    # half a turn about x: world to camera is diag(1, -1, -1), and the translation -R times the position
    (sparse / "images.txt").write_text("".join(f"{i} 0 1 0 0 {-0.1 * i} 0 4 1 {i}.png\n\n" for i in range(3)))
    assert edit() == 0
    for given in (tmp_path / "trained by 3dgs", tmp_path / "capture"):
        assert edit(cameras=given, save_path=tmp_path / f"out of {given.name}") == 0
        ours, theirs = (SplatFile.read(tmp_path / f"out{x}/result.ply").gaussians for x in ("", f" of {given.name}"))
        assert torch.allclose(ours.means, theirs.means, atol=1e-5)
        assert torch.allclose(ours.dc, theirs.dc, atol=1e-4)


def test_settings_start_from_the_presets_for_splats() -> None:
    given = ["splats", "x.ply", "--cameras", "c.json", "--prompt", "a", "--trg_prompt", "b"]
    assert parse(given).edit == PRESETS["cpds-splats"]  # pyright: ignore[reportAttributeAccessIssue]
    assert parse([*given, "--method", "dds"]).edit == PRESETS["dds-splats"]  # pyright: ignore[reportAttributeAccessIssue]


def refused(**flags: Any) -> Callable[[Edit, Path], None]:
    def case(edit: Edit, here: Path) -> None:
        assert edit(save_path=here / "two", **flags) == 2
        assert not (here / "two").exists()

    return case


def differs(**flags: Any) -> Callable[[Edit, Path], None]:
    def case(edit: Edit, here: Path) -> None:
        assert edit(save_path=here / "two", **flags) == 0
        assert result(here / "out") != result(here / "two")

    return case


def cameras(edit: Edit, here: Path) -> None:
    write_cameras(here / "other.json", 1)
    differs(cameras=here / "other.json")(edit, here)


def frame(edit: Edit, here: Path) -> None:
    moved = {"transform": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0.5]], "scale": 0.9}
    (here / "frame.json").write_text(json.dumps(moved))
    differs(frame=here / "frame.json")(edit, here)


def masks(edit: Edit, here: Path) -> None:
    shades = np.zeros((32, 48), np.uint8)
    shades[:, :20] = 255
    (here / "masks").mkdir()
    for i in range(3):
        Image.fromarray(shades).save(here / f"masks/{i}.png")
    differs(masks=here / "masks")(edit, here)


def region(edit: Edit, here: Path) -> None:
    """Of a box in the file's own coordinates, corners in any order and with minus signs."""
    before = SplatFile.read(here / "scene.ply").gaussians
    assert edit(region=[0, -2, 2, -2, 2, -2], save_path=here / "two") == 0
    after = SplatFile.read(here / "two/result.ply").gaussians
    assert torch.equal((after.dc != before.dc).any(1), before.means[:, 0] <= 0)


def resume(edit: Edit, here: Path) -> None:
    assert edit() == 2  # taken
    assert edit(resume=True) == 0  # finished: nothing to do


def save_path(edit: Edit, here: Path) -> None:
    assert edit(save_path=here / "deep/er") == 0
    assert result(here / "deep/er") == result(here / "out")


def ply_every(edit: Edit, here: Path) -> None:
    assert edit(ply_every=3, save_path=here / "two") == 0
    assert [p.name for p in (here / "two/ply").iterdir()] == ["000003.ply"]
    refused(ply_every=-1)(edit, here / "three")


def shown(edit: Edit, here: Path) -> None:
    assert edit(shown=1, save_path=here / "two") == 0
    write_cameras(here / "transforms.json", 5)
    one, four = ((here / p / "result.png").stat().st_size for p in ("two", "out"))
    assert edit(shown=4, save_path=here / "four") == 0
    assert (here / "four/result.png").stat().st_size > one
    assert four


def profile(edit: Edit, here: Path) -> None:
    assert edit(profile=True, save_path=here / "two") == 0
    assert "whole" in (here / "two/profile.txt").read_text()
    assert not (here / "out/profile.txt").exists()


CASES: dict[str, Callable[[Edit, Path], None]] = {
    "scene": refused(scene="none.ply"),
    "cameras": cameras,
    "prompt": differs(prompt="a pig"),
    "target_prompt": differs(trg_prompt="a pig"),
    "frame": frame,
    "masks": masks,
    "save_path": save_path,
    "preset": differs(preset="dds-splats"),
    "prior": refused(prior="nothing/here"),
    "ply_every": ply_every,
    "resume": resume,
    "checkpoint_every": refused(checkpoint_every=0),  # what it does: test_cpds_resume.py
    "device": refused(device="cuda:99"),
    "profile": profile,
    "torch_dtype": differs(torch_dtype="bf16"),
    "views": differs(view_every=1),
    "edit": differs(guidance_scale=30),
    "optimize": differs(optimize=["colour"]),
    "region": region,
    "view_every": differs(view_every=1),
    "background": differs(background=[1, 1, 1]),
    "resolution": differs(resolution=48),
    "shown": shown,
}


@pytest.mark.parametrize(
    "name", dict.fromkeys(f.name for c in (SplatArgs, SplatConfig) for f in fields(c) if f.name not in PRIOR_OPTIONS)
)
def test_flags_of_the_command(edit: Edit, tmp_path: Path, name: str) -> None:
    assert name in CASES, f"{name} is a new flag: give it a case that shows what it does"
    assert edit() == 0
    CASES[name](edit, tmp_path)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({"trg_prompt": ""}, "a target prompt is empty"),
        ({"cameras": "none.json"}, "none.json"),
        ({"frame": "none.json"}, "none.json"),
        ({"cameras": "."}, "folder . holds several sets of cameras"),
        ({"cameras": "empty"}, "folder empty holds no cameras"),
        ({"masks": "empty"}, "there is no mask for the camera images/0.png: put 0.png into empty"),
        ({"masks": "nowhere"}, "masks nowhere is no folder"),
        ({"region": [0, 0, 0]}, "region must be x y z and a radius > 0, or two corners"),
        ({"region": [50, 0, 0, 1]}, "no gaussian lies in the region (50.0, 0.0, 0.0, 1.0)"),
        ({"background": [2, 0, 0]}, "background must be three numbers in 0 ... 1"),
        ({"view_every": 0}, "view_every must be >= 1, got 0"),
        ({"resume": True}, "there is no run to resume"),
        ({"scene": "transforms.json"}, "ply"),
    ],
)
def test_bad_values(edit: Edit, capsys: pytest.CaptureFixture[str], flags: dict[str, Any], words: str) -> None:
    Path("empty").mkdir()
    Path("cameras.json").write_text("[]")
    assert edit(**flags) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(said) == 1, said
    assert words in said[0]
    assert not Path("out").exists()
