"""COLMAP models, in both their forms, beside transforms.json and cameras.json; and what is refused."""

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import randn

from cpds.errors import InputError
from representations.cameras import Camera, Frame, read_cameras
from representations.splats.rasterize import rasterization

NUMBERS = {"SIMPLE_PINHOLE": 0, "PINHOLE": 1, "SIMPLE_RADIAL": 2, "RADIAL": 3, "OPENCV": 4, "OPENCV_FISHEYE": 5}
PINHOLE = ("PINHOLE", 64, 48, (50.0, 60.0, 32.0, 24.0))
NAMES = ["c 3.jpg", "left/a.jpg", "b.jpg"]  # not in their order, and as COLMAP allows them


def quaternions(count: int = 3) -> np.ndarray:
    """w x y z, of length 1."""
    found = randn(0, count, 4).double().numpy()
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def matrix(q: np.ndarray) -> np.ndarray:
    """By Rodrigues' formula, from the axis and the angle."""
    angle, axis = 2 * math.acos(q[0]), q[1:] / np.linalg.norm(q[1:])
    k = np.cross(np.eye(3), axis)
    return np.eye(3) + math.sin(angle) * k + (1 - math.cos(angle)) * k @ k


def poses() -> list[tuple[np.ndarray, np.ndarray]]:
    """Quaternions and translations, world to camera; the origin is before all of the cameras."""
    return [(q, np.array([0.1 * i, -0.05, 3.0 + i])) for i, q in enumerate(quaternions())]


def write_binary(folder: Path, intrinsics: list[Any] | None = None) -> Path:
    """One camera model for all images, or one for each."""
    intrinsics = intrinsics or [PINHOLE]
    cameras = struct.pack("<Q", len(intrinsics))
    for i, (model, w, h, params) in enumerate(intrinsics):
        cameras += struct.pack("<iiQQ", i + 1, NUMBERS.get(model, 99), w, h) + struct.pack(f"<{len(params)}d", *params)
    images = struct.pack("<Q", len(NAMES))
    for i, (name, (q, t)) in enumerate(zip(NAMES, poses(), strict=True)):
        images += struct.pack("<i7di", i + 10, *q, *t, 1 + i % len(intrinsics)) + name.encode() + b"\0"
        images += struct.pack("<Q", i) + i * struct.pack("<ddq", 1.5, 2.5, -1)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cameras.bin").write_bytes(cameras)
    (folder / "images.bin").write_bytes(images)
    return folder


def write_text(folder: Path, intrinsics: list[Any] | None = None) -> Path:
    intrinsics = intrinsics or [PINHOLE]
    cameras = [
        "# Camera list",
        *(f"{i + 1} {m} {w} {h} {' '.join(map(repr, p))}" for i, (m, w, h, p) in enumerate(intrinsics)),
    ]
    images = ["# Image list with two lines of data per image:"]
    for i, (name, (q, t)) in enumerate(zip(NAMES, poses(), strict=True)):
        pose = " ".join(map(repr, map(float, [*q, *t])))
        images += [f"{i + 10} {pose} {1 + i % len(intrinsics)} {name}", " ".join(["1.5 2.5 -1"] * i)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cameras.txt").write_text("\n".join(cameras) + "\n")
    (folder / "images.txt").write_text("\n".join(images) + "\n")
    return folder


def write_listed(folder: Path, **changes: Any) -> Path:
    """As 3DGS writes it: the inverse of world to camera, row by row."""
    found = []
    for i, (name, (q, t)) in enumerate(zip(NAMES, poses(), strict=True)):
        rotation = matrix(q).T
        plain = {"id": i, "img_name": name, "width": 64, "height": 48, "fx": 50.0, "fy": 60.0}
        plain |= {"position": (-rotation @ t).tolist(), "rotation": rotation.tolist()}
        found.append({k: v for k, v in (plain | changes).items() if v is not None})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cameras.json").write_text(json.dumps(found))
    return folder / "cameras.json"


def write_transforms(folder: Path) -> Path:
    """nerfstudio's axes: y up and z back, camera to world."""
    frames = []
    for name, (q, t) in zip(NAMES, poses(), strict=True):
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = matrix(q).T * [1, -1, -1], -matrix(q).T @ t
        frames.append({"file_path": name, "transform_matrix": pose.tolist()})
    folder.mkdir(parents=True, exist_ok=True)
    size = {"w": 64, "h": 48, "fl_x": 50.0, "fl_y": 60.0, "cx": 32.0, "cy": 24.0}
    (folder / "transforms.json").write_text(json.dumps(size | {"frames": frames}))
    return folder / "transforms.json"


WRITERS = {"binary": write_binary, "text": write_text, "3dgs": write_listed, "transforms": write_transforms}


def rendered(camera: Camera) -> torch.Tensor:
    """What it sees of some gaussians about the origin."""
    n = 30
    render, _, _ = rasterization(
        means=0.4 * randn(1, n, 3),
        quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(n, 1),
        scales=torch.full((n, 3), 0.15),
        opacities=torch.full((n,), 0.7),
        colors=randn(2, n, 3).sigmoid(),
        viewmats=camera.viewmat[None],
        Ks=camera.k[None],
        width=camera.width,
        height=camera.height,
    )
    return render[0]


@pytest.mark.parametrize("form", ["binary", "text", "3dgs"])
def test_every_format_gives_the_same_renders(form: str, tmp_path: Path) -> None:
    wanted = {c.name: c for c in read_cameras(write_transforms(tmp_path / "nerfstudio"))}
    found = read_cameras(WRITERS[form](tmp_path / "other"))
    assert [c.name for c in found] == (NAMES if form == "3dgs" else sorted(NAMES))
    for camera in found:
        other = wanted[camera.name]
        assert torch.allclose(camera.viewmat, other.viewmat, atol=1e-5)
        assert torch.equal(camera.k, other.k)
        assert (camera.width, camera.height) == (64, 48)
        assert torch.allclose(rendered(camera), rendered(other), atol=1e-4)
        assert rendered(camera).std() > 0.05


@pytest.mark.parametrize("form", ["binary", "text", "3dgs"])
def test_a_frame_places_every_format(form: str, tmp_path: Path) -> None:
    rotation = torch.tensor(matrix(quaternions(5)[4]))
    frame = Frame(rotation, torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64), 0.4)
    wanted = {c.name: c for c in read_cameras(write_transforms(tmp_path / "nerfstudio"), frame)}
    for camera in read_cameras(WRITERS[form](tmp_path / "other"), frame):
        assert torch.allclose(camera.viewmat, wanted[camera.name].viewmat, atol=1e-5)


@pytest.mark.parametrize("write", [write_binary, write_text])
def test_intrinsics_of_the_models(write: Any, tmp_path: Path) -> None:
    models = [
        ("SIMPLE_PINHOLE", 64, 48, (50.0, 31.0, 23.0)),
        ("PINHOLE", 32, 24, (51.0, 61.0, 15.0, 11.0)),
        ("OPENCV", 20, 22, (52.0, 62.0, 9.0, 10.0, 0.0, 0.0, 0.0, 0.0)),
    ]
    third, first, second = read_cameras(write(tmp_path / "m", [models[1], models[2], models[0]]))
    assert third.k.tolist() == [[50, 0, 31], [0, 50, 23], [0, 0, 1]]
    assert first.k.tolist() == [[51, 0, 15], [0, 61, 11], [0, 0, 1]]
    assert second.k.tolist() == [[52, 0, 9], [0, 62, 10], [0, 0, 1]]
    assert [(c.width, c.height) for c in (third, first, second)] == [(64, 48), (32, 24), (20, 22)]


@pytest.mark.parametrize("write", [write_binary, write_text])
def test_distortion_is_left_out_with_a_warning(write: Any, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="lens distortion in .* is left out"):
        bent = read_cameras(write(tmp_path / "m", [("SIMPLE_RADIAL", 64, 48, (50.0, 32.0, 24.0, 0.1))]))
    straight = read_cameras(write(tmp_path / "n", [("SIMPLE_PINHOLE", 64, 48, (50.0, 32.0, 24.0))]))
    assert all(torch.equal(a.viewmat, b.viewmat) and torch.equal(a.k, b.k) for a, b in zip(bent, straight, strict=True))
    with pytest.raises(InputError, match=r"camera model OPENCV_FISHEYE: undistort it \(colmap image_undistorter\)"):
        read_cameras(write(tmp_path / "f", [("OPENCV_FISHEYE", 64, 48, (50.0, 50.0, 32.0, 24.0, 0.0, 0.0, 0.0, 0.0))]))


@pytest.mark.parametrize("write", [write_binary, write_text])
def test_nerfstudios_reader_gives_the_same(write: Any, tmp_path: Path) -> None:
    theirs = pytest.importorskip("nerfstudio.data.utils.colmap_parsing_utils")
    folder = write(tmp_path / "m")
    (name,) = (f.suffix for f in folder.glob("images.*"))
    read = theirs.read_images_binary if name == ".bin" else theirs.read_images_text
    images = {image.name: image for image in read(folder / f"images{name}").values()}
    for camera in read_cameras(folder):
        image = images[camera.name if name == ".bin" else camera.name.split()[0]]  # its text reader stops at spaces
        assert np.allclose(camera.viewmat[:3, :3], theirs.qvec2rotmat(image.qvec), atol=1e-6)
        assert np.allclose(camera.viewmat[:3, 3], image.tvec, atol=1e-6)


# ---- which of them a path means


@pytest.mark.parametrize(
    ("form", "below", "given"),
    [
        ("binary", "sparse/0", "."),  # what 3DGS trains on
        ("binary", "sparse/0", "sparse"),
        ("binary", "sparse/0", "sparse/0"),
        ("text", "sparse", "."),
        ("binary", "0", "."),
        ("binary", ".", "images.bin"),
        ("text", ".", "cameras.txt"),
        ("3dgs", ".", "."),  # what 3DGS writes
        ("transforms", ".", "."),
    ],
)
def test_a_folder_stands_for_what_it_holds(form: str, below: str, given: str, tmp_path: Path) -> None:
    WRITERS[form](tmp_path / below)
    assert {c.name for c in read_cameras(tmp_path / given)} == set(NAMES)


def test_files_are_told_apart_by_what_they_hold(tmp_path: Path) -> None:
    write_listed(tmp_path).rename(tmp_path / "transforms.json")
    assert [c.name for c in read_cameras(tmp_path)] == NAMES
    write_transforms(tmp_path / "b").rename(tmp_path / "odd name.txt")
    assert [c.name for c in read_cameras(tmp_path / "odd name.txt")] == NAMES


def test_several_sets_of_cameras_are_named(tmp_path: Path) -> None:
    write_transforms(tmp_path)
    write_text(tmp_path / "sparse/0")
    write_binary(tmp_path / "sparse/1")
    names = ["transforms.json", "sparse/0", "sparse/1"]
    with pytest.raises(InputError, match=f"name one of {', '.join(str(tmp_path / name) for name in names)}$"):
        read_cameras(tmp_path)
    with pytest.raises(InputError, match="holds several sets of cameras"):
        read_cameras(tmp_path / "sparse")
    assert len(read_cameras(tmp_path / "transforms.json")) == len(read_cameras(tmp_path / "sparse/0")) == 3


def test_a_folder_without_cameras(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no cameras: it needs a transforms.json, 3DGS's cameras.json,"):
        read_cameras(tmp_path)


# ---- damage


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin"])
def test_a_file_that_is_cut_off_anywhere(name: str, tmp_path: Path) -> None:
    content = (write_binary(tmp_path) / name).read_bytes()
    for length in range(len(content)):
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(InputError, match=f"{name} is cut off or damaged") as caught:
            read_cameras(tmp_path)
        assert "\n" not in str(caught.value)


def spoiled(name: str, old: str | bytes, new: str | bytes) -> Any:
    def case(folder: Path) -> None:
        (write_binary if name.endswith(".bin") else write_text)(folder)
        a, b = (x.encode() if isinstance(x, str) else x for x in (old, new))
        assert a in (folder / name).read_bytes()
        (folder / name).write_bytes((folder / name).read_bytes().replace(a, b, 1))

    return case


def without(name: str) -> Any:
    def case(folder: Path) -> None:
        (write_binary if name.endswith(".bin") else write_text)(folder)
        (folder / name).unlink()

    return case


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("images.bin"), r"images.bin cannot be read \(No such file or directory\)"),
        (without("images.txt"), "images.txt cannot be read"),
        (spoiled("cameras.bin", struct.pack("<ii", 1, 1), struct.pack("<ii", 1, 77)), "unknown camera model 77"),
        (spoiled("cameras.bin", struct.pack("<ii", 1, 1), struct.pack("<ii", 5, 1)), "names camera 1, which .* lacks"),
        (spoiled("cameras.bin", struct.pack("<d", 50), struct.pack("<d", -50)), "fx = -50: a focal length must be > 0"),
        (spoiled("cameras.bin", struct.pack("<Q", 64), struct.pack("<Q", 0)), "is 0x48 px"),
        (spoiled("images.bin", struct.pack("<d", 3), struct.pack("<d", math.nan)), "has a pose that is none"),
        (spoiled("images.bin", b"left", b"\xff\xfe__"), "images.bin is cut off or damaged"),
        (spoiled("cameras.txt", "PINHOLE 64", "PINHOLE wide"), "cameras.txt is cut off or damaged"),
        (spoiled("cameras.txt", "PINHOLE", "OPENCV"), "camera model OPENCV with 4 parameters"),
        (spoiled("cameras.txt", "PINHOLE", "MINE"), "camera model MINE with 4 parameters"),
        (spoiled("images.txt", "c 3.jpg\n\n", "c 3.jpg\n"), "c 3.jpg is not followed by a line with its points"),
        (spoiled("images.txt", " 1 c 3.jpg", ""), "images.txt is cut off or damaged"),
    ],
)
def test_damage_is_refused_in_a_sentence(spoil: Any, message: str, tmp_path: Path) -> None:
    spoil(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        read_cameras(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_model_without_images(tmp_path: Path) -> None:
    write_binary(tmp_path)
    (tmp_path / "images.bin").write_bytes(struct.pack("<Q", 0))
    with pytest.raises(InputError, match="has no images"):
        read_cameras(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fx": None, "position": None}, r"camera 0 \(c 3.jpg\) of .* lacks position, fx"),
        ({"fx": -50}, "has fx = -50: a focal length must be > 0"),
        ({"width": 12.5}, "is 12.5x48 px"),
        ({"height": "tall"}, "has h = 'tall': it must be a finite number"),
        ({"position": [0, 1]}, "needs a rotation of 3x3 numbers and a position of 3"),
        ({"position": [0, 1, math.nan]}, "needs a rotation of 3x3 numbers and a position of 3"),
        ({"rotation": [[1, 0], [0, 1]]}, "needs a rotation of 3x3 numbers and a position of 3"),
        ({"rotation": [[1, 0, 0], [0, 1, 0], [0, 0, 0]]}, "has a rotation that is none"),
        ({"rotation": [[1, 0, 0], [0, 1, 0], [0, 0, math.nan]]}, "has a rotation that is none"),
        ({"rotation": [[1, 0, 0], [0, 1, 0], [0, 0, -1]]}, "has a rotation that is none"),  # a mirror
    ],
)
def test_bad_cameras_of_3dgs(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_cameras(write_listed(tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_an_empty_list(tmp_path: Path) -> None:
    (tmp_path / "cameras.json").write_text("[]")
    with pytest.raises(InputError, match="lists no cameras"):
        read_cameras(tmp_path)
