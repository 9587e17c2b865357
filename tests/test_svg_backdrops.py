"""Shapes that cover the page stay where they are."""

import pytest
import torch

from cpds.priors.unet import UNetPrior
from svg.backdrops import backdrops
from svg.config import SvgConfig
from svg.document import Document
from svg.image import SvgImage
from svg.rasterizer import make_rasterizer
from svg.selection import chosen

COVER = [
    '<rect width="40" height="20"/>',
    '<rect x="-5" y="-5" width="60" height="60" style="fill:red;stroke:blue"/>',
    '<g transform="translate(20 10) rotate(30)"><rect x="-30" y="-30" width="60" height="60"/></g>',
    '<circle cx="20" cy="10" r="23"/>',
    '<ellipse cx="20" cy="10" rx="29" ry="15"/>',
    '<path d="M0 0H40V20H0Z"/>',
    '<path d="M0 20V0H40V20"/>',
    '<polygon points="20,-50 90,20 20,70 -60,20"/>',
    '<linearGradient id="g"><stop stop-color="red"/><stop offset="1" stop-color="blue"/></linearGradient>'
    '<rect width="100%" height="100%" fill="url(#g)"/>',
]
LEAVE_SOME = [
    '<rect width="40" height="19"/>',
    '<rect width="40" height="20" rx="5"/>',
    '<rect width="40" height="20" fill-opacity="0.9"/>',
    '<rect width="40" height="20" fill="none" stroke="red" stroke-width="99"/>',
    '<g opacity="0.5"><rect width="40" height="20"/></g>',
    '<clipPath id="c"><circle r="9"/></clipPath><g clip-path="url(#c)"><rect width="40" height="20"/></g>',
    '<circle cx="20" cy="10" r="22"/>',
    '<ellipse cx="20" cy="10" rx="20" ry="10"/>',
    '<path d="M0 0H40V20H20L20 3L19 20H0Z"/>',
    '<path d="M0 0H40V20H0ZM10 5V15H20V5Z"/>',
    '<line x2="40" y2="20" stroke="red"/>',
    '<linearGradient id="g"><stop stop-color="red"/><stop offset="1" stop-opacity="0"/></linearGradient>'
    '<rect width="40" height="20" fill="url(#g)"/>',
]
ON_TOP = '<circle id="face" cx="20" cy="10" r="6" fill="#fc3"/>'


def document(body: str) -> Document:
    page = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 20">{body}{ON_TOP}</svg>'
    return Document.parse(page.encode())


def outline_of_the_first(of: Document) -> str:
    return next(key for key, p in of.parameters.items() if p.group == "points")


@pytest.mark.parametrize("body", COVER + LEAVE_SOME)
def test_what_covers_the_page_is_found(body: str) -> None:
    """Where nothing shows through what is drawn."""
    one = document(body)
    alone = Document.parse(one.write().replace(ON_TOP.encode(), b""))
    values = {key: torch.from_numpy(p.value) for key, p in alone.parameters.items()}
    covered = float(make_rasterizer(alone).render(values, 80, 160)[3].min()) > 0.99
    stroked = "stroke-width" in body  # a frame so wide that it covers the page is no backdrop
    assert covered == (body in COVER or stroked)
    assert backdrops(one) == ({outline_of_the_first(one)} if body in COVER else set())


def test_a_backdrop_stays_but_for_its_color() -> None:
    one = document('<rect width="40" height="20" fill="red"/>')
    found = chosen(one, SvgConfig())
    assert len(found["points"]) == 1  # the face's
    assert found["points"][0].key != outline_of_the_first(one)
    assert len(found["fills"]) == 2


def test_a_backdrop_that_is_named_may_move() -> None:
    one = document('<rect id="sky" width="40" height="20"/>')
    assert [p.key for p in chosen(one, SvgConfig(only=("#sky",)))["points"]] == [outline_of_the_first(one)]


@pytest.mark.parametrize(("body", "margin", "share"), [(COVER[0], None, 1.0), ("", None, 0.8), (COVER[0], 0.25, 0.5)])
def test_a_backdrop_needs_no_margin(body: str, margin: float | None, share: float, prior: UNetPrior) -> None:
    image = SvgImage(document(body), prior, SvgConfig(margin=margin))
    assert image.page == tuple(round(side * share) for side in image.size)
