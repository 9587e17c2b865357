"""Small scenes in nerfstudio's format, trained ones to edit, and edits of them; for the tests of nerf_plugin.

A plugin of pytest's: fixtures are base_scenes, scene_dataset, edit_scene and edited. nerfstudio is imported at use.
"""

import copy
import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

VIEWS, SIDE = 5, 20
TRAINING = range(VIEWS - 1)  # the last one is for evaluation


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


def make_dataset(folder: Path, side: int = SIDE, channels: int = 3, shift: float = 0.0) -> Path:
    """Images of a soft disc, a transforms.json and points; `shift` moves the cameras."""
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
    placed[:, 0, 3] += shift * np.arange(VIEWS)
    frames = [{"file_path": n, "transform_matrix": p.tolist()} for n, p in zip(names, placed, strict=True)]
    meta = {"camera_model": "OPENCV", "w": side, "h": side, "fl_x": 1.2 * side, "fl_y": 1.2 * side}
    meta |= {"cx": side / 2, "cy": side / 2, "ply_file_path": "points.ply", "frames": frames}
    meta |= {"train_filenames": names[:-1], "val_filenames": names[-1:], "test_filenames": names[-1:]}
    (folder / "transforms.json").write_text(json.dumps(meta))
    return folder


def configured(name: str, data: Path | None, out: Path, **changes: Any) -> Any:
    """A method's config for the CPU; `changes` are dotted paths with __ for the dot."""
    from nerfstudio.configs.method_configs import method_configs

    from nerf_plugin import config as methods

    own = {"cpds", "cpds_refine", "cpds_splat", "cpds_splat_refine", "nerfacto_cpu", "splatfacto_cpu"}
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
    """Run a config in this process, as ns-train would, seeds included; the trainer."""
    seed = config.machine.seed
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  nerfstudio draws from it
    torch.manual_seed(seed)
    config.save_config()
    trainer = config.setup()
    trainer.setup()
    trainer.train()
    return trainer


def with_guidance(name: str, **changes: Any) -> Any:
    """A method's guidance with some settings changed."""
    from dataclasses import replace

    return replace(configured(name, None, Path()).pipeline.guidance, **changes)


def scene_state(trainer: Any) -> dict[str, Tensor]:
    """The scene as it is now."""
    return {k: v.clone() for k, v in trainer.pipeline.model.state_dict().items()}


def saved_model(run: Path) -> dict[str, Tensor]:
    """The scene in the latest checkpoint of a run."""
    from nerf_plugin.checkpoints import open_run

    state = open_run(run).state()["pipeline"]
    return {k.removeprefix("_model."): v for k, v in state.items() if k.startswith("_model.")}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two scenes are equal to the last bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def guidance_gradients(pipeline: Any, step: int = 0) -> dict[str, Tensor]:
    """What the guidance alone gives each parameter in a step, without the losses of the model's own."""
    pipeline.train()
    pipeline.zero_grad()
    _, losses, _ = pipeline.get_train_loss_dict(pipeline.run.first + step)
    losses["guidance"].backward()
    return {k: x.grad.clone() for k, x in pipeline.model.named_parameters() if x.grad is not None}


def gradients(model: Any, image: Tensor, losses: dict[str, Tensor]) -> list[Tensor]:
    """Of all parameters, of the losses and a random weighting of the image."""
    weights = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    total = (image * weights).sum() + sum(losses.values())
    model.zero_grad()
    total.backward()  # the only way to gradients behind a reentrant checkpoint
    return [p.grad.clone() for p in model.parameters() if p.grad is not None and p.numel()]


@pytest.fixture(scope="session")
def no_lpips() -> Iterator[None]:
    """No AlexNet from the network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", NoLpips)
        yield


@pytest.fixture(scope="session")
def scene_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of five views; do not change it."""
    return make_dataset(tmp_path_factory.mktemp("data") / "scene")


@pytest.fixture(scope="session")
def base_scenes(
    scene_dataset: Path, tmp_path_factory: pytest.TempPathFactory, no_lpips: None
) -> dict[str, Path]:  # fmt: skip
    """Trained scenes by the method that edits them: their folders of checkpoints."""
    out = tmp_path_factory.mktemp("bases")
    field = configured("nerfacto", scene_dataset, out, max_num_iterations=5, steps_per_eval_image=0, **SMALL)
    field.pipeline.datamanager = configured("cpds", scene_dataset, out).pipeline.datamanager
    splats = configured("splatfacto_cpu", scene_dataset, out, max_num_iterations=5)
    return {"cpds": train(field).checkpoint_dir, "cpds_splat": train(splats).checkpoint_dir}


def editor(base_scenes: dict[str, Path], dataset: Path, prior: Path, out: Path) -> Callable[..., Any]:
    """Runs a short edit of a method, with changes to its config; gives the trainer."""

    def edit(name: str = "cpds", **changes: Any) -> Any:
        plain = {
            "load_dir": base_scenes["cpds_splat" if "splat" in name else "cpds"],
            "max_num_iterations": 3,
            "pipeline__target_prompt": "a dog",
            "pipeline__prior": str(prior),
            "pipeline__resolution": 16,
            "pipeline__rays_per_chunk": 100,
            "pipeline__turntable_frames": 0,
        }
        if "refine" not in name:
            plain |= {"pipeline__prompt": "a cat", "pipeline__log_every": 2}
        folder = changes.pop("out", out)
        return train(configured(name, changes.pop("data", dataset), folder, **plain | changes))

    return edit


@pytest.fixture
def edit_scene(
    base_scenes: dict[str, Path], scene_dataset: Path, tiny_folder: Path, tmp_path: Path
) -> Callable[..., Any]:
    """Runs a short edit of its own, as `editor` says."""
    return editor(base_scenes, scene_dataset, tiny_folder, tmp_path / "out")


@pytest.fixture(scope="session")
def edited(
    base_scenes: dict[str, Path],
    scene_dataset: Path,
    tiny_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """Trainers of finished edits by method, all settings as `editor` has them; leave scenes and folders as they are."""
    edit = editor(base_scenes, scene_dataset, tiny_folder, tmp_path_factory.mktemp("edited"))
    return {name: edit(name) for name in ("cpds", "cpds_splat")}
