"""A picture edited as its latent: the parameter is z itself."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d

from cpds.errors import InputError
from cpds.pictures import open_mask, open_picture, png, resized, to_pil, working_size
from cpds.prior import Prior
from cpds.representation import ParamGroup
from cpds.runs import write_atomic
from cpds.types import Images, Latents


@dataclass(frozen=True)
class LatentImageConfig:
    """How a picture becomes a latent and a latent a picture."""

    resolution: int | None = None
    """Shorter side while editing, in px; none takes the side that the prior was trained on."""
    keep_unchanged: bool = True
    """Take pixels that the edit did not touch from the source instead of from the autoencoder."""

    def __post_init__(self) -> None:
        if self.resolution is not None and self.resolution < 16:
            raise InputError(f"resolution must be >= 16 px, got {self.resolution}")


class LatentImage:
    """A picture's latent under `prior`; the result comes back at the picture's own size.

    Several pictures of one size may be edited at once, each with prompts of its own, as if each were alone.
    `mask` (1 or b, 1, H, W), 1 = edit: the latent moves, and pixels are replaced, only there.
    """

    def __init__(
        self,
        image: Images,
        prior: Prior,
        config: LatentImageConfig | None = None,
        mask: Float[Tensor, "_b 1 H W"] | None = None,
    ) -> None:
        self.config = config or LatentImageConfig()
        self.image = image.to(prior.device)
        height, width = image.shape[-2:]
        short = self.config.resolution or prior.native_side
        self.size = working_size(height, width, short, prior.multiple)
        with torch.no_grad():
            work = resized(self.image, self.size)
            self._source: Latents = prior.encode(work)
        self.z = self._source.clone().requires_grad_()
        self.mask = None if mask is None else mask.to(prior.device)
        # a latent cell may move if any of its pixels may
        self._cells = None if self.mask is None else self._to_cells(self.mask)

    @classmethod
    def open(
        cls, path: str | Path, prior: Prior, config: LatentImageConfig | None = None, mask: str | Path | None = None
    ) -> "LatentImage":
        """From files: jpg, png, webp or bmp, and a mask of the same size. Raises InputError if one cannot be used."""
        image = open_picture(Path(path))
        return cls(image, prior, config, None if mask is None else open_mask(Path(mask), image))

    def save(self, path: str | Path, prior: Prior) -> None:
        """Write the edit, at the source's size, as PNG."""
        write_atomic(Path(path), png(to_pil(self.picture(prior))))

    def _to_cells(self, mask: Tensor) -> Tensor:
        work = interpolate(mask, self.size, mode="area")
        return max_pool2d(work, self.size[0] // self._source.shape[-2])

    def source_id(self) -> dict[str, object]:
        """Digests and settings that a resumed run must find unchanged."""
        parts = {"image": self.image, "mask": self.mask}
        digests = {
            k: None if v is None else hashlib.sha256(v.cpu().numpy().tobytes()).hexdigest() for k, v in parts.items()
        }
        return {**digests, **asdict(self.config)}

    def sample_view(self, *, generator: torch.Generator) -> None:
        return None

    def latents(self, prior: Prior, view: None) -> Latents:
        if self._cells is None:
            return self.z
        return self._source + self._cells * (self.z - self._source)

    def source_latents(self, prior: Prior, view: None) -> Latents:
        return self._source

    def param_groups(self) -> list[ParamGroup]:
        return [ParamGroup("latent", [self.z])]

    def project(self) -> None:
        pass

    @torch.no_grad()
    def picture(self, prior: Prior) -> Images:
        """The edit at the input's size, (b, 3, H, W) in [0, 1]."""
        after = prior.decode(self.latents(prior, None))
        weight = after.new_ones(len(after), 1, *self.size)
        if self.config.keep_unchanged:
            weight = changed(prior.decode(self._source), after)
        full = self.image.shape[-2:]
        after, weight = (resized(x, full) for x in (after, weight))
        if self.mask is not None:
            weight = weight * self.mask
        return self.image + weight * (after - self.image)


def changed(before: Images, after: Images, low: float = 0.08, high: float = 0.2) -> Float[Tensor, "b 1 H W"]:
    """0 where two decoded pictures agree within `low`, 1 from `high` on, smooth between and over 5x5 px."""
    difference = avg_pool2d((after - before).abs().amax(1, keepdim=True), 5, 1, 2, count_include_pad=False)
    x = ((difference - low) / (high - low)).clamp(0, 1)
    return x * x * (3 - 2 * x)
