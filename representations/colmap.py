"""The views of a COLMAP model: cameras.bin and images.bin, else cameras.txt and images.txt, as COLMAP documents them.

Poses are world to camera in OpenCV's axes (x right, y down, z ahead); pixel centres lie at halves.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpds.errors import InputError

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
class Lens:
    """Intrinsics, `params` in COLMAP's order: focal lengths, principal point (px), distortion."""

    model: str
    width: int
    height: int
    params: tuple[float, ...]


@dataclass(frozen=True)
class View:
    """A registered image: quaternion w x y z and translation, world to camera."""

    name: str
    lens: Lens
    quat: tuple[float, ...]
    translation: tuple[float, ...]


def is_model(folder: Path) -> bool:
    """Whether COLMAP's cameras are there."""
    return any((folder / f"cameras{suffix}").is_file() for suffix in (".bin", ".txt"))


def read_model(folder: Path) -> list[View]:
    """Its images, by name. Raises InputError for a file that is missing, cut off or damaged."""
    suffix = ".bin" if (folder / "cameras.bin").is_file() else ".txt"
    cameras, images = folder / f"cameras{suffix}", folder / f"images{suffix}"
    read = (_lenses, _poses) if suffix == ".bin" else (_lenses_text, _poses_text)
    lenses, poses = dict(_parsed(cameras, read[0])), list(_parsed(images, read[1]))
    if unknown := sorted({lens for _, lens, _ in poses} - lenses.keys()):
        raise InputError(f"{images} names camera {unknown[0]}, which {cameras} lacks: copy or export both again")
    return sorted((View(name, lenses[lens], p[:4], p[4:]) for name, lens, p in poses), key=lambda view: view.name)


def _parsed(file: Path, read: Callable[[bytes], Iterator[Any]]) -> list[Any]:
    try:
        return list(read(file.read_bytes()))
    except OSError as err:
        raise InputError(f"{file} cannot be read ({err.strerror}): a COLMAP model needs cameras and images") from err
    except (struct.error, ValueError, IndexError, KeyError) as err:
        raise InputError(f"{file} is cut off or damaged ({err}): copy it, or export the COLMAP model, again") from err


def _lenses(data: bytes) -> Iterator[tuple[int, Lens]]:
    (count,), at = struct.unpack_from("<Q", data), 8
    for _ in range(count):
        number, kind, width, height = struct.unpack_from("<iiQQ", data, at)
        if kind not in MODELS:
            raise ValueError(f"unknown camera model {kind}")
        model, size = MODELS[kind]
        yield number, Lens(model, width, height, struct.unpack_from(f"<{size}d", data, at + 24))
        at += 24 + 8 * size


def _poses(data: bytes) -> Iterator[tuple[str, int, tuple[float, ...]]]:
    (count,), at = struct.unpack_from("<Q", data), 8
    for _ in range(count):
        _, *pose, lens = struct.unpack_from("<i7di", data, at)
        end = data.index(b"\0", at + 64)
        (points,) = struct.unpack_from("<Q", data, end + 1)
        yield data[at + 64 : end].decode(), lens, tuple(pose)
        at = end + 9 + 24 * points
    if at > len(data):
        raise ValueError("the last image's points are missing")


def _lenses_text(data: bytes) -> Iterator[tuple[int, Lens]]:
    for line in data.decode().splitlines():
        if words := _words(line):
            number, model, width, height, *params = words
            size = dict(MODELS.values()).get(model)
            if size != len(params):
                raise ValueError(f"camera model {model} with {len(params)} parameters")
            yield int(number), Lens(model, int(width), int(height), tuple(map(float, params)))


def _poses_text(data: bytes) -> Iterator[tuple[str, int, tuple[float, ...]]]:
    lines = iter(data.decode().splitlines())
    for line in lines:
        if words := _words(line, 9):
            _, *pose, lens, name = words
            points = next(lines, "").split()  # a line of its own, often empty: x y and the point's number
            if len(pose) != 7 or len(points) % 3 or (points and not points[-1].lstrip("-").isdecimal()):
                raise ValueError(f"image {name} is not followed by a line with its points")
            yield name, int(lens), tuple(map(float, pose))


def _words(line: str, most: int = -1) -> list[str]:
    """None of a comment or an empty line."""
    return [] if line.lstrip().startswith("#") else line.split(maxsplit=most)
