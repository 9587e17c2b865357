"""The classifier of emoji-edit: a small network that predicts what an image of an icon shows, independent of any prior.

scripts/emoji_prior/classifier.py trains it. Three heads: the concept, the drawing style, the background's color.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from cpds.errors import InputError
from cpds.types import Images

SIDE = 64  # px of its input


def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class IconClassifier(nn.Module):
    """`classes`: head (concept, style, background) -> the names of its classes."""

    def __init__(self, classes: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.classes = {head: list(names) for head, names in classes.items()}
        self.features = nn.Sequential(
            block(3, 32, 1),
            block(32, 64, 2),
            block(64, 64, 1),
            block(64, 128, 2),
            block(128, 128, 1),
            block(128, 256, 2),
        )
        self.heads = nn.ModuleDict({head: nn.Linear(512, len(names)) for head, names in self.classes.items()})

    def forward(self, images: Images) -> dict[str, Tensor]:
        """Logits (b, classes) of each head for images in [0, 1] of any size."""
        x = interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True) * 2 - 1
        x = self.features(x)
        x = torch.cat([x.amax((2, 3)), x.mean((2, 3))], 1)
        return {name: head(x) for name, head in self.heads.items()}

    @torch.no_grad()
    def classify(self, images: Images) -> list[dict[str, str]]:
        """The most probable class of each image, by head."""
        chosen = {head: logits.argmax(1).tolist() for head, logits in self(images).items()}
        return [{head: self.classes[head][ids[i]] for head, ids in chosen.items()} for i in range(len(images))]

    def save(self, path: Path) -> None:
        """Weights in half precision; the names of the classes go with them."""
        weights = {k: v.contiguous() for k, v in self.state_dict().items()}
        weights = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
        save_file(weights, path, {"classes": json.dumps(self.classes)})

    @classmethod
    def load(cls, path: Path) -> "IconClassifier":
        """What `save` wrote, in eval mode. InputError for another file."""
        try:
            with safe_open(path, "pt") as file:
                classifier = cls(json.loads(file.metadata()["classes"]))
                weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            classifier.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as err:
            raise InputError(
                f"{path} holds no weights of an icon classifier: take classifier.safetensors of benchmarks/emoji_edit"
            ) from err
        return classifier.eval()
