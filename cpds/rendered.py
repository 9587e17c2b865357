"""A representation as a prior sees it: encoded, with its source's latents and its mask; the same for every renderer."""

import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, Generic

import torch
from torch import Tensor

from cpds.errors import InputError
from cpds.images import OVERSHOOT
from cpds.masks import to_cells
from cpds.priors.base import Prior
from cpds.profiling import timed
from cpds.representation import InLatentSpace, Mask, Masked, Representation, Source, View
from cpds.types import Images, Latents

CACHED = 1024  # views whose sources are kept


class Rendered(Generic[View]):
    """The views of `representation` as latents of `prior`, before and after. Its source is how it is found here.

    Raises InputError for images whose sides the prior cannot take.
    """

    def __init__(self, representation: Representation[View], prior: Prior) -> None:
        self.representation, self.prior = representation, prior
        self._checked = False
        self._sources: OrderedDict[Hashable, Latents] = OrderedDict()
        self._tensors = [x for group in representation.param_groups() for x in group.tensors]
        own = isinstance(representation, Source | InLatentSpace)
        self._start = [] if own else [x.detach().clone() for x in self._tensors]

    def latents(self, view: View) -> Latents:
        """The view as it is now, differentiable in the parameters; outside of a mask it is its source."""
        shown = self.representation
        if isinstance(shown, InLatentSpace):
            return shown.latents(view)
        image, mask = shown.render(view), None
        if not self._checked:
            self._check(image)
        if isinstance(shown, Masked) and (mask := shown.mask(view)) is not None:
            mask = mask.to(image)
            if shown.hold_at is not None:
                _require_same_size(mask, image)
                return self._encode(hold(image, self.source_image(view), mask, shown.hold_at))
        z = self._encode(image)
        if mask is None:
            return z
        source = self.source_latents(view)
        return source + to_cells(mask, image.shape[-2:], z.shape[-2:]) * (z - source)

    @torch.no_grad()
    def source_latents(self, view: View) -> Latents:
        """The view as it was; computed once for views that are equal, the last CACHED of which are kept."""
        if isinstance(self.representation, InLatentSpace):
            return self.representation.source_latents(view)
        key = view if isinstance(view, Hashable) else object()
        if key not in self._sources:
            self._sources[key] = self._encode(self.source_image(view))
            if len(self._sources) > CACHED:
                self._sources.popitem(last=False)
        return self._sources[key]

    @torch.no_grad()
    def source_image(self, view: View) -> Images:
        """The view as it was, rendered."""
        if isinstance(self.representation, Source):
            return self.representation.render_source(view)
        now = [x.data for x in self._tensors]
        try:  # storages change places: nothing is written that a graph may still need
            _put(self._tensors, self._start)
            return self.representation.render(view).clone()  # it may be a parameter itself
        finally:
            _put(self._tensors, now)

    def _check(self, image: Tensor) -> None:
        """InputError for what is no image that the prior can take; once, as it waits for the device."""
        if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point():
            raise InputError(f"render gave {tuple(image.shape)} of {image.dtype}: it must give floats (b, 3, H, W)")
        low, high = (float(x) for x in image.detach().aminmax())
        if low < -OVERSHOOT or high > 1 + OVERSHOOT:
            raise InputError(f"render gave colors from {low:.3g} to {high:.3g}: they must be in 0 ... 1")
        self._checked = True

    def _encode(self, images: Images) -> Latents:
        height, width = images.shape[-2:]
        if height % self.prior.size_multiple or width % self.prior.size_multiple:
            raise InputError(
                f"an image of {width}x{height} px cannot be encoded: render at multiples of "
                f"{self.prior.size_multiple} px, {self.prior.image_size} for the shorter side where you can choose"
            )
        with timed("encoding"):
            return self.prior.encode(images.to(self.prior.device))


def _require_same_size(mask: Tensor, image: Tensor) -> None:
    sizes = [f"{x.shape[-1]}x{x.shape[-2]}" for x in (mask, image)]
    if sizes[0] != sizes[1]:
        raise InputError(f"the mask of a view is {sizes[0]} px, its image {sizes[1]}: make them the same size")


def _put(tensors: list[Tensor], values: list[Tensor]) -> None:
    for x, value in zip(tensors, values, strict=True):
        x.data = value


class _Hold(torch.autograd.Function):
    """See `hold`."""

    @staticmethod
    def forward(ctx: Any, image: Images, source: Images, mask: Mask, at: float) -> Images:
        moved = image - source
        ctx.save_for_backward(moved, mask)
        ctx.at = at
        return source + mask * moved

    @staticmethod
    def backward(ctx: Any, *gradients: Images) -> tuple[Images, None, None, None]:
        (gradient,), (moved, mask) = gradients, ctx.saved_tensors
        scale = gradient.abs().amax().clamp(min=1e-30)  # first, so that no square overflows
        rms = scale * (gradient / scale).square().mean().sqrt()
        return mask * gradient + (1 - mask) * rms / ctx.at * moved, None, None, None


def hold(image: Images, source: Images, mask: Mask, at: float) -> Images:
    """`image` where the mask is 1 and `source` where it is 0; what has moved there is pulled back.

    With g the gradient that comes back, that of `image` is

        m g + (1 - m) rms(g) (image - source) / at

    so that a pixel that has moved by `at` (of colors in [0, 1]) is pulled back as strongly as the edit pulls the mean
    pixel, however strong that is, however large the view or the mask.
    """
    return _Hold.apply(image, source, mask, at)  # pyright: ignore[reportReturnType]


def fingerprint(**parts: object) -> dict[str, str]:
    """What a run remembers of what it edits: digests of tensors and bytes, dataclasses by field, all else as text."""
    found: dict[str, str] = {}
    for name, part in parts.items():
        if isinstance(part, Tensor):
            part = part.detach().cpu().contiguous().numpy().tobytes()
        if isinstance(part, bytes):
            found[name] = hashlib.sha256(part).hexdigest()
        elif is_dataclass(part) and not isinstance(part, type):
            found |= {key: _text(value) for key, value in asdict(part).items()}
        else:
            found[name] = _text(part)
    return found


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={_text(v)}" for k, v in sorted(value.items()))
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
