"""Colors fitted to an image before shapes move, and where shapes may move then."""

import numpy as np
import pytest
import torch
from conftest import randn
from torch import Tensor

from cpds.priors.unet import UNetPrior
from svg.color_fit import HOLD, colors_are_enough, fit_colors, opened
from svg.config import GroupName, SvgConfig
from svg.document import Document
from svg.flat import FlatParameters
from svg.image import SvgImage
from svg.raster.page import Raster, over
from svg.selection import chosen

PAGE = """<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40">
<linearGradient id="g"><stop stop-color="#204060"/><stop offset="1" stop-color="#a08020"/></linearGradient>
<path d="M3.3 3.3H33V30H3.3Z" fill="#884422"/><circle cx="22" cy="20" r="9" fill="url(#g)"/>
<rect x="8" y="22" width="22" height="11" fill="#338833" fill-opacity="0.6"/>
<rect x="9" y="9" width="1" height="1" fill="#123456"/></svg>"""


class Page:
    """The document above, drawn on white."""

    def __init__(self) -> None:
        document = Document.parse(PAGE.encode())
        self.numbers = FlatParameters(document, chosen(document, SvgConfig()), torch.device("cpu"))
        self.raster = Raster(document.root, document.width, document.height)
        groups: tuple[GroupName, ...] = ("fills", "gradients")
        self.tensors = [self.numbers.tensors[g] for g in groups]
        self.free = [self.numbers.free_colors(g) for g in groups]

    def fit(self, wanted: Tensor) -> None:
        fit_colors(list(zip(self.tensors, self.free, strict=True)), self.image, wanted)

    def image(self) -> Tensor:
        return over(self.raster.render(self.numbers.values(), 40, 40)[None], torch.ones(3, 1, 1))

    def colors(self) -> np.ndarray:
        """(k, 3)"""
        return torch.cat([x.detach()[f] for x, f in zip(self.tensors, self.free, strict=True)]).view(-1, 3).numpy()

    @torch.no_grad()
    def take(self, colors: np.ndarray) -> None:
        flat = torch.from_numpy(colors).float().flatten()
        parts = flat.split([int(f.sum()) for f in self.free])
        for x, f, own in zip(self.tensors, self.free, parts, strict=True):
            x[f] = own

    def weights(self) -> np.ndarray:
        """(pixels, k): what each color weighs in each pixel, found by switching it from 0 to 1."""
        began, columns = self.colors(), []
        for i in range(len(began)):
            images = []
            for value in (0.0, 1.0):
                changed = began.copy()
                changed[i] = value
                self.take(changed)
                images.append(self.image().detach()[0, 0].flatten().double().numpy())
            columns.append(images[1] - images[0])
        self.take(began)
        return np.stack(columns, 1)


def test_the_fit_is_that_of_least_squares() -> None:
    """Small differences are those that the Huber loss squares: numpy's solution of the same, held to the start."""
    page = Page()
    A, began = page.weights(), page.colors().astype(float)
    wanted = (page.image() + 0.02 * randn(0, 1, 3, 40, 40)).detach()
    left = (wanted - page.image())[0].detach().double().flatten(1).numpy().T  # (pixels, 3)
    hold = np.sqrt(HOLD * 1600) * np.eye(len(began))
    shift = np.linalg.lstsq(np.concatenate([A, hold]), np.concatenate([left, np.zeros_like(began)]), rcond=None)[0]
    points = page.numbers.tensors["points"].detach().clone()
    other = page.tensors[1].detach()[~page.free[1]].clone()
    page.fit(wanted)
    assert np.abs(shift).max() > 1e-3
    np.testing.assert_allclose(page.colors(), began + shift, atol=3e-4)
    assert torch.equal(page.numbers.tensors["points"], points)
    assert torch.equal(page.tensors[1][~page.free[1]], other)  # the gradient's geometry and offsets


def test_what_only_changed_its_colors_is_found_again_beside_flaws() -> None:
    page = Page()
    began = page.colors()
    wished = 0.2 + 0.6 * torch.rand(began.shape, generator=torch.Generator().manual_seed(1)).numpy()
    page.take(wished)
    clean = page.image().detach()
    wanted = clean.clone()
    wanted[..., 4:7, 4:7] = torch.tensor([0.0, 0.0, 1.0])[:, None, None]  # a spot on the large shape
    page.take(began)
    page.fit(wanted)
    assert np.abs(page.colors()[:2] - wished[:2]).max() < 0.05


def test_an_unchanged_image_moves_nothing_and_colors_stay_in_range() -> None:
    page = Page()
    began = page.colors()
    page.fit(page.image().detach())
    np.testing.assert_array_equal(page.colors(), began)
    page.fit(torch.full((1, 3, 40, 40), 2.0))
    assert page.colors().min() >= 0
    assert page.colors().max() == 1


@pytest.mark.parametrize(
    ("width", "contrast", "enough"),
    [
        (8, 0.5, False),  # a share of 0.38
        (8, 0.14, True),  # too faint
        (2, 0.5, True),  # too narrow
        (5, 0.35, True),  # a share of 0.09
        (6, 0.35, False),  # of 0.14
    ],
)
def test_shapes_are_asked_for_by_area_and_contrast(width: int, contrast: float, enough: bool) -> None:
    """Of an edit that darkened a square of 16 px, a smaller square is left."""
    source = torch.full((1, 3, 64, 64), 0.9)
    fitted = source.clone()
    fitted[..., 20:36, 30:46] -= 0.4
    wanted = fitted.clone()
    wanted[..., 20 : 20 + width, 30 : 30 + width] += contrast
    assert colors_are_enough(source, fitted, wanted) == enough


def test_lines_that_no_color_gives_ask_for_shapes() -> None:
    """However narrow they are: colors must have given something."""
    source = torch.full((1, 3, 64, 64), 0.9)
    wanted = source.clone()
    wanted[..., 20:22, 5:60] = 0.1
    assert not colors_are_enough(source, source, wanted)
    assert colors_are_enough(source, wanted, wanted)


def test_nothing_is_asked_where_nothing_changes() -> None:
    image = torch.full((1, 3, 16, 16), 0.5)
    assert colors_are_enough(image, image, image)


def test_opening_keeps_what_is_wide() -> None:
    mask = torch.zeros(1, 1, 110, 120, dtype=torch.bool)
    mask[..., 20:25, 20:70] = True
    wide = mask.clone()
    mask[..., 80:84, :] = True
    assert torch.equal(opened(mask), wide)


@pytest.mark.parametrize("enough", [True, False])
def test_a_drawing_follows_colors_where_they_are_enough(prior: UNetPrior, enough: bool) -> None:
    """At any step of a run the same, whatever has moved since."""
    image = SvgImage(Document.parse(PAGE.encode()), prior)
    other = SvgImage(Document.parse(PAGE.replace("#884422", "#2288cc").encode()), prior)
    wanted = other.render_source(None)
    side = 3 if enough else image.size[0] // 2
    wanted[..., :side, :side] = torch.tensor([0.0, 0.9, 0.0])[:, None, None]  # what no color gives
    followed = image.follow(wanted, 0)
    began = {g: x.detach().clone() for g, x in image._numbers.tensors.items()}
    assert torch.equal(began["points"], image._numbers.start["points"])
    assert not torch.equal(began["fills"], image._numbers.start["fills"])
    assert torch.equal(followed, image.render(None) if enough else wanted)
    with torch.no_grad():
        for x in image._numbers.tensors.values():
            x += 0.1
    moved = [x.detach().clone() for x in image._numbers.tensors.values()]
    assert torch.equal(image.follow(wanted, 7), followed)
    assert all(map(torch.equal, image._numbers.tensors.values(), moved))


def test_groups_at_rest_keep_their_colors(prior: UNetPrior) -> None:
    image = SvgImage(Document.parse(PAGE.encode()), prior)
    image.follow(1 - image.render_source(None), 0, {"points", "strokes"})
    assert all(torch.equal(x, image._numbers.start[g]) for g, x in image._numbers.tensors.items())


def test_a_mask_holds_colors(prior: UNetPrior) -> None:
    mask = torch.zeros(1, 1, 40, 40)
    mask[..., 20:, :] = 1
    image = SvgImage(Document.parse(PAGE.encode()), prior, mask=mask)
    image.follow(1 - image.render_source(None), 0)
    changed = (image._numbers.tensors["fills"] != image._numbers.start["fills"]).view(-1, 3).any(1).tolist()
    assert changed == [False, True, False]  # the large path, the rectangle below, the small one above
