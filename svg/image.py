"""An SVG document as something to edit: its own numbers are the parameters, and the edit goes back into them.

Every parameter group is one flat tensor in units of its own, so that one step size serves documents of any scale:
points and stroke widths in px of a canvas whose longer side is 512, everything else as a fraction (colors and
opacities of 1, gradient geometry of the canvas or of the box that it is measured in). A tensor that has not moved gives
the document's number back to the last bit.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from cpds.errors import InputError
from cpds.images import working_size
from cpds.masks import edit_mask
from cpds.priors.base import Prior
from cpds.representation import ParamGroup
from cpds.runs import write_atomic
from cpds.types import Images, Latents
from svg.bindings import Binding, bindings
from svg.config import GROUPS, SvgConfig
from svg.constraints import Outline
from svg.document import Document
from svg.model import Group, GroupName, Parameter
from svg.raster.page import Raster, over

CANVAS = 512.0  # px of the longer side, the unit of points and widths


class Rasterizer(Protocol):
    """svg.raster.page.Raster or svg.raster.diffvg.DiffvgRaster."""

    def render(self, values: Mapping[str, Tensor], height: int, width: int) -> Float[Tensor, "4 H W"]: ...


def chosen(document: Document, config: SvgConfig) -> dict[GroupName, list[Parameter]]:
    """The parameters that may change, by group. InputError for names that nothing bears, and where nothing is left."""
    for name in config.only:
        if not any(document.matches(p, [name]) for p in document.parameters.values()):
            raise InputError(f"nothing of {name} in this SVG can change: name ids or classes of its shapes")
    groups, names = config.groups, config.only
    found: dict[GroupName, list[Parameter]] = {g: [] for g in GROUPS}
    for p in document.parameters.values():
        # a gradient's transparency is asked for as others are
        asked = p.group in groups and (p.property != "stop-opacity" or "opacities" in groups)
        if p.group and asked and (not names or document.matches(p, names)):
            found[p.group].append(p)
    if not any(found.values()):
        of = f" of {' '.join(names)}" if names else ""
        raise InputError(
            f"nothing{of} in this SVG may change with --optimize {' '.join(groups)}: name other groups, ids or classes"
        )
    return found


class SvgImage:
    """A document under edit.

    `mask` (1, 1, H, W), 1 = edit, is stretched over the page: outside of it points stay, and so do colors, widths and
    opacities of what lies there for the most part. Raises InputError where nothing may change.
    """

    preset = "cpds-svg"  # what `cpds.edit` takes unless told otherwise

    def __init__(
        self,
        document: Document,
        prior: Prior,
        config: SvgConfig | None = None,
        mask: Float[Tensor, "1 1 H W"] | None = None,
        rasterizer: Callable[[Group, float, float], Rasterizer] = Raster,
    ) -> None:
        self.document, self.config = document, config or SvgConfig()
        width, height = document.width, document.height
        self.raster = rasterizer(document.root, width, height)
        self.size = working_size(height, width, self.config.resolution or prior.image_size, prior.size_multiple)
        self.unit = CANVAS / max(width, height)  # canvas px per page px
        self.shown = (max(16, round(height * self.unit)), max(16, round(width * self.unit)))  # px, for people
        self.device = prior.device
        self.background = self.config.background or document.background
        self._backdrop = torch.tensor(self.background, device=self.device)[:, None, None]
        self._bindings = bindings(document.root)
        exact = torch.float32 if self.device.type == "mps" else torch.float64
        self._base = {k: torch.from_numpy(p.value).to(self.device, exact) for k, p in document.parameters.items()}
        self._members = chosen(document, self.config)
        self._flat = {g: self._gather(members, self._in_units) for g, members in self._members.items()}
        self._start = {g: x.clone() for g, x in self._flat.items()}
        self._low = {g: self._gather(members, self._lowest) for g, members in self._members.items()}
        self._high = {g: self._gather(members, self._highest) for g, members in self._members.items()}
        self._outline, self._before = self._paths(), self._start["points"]
        for x in self._flat.values():
            x.requires_grad_()
        with torch.no_grad():
            self._source: Latents = prior.encode(self._render(self.size))
        self.mask = None if mask is None else mask.to(self.device)
        self._cells, self._free = None, None
        if self.mask is not None:
            # a latent cell pulls if any of its pixels may change
            cells = interpolate(self.mask, self.size, mode="area")
            self._cells = max_pool2d(cells, self.size[0] // self._source.shape[-2])
            self._free = {g: self._gather(members, self._inside) for g, members in self._members.items()}

    @classmethod
    def open(
        cls, path: str | Path, prior: Prior, config: SvgConfig | None = None, mask: str | Path | None = None
    ) -> SvgImage:
        """From a file, .svg or .svgz, and a mask image. Raises InputError if one cannot be used."""
        document = Document.open(Path(path))
        return cls(document, prior, config, None if mask is None else edit_mask(Path(mask)))

    def svg(self) -> bytes:
        """The document with its changed numbers."""
        values = self.values()
        changed = [p.key for members in self._members.values() for p in members]
        return self.document.write({k: values[k].detach().cpu().numpy() for k in changed})

    def packed(self) -> bytes:
        """The same as gzip, equal bytes for equal documents."""
        return gzip.compress(self.svg(), mtime=0)

    def save(self, path: str | Path) -> None:
        """Write the edited document, packed if the path ends in .svgz."""
        write_atomic(Path(path), self.packed() if Path(path).suffix.lower() == ".svgz" else self.svg())

    def values(self) -> dict[str, Tensor]:
        """Every number that is drawn, by key, in the document's units; differentiable in what may change."""
        found = dict(self._base)
        for g, members in self._members.items():
            moved = (self._flat[g] - self._start[g]).split([p.value.size for p in members])
            for p, shift in zip(members, moved, strict=True):
                base = self._base[p.key]
                found[p.key] = base + shift.to(base).view(base.shape) / self._scale(p)
        return found

    def fingerprint(self) -> dict[str, object]:
        """Digests and settings that a resumed run must find unchanged."""
        parts = {"svg": self.document.write(), "mask": None if self.mask is None else self.mask.cpu().numpy().tobytes()}
        digests = {k: None if v is None else hashlib.sha256(v).hexdigest() for k, v in parts.items()}
        settings = {**asdict(self.config), "background": self.background}
        return {**digests, **settings, "rasterizer": type(self.raster).__name__}

    def sample_view(self, *, generator: torch.Generator) -> None:
        return None

    def latents(self, prior: Prior, view: None) -> Latents:
        self._before = self._flat["points"].detach().clone()  # where this step's shifts begin
        z = prior.encode(self._render(self.size))
        return z if self._cells is None else self._source + self._cells * (z - self._source)

    def source_latents(self, prior: Prior, view: None) -> Latents:
        return self._source

    def param_groups(self) -> list[ParamGroup]:
        return [ParamGroup(g, [x]) for g, x in self._flat.items()]

    @torch.no_grad()
    def project(self) -> None:
        """Ranges, closed outlines, and what the settings ask of outlines."""
        points = self._flat["points"]
        if self.config.smoothness:
            self._outline.smooth(points, self._before, self.config.smoothness)
        if self.config.uncross:
            self._outline.uncross(points, self.config.uncross)
        self._outline.close(points, self._start["points"])
        for g, x in self._flat.items():
            x.clamp_(self._low[g], self._high[g])
            if self._free is not None:
                x.copy_(torch.where(self._free[g] > 0, x, self._start[g]))

    @torch.no_grad()
    def preview(self, prior: Prior) -> Images:
        """The page on its background, longer side 512 px."""
        return self._render(self.shown)

    def _render(self, size: tuple[int, int]) -> Images:
        return over(self.raster.render(self.values(), *size)[None], self._backdrop)

    def _scale(self, p: Parameter) -> float:
        """Units of the flat tensor per unit of the document."""
        binding = self._bindings[p.key]
        if binding.role in ("outline", "width"):
            return (binding.scale or 1.0) * self.unit
        if binding.gradient is not None and binding.role in ("linear", "radial"):
            page = (binding.scale or 1.0) * self.unit / CANVAS if binding.gradient.units == "userSpaceOnUse" else 1.0
            return page * binding.gradient.matrix.scale
        return 1.0

    def _gather(self, members: Sequence[Parameter], numbers: Callable[[Parameter], Tensor]) -> Float[Tensor, " n"]:
        parts = [numbers(p).flatten().float() for p in members]
        return torch.cat(parts) if parts else torch.zeros(0, device=self.device)

    def _in_units(self, p: Parameter) -> Tensor:
        return self._base[p.key] * self._scale(p)

    def _lowest(self, p: Parameter) -> Tensor:
        """Never above where the document itself begins."""
        low = torch.tensor(self._bindings[p.key].lowest, device=self.device)
        return torch.minimum(low.expand(p.value.size) if len(low) == 1 else low, self._in_units(p).flatten().float())

    def _highest(self, p: Parameter) -> Tensor:
        high = torch.full((p.value.size,), self._bindings[p.key].highest, device=self.device)
        return torch.maximum(high, self._in_units(p).flatten().float())

    def _paths(self) -> Outline:
        paths, at = [], 0
        for p in self._members["points"]:
            geometry = self._bindings[p.key].geometry
            if geometry is not None and geometry.kind == "path":
                paths.append((geometry, at, self._in_units(p).cpu()))
            at += p.value.size
        return Outline(paths, self.device)

    def _inside(self, p: Parameter) -> Tensor:
        """1 for numbers that may change by the mask: points within it; other numbers if most of their outline is."""
        binding: Binding = self._bindings[p.key]
        if binding.draw is None or binding.geometry is None or self.mask is None:
            return torch.ones(p.value.size, device=self.device)
        numbers = self.document.parameters[binding.geometry.key].value
        points = numbers.reshape(-1, 2) if binding.geometry.kind in ("path", "line") else numbers[None, :2]
        if binding.geometry.kind == "rect":
            points = points + numbers[None, 2:4] / 2
        x, y = binding.draw.matrix.apply(*points.T)
        page = np.stack([x, y], 1) / (self.document.width, self.document.height)
        size = np.array(self.mask.shape[:-3:-1])  # what lies beside the page is held as its border is
        column, row = np.clip(np.floor(page * size), 0, size - 1).astype(int).T
        within = (self.mask[0, 0].cpu().numpy()[row, column] > 0.5).astype(np.float32)
        if binding.role == "outline" and binding.geometry.kind in ("path", "line"):
            return torch.from_numpy(within).to(self.device).repeat_interleave(2)
        return torch.full((p.value.size,), float(within.mean() > 0.5), device=self.device)
