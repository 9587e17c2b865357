"""A scene to try: an image as a dome of gaussians, and cameras that look at it from before."""

import json
import math
from pathlib import Path

SIDE = 40  # gaussians to a side
DEPTH = 0.35  # of the dome, where the image is 2 wide
CAMERAS, SWING, DISTANCE = 9, 0.5, 3.2  # the outermost cameras stand so many radians aside
VIEW = 128  # px


def write_relief(image: Path, scene: Path, cameras: Path) -> None:
    """The image, square, as a .ply and a transforms.json."""
    import torch
    from PIL import Image

    from cpds.images import to_tensor
    from representations.splats.ply import Gaussians, SplatFile

    with Image.open(image) as file:
        colors = to_tensor(file.convert("RGB").resize((SIDE, SIDE)))[0].flatten(1).T
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, SIDE)] * 2, indexing="ij")
    z = DEPTH * (1 - (x * x + y * y) / 2)
    n = SIDE * SIDE
    gaussians = Gaussians(
        torch.stack([x, -y, z], -1).reshape(n, 3),
        torch.tensor([[1.0, 0, 0, 0]]).repeat(n, 1),
        torch.tensor([1.1, 1.1, 0.4]).mul(1 / SIDE).log().repeat(n, 1),
        torch.full((n, 1), 4.0),
        (colors - 0.5) / math.sqrt(1 / (4 * math.pi)),
        torch.zeros(n, 0, 3),
    )
    SplatFile.of(gaussians).write(scene, gaussians)
    cameras.write_text(json.dumps(_transforms()))


def _transforms() -> dict[str, object]:
    """Cameras on an arc in OpenGL's axes, as nerfstudio's transforms.json has them."""
    frames = []
    for i in range(CAMERAS):
        a = SWING * (2 * i / (CAMERAS - 1) - 1)
        c, s = math.cos(a), math.sin(a)
        pose = [[c, 0, s, DISTANCE * s], [0, 1, 0, 0], [-s, 0, c, DISTANCE * c], [0, 0, 0, 1]]
        frames.append({"file_path": f"{i}.png", "transform_matrix": pose})
    lens = {"fl_x": 1.5 * VIEW, "fl_y": 1.5 * VIEW, "cx": VIEW / 2, "cy": VIEW / 2}
    return {"camera_model": "PINHOLE", "w": VIEW, "h": VIEW, **lens, "frames": frames}
