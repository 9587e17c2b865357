"""Where a scene is seen from, in nerfstudio's words: cameras on an arc, transforms.json and the sparse point cloud."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from scripts.toy_scene.raycast import Hits


def focal(side: int, fov: float) -> float:
    """px, for a field of view in degrees."""
    return side / 2 / math.tan(math.radians(fov / 2))


def arc(
    count: int, distance: float, azimuth: float, elevation: tuple[float, float], generator: torch.Generator
) -> Float[Tensor, "n 4 4"]:
    """Camera-to-world poses in OpenGL's axes, float64, that look at the origin, z up; in degrees.

    From -azimuth to azimuth around the front (-y), evenly but for a jitter of a quarter of their spacing; at random
    elevations.
    """
    jitter = torch.rand(2, count, generator=generator, dtype=torch.float64)
    a = (azimuth * (2 * (torch.arange(count) + 0.25 + 0.5 * jitter[0]) / count - 1)).deg2rad()
    low, high = elevation
    return look_at(a, (low + (high - low) * jitter[1]).deg2rad(), distance)


def look_at(a: Float[Tensor, " n"], e: Float[Tensor, " n"], distance: float) -> Float[Tensor, "n 4 4"]:
    """Camera-to-world poses in OpenGL's axes that look at the origin from azimuths and elevations in radians."""
    back = torch.stack([a.sin() * e.cos(), -a.cos() * e.cos(), e.sin()], 1)
    right = torch.stack([a.cos(), a.sin(), torch.zeros_like(a)], 1)
    poses = torch.eye(4, dtype=torch.float64).repeat(len(a), 1, 1)
    poses[:, :3] = torch.stack([right, torch.linalg.cross(back, right), back, distance * back], 2)
    return poses


def transforms(poses: Float[Tensor, "n 4 4"], side: int, fov: float, held_out: int) -> dict[str, Any]:
    """nerfstudio's transforms.json; the held-out views lie evenly between the others, which are trained on."""
    names = [f"images/frame_{i + 1:05d}.png" for i in range(len(poses))]
    rest = [names[int((i + 0.5) * len(names) / held_out)] for i in range(held_out)]
    return {
        "camera_model": "OPENCV",
        **dict.fromkeys(("w", "h"), side),
        **dict.fromkeys(("fl_x", "fl_y"), focal(side, fov)),
        **dict.fromkeys(("cx", "cy"), side / 2),
        **dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0),
        "ply_file_path": "points.ply",
        "frames": [{"file_path": n, "transform_matrix": p.tolist()} for n, p in zip(names, poses, strict=True)],
        "train_filenames": [n for n in names if n not in rest],
        "val_filenames": rest,
        "test_filenames": rest,
    }


def cloud(hits: Hits) -> bytes:
    """A .ply of coloured points."""
    names = [(axis, "<f4") for axis in "xyz"] + [(colour, "u1") for colour in ("red", "green", "blue")]
    table = np.empty(len(hits.depth), dtype=names)
    for i in range(3):
        table[names[i][0]] = hits.points[:, i].numpy()
        table[names[3 + i][0]] = (hits.rgb[:, i] * 255).round().byte().numpy()
    kinds = {"<f4": "float", "u1": "uchar"}
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {len(table)}"]
    head += [*(f"property {kinds[kind]} {name}" for name, kind in names), "end_header", ""]
    return "\n".join(head).encode() + table.tobytes()
