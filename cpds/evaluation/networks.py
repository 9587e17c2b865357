"""Networks of the field's metrics: LPIPS, CLIP score, DINO's structure distance.

Their weights come from the hub, or from a local file or folder, and are loaded only where an evaluation asks for them.
"""

import os
from http.client import HTTPException
from importlib.resources import files
from math import ceil
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.request import Request, urlopen

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from cpds.errors import InputError
from cpds.evaluation.metrics import Scores, structure_distance, torchmetrics_functional
from cpds.hub import PATIENCE, only_cached, reason, within
from cpds.images import resized
from cpds.priors.base import Conditioning, Prior
from cpds.types import Images

ALEXNET = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def standardised(images: Images, mean: tuple[float, ...], std: tuple[float, ...], side: int) -> Tensor:
    """Resized to a square and standardised by channel, as a network was trained."""
    x = resized(images, (side, side))
    return (x - torch.tensor(mean).to(x).view(3, 1, 1)) / torch.tensor(std).to(x).view(3, 1, 1)


class Lpips(nn.Module):
    """LPIPS v0.1 with AlexNet (Zhang 2018): squared differences of unit-length features, weighed by learnt heads."""

    SMALLEST = 32  # px, sides that its layers can pool; smaller images are enlarged

    def __init__(self) -> None:
        super().__init__()
        shapes = [(3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1)]
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, k, s, p) for i, o, k, s, p in shapes)
        self.pool = nn.MaxPool2d(3, 2)
        self.heads = nn.ParameterList(torch.zeros(1, o, 1, 1) for _, o, *_ in shapes)

    @classmethod
    def load(cls, features: Path | None = None) -> "Lpips":
        """AlexNet's convolutions from `features` (torchvision's names; .pth or .safetensors).

        Without: from the file that $CPDS_ALEXNET names, else by download. InputError where they cannot be had.
        """
        features = features or (Path(os.environ["CPDS_ALEXNET"]) if os.environ.get("CPDS_ALEXNET") else None)
        torchmetrics_functional("learned_perceptual_image_patch_similarity")  # its package brings the heads
        net = cls()
        try:
            weights = read_weights(features) if features else downloaded()
            for conv, i in zip(net.convolutions, (0, 3, 6, 8, 10), strict=True):
                conv.load_state_dict({k: weights[f"features.{i}.{k}"] for k in ("weight", "bias")})
        except InputError:
            raise
        except (OSError, EOFError, KeyError, RuntimeError, ValueError, UnpicklingError) as err:
            missing = ", which does not exist" if features and not features.exists() else ""
            raise InputError(
                f"AlexNet's weights for LPIPS cannot be loaded from {features or ALEXNET}{missing}: give torchvision's "
                f"file {Path(ALEXNET).name} (or its tensors as .safetensors)"
            ) from err
        with (files("torchmetrics") / "functional/image/lpips_models/alex.pth").open("rb") as file:
            heads = torch.load(file, map_location="cpu", weights_only=True)
        for i, head in enumerate(net.heads):
            head.data = heads[f"lin{i}.model.1.weight"]
        return net.eval().requires_grad_(False)

    def features(self, images: Images) -> list[Tensor]:
        if min(images.shape[-2:]) < self.SMALLEST:
            factor = self.SMALLEST / min(images.shape[-2:])
            images = interpolate(images, [ceil(factor * side) for side in images.shape[-2:]], mode="bilinear")
        shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        x = (2 * images - 1 - shift.to(images).view(3, 1, 1)) / scale.to(images).view(3, 1, 1)
        found = []
        for i, conv in enumerate(self.convolutions):
            x = conv(self.pool(x) if i in (1, 2) else x).relu()
            found.append(normalize(x, dim=1, eps=1e-8))
        return found

    @torch.no_grad()
    def forward(self, a: Images, b: Images) -> Scores:
        pairs = zip(self.features(a), self.features(b), self.heads, strict=True)
        return torch.stack([((x - y).square() * head).sum(1).mean((1, 2)) for x, y, head in pairs]).sum(0)


def downloaded() -> dict[str, Tensor]:
    """AlexNet's state dict from torch's cache, which is filled at the first call. InputError where that fails."""
    try:
        if not (Path(torch.hub.get_dir()) / "checkpoints" / Path(ALEXNET).name).is_file():
            head = Request(ALEXNET, method="HEAD")
            within(PATIENCE, lambda: urlopen(head, timeout=PATIENCE).close())  # torch itself would wait for minutes
        return torch.hub.load_state_dict_from_url(ALEXNET, progress=False)
    except (OSError, HTTPException) as err:
        raise InputError(
            f"AlexNet's weights for LPIPS are not on this machine and cannot be downloaded from {ALEXNET} "
            f"({reason(err)}): give torchvision's file {Path(ALEXNET).name}"
        ) from err


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from .safetensors or from torch's own format."""
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as err:
            raise ValueError(str(err)) from err
    return torch.load(path, map_location="cpu", weights_only=True)


class PriorStructure:
    """Structure distance on the prior's own last self-attention in its up blocks, at little noise, without a prompt."""

    def __init__(self, prior: Prior, timestep: float = 0.1, seed: int = 0) -> None:
        self.prior, self.seed = prior, seed
        self.t = round(timestep * len(prior.schedule))
        self.text: Conditioning = prior.embed([""])

    @torch.no_grad()
    def features(self, images: Images) -> Tensor:
        square = (self.prior.image_size, self.prior.image_size)  # its cost grows with the side's fourth power
        z = self.prior.encode(resized(images, square))
        eps = torch.randn(z[:1].shape, generator=torch.Generator().manual_seed(self.seed)).to(z).expand_as(z)
        t = torch.full((len(z),), self.t)  # on the CPU, where the schedule is
        noised = self.prior.schedule.add_noise(z, eps, t)
        return self.prior.denoise(noised, t, self.text.repeat(len(z)), tap=len(z)).features[-1]

    def __call__(self, a: Images, b: Images) -> Scores:
        return structure_distance(self.features(a), self.features(b))


class DinoStructure:
    """Structure distance on the keys of the last layer of a DINO ViT, all tokens, at 224 px (Splice, Tumanyan 2022)."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.net = from_hub("AutoModel", name, "dino").to(device)
        keys = [m for n, m in self.net.named_modules() if n.rsplit(".", 1)[-1] in ("key", "k_proj")]
        if not keys:
            raise InputError(f"dino {name!r} has no attention keys: give a ViT such as facebook/dino-vitb8")
        self.last, self.side = keys[-1], 224

    @torch.no_grad()
    def keys(self, images: Images) -> Tensor:
        found: list[Tensor] = []
        handle = self.last.register_forward_hook(lambda _m, _a, output: found.append(output))
        try:
            self.net(pixel_values=standardised(images, *IMAGENET, self.side), interpolate_pos_encoding=True)
        finally:
            handle.remove()
        return found[0].transpose(1, 2)[..., None]  # (b, d, tokens, 1)

    def __call__(self, a: Images, b: Images) -> Scores:
        return structure_distance(self.keys(a), self.keys(b))


class ClipScore:
    """100 x cosine of an image's and a text's CLIP embeddings (Hessel 2021, without the factor 2.5 and the clamp)."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.net = from_hub("CLIPModel", name, "clip").to(device)
        self.tokenizer = from_hub("AutoTokenizer", name, "clip")
        self.side = self.net.config.vision_config.image_size

    @torch.no_grad()
    def __call__(self, images: Images, texts: list[str]) -> Float[Tensor, " b"]:
        ids = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(images.device)
        out = self.net(pixel_values=standardised(images, *CLIP, self.side), **ids)
        return 100 * (normalize(out.image_embeds, dim=1) * normalize(out.text_embeds, dim=1)).sum(1)


def from_hub(kind: str, name: str, field: str) -> Any:
    """A transformers model or tokenizer by hub name or local folder. InputError, naming `field`, if it is missing."""
    import transformers

    from cpds.priors.source import quieten

    quieten()
    offline = os.path.isdir(name) or only_cached(name, "config.json", f"{field} {name!r}")
    try:
        loaded = getattr(transformers, kind).from_pretrained(name, local_files_only=offline)
    except Exception as err:  # the library raises a dozen kinds
        raise InputError(
            f"{field} {name!r} cannot be loaded: give a hub name or a local folder ({reason(err)})"
        ) from err
    return loaded.eval().requires_grad_(False) if isinstance(loaded, nn.Module) else loaded
