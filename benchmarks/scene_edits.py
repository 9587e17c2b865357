"""Metrics of edited scenes: target accuracy of their views, what stayed, and view consistency.

    python -m benchmarks.scene_edits --scene scenes/cat --base outputs/.../nerfacto/.../config.yml \\
        --runs outputs/.../cpds/.../config.yml outputs/.../cpds-refine/.../config.yml

    python -m benchmarks.scene_edits --scene scenes/cat --base scenes/cat/scene.ply --runs runs/.../result.ply

The scene is one of scripts/toy_scene with a target, the runs are of ns-train, or splats. Views are rendered at the
cameras of the dataset; target accuracy, the classifier's mean target probability and PSNR to the base scene are those
of the held-out ones. Outside the mask is what neither the source's nor the target's mask covers, grown by 2 px; the far
background leaves 12 px; inside is the rest. View consistency is the mean LPIPS between renders at neighbouring cameras,
over the base scene's. Sharpness is the mean absolute Laplacian inside the masks, over the base scene's.

Of runs that were trained on edits of their views (ns-train cpds-refine) a second table measures those edits, and what
the embedded prior's autoencoder leaves of views that are not edited: both bound what such a scene can become.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d

from cpds.evaluation.classifier import IconClassifier
from cpds.evaluation.metrics import psnr
from cpds.evaluation.networks import Lpips
from cpds.images import open_image, png, to_pil
from cpds.priors.load import load_prior
from cpds.runs import write_atomic
from cpds.types import Images
from representations.cameras import read_cameras
from representations.splats.ply import SplatFile
from representations.splats.rasterize import rasterization

LAPLACE = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).expand(3, 1, 3, 3)


@dataclass(frozen=True)
class Config:
    """What to measure."""

    scene: Path
    """Folder of scripts.toy_scene, made with a target."""
    base: Path
    """config.yml of the scene's own run, or its .ply."""
    runs: tuple[Path, ...]
    """config.yml, or .ply, of each edit."""
    masks: Path | None = None
    """Folder of the masks that an edit was given: outside the mask is then what they keep, far is 10 px beyond."""
    classifier: Path = Path("benchmarks/emoji_edit/classifier.safetensors")
    """The classifier of emoji-edit."""
    sheet: Path | None = None
    """Where to write an image: rows of base, edits and target, at three held-out views."""


def views(run: Path, scene: Path) -> dict[str, Images]:
    """Renders of a run at every camera of the scene, by the images' names in their order."""
    found = splat_views(run, scene) if run.suffix == ".ply" else trained_views(run)
    return {k: (v.clamp(0, 1) * 255).round() / 255 for k, v in sorted(found.items())}


def trained_views(run: Path) -> dict[str, Images]:
    """Of what ns-train made."""
    from nerfstudio.utils.eval_utils import eval_setup

    from nerf_plugin.hash_encoding import encode_in_c

    _, pipeline, _, _ = eval_setup(run)
    encode_in_c(pipeline.model)
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
    colors, found = torch.cat([g.dc[:, None], g.rest], 1), {}
    for c in (*read_cameras(scene), *read_cameras(scene, split="test")):
        sizes: Any = {"width": c.width, "height": c.height, "sh_degree": g.degree}
        shape = (g.means, g.quats, g.scales.exp(), g.opacities[:, 0].sigmoid())
        drawn, _, _ = rasterization(*shape, colors, c.viewmat[None], c.k[None], **sizes)
        found[Path(c.name).name] = drawn.permute(0, 3, 1, 2)
    return found


def outside_masks(config: Config, names: list[str]) -> Float[Tensor, "n 1 H W"]:
    """1 where neither the source nor the target is, with a margin of 2 px; or what the given masks keep."""
    if config.masks:
        return 1 - torch.cat([open_image(config.masks / n)[:, :1] for n in names])
    places = (config.scene / "masks", config.scene / "target" / "masks")
    masks = [[open_image(place / n)[:, :1] for n in names] for place in places]
    covered = torch.maximum(*(torch.cat(m) for m in masks))
    return 1 - max_pool2d((covered > 0).float(), 5, 1, 2)


def sharpness(images: Images, inside: Float[Tensor, "n 1 H W"]) -> float:
    """Mean absolute Laplacian where `inside` is 1."""
    edges = conv2d(images, LAPLACE, padding=1, groups=3).abs()
    return float((edges * inside).sum() / inside.sum() / 3)


@dataclass(frozen=True)
class Setup:
    """What every run of a scene is measured with."""

    held_out: list[str]  # names of the views
    outside: Float[Tensor, "n 1 H W"]
    classifier: IconClassifier
    target: int  # class
    lpips: Lpips

    @classmethod
    def of(cls, config: Config) -> "Setup":
        meta = json.loads((config.scene / "transforms.json").read_text())
        target = json.loads((config.scene / "target" / "scene.json").read_text())["icon"]
        names = [Path(n).name for n in meta["val_filenames"]]
        classifier = IconClassifier.load(config.classifier)
        number = classifier.classes["concept"].index(target)
        return cls(names, outside_masks(config, names), classifier, number, Lpips.load())

    @torch.no_grad()
    def measure(self, views: dict[str, Images], base: Images) -> dict[str, float]:
        """Metrics of a run's views; `base` are the base scene's held-out ones."""
        now, every = self.chosen(views), torch.cat(list(views.values()))
        probabilities = self.classifier(now)["concept"].softmax(1)
        far = 1 - max_pool2d(1 - self.outside, 21, 1, 10)
        outside = psnr(now, base, self.outside)
        return {
            "correct": int((probabilities.argmax(1) == self.target).sum()),
            "probability": float(probabilities[:, self.target].mean()),
            "outside_lowest": float(outside.min()),
            "outside_median": float(outside.median()),
            "far_lowest": float(psnr(now, base, far).min()),
            "inside_median": float(psnr(now, base, 1 - self.outside).median()),
            "consistency": float(self.lpips(every[:-1], every[1:]).mean()),
            "sharpness": sharpness(now, 1 - self.outside),
        }

    def chosen(self, views: dict[str, Images]) -> Images:
        return torch.cat([views[n] for n in self.held_out])


HEADER = """| run | target accuracy | mean target probability | outside the mask, dB: lowest | median \
| far background: lowest | inside | view consistency | sharpness |
|---|---|---|---|---|---|---|---|---|"""


EDITS_HEADER = """
| images at the views trained on | target accuracy | mean target probability | outside the mask, dB: lowest | median \
| sharpness |
|---|---|---|---|---|---|"""


@torch.no_grad()
def print_edits(config: Config, setup: Setup) -> None:
    """The second table; nothing where no run kept edits of its views."""
    kept = [run for run in config.runs if all((run.parent / name).is_dir() for name in ("images", "source"))]
    if not kept:
        return
    names = list(edits(kept[0]))
    outside, prior = outside_masks(config, names), load_prior(device="cpu")

    def opened(files: dict[str, Path]) -> Images:
        return torch.cat([open_image(files[name])[:, :3] for name in names])

    def at(folder: Path) -> Images:
        return opened({name: folder / name for name in names})

    source = at(kept[0].parent / "source")
    target = at(config.scene / "target" / "images")
    shown = [(f"edits, {name_of(run)}", opened(edits(run))) for run in kept]
    shown += [("the target's true views", target)]
    for label, images in (("views as they were", source), ("the target's true views", target)):
        shown.append((f"{label}, through the autoencoder", prior.decode(prior.encode(images))))
    print(EDITS_HEADER)
    for label, images in shown:
        probabilities, decibels = setup.classifier(images)["concept"].softmax(1), psnr(images, source, outside)
        right, sharp = probabilities.argmax(1) == setup.target, [sharpness(x, 1 - outside) for x in (images, source)]
        cells = [label, f"{int(right.sum())} of {len(names)}", f"{float(probabilities[:, setup.target].mean()):.2f}"]
        cells += [f"{float(x):.1f}" for x in (decibels.min(), decibels.median())] + [f"{sharp[0] / sharp[1]:.2f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


def edits(run: Path) -> dict[str, Path]:
    """The latest image of each view that a run trained on (NAME-STEP.png), by the view's file."""
    return {f"{file.stem.rpartition('-')[0]}.png": file for file in sorted((run.parent / "images").glob("*.png"))}


def name_of(run: Path) -> str:
    """A file's name, or the method of a run of ns-train."""
    method = None if run.suffix == ".ply" else re.search(r"method_name: (\S+)", run.read_text())
    return method[1] if method else run.name


def main(config: Config) -> None:
    setup = Setup.of(config)
    count = len(setup.held_out)
    sources, targets = (
        torch.cat([open_image(config.scene / place / n) for n in setup.held_out])
        for place in ("images", "target/images")
    )
    rows: list[Images] = []
    base, before = None, {}
    print(HEADER)
    for run in (config.base, *config.runs):
        found = views(run, config.scene)
        now = setup.chosen(found)
        base = now if base is None else base
        m = setup.measure(found, base)
        before = before or m
        label = name_of(run) + (f", {float(psnr(now, sources).mean()):.1f} dB" if run == config.base else "")
        decibels = [m[k] for k in ("outside_lowest", "outside_median", "far_lowest", "inside_median")]
        cells = [label, f"{m['correct']} of {count}", f"{m['probability']:.2f}", *(f"{x:.1f}" for x in decibels)]
        cells += [f"{m[k] / before[k]:.2f}" for k in ("consistency", "sharpness")]
        print(f"| {' | '.join(cells)} |", flush=True)
        rows.append(now[1::2])
    if config.sheet:
        columns = [torch.cat(list(row), 2) for row in (*rows, targets[1::2])]
        write_atomic(config.sheet, png(to_pil(torch.cat(columns, 1)[None])))
    print_edits(config, setup)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
