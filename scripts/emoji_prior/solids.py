"""Icons made solid, seen from a side, as in scripts.toy_scene: without them a prior turns all views to the front."""

import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scripts.emoji_prior.icons import Icons, Scene, caption, random_scene
from scripts.toy_scene.config import SceneConfig
from scripts.toy_scene.raycast import render
from scripts.toy_scene.relief import DOME, relief_of
from scripts.toy_scene.views import focal, look_at

HELD_OUT_STYLE = SceneConfig.style  # the benchmarks' scenes have it: none of its solids is trained on
FOV = SceneConfig.fov


@dataclass(frozen=True)
class Solid:
    """One image: a scene's icon in the middle, and where the camera stands, in degrees."""

    scene: Scene
    azimuth: float  # to the right of the front
    elevation: float


def random_solid(icon: int, rng: random.Random) -> Solid:
    """In the middle, seen from up to 60 degrees to either side and 30 above."""
    size = rng.uniform(0.6, 0.85)
    middle = (1 - size) / 2
    scene = replace(random_scene(icon, rng), size=size, left=middle, top=middle)
    return Solid(scene, rng.uniform(-60, 60), rng.uniform(0, 30))


def draw_solid(icons: Icons, solid: Solid, side: int) -> Tensor:
    """(3, side, side) in [0, 1]."""
    scene, zoom = solid.scene, focal(side, FOV)
    distance = 2 * zoom / side / scene.size
    background = torch.tensor(scene.rgb) / 255
    relief = relief_of(icons.rgba[scene.icon].float() / 255, background, DOME * distance, grid=9 * side // 8)
    azimuth, elevation = torch.tensor([[solid.azimuth], [solid.elevation]], dtype=torch.float64).deg2rad()
    return render(relief, look_at(azimuth, elevation, distance)[0].float(), zoom, side, samples=2)[0]


def solid_caption(icons: Icons, solid: Solid, words: dict[str, list[str]], rng: random.Random) -> str:
    """Of the icon; half of the time with where it is seen from."""
    text = caption(icons, solid.scene, words, rng)
    if rng.random() < 0.5:
        return text
    if abs(solid.azimuth) < 15:
        return f"{text} seen from the front"
    return f"{text} seen from the {'left' if solid.azimuth < 0 else 'right'}"
