"""A document as a representation: units, choice of what moves, constraints, masks, and the way back into the file."""

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import randn
from lxml import etree
from torch import Tensor

from cpds.config import EditConfig, GuidanceConfig
from cpds.editor import edit
from cpds.errors import InputError
from cpds.priors.unet import UNetPrior
from cpds.representation import Representation
from svg.config import GROUPS, SvgConfig
from svg.constraints import Outline, contours, crossing
from svg.document import Document
from svg.image import CANVAS, SvgImage
from svg.model import Geometry

PAGE = b"""<?xml version="1.0"?>
<!-- kept -->
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">
  <defs><linearGradient id="sky"><stop offset=".1" stop-color="#123456"/><stop offset="1" stop-color="#fedcba"/>
  </linearGradient></defs>
  <rect id="back" width="32" height="32" fill="url(#sky)"/>
  <g class="head" transform="translate(4 4) scale(.5)">
    <path id="face" d="M4 4C30 0 44 20 40 40S10 44 4 4Z" fill="#f80" stroke="#333" stroke-width="2" opacity=".8"/>
    <circle class="eye" cx="16" cy="18" r="4"/>
    <path class="loop" d="M2 2C20 20 2 20 20 2Z" fill="#0a0"/>
  </g>
</svg>
"""


@pytest.fixture
def document() -> Document:
    return Document.parse(PAGE)


def quick(**changes: Any) -> EditConfig:
    guidance = GuidanceConfig("cpds", n_patches=8, t_min=0.1)
    return replace(EditConfig(guidance, 3, "adam", 0.05, "none", group_lrs={"points": 4.0, "widths": 2.0}), **changes)


def moved(scene: SvgImage) -> set[str]:
    """Keys whose numbers differ from the document's."""
    now = scene.values()
    return {k for k, p in scene.document.parameters.items() if not np.array_equal(now[k].detach().numpy(), p.value)}


def shift(scene: SvgImage, amount: float = 3.0) -> None:
    """Move every number that may move, and apply the constraints."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for group in scene.param_groups():
            x = group.tensors[0]
            unit = 1.0 if group.name in ("points", "widths") else 0.05
            x += amount * unit * torch.randn(x.shape, generator=generator)
    scene.project()


def test_it_is_a_representation_and_starts_as_the_document(document: Document, prior: UNetPrior) -> None:
    scene = SvgImage(document, prior)
    assert isinstance(scene, Representation)
    assert not moved(scene)
    assert scene.svg() == PAGE
    latents = Rendered(scene, prior).latents(None)
    torch.testing.assert_close(latents, scene.source_latents(prior, None))
    latents.square().sum().backward()
    for group in scene.param_groups():
        if group.name != "opacities":  # not asked for
            assert group.tensors[0].grad is not None
            assert group.tensors[0].grad.abs().sum() > 0, group.name


def test_an_edit_changes_numbers_and_nothing_else(document: Document, prior: UNetPrior) -> None:
    scene = SvgImage(document, prior)
    edit(scene, prior, "a cat", "a dog", quick())
    assert {document.parameters[k].group for k in moved(scene)} == set(GROUPS) - {"opacities"}  # opaque stays opaque
    before, after = (etree.fromstring(x) for x in (PAGE, scene.svg()))
    assert [e.tag for e in before.iter()] == [e.tag for e in after.iter()]
    assert [e.get("id") for e in before.iter()] == [e.get("id") for e in after.iter()]
    assert b"<!-- kept -->" in scene.svg()
    again = Document.parse(scene.svg()).parameters
    for key, value in scene.values().items():
        np.testing.assert_allclose(again[key].value, value.detach().numpy(), atol=3e-3)


def test_points_move_in_canvas_pixels_whatever_the_scale(prior: UNetPrior) -> None:
    """Two documents that look the same, one in units a hundred times larger, take the same steps on the page."""
    small = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><path d="M4 4C30 0 44 20 20 28Z"/></svg>'
    large = small.replace(b"0 0 32 32", b"0 0 3200 3200").replace(b"<path", b'<path transform="scale(100)"')
    found = []
    for data in (small, large):
        scene = SvgImage(Document.parse(data), prior, SvgConfig(optimize=("points",)))
        (points,) = (g.tensors[0] for g in scene.param_groups() if g.name == "points")
        with torch.no_grad():
            points += 8.0
        found.append(scene.values()["0:d"].detach())
        np.testing.assert_allclose(found[-1] - scene.document.parameters["0:d"].value, 8 * 32 / CANVAS, rtol=1e-4)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    ("chosen", "groups"),
    [
        (("points",), {"points"}),
        (("colors",), {"fills", "strokes", "gradients"}),
        (("opacities", "widths"), {"opacities", "widths"}),
        (("all",), set(GROUPS)),
    ],
)
def test_only_what_was_chosen_may_move(document: Document, prior: UNetPrior, chosen: Any, groups: set[str]) -> None:
    scene = SvgImage(document, prior, SvgConfig(optimize=chosen))
    shift(scene)
    assert {document.parameters[k].group for k in moved(scene)} == groups


@pytest.mark.parametrize(
    ("names", "owners"),
    [
        (("#face",), {"face"}),
        ((".eye",), {"eye"}),
        (("head",), {"face", "eye", "loop"}),
        (("back", "eye"), {"back", "eye"}),
    ],
)
def test_only_named_elements_may_move(document: Document, prior: UNetPrior, names: Any, owners: set[str]) -> None:
    scene = SvgImage(document, prior, SvgConfig(only=names, optimize=("points", "fills")))
    shift(scene)
    touched = {document.parameters[k].owner for k in moved(scene)}
    assert {e.get("id") or e.get("class") for e in touched} == owners


def test_styles_choose_and_speak() -> None:
    assert SvgConfig(style="pixelart").groups == ("fills", "strokes", "gradients")
    assert SvgConfig(style="iconography").groups == ("points", "fills", "strokes", "gradients")
    assert SvgConfig(style="pixelart", optimize=("points",)).groups == ("points",)
    assert "pixel art" in SvgConfig(style="pixelart").suffix
    assert not SvgConfig().suffix


def test_numbers_stay_in_their_ranges(document: Document, prior: UNetPrior) -> None:
    scene = SvgImage(document, prior)
    shift(scene, 400.0)
    for key, value in scene.values().items():
        p = document.parameters[key]
        if p.group in ("fills", "strokes", "opacities"):
            assert -1e-6 <= float(value.min()) <= float(value.max()) <= 1 + 1e-6, key
        if p.group == "widths":
            assert float(value) >= -1e-6
    assert Document.parse(scene.svg()).parameters  # what was written can be read
    radius = scene.values()[
        next(k for k, p in document.parameters.items() if p.value.shape == (3,) and p.group == "points")
    ]
    assert float(radius[2]) >= -1e-6


def test_the_mask_holds_what_lies_outside(prior: UNetPrior) -> None:
    page = (
        b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><path id="left" d="M2 2H12V12Z" fill="#080"/>'
        b'<path id="right" d="M20 2H30V12Z" fill="#800"/><path id="both" d="M2 20H30V28H2Z" fill="#008"/></svg>'
    )
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 16:] = 1
    scene = SvgImage(Document.parse(page), prior, SvgConfig(optimize=("points", "fills")), mask)
    shift(scene)
    now = scene.values()
    keys = moved(scene)
    assert {"1:d", "1:fill", "2:d"} <= keys
    assert not {"0:d", "0:fill"} & keys
    held = now["2:d"].detach()[:, 0] < 16  # points of the wide one on the left
    want = torch.from_numpy(scene.document.parameters["2:d"].value)
    assert torch.equal(now["2:d"].detach()[[0, 3]], want[[0, 3]])
    assert held.sum() == 2
    assert not torch.equal(now["2:d"].detach()[[1, 2]], want[[1, 2]])


def test_the_source_stays_and_the_edit_is_seen(document: Document, prior: UNetPrior) -> None:
    scene = SvgImage(document, prior, SvgConfig(background=(0.2, 0.4, 0.6)))
    before, source = scene.preview(prior), scene.source_latents(prior, None).clone()
    assert before.shape == (1, 3, 512, 512)
    shift(scene, 20.0)
    assert torch.equal(scene.source_latents(prior, None), source)
    assert float((scene.preview(prior) - before).abs().max()) > 0.2


def test_the_documents_own_background_is_seen_unless_another_is_asked_for(prior: UNetPrior) -> None:
    bare = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><circle r="9"/></svg>'
    page = bare.replace(b"<svg ", b"<svg style='background-color:#00f' ", 1)
    seen = {}
    for name, data, config in (
        ("plain", bare, SvgConfig(background=(0.0, 0.0, 1.0))),
        ("own", page, SvgConfig()),
        ("asked", page, SvgConfig(background=(1.0, 1.0, 1.0))),
        ("white", bare, SvgConfig()),
    ):
        scene = SvgImage(Document.parse(data), prior, config)
        seen[name] = scene.preview(prior)
        assert scene.svg() == data
    assert torch.equal(seen["own"], seen["plain"])
    assert torch.equal(seen["asked"], seen["white"])
    assert not torch.equal(seen["own"], seen["white"])


@pytest.mark.parametrize("name", [f.name for f in fields(SvgConfig)])
def test_every_setting_is_read(document: Document, prior: UNetPrior, name: str) -> None:
    changes: dict[str, Any] = {
        "style": "pixelart",
        "optimize": ("points",),
        "only": ("face",),
        "background": (0.0, 0.5, 0.0),
        "resolution": 64,
        "smoothness": 0.0,
        "uncross": 0.0,
    }
    results = []
    for config in (SvgConfig(), SvgConfig(**{name: changes[name]})):
        scene = SvgImage(Document.parse(PAGE), prior, config)
        edit(scene, prior, "a cat" + config.suffix, "a dog" + config.suffix, quick(group_lrs={"points": 60.0}))
        results.append(scene.svg())
    assert results[0] != results[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"smoothness": -1.5}, "smoothness must be >= 0 and finite, got -1.5"),
        ({"uncross": -1.0}, "uncross must be >= 0"),
        ({"uncross": math.nan}, "uncross must be >= 0"),
        ({"background": (0.0, 2.0, 0.0)}, "background must be three numbers in 0 ... 1"),
        ({"resolution": 8}, "resolution must be >= 16 px, got 8"),
    ],
)
def test_bad_settings(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        SvgConfig(**change)


HEAD = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
SHARED = {
    "a mask and the shape that it masks": """<mask id="m"><use href="#p" fill="#fff"/></mask>
        <path id="p" d="M4 4H28L16 29Z" fill="#38c"/>
        <g mask="url(#m)"><rect width="32" height="12" fill="#fa0"/></g><circle cx="9" cy="22" r="5"/>""",
    "a gradient of a filtered shape": """<filter id="f"><feGaussianBlur stdDeviation="1"/></filter>
        <linearGradient id="g"><stop stop-color="#f00"/><stop offset="1" stop-color="#00f"/></linearGradient>
        <rect width="9" height="9" fill="url(#g)" filter="url(#f)"/>
        <rect x="12" y="4" width="15" height="20" fill="url(#g)"/>""",
    "a clip in the box of what it clips": """
        <clipPath id="c" clipPathUnits="objectBoundingBox"><circle cx=".5" cy=".5" r=".5"/></clipPath>
        <rect x="4" y="4" width="20" height="16" fill="#c33" clip-path="url(#c)"/><path d="M2 30L30 30L20 20Z"/>""",
    "a gradient with a matrix": """<radialGradient id="g" cx="0" cy="0" r="1" gradientUnits="userSpaceOnUse"
        gradientTransform="translate(16 16) scale(14)"><stop stop-color="#fc0"/><stop offset="1" stop-color="#05a"/>
        </radialGradient><rect width="32" height="32" fill="url(#g)"/>""",
    "uses, groups and a sheet": """<style>.a{fill:#0a5}</style><defs><path id="p" d="M0 0h9v7q-4 4-9 0z"/></defs>
        <g opacity=".7" transform="rotate(8)"><use href="#p" x="3" y="3" class="a"/>
        <use href="#p" x="16" y="9"/></g>""",
    "strokes": """<g stroke="#205" stroke-width="3" fill="none">
        <path d="M3 5C12 0 20 16 29 4" stroke-dasharray="4 2"/>
        <ellipse cx="16" cy="20" rx="9" ry="6" transform="skewX(9)"/></g>""",
}


@pytest.mark.parametrize("name", SHARED)
def test_the_written_file_shows_what_the_scene_shows(prior: UNetPrior, name: str) -> None:
    """After a large move of everything: the file read anew is the image of the run."""
    scene = SvgImage(Document.parse(HEAD + SHARED[name].encode() + b"</svg>"), prior, SvgConfig(optimize=("all",)))
    shift(scene, 12.0)
    assert moved(scene)
    again = SvgImage(Document.parse(scene.svg()), prior)
    difference = (scene.preview(prior) - again.preview(prior)).abs().amax(1)
    assert float((difference > 0.1).float().mean()) < 2e-3
    start = SvgImage(scene.document, prior).preview(prior)
    assert float((scene.preview(prior) - start).abs().mean()) > 5e-3


def test_a_gradients_own_matrix_does_not_change_its_pace(prior: UNetPrior) -> None:
    """The same radial gradient written with and without a matrix takes the same step on the page."""
    where = 'cx="0" cy="0" r="1" gradientTransform="translate(16 16) scale(14)"'
    page = """<radialGradient id="g" {} gradientUnits="userSpaceOnUse"><stop stop-color="#fc0"/><stop offset="1"/>
        </radialGradient><rect width="32" height="32" fill="url(#g)"/></svg>"""
    plain, turned = (page.format(x).encode() for x in ('cx="16" cy="16" r="14"', where))
    found = []
    for text, unit in ((plain, 1.0), (turned, 14.0)):
        scene = SvgImage(Document.parse(HEAD + text), prior, SvgConfig(optimize=("gradients",)))
        (key,) = (k for k in scene.document.parameters if k.endswith(":gradient"))
        with torch.no_grad():
            for group in scene.param_groups():
                group.tensors[0].add_(0.02)
        found.append((scene.values()[key].detach() - torch.from_numpy(scene.document.parameters[key].value)) * unit)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_a_white_mask_is_no_mask_even_at_the_pages_border(prior: UNetPrior) -> None:
    page = HEAD + b'<path d="M0 0H32V32H-3Z" fill="#38c"/></svg>'
    scene = SvgImage(Document.parse(page), prior, mask=torch.ones(1, 1, 20, 20))
    free = SvgImage(Document.parse(page), prior)
    for one in (scene, free):
        shift(one)
    assert scene.svg() == free.svg() != page


def test_nothing_to_edit_is_told(document: Document, prior: UNetPrior) -> None:
    for only in (("#nose",), ("#face", "#nose")):  # a slip beside a name that is there
        with pytest.raises(InputError, match="nothing of #nose in this SVG"):
            SvgImage(document, prior, SvgConfig(only=only))
    with pytest.raises(InputError, match="nothing of #back in this SVG may change with --optimize strokes"):
        SvgImage(document, prior, SvgConfig(only=("#back",), optimize=("strokes",)))


def test_the_source_id_knows_the_document_and_the_settings(document: Document, prior: UNetPrior) -> None:
    plain = SvgImage(document, prior).fingerprint()
    assert plain == SvgImage(Document.parse(PAGE), prior).fingerprint()
    other = Document.parse(PAGE.replace(b"#f80", b"#f81"))
    mask = torch.ones(1, 1, 32, 32)
    for scene in (
        SvgImage(other, prior),
        SvgImage(document, prior, SvgConfig(smoothness=0.1)),
        SvgImage(document, prior, mask=mask),
    ):
        assert scene.fingerprint() != plain


def test_opening_and_saving_files(tmp_path: Path, prior: UNetPrior) -> None:
    (tmp_path / "in.svg").write_bytes(PAGE)
    scene = SvgImage.open(tmp_path / "in.svg", prior)
    scene.save(tmp_path / "out.svg")
    assert (tmp_path / "out.svg").read_bytes() == PAGE


def test_contours_of_a_path() -> None:
    assert contours("MLCZ") == [([0, 1, 2, 3, 4], True, [(1, 2, 3, 4)])]
    assert contours("MLMQ") == [([0, 1], False, []), ([2, 3, 4], False, [])]
    assert contours("MLZL") == [([0, 1], True, []), ([0, 2], False, [])]  # goes on from the first point


def outline(commands: str, points: Tensor) -> tuple[Outline, Tensor]:
    return Outline([(Geometry("path", "d", commands), 0, points)], torch.device("cpu")), points.flatten().float()


def test_ends_that_met_still_meet() -> None:
    made, flat = outline("MLLLZ", torch.tensor([[0.0, 0], [4, 0], [4, 4], [0, 0]]))
    flat += torch.arange(8.0)
    start = torch.tensor([0.0, 0, 4, 0, 4, 4, 0, 0])
    made.close(flat, start)
    assert torch.equal(flat[:2], flat[6:])
    assert torch.equal(flat[:2], torch.tensor([3.0, 4.0]))
    nearly, start = outline("MLLL", torch.tensor([[0.0, 0], [4, 0], [4, 4], [0, 1e-9]]))  # relative commands leave dust
    flat = start + torch.arange(8.0)
    nearly.close(flat, start)
    torch.testing.assert_close(flat[:2], flat[6:])


def test_smoothing_keeps_a_common_shift_and_bends_large_outlines_alone() -> None:
    """A detail (points 2 px apart) moves as a whole; where points are 200 px apart, each moves by itself."""
    for side, alike in ((2.0, True), (200.0, False)):
        made, start = outline("MLLLZ", side * torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]]))
        together = start + torch.tensor([1.0, 2.0]).repeat(4)
        kept = together.clone()
        made.smooth(kept, start, 16.0)
        torch.testing.assert_close(kept, together)
        lone = start.clone()
        lone[2] += 8
        made.smooth(lone, start, 16.0)
        shift = (lone - start).view(4, 2)
        torch.testing.assert_close(shift[:, 1], torch.zeros(4))
        torch.testing.assert_close(shift[:, 0].mean(), torch.tensor(2.0), rtol=0.1, atol=0)
        assert (float(shift[:, 0].max() - shift[:, 0].min()) < 1) == alike


def test_smoothing_solves_its_equation() -> None:
    """(1 + sum w) x - sum w x_neighbour = shift, against a dense solve; an open outline with a closed one after it."""
    points = 10 * torch.tensor([[0.0, 0], [3, 1], [5, 5], [9, 5], [0, 8], [4, 9], [2, 12]])
    made, start = outline("MLLLMLLZ", points)
    shift = randn(0, 7, 2)
    flat = (start.view(7, 2) + shift).flatten()
    made.smooth(flat, start, 16.0, passes=2000)
    matrix = torch.eye(7)
    for a, b in ((0, 1), (1, 2), (2, 3), (4, 5), (5, 6), (6, 4)):
        w = 16.0**2 / float((points[a] - points[b]).square().sum())
        matrix[a, a] += w
        matrix[b, b] += w
        matrix[a, b] -= w
        matrix[b, a] -= w
    want = torch.linalg.solve(matrix, shift)
    torch.testing.assert_close((flat - start).view(7, 2), want, atol=1e-3, rtol=1e-3)


def test_crossing_handles_are_shortened_until_they_do_not_cross() -> None:
    tangled = torch.tensor([[0.0, 0], [10, 10], [0, 10], [10, 0]])
    made, flat = outline("MC", tangled)
    p = flat.view(4, 2)
    assert bool(crossing(p[:1], p[1:2], p[3:], p[2:3]))
    steps = 0
    while bool(crossing(p[:1], p[1:2], p[3:], p[2:3])):
        made.uncross(flat, 1.0)
        steps += 1
        assert steps < 20
    assert torch.equal(p[[0, 3]], tangled[[0, 3]])
    before = flat.clone()
    made.uncross(flat, 1.0)
    assert torch.equal(flat, before)
