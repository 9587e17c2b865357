"""Scenes from made-up icons: cameras, images, points and splats agree with each other and with closed forms."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import grid_sample

from representations.cameras import Camera, read_cameras
from representations.splats.ply import SplatFile
from scripts.emoji_prior import icons, packages
from scripts.toy_scene import draw
from scripts.toy_scene import icons as scene_icons
from scripts.toy_scene.__main__ import main
from scripts.toy_scene.raycast import cast, rays, render
from scripts.toy_scene.relief import FLOOR, bilinear, distances, profile, relief_of
from scripts.toy_scene.splats import drawn, rotations_to, spacing
from scripts.toy_scene.views import arc, focal

SMALL = ["--side", "48", "--views", "5", "--held_out", "2", "--points", "400", "--samples", "2"]


def disc(radius: float = 0.8, side: int = 256) -> Tensor:
    """A grey disc of a radius in halves of the side; a red spot on it at x = 0.3, z = 0.2, a green one to the left."""
    at = (torch.arange(side) + 0.5) / side * 2 - 1
    x, z = at[None, :], -at[:, None]
    rgba = torch.full((4, side, side), 0.7)
    for centre, channel in (((0.3, 0.2), 0), ((-0.4, -0.1), 1)):
        spot = (x - centre[0]) ** 2 + (z - centre[1]) ** 2 < 0.12**2
        rgba[:3, spot] = torch.tensor([0.1, 0.1, 0.1])[:, None]
        rgba[channel, spot] = 0.9
    # coverage of the rim's pixels by distance: as smooth as a renderer's
    rgba[3] = ((radius - (x**2 + z**2).sqrt()) * side / 2 + 0.5).clamp(0, 1)
    return rgba


@pytest.fixture(scope="module")
def icon_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("icon") / "grey_disc.png"
    Image.fromarray((disc() * 255).round().byte().permute(1, 2, 0).numpy(), "RGBA").save(file)
    return file


@pytest.fixture(scope="module")
def made(icon_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "scene"
    assert main(["--out", str(folder), "--image", str(icon_file), *SMALL]) == 0
    return folder


def load(path: Path) -> Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1).float() / 255


def pixel(camera: Camera, points: Tensor) -> Tensor:
    """Where points (n, 3) appear, in px from the top left corner."""
    seen = (points @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]) @ camera.k.T
    assert (seen[:, 2] > 0).all()
    return seen[:, :2] / seen[:, 2:]


def poses_of(folder: Path) -> Tensor:
    frames = json.loads((folder / "transforms.json").read_text())["frames"]
    return torch.tensor([f["transform_matrix"] for f in frames], dtype=torch.float64)


def test_distances_are_those_to_the_nearest_cell() -> None:
    where = torch.rand(23, 23, generator=torch.Generator().manual_seed(0)) > 0.95
    cells = torch.cartesian_prod(torch.arange(23), torch.arange(23)).float()
    naive = torch.cdist(cells, cells[where.flatten()]).amin(1).view(23, 23)
    torch.testing.assert_close(distances(where), (naive - 0.5).clamp(min=0))


def test_poses_are_rotations_that_look_at_the_centre() -> None:
    poses = arc(40, 3.0, 60.0, (5.0, 30.0), torch.Generator().manual_seed(0))
    rotation, place = poses[:, :3, :3], poses[:, :3, 3]
    torch.testing.assert_close(rotation.mT @ rotation, torch.eye(3, dtype=torch.float64).expand(40, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(40, dtype=torch.float64))
    torch.testing.assert_close(place - 3 * rotation[:, :, 2], torch.zeros_like(place))  # the axis meets the origin
    assert rotation[:, 2, 0].abs().max() < 1e-12  # the horizon is level
    assert (rotation[:, 2, 1] > 0).all()  # and up is up
    azimuth = torch.atan2(place[:, 0], -place[:, 1]).rad2deg()
    elevation = (place[:, 2] / 3).asin().rad2deg()
    assert (azimuth.diff() > 0).all()
    assert -60 <= azimuth.min() < -55 < 55 < azimuth.max() <= 60
    assert 5 <= elevation.min() < 10 < 25 < elevation.max() <= 30


def test_rays_end_on_the_sphere_that_a_disc_makes() -> None:
    """A disc whose slab is as thick, and as round, as its radius is a sphere."""
    radius = 0.8
    relief = relief_of(disc(radius), torch.ones(3), 6.0, thickness=radius, rounding=radius)
    pose = arc(1, 4.0, 50.0, (10.0, 10.0), torch.Generator().manual_seed(3))[0].float()
    directions = rays(pose, focal(64, 40.0), 64)
    hits, origin = cast(relief, pose[:3, 3], directions), pose[:3, 3]
    a, b, c = (directions**2).sum(1), directions @ origin, origin @ origin - radius**2
    depth = (-b - (b**2 - a * c).sqrt()) / a
    missed = depth.isnan()
    gap = (origin + (-b / a)[:, None] * directions).norm(dim=1) - radius  # of the ray's nearest point to the sphere
    clear = gap.abs() > 0.03
    assert (hits.solid == ~missed)[clear].all()
    hit = ~missed & clear
    assert hit.sum() > 500
    assert (hits.depth - depth)[hit].abs().max() < 0.02
    cosines = (hits.normals * hits.points / radius).sum(1)[hit]
    assert cosines.min() > 0.99
    floor = hits.points[missed, 2] < FLOOR + 1e-3  # all else ends on the ground or the dome
    assert 0.1 < floor.float().mean() < 0.9
    torch.testing.assert_close(hits.points[missed][~floor].norm(dim=1), torch.tensor(6.0).expand(int((~floor).sum())))


def cameras_of(scene: Path) -> list[Camera]:
    """Those for training and those held out, in the order of the frames."""
    return sorted([*read_cameras(scene), *read_cameras(scene, split="test")], key=lambda camera: camera.name)


def test_a_spot_of_the_icon_appears_where_the_cameras_file_says(made: Path) -> None:
    """The spots lie where the slab is flat, at y = -0.3; each of 7 views shows their middle within 3/4 px."""
    for camera in cameras_of(made):
        image = load(made / camera.name)
        y, x = torch.meshgrid(torch.arange(48) + 0.5, torch.arange(48) + 0.5, indexing="ij")
        for place, channel in (((0.3, -0.3, 0.2), 0), ((-0.4, -0.3, -0.1), 1)):
            others = image[[c for c in range(3) if c != channel]].amax(0)
            weight = (image[channel] - others).clamp(min=0) * (image[2] < 0.6)
            weight = weight * (weight > 0.1)
            assert weight.sum() > 1
            middle = torch.stack([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
            assert (middle - pixel(camera, torch.tensor([place]))[0]).norm() < 0.75


def test_views_are_consistent(made: Path) -> None:
    """What one view sees has the same colour in the next one, unless something is before it there."""
    relief = relief_of(disc(), torch.tensor(icons.BACKGROUNDS["blue"]) / 255, 1.6 / 0.72 / math.tan(math.radians(20)))
    cameras, poses = cameras_of(made), poses_of(made).float()
    for i in range(len(cameras) - 1):
        zoom = float(cameras[i].k[0, 0])
        hits = cast(relief, poses[i, :3, 3], rays(poses[i], zoom, 48))
        at = pixel(cameras[i + 1], hits.points)
        there = hits.points - poses[i + 1, :3, 3]
        seen = (cast(relief, poses[i + 1, :3, 3], there).depth > 0.99) & ((at > 1) & (at < 47)).all(1)
        assert seen[hits.solid].float().mean() > 0.6
        here, other = load(made / cameras[i].name), load(made / cameras[i + 1].name)
        found = grid_sample(other[None], (at / 24 - 1)[None, None], align_corners=False)[0, :, 0]
        apart = (found - here.flatten(1)).abs().amax(0)[seen]
        assert apart.median() < 0.01
        assert (apart < 0.1).float().mean() > 0.85  # others lie on edges of colour
        wrong = grid_sample(other.flip(2)[None], (at / 24 - 1)[None, None], align_corners=False)[0, :, 0]
        assert apart.mean() < 0.5 * (wrong - here.flatten(1)).abs().amax(0)[seen].mean()


def test_an_image_is_the_mean_of_finer_ones() -> None:
    relief = relief_of(disc(), torch.ones(3), 6.0)
    pose = arc(1, 4.0, 30.0, (10.0, 10.0), torch.Generator().manual_seed(0))[0].float()
    fine, cover = render(relief, pose, focal(64, 40.0), 64, 1)
    coarse, covered = render(relief, pose, focal(32, 40.0), 32, 2)
    torch.testing.assert_close(coarse, fine.unfold(1, 2, 2).unfold(2, 2, 2).mean((3, 4)), atol=1e-5, rtol=0)
    torch.testing.assert_close(covered, cover.unfold(1, 2, 2).unfold(2, 2, 2).mean((3, 4)))


def test_the_files_say_what_nerfstudio_reads(made: Path) -> None:
    meta, about = (json.loads((made / name).read_text()) for name in ("transforms.json", "scene.json"))
    names = [f["file_path"] for f in meta["frames"]]
    assert names == sorted(names)
    assert meta["val_filenames"] == meta["test_filenames"]
    assert sorted(meta["train_filenames"] + meta["test_filenames"]) == names
    assert (len(meta["train_filenames"]), len(meta["test_filenames"])) == (5, 2)
    assert not {names[0], names[-1]} & set(meta["test_filenames"])  # between others
    for camera, pose in zip(cameras_of(made), poses_of(made), strict=True):
        assert load(made / camera.name).shape == (3, camera.height, camera.width) == (3, 48, 48)
        assert set(np.unique(np.array(Image.open(made / "masks" / Path(camera.name).name)))) == {0, 255}
        torch.testing.assert_close(torch.linalg.inv(camera.viewmat)[:3, 3], pose[:3, 3].float())
    assert about["caption"] == "a grey disc on a blue background"
    assert about["image"] == "grey_disc.png"
    assert about["seed"] == 0


def test_points_lie_on_the_surface_and_have_its_colours(made: Path) -> None:
    head, body = (made / meta_ply(made)).read_bytes().split(b"end_header\n")
    assert b"element vertex 400\n" in head
    kinds = [(axis, "<f4") for axis in "xyz"] + [(c, "u1") for c in ("red", "green", "blue")]
    table = np.frombuffer(body, kinds)
    assert len(table) == 400
    x, y, z = (torch.from_numpy(table[axis].copy()) for axis in "xyz")
    relief = relief_of(disc(), torch.ones(3), 6.0)
    solid = (y.abs() < 0.31) & (z > FLOOR + 0.05) & (x.abs() < 1)
    assert solid.float().mean() == pytest.approx(0.7, abs=0.02)
    d = bilinear(relief.distance, x, z)[:, 0]
    assert (profile(relief, d) - y.abs())[solid & (d > 0.05)].abs().max() < 1e-2
    red = torch.from_numpy(table["red"].astype(np.float32) - table["green"])
    spot = solid & ((x - 0.3) ** 2 + (z - 0.2) ** 2 < 0.1**2)
    assert spot.any()
    assert (red[spot] > 100).all()
    assert (red[solid & (x < 0) & (d > 0.1)] < 10).all()


def meta_ply(folder: Path) -> str:
    return json.loads((folder / "transforms.json").read_text())["ply_file_path"]


def test_seeds_reproduce_bytes(icon_file: Path, tmp_path: Path) -> None:
    few = ["--image", str(icon_file), "--side", "24", "--views", "3", "--held_out", "1", "--points", "50"]
    few += ["--splats", "60", "--fit_steps", "3"]
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert main(["--out", str(tmp_path / name), *few, "--seed", str(seed)]) == 0
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 2 * 4 + 4
    for file in files:
        one, same, other = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert one == same
        assert one != other


def test_the_target_is_another_icon_before_the_same_cameras(icon_file: Path, made: Path, tmp_path: Path) -> None:
    Image.open(icon_file).rotate(180).save(tmp_path / "turned.png")
    argv = ["--out", str(tmp_path / "pair"), "--image", str(icon_file), "--noun", "coin"]
    assert main([*argv, *SMALL, "--target", str(tmp_path / "turned.png")]) == 0
    pair = tmp_path / "pair"
    assert (pair / "target" / "transforms.json").read_bytes() == (pair / "transforms.json").read_bytes()
    assert json.loads((pair / "scene.json").read_text())["caption"] == "a coin on a blue background"
    assert json.loads((pair / "target" / "scene.json").read_text())["caption"] == "a turned on a blue background"
    for file in sorted((pair / "images").iterdir()):
        assert file.read_bytes() == (made / "images" / file.name).read_bytes()
        before, after = (load(folder / "images" / file.name) for folder in (pair, pair / "target"))
        covered = torch.from_numpy(np.array(Image.open(pair / "masks" / file.name))) > 0
        changed = (before - after).abs().amax(0)
        assert changed[~covered].max() < 0.02  # the outline is the same
        assert changed[covered].max() > 0.3


def test_splats_show_the_scene(icon_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = {}
    for steps in (0, 80):
        out = tmp_path / str(steps)
        argv = ["--out", str(out), "--image", str(icon_file), *SMALL, "--side", "32", "--views", "8"]
        assert main([*argv, "--splats", "400", "--fit_steps", str(steps)]) == 0
        scores[steps] = json.loads((out / "scene.json").read_text())["splats_psnr"]
        assert f"400 gaussians, {scores[steps]:.1f} dB" in capsys.readouterr().out
    assert scores[80] > 25 > scores[0] > 12
    splats = SplatFile.read(tmp_path / "80" / "scene.ply").gaussians
    assert len(splats.means) == 400
    held_out = read_cameras(out, split="test")
    assert len(held_out) == 2
    errors = [(drawn(splats, c).clamp(0, 1) - load(out / c.name)).square().mean() for c in held_out]
    assert float(-10 * torch.stack(errors).log10().mean()) == pytest.approx(scores[80], abs=0.01)


def test_gaussians_lie_flat_and_as_wide_as_their_neighbours_are_far() -> None:
    normals = torch.nn.functional.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    normals[0] = torch.tensor([0.0, 0.0, -1.0])
    w, x, y, z = rotations_to(normals).unbind(1)
    third = torch.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x**2 + y**2)], 1)  # of the matrix
    torch.testing.assert_close(third, normals, atol=1e-6, rtol=0)
    grid = torch.cartesian_prod(torch.arange(5.0), torch.arange(5.0), torch.zeros(1)) * 0.1
    torch.testing.assert_close(spacing(grid, 1), torch.full((25,), 0.1))


def named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One package of one icon, in no need of npm."""
    drawing = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 4"><path fill="red" d="M1 1h2v2h-2z"/></svg>'
    monkeypatch.setattr(scene_icons, "fetch_package", lambda name, cache: Path(name))
    monkeypatch.setattr(scene_icons, "svg_sources", lambda folder: {"cat-face": drawing, "fire": drawing})


def test_an_icon_is_found_by_name_and_style(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    named(monkeypatch)
    icon = scene_icons.find_icon("cat-face", "twemoji", 64)
    assert (icon.noun, icon.origin["style"], icon.origin["licence"]) == ("cat face", "twemoji", "CC-BY-4.0")
    torch.testing.assert_close(icon.rgba[:, 32, 32], torch.tensor([1.0, 0, 0, 1]))
    assert icon.rgba[3].mean() == 0.25
    (tmp_path / "wide.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 2"><path fill="lime" d="M0 0h4v2h-4z"/></svg>'
    )
    wide = scene_icons.find_icon(str(tmp_path / "wide.svg"), "twemoji", 64).rgba[3]
    assert wide.shape == (64, 64)
    assert wide[:16].max() == wide[-16:].max() == 0
    assert wide[17:-17].min() == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--views", "1"], "views must be >= 2, got 1"),
        (["--held_out", "0"], "held_out"),
        (["--held_out", "31"], "held_out"),
        (["--side", "8"], "side must be 16 ... 2048 px, got 8"),
        (["--fov", "nan"], "fov"),
        (["--azimuth", "0"], "azimuth"),
        (["--elevation", "20", "10"], "elevation"),
        (["--elevation", "-20", "10"], "elevation"),
        (["--samples", "0"], "samples"),
        (["--points", "0"], "points"),
        (["--splats", "-1"], "splats"),
        (["--splats", "99999999"], "splats"),
        (["--fit_steps", "-1"], "fit_steps"),
        (["--background", "mauve"], "background must be one of white, black"),
        (["--style", "oil"], "style must be one of noto, twemoji"),
        (["--icon", "cta-face"], "(cat-face"),
        (["--image", "nowhere.png"], "nowhere.png does not exist"),
        (["--image", "opaque.png"], "no transparent background"),
        (["--image", "empty.png"], "almost entirely transparent"),
        (["--image", "text.png"], "not an image"),
        (["--image", "text.svg"], "cannot be read"),
        (["--image", "tiny.png"], "at least 16x16"),
        (["--target", "nowhere.svg"], "nowhere.svg does not exist"),
        (["--out", "full"], "not an empty folder"),
        (["--out", "text.png"], "not an empty folder"),
        (["--out", "text.png/scene"], "cannot be written"),
        (["--out", "."], "not an empty folder"),
        (["--viewz", "3"], "viewz"),
        (["--views", "many"], "many"),
    ],
)
def test_bad_input_is_one_sentence(
    flags: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    named(monkeypatch)
    monkeypatch.chdir(tmp_path)
    for name, alpha in (("opaque.png", 255), ("empty.png", 0)):
        Image.new("RGBA", (20, 20), (9, 9, 9, alpha)).save(name)
    Image.new("RGBA", (8, 8)).save("tiny.png")
    for name in ("text.png", "text.svg"):
        Path(name).write_text("no image")
    Path("full").mkdir()
    Path("full/kept").touch()
    before = sorted(tmp_path.rglob("*"))
    assert main(["--out", "new", *flags]) == 2
    error = capsys.readouterr().err
    assert message in " ".join(line.strip("│ ") for line in error.splitlines())
    if flags[0] in ("--icon", "--image", "--target", "--out"):  # of a flag that cannot be parsed tyro says more
        assert error.startswith("error: ")
        assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_without_npm_the_remedy_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CPDS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    assert main(["--out", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert "npm" in error
    assert "or give an image" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("*new*"))


@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_scene_leaves_nothing(
    problem: BaseException,
    icon_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(hits: object) -> bytes:
        raise problem

    monkeypatch.setattr(draw, "cloud", fail)
    code = main(["--out", str(tmp_path / "new"), "--image", str(icon_file), *SMALL])
    assert code == (2 if isinstance(problem, OSError) else 130)
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())
