"""Small scenes in nerfstudio's format, and trained ones to edit; for the tests of nerf_plugin."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from nerf_plugin import config as methods

VIEWS, SIDE = 5, 20


class NoLpips(nn.Module):
    """In the place of torchmetrics' LPIPS, which fetches AlexNet when built."""

    def __init__(self, **_: Any) -> None:
        super().__init__()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().mean()


def poses(count: int = VIEWS) -> np.ndarray:
    """Cameras on an arc that look at the origin from a distance of 2, OpenGL's axes."""
    found = []
    for a in np.linspace(-0.6, 0.6, count):
        back = np.array([math.sin(a), -math.cos(a), 0.3])
        back /= np.linalg.norm(back)
        right = np.cross([0, 0, 1.0], back)
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = np.stack([right, np.cross(back, right), back], 1), 2 * back
        found.append(pose)
    return np.array(found)


def make_dataset(folder: Path, side: int = SIDE, channels: int = 3, turn: float = 0.0) -> Path:
    """Pictures of a soft disc, a transforms.json and points; `turn` moves the cameras."""
    (folder / "images").mkdir(parents=True)
    y, x = np.mgrid[0:side, 0:side] / side - 0.5
    names = []
    for i in range(VIEWS):
        disc = np.exp(-((x - 0.02 * i) ** 2 + y**2) * 20)[..., None] * [1, 0.6, 0.2] + [0, 0, 0.3]
        if channels == 4:
            disc = np.concatenate([disc, np.broadcast_to(x[..., None] >= 0, (side, side, 1))], 2)  # left half clear
        Image.fromarray((disc.clip(0, 1) * 255).astype(np.uint8)).save(folder / "images" / f"view_{i}.png")
        names.append(f"images/view_{i}.png")
    points = np.random.default_rng(0).normal(size=(40, 3)) * 0.2
    rows = "\n".join(f"{p[0]} {p[1]} {p[2]} 200 {10 * (i % 20)} 50" for i, p in enumerate(points))
    head = "ply\nformat ascii 1.0\nelement vertex 40\n" + "".join(f"property float {a}\n" for a in "xyz")
    head += "".join(f"property uchar {c}\n" for c in ("red", "green", "blue")) + "end_header\n"
    (folder / "points.ply").write_text(head + rows + "\n")
    placed = poses()
    placed[:, 0, 3] += turn * np.arange(VIEWS)
    frames = [{"file_path": n, "transform_matrix": p.tolist()} for n, p in zip(names, placed, strict=True)]
    meta = {"camera_model": "OPENCV", "w": side, "h": side, "fl_x": 1.2 * side, "fl_y": 1.2 * side}
    meta |= {"cx": side / 2, "cy": side / 2, "ply_file_path": "points.ply", "frames": frames}
    meta |= {"train_filenames": names[:-1], "val_filenames": names[-1:], "test_filenames": names[-1:]}
    (folder / "transforms.json").write_text(json.dumps(meta))
    return folder


def configured(name: str, data: Path | None, out: Path, **changes: Any) -> Any:
    """A method's config for the CPU; `changes` are dotted paths with __ for the dot."""
    from nerfstudio.configs.method_configs import method_configs

    own = {"cpds", "cpds_refine", "cpds_splat", "cpds_splat_refine", "splatfacto_cpu"}
    config = copy.deepcopy(getattr(methods, name).config if name in own else method_configs[name])
    config.output_dir, config.vis, config.machine.device_type = out, "tensorboard", "cpu"
    config.data = config.pipeline.datamanager.data = data
    config.logging.local_writer.enable = False
    config.experiment_name, config.timestamp = "scene", "now"
    for path, value in changes.items():
        *parents, last = path.split("__")
        owner = config
        for name in parents:
            owner = owner[name] if isinstance(owner, dict) else getattr(owner, name)
        setattr(owner, last, value)
    return config


SMALL = {  # a nerfacto that takes milliseconds
    "pipeline__model__implementation": "torch",
    "pipeline__model__use_appearance_embedding": False,
    "pipeline__model__num_levels": 2,
    "pipeline__model__log2_hashmap_size": 8,
    "pipeline__model__hidden_dim": 8,
    "pipeline__model__hidden_dim_color": 8,
    "pipeline__model__num_proposal_samples_per_ray": (6, 4),
    "pipeline__model__num_nerf_samples_per_ray": 4,
    "pipeline__model__proposal_net_args_list": [
        {"hidden_dim": 4, "log2_hashmap_size": 7, "num_levels": 2, "max_res": 16, "use_linear": False},
        {"hidden_dim": 4, "log2_hashmap_size": 7, "num_levels": 2, "max_res": 16, "use_linear": False},
    ],
}


def train(config: Any) -> Any:
    """Run a config in this process, as ns-train would; the trainer."""
    torch.manual_seed(config.machine.seed)
    config.save_config()
    trainer = config.setup()
    trainer.setup()
    trainer.train()
    return trainer
