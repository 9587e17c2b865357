"""What a relevance map says of a cell: whether it should stay, and how much of it should change."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

CALM = 0.32  # cells below it stay: 92 % of those that stay and 88 % of those that change are on the right side of it
RAMP = (0.2, 0.45)  # from here on something, and from here on all of a cell should change

Map = Float[Tensor, "b 1 h w"]


def changes(relevance: Map) -> Map:
    """A soft mask of what should change, 0 to 1, from a relevance map (over the mean of its top tenth)."""
    low, high = RAMP
    return ((relevance - low) / (high - low)).clamp(0, 1)


def on_grid(relevance: Map, height: int, width: int) -> Map:
    """The map's means over the cells of a height x width grid."""
    return adaptive_avg_pool2d(relevance, (height, width))
