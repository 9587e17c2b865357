"""Figures of edited scenes: what the judge calls their views, what stayed, and whether the views agree.

    python -m benchmarks.scene_edits --scene scenes/cat --base outputs/.../nerfacto/.../config.yml \\
        --runs outputs/.../cpds/.../config.yml outputs/.../cpds-refine/.../config.yml

    python -m benchmarks.scene_edits --scene scenes/cat --base scenes/cat/scene.ply --runs runs/.../result.ply

The scene is one of scripts/toy_scene with a target, the runs are of ns-train, or splats. Views are rendered at the
cameras of the dataset. "outside" is what neither the source's nor the target's mask covers, grown by 2 px; "far" leaves
12 px; inside is the rest. "agree" is the mean LPIPS between renders at neighbouring cameras, over the base scene's.
"sharpness" is the mean absolute Laplacian inside the masks, over the base scene's. "sure" is the judge's mean
probability of the target.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Float
from nerfstudio.utils.eval_utils import eval_setup
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d

from cpds.evaluation.classifier import IconClassifier
from cpds.evaluation.metrics import psnr
from cpds.evaluation.networks import Lpips
from cpds.images import open_image, png, to_pil
from cpds.runs import write_atomic
from cpds.types import Images
from representations.cameras import read_cameras
from representations.splats.ply import SplatFile
from representations.splats.rasterise import rasterization

LAPLACE = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).expand(3, 1, 3, 3)


@dataclass(frozen=True)
class Config:
    """What to measure."""

    scene: Path
    """Folder of scripts/toy_scene/make.py, made with --target."""
    base: Path
    """config.yml of the scene's own run, or its .ply."""
    runs: tuple[Path, ...]
    """config.yml, or .ply, of each edit."""
    masks: Path | None = None
    """Folder of masks, of an edit's --pipeline.masks: "outside" is then what they keep, and "far" 10 px beyond it."""
    judge: Path = Path("benchmarks/emoji_edit/classifier.safetensors")
    """The judge of emoji-edit."""
    sheet: Path | None = None
    """Where to write a picture: rows of base, edits and target, at three held-out views."""


def views(run: Path, scene: Path) -> dict[str, Images]:
    """Renders of a run at every camera of the scene, by the pictures' names in their order."""
    found = splat_views(run, scene) if run.suffix == ".ply" else trained_views(run)
    return {k: (v.clamp(0, 1) * 255).round() / 255 for k, v in sorted(found.items())}


def trained_views(run: Path) -> dict[str, Images]:
    """Of what ns-train made."""
    _, pipeline, _, _ = eval_setup(run)
    found = {}
    for data in (pipeline.datamanager.train_dataset, pipeline.datamanager.eval_dataset):
        data: Any
        for i, name in enumerate(data.image_filenames):
            rgb = pipeline.model.get_outputs_for_camera(data.cameras[i : i + 1].to(pipeline.device))["rgb"]
            found[Path(name).name] = rgb.permute(2, 0, 1)[None].cpu()
    return found


@torch.no_grad()
def splat_views(file: Path, scene: Path) -> dict[str, Images]:
    """Of a .ply."""
    g = SplatFile.read(file).gaussians
    colours, found = torch.cat([g.dc[:, None], g.rest], 1), {}
    for c in (*read_cameras(scene), *read_cameras(scene, split="test")):
        sizes: Any = {"width": c.width, "height": c.height, "sh_degree": g.degree}
        shape = (g.means, g.quats, g.scales.exp(), g.opacities[:, 0].sigmoid())
        drawn, _, _ = rasterization(*shape, colours, c.viewmat[None], c.k[None], **sizes)
        found[Path(c.name).name] = drawn.permute(0, 3, 1, 2)
    return found


def outside(config: Config, names: list[str]) -> Float[Tensor, "n 1 H W"]:
    """1 where neither the source nor the target is, with a margin of 2 px; or what the masks that were given keep."""
    if config.masks:
        return 1 - torch.cat([open_image(config.masks / n)[:, :1] for n in names])
    places = (config.scene / "masks", config.scene / "target" / "masks")
    masks = [[open_image(place / n)[:, :1] for n in names] for place in places]
    covered = torch.maximum(*(torch.cat(m) for m in masks))
    return 1 - max_pool2d((covered > 0).float(), 5, 1, 2)


def sharpness(pictures: Images, inside: Float[Tensor, "n 1 H W"]) -> float:
    """Mean absolute Laplacian where `inside` is 1."""
    edges = conv2d(pictures, LAPLACE, padding=1, groups=3).abs()
    return float((edges * inside).sum() / inside.sum() / 3)


def main(config: Config) -> None:
    meta = json.loads((config.scene / "transforms.json").read_text())
    target = json.loads((config.scene / "target" / "scene.json").read_text())["icon"]
    held = [Path(n).name for n in meta["val_filenames"]]
    judge, keep = IconClassifier.load(config.judge), outside(config, held)
    aim = judge.classes["concept"].index(target)
    far = 1 - max_pool2d(1 - keep, 21, 1, 10)
    lpips = Lpips.load(Path(os.environ["CPDS_ALEXNET"]) if "CPDS_ALEXNET" in os.environ else None)
    truth = torch.cat([open_image(config.scene / "images" / n) for n in held])
    rows, base = [], {}
    print(
        "| run | called the target | sure | outside, dB: lowest | median | far: lowest | inside | agree | sharpness |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for run in (config.base, *config.runs):
        found = views(run, config.scene)
        now = torch.cat([found[n] for n in held])
        every = torch.cat(list(found.values()))
        with torch.no_grad():
            agree = float(lpips(every[:-1], every[1:]).mean())
            belief = judge(now)["concept"].softmax(1)
        sharp = sharpness(now, 1 - keep)
        base = base or {"views": now, "agree": agree, "sharp": sharp}
        called = int((belief.argmax(1) == aim).sum())
        kept = psnr(now, base["views"], keep)
        method = None if run.suffix == ".ply" else re.search(r"method_name: (\S+)", run.read_text())
        label = method[1] if method else run.name
        if run == config.base:
            label += f", {float(psnr(now, truth).mean()):.1f} dB"
        figures = [f"{kept.min():.1f}", f"{kept.median():.1f}", f"{psnr(now, base['views'], far).min():.1f}"]
        figures += [f"{psnr(now, base['views'], 1 - keep).median():.1f}"]
        figures += [f"{agree / base['agree']:.2f}", f"{sharp / base['sharp']:.2f}"]
        sure = float(belief[:, aim].mean())
        print(f"| {label} | {called} of {len(held)} | {sure:.2f} | {' | '.join(figures)} |", flush=True)
        rows.append(now[1::2])
    rows.append(torch.cat([open_image(config.scene / "target" / "images" / n) for n in held])[1::2])
    if config.sheet:
        columns = [torch.cat(list(row), 2) for row in rows]
        write_atomic(config.sheet, png(to_pil(torch.cat(columns, 1)[None])))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
