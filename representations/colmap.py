"""The views of a COLMAP model: cameras.bin and images.bin, else cameras.txt and images.txt, as COLMAP documents them.

Poses are world to camera in OpenCV's axes (x right, y down, z ahead); pixel centres lie at halves.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cpds.errors import InputError
from representations.pinhole import Camera, Frame, pinhole, warn_of_distortion
from representations.splats.projection import quat_to_rotmat

MODELS = {  # by number: name, and how many parameters
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
    11: ("RAD_TAN_THIN_PRISM_FISHEYE", 16),
}
FOCALS = {"SIMPLE_PINHOLE": 1, "SIMPLE_RADIAL": 1, "RADIAL": 1, "PINHOLE": 2, "OPENCV": 2, "FULL_OPENCV": 2}


@dataclass(frozen=True)
class Intrinsics:
    """What COLMAP calls a camera; `params` in its order: focal lengths, principal point (px), distortion."""

    model: str
    width: int
    height: int
    params: tuple[float, ...]


@dataclass(frozen=True)
class View:
    """What COLMAP calls an image: quaternion w x y z and translation, world to camera."""

    name: str
    intrinsics: Intrinsics
    quat: tuple[float, ...]
    translation: tuple[float, ...]


def is_model(folder: Path) -> bool:
    """Whether COLMAP's cameras are there."""
    return any((folder / f"cameras{suffix}").is_file() for suffix in (".bin", ".txt"))


def colmap_cameras(folder: Path, frame: Frame | None) -> list[Camera]:
    """One for each image, by name. Raises InputError for a model or a view that cannot be used."""
    views = _read_model(folder)
    if not views:
        raise InputError(f"the COLMAP model in {folder} has no images: give one with at least one camera")
    cameras = [_camera(folder, view, frame) for view in views]
    if any(any(v.intrinsics.params[FOCALS[v.intrinsics.model] + 2 :]) for v in views):
        warn_of_distortion(folder)
    return cameras


def _camera(folder: Path, view: View, frame: Frame | None) -> Camera:
    where, found = f"image {view.name} of {folder}", view.intrinsics
    if found.model not in FOCALS:
        raise InputError(f"{where} has the camera model {found.model}: undistort it (colmap image_undistorter)")
    focals = FOCALS[found.model]
    numbers = {"fx": found.params[0], "fy": found.params[focals - 1], "w": found.width, "h": found.height}
    numbers |= {"cx": found.params[focals], "cy": found.params[focals + 1]}
    quat, translation = (torch.tensor(x, dtype=torch.float64) for x in (view.quat, view.translation))
    if not torch.isfinite(torch.cat([quat, translation])).all() or not quat.any():
        raise InputError(f"{where} has a pose that is none ({view.quat}, {view.translation}): export the model again")
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[:3, :3], viewmat[:3, 3] = quat_to_rotmat(quat[None])[0], translation
    return pinhole(view.name, where, torch.linalg.inv(viewmat), numbers, frame)


def _read_model(folder: Path) -> list[View]:
    """Its images, by name. Raises InputError for a file that is missing, cut off or damaged."""
    suffix = ".bin" if (folder / "cameras.bin").is_file() else ".txt"
    cameras, images = folder / f"cameras{suffix}", folder / f"images{suffix}"
    parsers = (_binary_cameras, _binary_images) if suffix == ".bin" else (_text_cameras, _text_images)
    intrinsics, poses = dict(_parsed(cameras, parsers[0])), _parsed(images, parsers[1])
    if unknown := sorted({camera for _, camera, _ in poses} - intrinsics.keys()):
        raise InputError(f"{images} names camera {unknown[0]}, which {cameras} lacks: copy or export both again")
    views = [View(name, intrinsics[camera], pose[:4], pose[4:]) for name, camera, pose in poses]
    return sorted(views, key=lambda view: view.name)


def _parsed(file: Path, parse: Callable[[bytes], Iterator[Any]]) -> list[Any]:
    try:
        return list(parse(file.read_bytes()))
    except OSError as err:
        raise InputError(f"{file} cannot be read ({err.strerror}): a COLMAP model needs cameras and images") from err
    except (struct.error, ValueError, IndexError, KeyError) as err:
        raise InputError(f"{file} is cut off or damaged ({err}): copy it, or export the COLMAP model, again") from err


def _binary_cameras(data: bytes) -> Iterator[tuple[int, Intrinsics]]:
    (count,), at = struct.unpack_from("<Q", data), 8
    for _ in range(count):
        number, kind, width, height = struct.unpack_from("<iiQQ", data, at)
        if kind not in MODELS:
            raise ValueError(f"unknown camera model {kind}")
        model, size = MODELS[kind]
        yield number, Intrinsics(model, width, height, struct.unpack_from(f"<{size}d", data, at + 24))
        at += 24 + 8 * size


def _binary_images(data: bytes) -> Iterator[tuple[str, int, tuple[float, ...]]]:
    (count,), at = struct.unpack_from("<Q", data), 8
    for _ in range(count):
        _, *pose, camera = struct.unpack_from("<i7di", data, at)
        end = data.index(b"\0", at + 64)
        (points,) = struct.unpack_from("<Q", data, end + 1)
        yield data[at + 64 : end].decode(), camera, tuple(pose)
        at = end + 9 + 24 * points
    if at > len(data):
        raise ValueError("the last image's points are missing")


def _text_cameras(data: bytes) -> Iterator[tuple[int, Intrinsics]]:
    for line in data.decode().splitlines():
        if words := _words(line):
            number, model, width, height, *params = words
            size = dict(MODELS.values()).get(model)
            if size != len(params):
                raise ValueError(f"camera model {model} with {len(params)} parameters")
            yield int(number), Intrinsics(model, int(width), int(height), tuple(map(float, params)))


def _text_images(data: bytes) -> Iterator[tuple[str, int, tuple[float, ...]]]:
    lines = iter(data.decode().splitlines())
    for line in lines:
        if words := _words(line, 9):
            _, *pose, camera, name = words
            points = next(lines, "").split()  # a line of its own, often empty: x y and the point's number
            if len(pose) != 7 or len(points) % 3 or (points and not points[-1].lstrip("-").isdecimal()):
                raise ValueError(f"image {name} is not followed by a line with its points")
            yield name, int(camera), tuple(map(float, pose))


def _words(line: str, most: int = -1) -> list[str]:
    """An empty list for a comment or an empty line."""
    return [] if line.lstrip().startswith("#") else line.split(maxsplit=most)
