"""transforms.json: poses, intrinsics and sizes, and what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import randn
from PIL import Image

from cpds.errors import InputError
from representations.cameras import Camera, Frame, read_cameras, view_at

IDENTITY = torch.eye(4).tolist()


def look_at(eye: tuple[float, float, float], target: tuple[float, float, float]) -> list[list[float]]:
    """Camera to world in OpenGL's axes, world's z up."""
    at, to, up = (torch.tensor(v, dtype=torch.float64) for v in (eye, target, (0.0, 0.0, 1.0)))
    back = (at - to) / (at - to).norm()
    right = torch.linalg.cross(up, back)
    right = right / right.norm()
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3] = torch.stack([right, torch.linalg.cross(back, right), back, at], 1)
    return pose.tolist()


def write(folder: Path, frames: Any = None, **settings: Any) -> Path:
    plain = {"fl_x": 50.0, "fl_y": 60.0, "cx": 31.0, "cy": 23.0, "w": 64, "h": 48}
    frames = [{"file_path": "a.png", "transform_matrix": IDENTITY}] if frames is None else frames
    content = {k: v for k, v in (plain | settings).items() if v is not None}
    (folder / "transforms.json").write_text(json.dumps({**content, "frames": frames}))
    return folder / "transforms.json"


def projected(camera: Camera, point: list[float]) -> list[float]:
    """Pixel of a world point, and how far ahead it is."""
    x, y, z = (camera.viewmat @ torch.tensor([*point, 1.0]))[:3].tolist()
    u, v, _ = (camera.k @ torch.tensor([x / z, y / z, 1.0])).tolist()
    return [u, v, z]


def test_axes_are_those_of_opencv(tmp_path: Path) -> None:
    """At the origin, looking along -z with y up: what is above lies at smaller v, what is right at larger u."""
    (camera,) = read_cameras(write(tmp_path))
    assert (camera.name, camera.width, camera.height) == ("a.png", 64, 48)
    assert projected(camera, [0, 0, -2]) == pytest.approx([31, 23, 2])
    assert projected(camera, [0.2, 0, -2]) == pytest.approx([31 + 50 * 0.1, 23, 2])
    assert projected(camera, [0, 0.2, -2]) == pytest.approx([31, 23 - 60 * 0.1, 2])


def test_what_is_looked_at_is_in_the_middle(tmp_path: Path) -> None:
    for eye in ((3.0, 1.0, 0.5), (-1.0, -2.0, 4.0), (0.3, 5.0, -2.0)):
        target = (0.1, -0.2, 0.3)
        (camera,) = read_cameras(write(tmp_path, [{"transform_matrix": look_at(eye, target)}]))
        assert projected(camera, list(target)) == pytest.approx([31, 23, math.dist(eye, target)], abs=1e-4)
        assert projected(camera, [0.1, -0.2, 0.4])[1] < 23  # up is up


def test_a_frame_may_have_intrinsics_of_its_own(tmp_path: Path) -> None:
    own = {"fl_x": 70, "fl_y": 71, "cx": 10, "cy": 11, "w": 20, "h": 22, "camera_model": "OPENCV", "k1": 0.1}
    file = write(tmp_path, [{"transform_matrix": IDENTITY}, {"transform_matrix": IDENTITY, **own}])
    with pytest.warns(UserWarning, match="lens distortion in .* is left out"):
        one, two = read_cameras(file)
    assert one.k.tolist() == [[50, 0, 31], [0, 60, 23], [0, 0, 1]]
    assert two.k.tolist() == [[70, 0, 10], [0, 71, 11], [0, 0, 1]]
    assert (two.width, two.height) == (20, 22)
    assert [c.name for c in (one, two)] == ["0", "1"]
    with pytest.warns(UserWarning, match="lens distortion"):
        assert len(read_cameras(tmp_path)) == 2  # by its folder


def test_angles_stand_for_focal_lengths(tmp_path: Path) -> None:
    """The edge of the image is seen under half the angle."""
    file = write(tmp_path, fl_x=None, fl_y=None, cx=None, cy=None, camera_angle_x=1.2)
    (camera,) = read_cameras(file)
    assert projected(camera, [math.tan(0.6), 0, -1])[0] == pytest.approx(64)
    assert camera.k[1, 1] == camera.k[0, 0]
    assert camera.k[:2, 2].tolist() == [32, 24]
    (camera,) = read_cameras(write(tmp_path, fl_x=None, fl_y=None, camera_angle_x=1.2, camera_angle_y=0.8))
    assert float(camera.k[1, 1]) == pytest.approx(24 / math.tan(0.4))


def test_sizes_may_come_from_the_images(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "r_0.png")
    for name in ("r_0", "r_0.png", "./r_0"):  # Blender's datasets leave the suffix out
        frames = [{"file_path": name, "transform_matrix": IDENTITY}]
        (camera,) = read_cameras(write(tmp_path, frames, w=None, h=None, cx=None, cy=None))
        assert (camera.width, camera.height, *camera.k[:2, 2].tolist()) == (30, 20, 15, 10)


@pytest.mark.parametrize(("height", "width"), [(48, 64), (96, 128), (24, 32), (64, 64), (16, 128)])
def test_fitting_scales_evenly_and_crops_about_the_centre(height: int, width: int, tmp_path: Path) -> None:
    (camera,) = read_cameras(write(tmp_path))
    found = camera.fitted(height, width)
    scale = max(height / 48, width / 64)
    assert (found.width, found.height) == (width, height)
    for point in ([0.1, 0.2, -1.0], [-0.3, 0.1, -2.0]):
        u, v, z = projected(camera, point)
        wanted = [(u - 32) * scale + width / 2, (v - 24) * scale + height / 2, z]
        assert projected(found, point) == pytest.approx(wanted, rel=1e-5)


def test_a_frame_of_the_scene_moves_cameras_with_it(tmp_path: Path) -> None:
    """What a camera sees of a point does not change when both move into the scene's axes."""
    R = torch.linalg.qr(randn(0, 3, 3).double())[0]
    R = R * torch.linalg.det(R).sign()
    t, scale = randn(1, 3).double(), 0.37
    matrix = torch.cat([R, t[:, None]], 1)
    (tmp_path / "dataparser_transforms.json").write_text(json.dumps({"transform": matrix.tolist(), "scale": scale}))
    file = write(tmp_path, [{"transform_matrix": look_at((3.0, 1.0, 0.5), (0.0, 0.0, 0.0))}])
    (plain,), (moved,) = (
        read_cameras(file),
        read_cameras(file, Frame.read(tmp_path / "dataparser_transforms.json")),
    )
    for point in ([0.1, 0.2, 0.3], [-0.5, 0.4, 0.0]):
        there = scale * (R @ torch.tensor(point, dtype=torch.float64) + t)
        u, v, z = projected(plain, point)
        assert projected(moved, there.tolist()) == pytest.approx([u, v, z * scale], rel=1e-4)


@pytest.mark.parametrize("written", [True, False])
def test_what_was_applied_to_the_poses_is_not_applied_again(written: bool, tmp_path: Path) -> None:
    """nerfstudio's frame begins at COLMAP's axes; a dataset's poses may have left them, in writing or by old custom."""
    old = torch.tensor([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]], dtype=torch.float64)
    applied = torch.cat([torch.linalg.qr(randn(4, 3, 3).double())[0], randn(5, 3, 1).double()], 1) if written else old
    R, t = torch.linalg.qr(randn(0, 3, 3).double())[0], randn(1, 3, 1).double()
    saved = torch.tensor(look_at((3.0, 1.0, 0.5), (0.0, 0.0, 0.0)), dtype=torch.float64)
    bottom = torch.tensor([[0.0, 0, 0, 1]], dtype=torch.float64)
    there = torch.cat([R, t], 1) @ torch.cat([applied, bottom])  # as nerfstudio composes them
    content = {"transform": there.tolist(), "scale": 0.5 * 2.0}
    (tmp_path / "dataparser_transforms.json").write_text(json.dumps(content))
    (tmp_path / "colmap" / "sparse" / "0").mkdir(parents=True)
    stated = {"applied_transform": applied.tolist()} if written else {}
    file = write(tmp_path, [{"transform_matrix": saved.tolist()}], applied_scale=2.0, **stated)
    (camera,) = read_cameras(file, Frame.read(tmp_path / "dataparser_transforms.json"))
    centre = torch.linalg.inv(camera.viewmat)[:3, 3]
    assert torch.allclose(centre, (0.5 * (R @ saved[:3, 3:] + t))[:, 0].float(), atol=1e-5)


@pytest.mark.parametrize(
    "applied", [{"applied_transform": [[1, 0, 0, 0]] * 3}, {"applied_transform": "x"}, {"applied_scale": 0}]
)
def test_bad_applied_transforms(applied: dict[str, Any], tmp_path: Path) -> None:
    content = {"transform": torch.eye(3, 4).tolist(), "scale": 1.0}
    (tmp_path / "d.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="applied_"):
        read_cameras(write(tmp_path, **applied), Frame.read(tmp_path / "d.json"))


def pose(**changes: float) -> list[list[float]]:
    """The identity with entries replaced, by 'rc'."""
    rows = [list(row) for row in IDENTITY]
    for place, value in changes.items():
        rows[int(place[1])][int(place[2])] = value
    return rows


@pytest.mark.parametrize(
    ("frames", "settings", "message"),
    [
        ([], {}, "lists no frames"),
        ({"a": 1}, {}, "lists no frames"),
        ([[1]], {}, "lists no frames"),
        ([{"file_path": "a.png"}], {}, r"frame 0 \(a.png\) of .* has no transform_matrix"),
        ([{"transform_matrix": [[1, 2], [3]]}], {}, "has no transform_matrix of 4x4 numbers"),
        ([{"transform_matrix": "identity"}], {}, "has no transform_matrix of 4x4 numbers"),
        ([{"transform_matrix": IDENTITY[:3]}], {}, "transform_matrix of 3x4: it must be 4x4"),
        ([{"transform_matrix": pose(p03=math.nan)}], {}, "NaN or infinite"),
        ([{"transform_matrix": pose(p00=math.inf)}], {}, "NaN or infinite"),
        ([{"transform_matrix": pose(p22=0)}], {}, "singular"),
        ([{"transform_matrix": pose(p33=0.01)}], {}, "does not end with 0 0 0 1"),
        (None, {"camera_model": "OPENCV_FISHEYE"}, "camera model OPENCV_FISHEYE"),
        (None, {"fl_x": 0}, "fl_x = 0: a focal length must be > 0"),
        (None, {"fl_x": "50"}, "fl_x = '50': it must be a finite number"),
        (None, {"cx": math.nan}, "cx = nan"),
        (None, {"fl_x": None, "fl_y": None}, "has no focal length"),
        (None, {"fl_x": None, "camera_angle_x": 4.0}, "camera_angle_x = 4: it must be between"),
        (None, {"w": 0}, "0x48 px"),
        (None, {"w": 12.5}, "12.5x48 px"),
        (None, {"w": None}, "has no w and h, and its image cannot be opened"),
    ],
)
def test_bad_cameras_are_refused_in_a_sentence(
    frames: Any, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_cameras(write(tmp_path, frames, **settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", b"\xff\xfe"])
def test_bad_json(text: str | bytes, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    for read in (read_cameras, Frame.read):
        with pytest.raises(InputError, match=r"not valid JSON|must hold an object"):
            read(tmp_path / "t.json")
        with pytest.raises(InputError, match="cannot be read"):
            read(tmp_path / "none.json")


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"transform": 3, "scale": 1},
        {"transform": [[1, 2, 3]] * 3, "scale": 1},
        {"transform": IDENTITY[:3], "scale": 0},
    ],
)
def test_bad_frames_of_a_scene(content: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"dataparser_transforms.json|finite 3x4 transform"):
        Frame.read(tmp_path / "d.json")


@pytest.mark.parametrize(("every", "count"), [(1, 5), (3, 4), (10, 1)])
def test_every_camera_comes_once_in_a_round(every: int, count: int) -> None:
    steps = [view_at(step, every, count) for step in range(4 * every * count)]
    rounds = [steps[i : i + every * count] for i in range(0, len(steps), every * count)]
    for views in rounds:
        assert sorted(views[::every]) == list(range(count))
        assert views == [view for view in views[::every] for _ in range(every)]


def test_every_round_is_shuffled_anew() -> None:
    assert len({tuple(view_at(step, 1, 5) for step in range(i, i + 5)) for i in range(0, 20, 5)}) > 1


def test_held_out_views_are_left_out(tmp_path: Path) -> None:
    frames = [{"file_path": f"{n}.png", "transform_matrix": IDENTITY} for n in "abc"]
    file = write(tmp_path, frames, train_filenames=["c.png", "a.png"], test_filenames=["b.png"])
    assert [c.name for c in read_cameras(file)] == ["a.png", "c.png"]
    assert [c.name for c in read_cameras(file, split="test")] == ["b.png"]
    with pytest.raises(InputError, match=r"none of the frames of .* is among its train_filenames"):
        read_cameras(write(tmp_path, frames, train_filenames=["d.png"]))
