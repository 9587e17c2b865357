"""An SVG document as something to edit: its own numbers are the parameters, and the edit goes back into them."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate, pad

from cpds.images import working_size
from cpds.masks import edit_mask
from cpds.priors.base import Prior
from cpds.rendered import fingerprint
from cpds.representation import ImageSpec, ParamGroup
from cpds.runs import save_as
from cpds.types import Images
from representations.latent import LatentImage, LatentImageConfig
from svg.backdrops import backdrops
from svg.color_fit import colors_are_enough, fit_colors
from svg.config import COLORS, GroupName, SvgConfig
from svg.document import Document
from svg.fading import prepared
from svg.flat import FlatParameters
from svg.parts import CANVAS
from svg.point_steps import PointSteps
from svg.raster.page import over
from svg.rasterizer import Rasterizer, make_rasterizer
from svg.selection import chosen
from svg.visibility import Visibility

LRS = {"points": 4.5, "widths": 1.5}  # px of the canvas (svg.parts), of shapes of full size
LR = 0.03  # of what is a fraction
MARGIN = 0.1  # of the image's sides, around a page without a backdrop


class SvgImage:
    """A document under edit, rendered as images that `spec` describes (a prior does).

    `mask` (1, 1, H, W), 1 = edit, is stretched over the page: outside of it points stay, and so do colors, widths and
    opacities of what lies there for the most part. Raises InputError where nothing may change.
    """

    preset = "cpds-svg"
    hold_at = None  # the numbers themselves stay where the mask holds them

    def __init__(
        self,
        document: Document,
        spec: ImageSpec,
        config: SvgConfig | None = None,
        mask: Float[Tensor, "1 1 H W"] | None = None,
        rasterizer: Rasterizer | None = None,
    ) -> None:
        """rasterizer: that of the prepared document (svg.fading), where it has been made already."""
        self.config = config or SvgConfig()
        self.document = document = prepared(document, self.config)
        self.rasterizer = rasterizer or make_rasterizer(document)
        short = self.config.resolution or spec.image_size
        self.size = working_size(document.height, document.width, short, spec.size_multiple)
        margin = self.config.margin if self.config.margin is not None else 0.0 if backdrops(document) else MARGIN
        height, width = self.page = within(self.size, margin)
        top, left = (self.size[0] - height) // 2, (self.size[1] - width) // 2
        self._frame = left, self.size[1] - width - left, top, self.size[0] - height - top
        self.suffix = "svgz" if document.packed else "svg"
        self.background = self.config.background or document.background
        self._background = torch.tensor(self.background, device=spec.device)[:, None, None]
        self._mask = self._framed_mask = None
        if mask is not None:
            self._mask = mask.to(spec.device)
            self._framed_mask = pad(interpolate(self._mask, self.page, mode="area"), self._frame, mode="replicate")
        self._numbers = FlatParameters(document, chosen(document, self.config), spec.device)
        self._steps = PointSteps(self._numbers, self.config)
        self._damped_colors = {g: self._damped(g) for g in COLORS} if self.config.detail_size else {}
        self._visibility = Visibility(self._numbers, self.config)
        self._step = 0
        if self._mask is not None:
            self._numbers.hold_outside(self._mask)

    @classmethod
    def open(
        cls, path: str | Path, spec: ImageSpec, config: SvgConfig | None = None, mask: str | Path | None = None
    ) -> SvgImage:
        """From a file, .svg or .svgz, and a mask image. Raises InputError if one cannot be used."""
        return cls(Document.open(Path(path)), spec, config, None if mask is None else edit_mask(Path(mask)))

    def svg(self) -> bytes:
        """The document with its changed numbers."""
        values = self.values()
        changed = [p.key for members in self._numbers.members.values() for p in members]
        return self.document.write({k: values[k].detach().cpu().numpy() for k in changed})

    def export(self) -> bytes:
        """The same, packed if the document was; equal bytes for equal documents."""
        return gzip.compress(self.svg(), mtime=0) if self.suffix == "svgz" else self.svg()

    def save(self, path: str | Path) -> None:
        """Write the edited document, packed if the path ends in .svgz."""
        packed = Path(path).suffix.lower() == ".svgz"
        save_as(path, gzip.compress(self.svg(), mtime=0) if packed else self.svg())

    def changes(self) -> str:
        """What has been removed and added, of what may be, in words; "" if nothing may."""
        return self._visibility.changes()

    def values(self) -> Mapping[str, Tensor]:
        """Every number that is drawn, by key, in the document's units; differentiable in what may change."""
        return self._numbers.values()

    def fingerprint(self) -> dict[str, str]:
        """Digests and settings that a resumed run must find unchanged."""
        return fingerprint(
            svg=self.document.write(),
            mask=self._mask,
            config=self.config,
            background=self.background,
            rasterizer=type(self.rasterizer).__name__,
        )

    def sample_view(self, step: int, generator: torch.Generator) -> None:
        """The page is all there is to look at."""
        self._step = step

    def render(self, view: None) -> Images:
        """The page on its background at the working size, differentiable in what may change."""
        return self._framed(self.values())

    @torch.no_grad()
    def render_source(self, view: None) -> Images:
        """The page as the document was."""
        return self._framed(self._numbers.base)

    def as_image(self, prior: Prior) -> LatentImage:
        """The page as the document was, with its margin."""
        return LatentImage(self.render_source(None), prior, LatentImageConfig(min(self.size)), self.mask(None))

    @torch.no_grad()
    def follow(self, image: Images, step: int, moving: Collection[str] = COLORS) -> Images:
        """What is followed of an edited image: itself if it asks for other shapes, else what colors alone give.

        At step 0 the drawing takes these colors: those of the groups that are `moving`.
        """
        if not self.config.colors_first:
            return image
        numbers, source = self._numbers, self.render_source(None)
        now: dict[GroupName, Tensor] = {g: x.detach().clone() for g, x in numbers.tensors.items()}
        numbers.put(numbers.start)
        own: list[GroupName] = [g for g in COLORS if g in moving and len(numbers.tensors[g])]
        colors = [(numbers.tensors[g], numbers.free_colors(g)) for g in own]
        fit_colors(colors, lambda: self.render(None), image.to(source))
        fitted = self.render(None)
        if step:
            numbers.put(now)
        return fitted if colors_are_enough(source, fitted, image.to(source)) else image

    def mask(self, view: None) -> Float[Tensor, "1 1 H W"] | None:
        """Where the page may change; None: everywhere. Its margin may where its border may."""
        return self._framed_mask

    def param_groups(self) -> list[ParamGroup]:
        """Points, fills, strokes, widths, opacities and gradients; those that may not change are empty."""
        filters = {"points": self._taken, "fades": self._visibility.taken, **self._damped_colors}
        return [
            ParamGroup(g, [x], LRS.get(g, LR), filters.get(g))
            for g, x in self._numbers.tensors.items()
            if g != "fades" or len(x)
        ]

    def revise(self, step: int, steps: int, propose: Callable[[None], Images]) -> None:
        """Remove shapes and add a path, at the steps that are meant for that, where that comes nearer to a proposal."""
        draw, removing = self._visibility.next_addition(step, steps), self._visibility.removes(step, steps)
        if not (draw or removing):
            return
        with torch.no_grad():
            now, proposed = self.render(None), propose(None)
            if self._framed_mask is not None:
                proposed = torch.lerp(now, proposed, self._framed_mask.to(now))
            proposed = self._unframed(proposed)
        if removing:
            self._visibility.remove(lambda: self._unframed(self.render(None)), proposed)
        if draw:
            self._visibility.add(draw, lambda: self._unframed(self.render(None)), proposed)

    def _taken(self, before: Tensor, after: Tensor) -> Tensor:
        return self._steps.taken(before, after, self._step)

    def _damped(self, group: GroupName) -> Callable[[Tensor, Tensor], Tensor]:
        """A step of numbers times the root of their shapes' sizes by `detail_size`, 1 at most."""
        share = (self._numbers.sizes(group) / self.config.detail_size).clamp(max=1).sqrt()
        return lambda before, after: torch.lerp(before, after, share)

    def project(self) -> None:
        """Keep every number in its range."""
        self._numbers.project()

    @torch.no_grad()
    def preview(self) -> Images:
        """The page on its background, longer side 512 px."""
        unit = CANVAS / max(self.document.width, self.document.height)
        height, width = (max(16, round(side * unit)) for side in (self.document.height, self.document.width))
        return self._on_background(self.values(), (height, width))

    def _framed(self, values: Mapping[str, Tensor]) -> Images:
        """The page in the middle of the image, its background all around."""
        return over(pad(self.rasterizer.render(values, *self.page)[None], self._frame), self._background)

    def _unframed(self, image: Images) -> Float[Tensor, "b 3 h w"]:
        """The page alone."""
        return pad(image, tuple(-side for side in self._frame))

    def _on_background(self, values: Mapping[str, Tensor], size: tuple[int, int]) -> Images:
        return over(self.rasterizer.render(values, *size)[None], self._background)


def within(size: tuple[int, int], margin: float) -> tuple[int, int]:
    """(h, w) of a page in an image of `size` (H, W) with margins of a fraction of its sides around."""
    height, width = (max(1, round(side * (1 - 2 * margin))) for side in size)
    return height, width
