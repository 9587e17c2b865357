"""Give a dataset of nerfstudio's the sparse point cloud that splats start from, made from a nerfacto trained on it.

    ns-export pointcloud --load-config outputs/.../config.yml --output-dir scenes/mine --num-points 5000 \
        --normal-method open3d --save-world-frame True
    python -m nerf_plugin.points scenes/mine                    # point_cloud.ply there, or name another one

It writes sparse_pc.ply beside transforms.json and names it there (ply_file_path). ns-export leaves points in the axes
of the capture, nerfstudio reads them in those of transforms.json: the dataset's applied_transform lies between.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from cpds.config import require
from cpds.errors import InputError
from cpds.runs import write_atomic
from cpds.terminal import print_result, print_status

NAME = "sparse_pc.ply"  # as ns-process-data calls it


@dataclass(frozen=True)
class Config:
    """What to add to which dataset."""

    data: tyro.conf.Positional[Path]
    """Folder with a transforms.json."""
    cloud: tyro.conf.Positional[Path | None] = None
    """What ns-export pointcloud --save-world-frame True wrote. Default: point_cloud.ply in the dataset's folder."""


def add_points(config: Config) -> int:
    """How many were added. Raises InputError; the dataset is then as it was."""
    import open3d

    io: Any = open3d.io

    file, cloud = config.data / "transforms.json", config.cloud or config.data / "point_cloud.ply"
    try:
        meta = json.loads(file.read_bytes())
        rows = meta.get("applied_transform", np.eye(4).tolist())
        applied = np.vstack([np.array(rows, dtype=float)[:3], [0, 0, 0, 1]])
    except (OSError, ValueError, AttributeError) as err:
        raise InputError(f"{file} cannot be used ({err}): give a dataset of nerfstudio's") from err
    require("ply_file_path" not in meta, f"{file} names points already (ply_file_path): remove it to add others")
    require(not (config.data / NAME).exists(), f"{config.data / NAME} is there already: move it away to add others")
    points: Any = io.read_point_cloud(str(cloud)) if cloud.is_file() else open3d.geometry.PointCloud()
    require(len(points.points) > 0, f"{cloud} holds no points: make them with ns-export pointcloud")
    points.transform(applied)
    part = config.data / f".part.{NAME}"
    try:
        require(io.write_point_cloud(str(part), points), f"{config.data} cannot be written")
        part.replace(config.data / NAME)
        write_atomic(file, (json.dumps({**meta, "ply_file_path": NAME}, indent=4) + "\n").encode())
    finally:
        part.unlink(missing_ok=True)
    return len(points.points)


def main(argv: Sequence[str] | None = None) -> int:
    """2 and one sentence for anything that the user can fix."""
    config = tyro.cli(Config, args=argv, prog="python -m nerf_plugin.points", description=__doc__)
    try:
        print_result(f"{config.data / NAME}: {add_points(config)} points, named in transforms.json")
    except (InputError, OSError) as err:
        print_status(f"python -m nerf_plugin.points: error: {err}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
