"""An image edited as its latent: the parameter is z itself."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from cpds.alike import alike
from cpds.errors import InputError
from cpds.images import SourceImage, open_source, png, require_images, resized, to_pil, working_size
from cpds.masks import edit_mask, fitting, to_cells
from cpds.priors.base import Prior
from cpds.rendered import fingerprint
from cpds.representation import ParamGroup
from cpds.runs import save_as
from cpds.types import Images, Latents

LR = 0.08  # of latents, whose standard deviation is near 1, for gradients of unit size
FREE = 0.1  # mask value from which on a latent cell moves freely; below in proportion: a JPEG's black is not all 0


@dataclass(frozen=True)
class LatentImageConfig:
    """How an image becomes a latent and a latent an image."""

    resolution: int | None = None
    """Shorter side while editing, in px; none takes the size that the prior was trained on."""
    keep_unchanged: bool = True
    """Take pixels that the edit did not touch from the source instead of from the autoencoder."""

    def __post_init__(self) -> None:
        if self.resolution is not None and self.resolution < 16:
            raise InputError(f"resolution must be >= 16 px, got {self.resolution}")


class LatentImage:
    """An image's latent under `prior`; the result comes back at the image's own size.

    Several images of one size may be edited at once, each with prompts of its own, as if each were alone.
    `mask` (1 or b, 1, H, W) works as a layer mask: where it is 0 neither the latent nor a pixel changes; where it is
    not, the latent is edited, and each pixel gets the mask's share of that: source + mask (edit - source).
    Raises InputError for an image of another shape, kind or range than a float tensor (b, 3, H, W) in [0, 1].
    """

    preset = "cpds"

    def __init__(
        self,
        image: Images,
        prior: Prior,
        config: LatentImageConfig | None = None,
        mask: Float[Tensor, "_b 1 H W"] | None = None,
    ) -> None:
        require_images(image)
        self.config, self.prior = config or LatentImageConfig(), prior
        self.image = image.to(prior.device)
        height, width = image.shape[-2:]
        short = self.config.resolution or prior.image_size
        self.size = working_size(height, width, short, prior.size_multiple)
        with torch.no_grad():
            same = alike(image)
            self._source: Latents = same.spread(prior.encode(resized(same.distinct(self.image), self.size)))
        self.z = self._source.clone().requires_grad_()
        self.file: SourceImage | None = None
        self.mask = None if mask is None else mask.to(prior.device)
        self._cells = None
        if self.mask is not None:
            self._cells = to_cells((self.mask / FREE).clamp(max=1), self.size, self._source.shape[-2:])

    @classmethod
    def open(
        cls, path: str | Path, prior: Prior, config: LatentImageConfig | None = None, mask: str | Path | None = None
    ) -> "LatentImage":
        """From files: an image of any format that Pillow reads, and a mask of the same size.

        Warns of what the result will not have of the file. Raises InputError if one cannot be used.
        """
        source = open_source(Path(path))
        for note in source.notes:
            warnings.warn(f"{path}: {note}", stacklevel=2)
        held = None if mask is None else fitting(edit_mask(Path(mask)), Path(mask), source.image)
        return cls.of(source, prior, config, held)

    @classmethod
    def of(
        cls,
        source: SourceImage,
        prior: Prior,
        config: LatentImageConfig | None = None,
        mask: Float[Tensor, "1 1 H W"] | None = None,
    ) -> "LatentImage":
        """From an opened file, whose transparency and color profile the saved edit keeps; what is clear is held."""
        image = cls(source.image, prior, config, source.editable(mask))
        image.file = source
        return image

    def save(self, path: str | Path) -> None:
        """Write the edit, at the source's size, as PNG; several as <name>-1.png, <name>-2.png, … in their order.

        Of a source from a file it keeps transparency and color profile. InputError for a name of another format.
        """
        path = Path(path)
        if path.suffix.lower() not in ("", ".png"):
            raise InputError(f"an edit is saved as PNG: name it {path.with_suffix('.png').name}, not {path.name}")
        edits = self.preview().split(1)
        width = len(str(len(edits)))
        for number, edited in enumerate(edits, 1):
            file = path if len(edits) == 1 else path.with_stem(f"{path.stem}-{number:0{width}}")
            save_as(file, self.png(edited))

    def png(self, edited: Images) -> bytes:
        """One of the edits as PNG, as `save` writes it."""
        return png(to_pil(edited)) if self.file is None else self.file.png(edited)

    def fingerprint(self) -> dict[str, str]:
        file = None if self.file is None else self.file.digest()
        return fingerprint(image=self.image, mask=self.mask, file=file, config=self.config)

    def sample_view(self, step: int, generator: torch.Generator) -> None:
        return None

    def latents(self, view: None = None) -> Latents:
        """(b, c, h, w): the parameter itself, held to the source outside of the mask."""
        if self._cells is None:
            return self.z
        return self._source + self._cells * (self.z - self._source)

    def source_latents(self, view: None = None) -> Latents:
        return self._source

    @torch.no_grad()
    def move_latents(self, by: Latents) -> None:
        self.z.add_(by)

    def render(self, view: None = None) -> Images:
        """The latents decoded, at the size that they are edited at."""
        return self.prior.decode(self.latents())

    def param_groups(self) -> list[ParamGroup]:
        return [ParamGroup("latent", [self.z], LR)]

    def project(self) -> None:
        pass

    @cached_property
    @torch.no_grad()
    def _decoded_source(self) -> Images:
        return self.prior.decode(self._source)

    @torch.no_grad()
    def preview(self) -> Images:
        """The edits at the input's size, (b, 3, H, W) in [0, 1]."""
        after = self.render()
        weight = after.new_ones(len(after), 1, *self.size)
        if self.config.keep_unchanged:
            weight = changed(self._decoded_source, after)
        full = self.image.shape[-2:]
        after, weight = (resized(x, full) for x in (after, weight))
        if self.mask is not None:
            weight = weight * self.mask
        return self.image + weight * (after - self.image)


def changed(before: Images, after: Images, low: float = 0.08, high: float = 0.2) -> Float[Tensor, "b 1 H W"]:
    """0 where two decoded images agree within `low`, 1 from `high` on, smooth between and over 5x5 px."""
    difference = avg_pool2d((after - before).abs().amax(1, keepdim=True), 5, 1, 2, count_include_pad=False)
    x = ((difference - low) / (high - low)).clamp(0, 1)
    return x * x * (3 - 2 * x)
