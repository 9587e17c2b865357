"""What must not change in an edit: the gradient that holds it, and the appearance that all views share."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cpds.rendered import hold
from cpds.types import Images

HELD = 0.003  # difference of colours at which a pixel is pulled back as strongly as the guidance pulls the mean pixel


def held(image: Images, source: Images, mask: Float[Tensor, "1 1 H W"]) -> Images:
    """`image` where the mask is 1 and `source` where it is 0; what has moved there is pulled back."""
    return hold(image, source, mask, HELD)


def outside_psnr(image: Images, source: Images, outside: Float[Tensor, "1 1 H W"]) -> float:
    """dB between two pictures where `outside` is 1; 100 where they are equal, or nothing is outside."""
    error = (outside * (image - source).square()).mean() / outside.mean().clamp(min=1e-4)
    return float(-10 * error.clamp(min=1e-10).log10())


def share_appearance(model: Any) -> None:
    """Give every view the appearance that nerfstudio evaluates with: the mean embedding, or zeros; and freeze it."""
    embedding = getattr(getattr(model, "field", None), "embedding_appearance", None)
    if embedding is None:
        return
    weight = embedding.embedding.weight.requires_grad_(False)
    if not model.field.use_average_appearance_embedding:
        weight.zero_()
    elif not torch.equal(weight, weight[:1].expand_as(weight)):  # once: the mean of equal rows is rounded
        weight.copy_(weight.mean(0).expand_as(weight))
