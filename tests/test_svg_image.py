"""A document as a representation: units, choice of what moves, constraints, masks, and the way back into the file."""

import gzip
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lxml import etree
from svg_oracles import DATA

from cpds.config import EditConfig, GuidanceConfig
from cpds.editor import edit, filter_updates
from cpds.errors import InputError
from cpds.presets import PRESETS
from cpds.priors.unet import UNetPrior
from cpds.rendered import Rendered
from cpds.representation import Exportable, Masked, Representation, Source
from svg.config import GROUPS, SvgConfig
from svg.document import Document
from svg.flat import CANVAS
from svg.image import SvgImage
from svg.rasterizer import make_rasterizer

PAGE = (DATA / "face.svg").read_bytes()
WRITTEN = sorted((DATA / "written").glob("*.svg"))


@pytest.fixture
def document() -> Document:
    return Document.parse(PAGE)


def quick(**changes: Any) -> EditConfig:
    guidance = GuidanceConfig("cpds", n_patches=8, t_min=0.1)
    return replace(EditConfig(guidance, 3, "adam", 0.05, "none", group_lrs={"points": 4.0, "widths": 2.0}), **changes)


def moved(image: SvgImage) -> set[str]:
    """Keys whose numbers differ from the document's."""
    now = image.values()
    return {k for k, p in image.document.parameters.items() if not np.array_equal(now[k].detach().numpy(), p.value)}


def move(image: SvgImage, amount: float = 3.0) -> None:
    """A step of every number that may move, as the editor applies it."""
    generator, groups = torch.Generator().manual_seed(0), image.param_groups()
    before = [group.tensors[0].detach().clone() for group in groups]
    with torch.no_grad():
        for group in groups:
            x = group.tensors[0]
            unit = 1.0 if group.name in ("points", "widths") else 0.05
            x += amount * unit * torch.randn(x.shape, generator=generator)
        filter_updates(groups, before)
    image.project()


def test_it_is_a_representation_and_starts_as_the_document(document: Document, prior: UNetPrior) -> None:
    image = SvgImage(document, prior)
    for protocol in (Representation, Source, Masked, Exportable):
        assert isinstance(image, protocol)
    assert not moved(image)
    assert image.svg() == PAGE
    rendered = Rendered(image, prior)
    latents = rendered.latents(None)
    torch.testing.assert_close(latents, rendered.source_latents(None))
    latents.square().sum().backward()
    for group in image.param_groups():
        if group.name != "opacities":  # not asked for
            assert group.tensors[0].grad is not None
            assert group.tensors[0].grad.abs().sum() > 0, group.name


def test_an_edit_changes_numbers_and_nothing_else(document: Document, prior: UNetPrior) -> None:
    image = SvgImage(document, prior)
    edit(image, prior, "a cat", "a dog", quick())
    assert {document.parameters[k].group for k in moved(image)} == set(GROUPS) - {"opacities"}  # opaque stays opaque
    before, after = (etree.fromstring(x) for x in (PAGE, image.svg()))
    assert [e.tag for e in before.iter()] == [e.tag for e in after.iter()]
    assert [e.get("id") for e in before.iter()] == [e.get("id") for e in after.iter()]
    assert b"<!-- kept -->" in image.svg()
    again = Document.parse(image.svg()).parameters
    for key, value in image.values().items():
        np.testing.assert_allclose(again[key].value, value.detach().numpy(), atol=3e-3)


def test_an_edit_to_the_same_prompt_gives_the_very_document(document: Document, prior: UNetPrior) -> None:
    """With the preset's contrastive loss too, whose gradient is not zero by itself."""
    image, preset = SvgImage(document, prior), PRESETS["cpds-svg"]
    assert preset.guidance.w_cut
    edit(image, prior, "a cat", "a cat", replace(preset, num_inference_steps=3))
    assert not moved(image)
    edit(image, prior, "a cat", "a dog", replace(preset, num_inference_steps=3))
    assert moved(image)


def test_points_move_in_canvas_pixels_whatever_the_scale(prior: UNetPrior) -> None:
    """Two documents that look the same, one in units a hundred times larger, take the same steps on the page."""
    small = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><path d="M4 4C30 0 44 20 20 28Z"/></svg>'
    large = small.replace(b"0 0 32 32", b"0 0 3200 3200").replace(b"<path", b'<path transform="scale(100)"')
    found = []
    for data in (small, large):
        image = SvgImage(Document.parse(data), prior, SvgConfig(optimize=("points",)))
        (points,) = (g.tensors[0] for g in image.param_groups() if g.name == "points")
        with torch.no_grad():
            points += 8.0
        found.append(image.values()["0:d"].detach())
        moved_by = found[-1].numpy() - image.document.parameters["0:d"].value
        np.testing.assert_allclose(moved_by, 8 * 32 / CANVAS, rtol=1e-4)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(("width", "height", "canvas"), [(32, 8, 32), (8, 32, 32), (1000, 3, 12), (3, 1000, 12)])
def test_steps_are_small_beside_the_shorter_side_of_a_very_long_page(
    prior: UNetPrior, width: int, height: int, canvas: int
) -> None:
    data = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"><path d="M1 1H2V2Z"/></svg>'
    image = SvgImage(Document.parse(data.encode()), prior, SvgConfig(optimize=("points",)))
    with torch.no_grad():
        image.param_groups()[0].tensors[0].add_(8.0)
    moved_by = image.values()["0:d"].detach().numpy() - image.document.parameters["0:d"].value
    np.testing.assert_allclose(moved_by, 8 * canvas / CANVAS, rtol=1e-4)


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
    image = SvgImage(document, prior, SvgConfig(optimize=chosen))
    move(image)
    assert {document.parameters[k].group for k in moved(image)} == groups


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
    image = SvgImage(document, prior, SvgConfig(only=names, optimize=("points", "fills")))
    move(image)
    touched = {document.parameters[k].owner for k in moved(image)}
    assert {e.get("id") or e.get("class") for e in touched} == owners


def test_numbers_stay_in_their_ranges(document: Document, prior: UNetPrior) -> None:
    image = SvgImage(document, prior)
    move(image, 400.0)
    for key, value in image.values().items():
        value, p = value.detach(), document.parameters[key]
        if p.group in ("fills", "strokes", "opacities"):
            assert -1e-6 <= float(value.min()) <= float(value.max()) <= 1 + 1e-6, key
        if p.group == "widths":
            assert float(value) >= -1e-6
    assert Document.parse(image.svg()).parameters  # what was written can be read
    radius = image.values()[
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
    image = SvgImage(Document.parse(page), prior, SvgConfig(optimize=("points", "fills")), mask)
    move(image)
    now = image.values()
    keys = moved(image)
    assert {"1:d", "1:fill", "2:d"} <= keys
    assert not {"0:d", "0:fill"} & keys
    held = now["2:d"].detach()[:, 0] < 16  # points of the wide one on the left
    want = torch.from_numpy(image.document.parameters["2:d"].value)
    assert torch.equal(now["2:d"].detach()[[0, 3]], want[[0, 3]])
    assert held.sum() == 2
    assert not torch.equal(now["2:d"].detach()[[1, 2]], want[[1, 2]])


def test_the_source_stays_and_the_edit_is_seen(document: Document, prior: UNetPrior) -> None:
    image = SvgImage(document, prior, SvgConfig(background=(0.2, 0.4, 0.6)))
    before, source = image.preview(), image.render(None).detach()
    assert before.shape == (1, 3, 512, 512)
    move(image, 20.0)
    assert torch.equal(image.render_source(None), source)
    assert not torch.equal(image.render(None), source)
    assert float((image.preview() - before).abs().max()) > 0.2


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
        image = SvgImage(Document.parse(data), prior, config)
        seen[name] = image.preview()
        assert image.svg() == data
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
        "margin": 0.3,
        "smoothness": 0.0,
        "detail_size": 0.0,
        "colors_first": False,
        "coarse_steps": 2,
        "simple": False,
        "may_remove": True,
        "may_add": 1,
    }
    results = []
    for config in (SvgConfig(), SvgConfig(**{name: changes[name]})):
        image = SvgImage(Document.parse(PAGE), prior, config)
        settings = quick(group_lrs={"points": 60.0}, redraw_steps=3 * (name == "colors_first"))
        edit(image, prior, "a cat" + config.suffix, "a dog" + config.suffix, settings)
        results.append(image.svg())
    assert results[0] != results[1]


@pytest.mark.parametrize("file", WRITTEN, ids=lambda file: file.stem)
def test_the_written_file_shows_what_the_edit_shows(prior: UNetPrior, file: Path) -> None:
    """After a large move of everything: the file read anew is the image of the run."""
    image = SvgImage(Document.open(file), prior, SvgConfig(optimize=("all",)))
    move(image, 12.0)
    assert moved(image)
    again = SvgImage(Document.parse(image.svg()), prior)
    difference = (image.preview() - again.preview()).abs().amax(1)
    assert float((difference > 0.1).float().mean()) < 2e-3
    start = SvgImage(image.document, prior).preview()
    assert float((image.preview() - start).abs().mean()) > 5e-3


def test_a_gradients_own_matrix_does_not_change_its_learning_rate(prior: UNetPrior) -> None:
    """The same radial gradient written with and without a matrix takes the same step on the page."""
    where = 'cx="0" cy="0" r="1" gradientTransform="translate(16 16) scale(14)"'
    page = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">
        <radialGradient id="g" {} gradientUnits="userSpaceOnUse"><stop stop-color="#fc0"/><stop offset="1"/>
        </radialGradient><rect width="32" height="32" fill="url(#g)"/></svg>"""
    plain, turned = (page.format(x).encode() for x in ('cx="16" cy="16" r="14"', where))
    found = []
    for text, unit in ((plain, 1.0), (turned, 14.0)):
        image = SvgImage(Document.parse(text), prior, SvgConfig(optimize=("gradients",)))
        (key,) = (k for k in image.document.parameters if k.endswith(":gradient"))
        with torch.no_grad():
            for group in image.param_groups():
                group.tensors[0].add_(0.02)
        found.append((image.values()[key].detach() - torch.from_numpy(image.document.parameters[key].value)) * unit)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_a_white_mask_is_no_mask_even_at_the_pages_border(prior: UNetPrior) -> None:
    page = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><path d="M0 0H32V32H-3Z" fill="#38c"/></svg>'
    image = SvgImage(Document.parse(page), prior, mask=torch.ones(1, 1, 20, 20))
    free = SvgImage(Document.parse(page), prior)
    for one in (image, free):
        move(one)
    assert image.svg() == free.svg() != page


def test_the_page_is_seen_within_a_margin(prior: UNetPrior) -> None:
    page = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><path d="M0 0H32V32H0Z" fill="#38c"/></svg>'
    one = SvgImage(Document.parse(page), prior, SvgConfig(margin=0.25, background=(1.0, 0.0, 0.0)))
    height, width = one.size
    for image in (one.render(None), one.render_source(None)):
        assert image.shape == (1, 3, height, width)
        inner = image[:, :, height // 4 : 3 * height // 4, width // 4 : 3 * width // 4]
        torch.testing.assert_close(inner, torch.tensor([0.2, 8 / 15, 0.8])[:, None, None].expand_as(inner)[None][0])
        outside = image.sum() - inner.sum()
        assert float(outside) == pytest.approx(height * width * 0.75)  # of red alone
    whole = SvgImage(Document.parse(page), prior, SvgConfig(margin=0.0))
    assert torch.equal(one.preview(), whole.preview())
    left = torch.zeros(1, 1, 8, 8)
    left[..., :4] = 1
    mask = SvgImage(Document.parse(page), prior, one.config, left).mask(None)
    assert mask is not None
    assert torch.equal(mask, (torch.arange(width) < width // 2).float().expand(1, 1, height, width))


def test_nothing_to_edit_is_told(document: Document, prior: UNetPrior) -> None:
    for only in (("#nose",), ("#face", "#nose")):  # a slip beside a name that is there
        with pytest.raises(InputError, match="nothing of #nose in this SVG"):
            SvgImage(document, prior, SvgConfig(only=only))
    with pytest.raises(InputError, match="nothing of #back in this SVG may change with optimize strokes"):
        SvgImage(document, prior, SvgConfig(only=("#back",), optimize=("strokes",)))


def test_the_fingerprint_knows_the_document_and_the_settings(document: Document, prior: UNetPrior) -> None:
    plain = SvgImage(document, prior).fingerprint()
    assert plain == SvgImage(Document.parse(PAGE), prior).fingerprint()
    other = Document.parse(PAGE.replace(b"#f80", b"#f81"))
    mask = torch.ones(1, 1, 32, 32)
    for image in (
        SvgImage(other, prior),
        SvgImage(document, prior, SvgConfig(smoothness=0.1)),
        SvgImage(document, prior, mask=mask),
    ):
        assert image.fingerprint() != plain


def test_opening_and_saving_files(tmp_path: Path, prior: UNetPrior) -> None:
    (tmp_path / "in.svg").write_bytes(PAGE)
    image = SvgImage.open(tmp_path / "in.svg", prior)
    image.save(tmp_path / "out.svg")
    assert (tmp_path / "out.svg").read_bytes() == PAGE


def test_what_was_packed_stays_packed(tmp_path: Path, prior: UNetPrior) -> None:
    (tmp_path / "in.svgz").write_bytes(gzip.compress(PAGE))
    image = SvgImage.open(tmp_path / "in.svgz", prior)
    assert image.suffix == "svgz"
    assert gzip.decompress(image.export()) == image.svg() == PAGE
    assert (plain := SvgImage(Document.parse(PAGE), prior)).suffix == "svg"
    assert plain.export() == PAGE


def test_learning_rates_are_in_the_groups_own_units(document: Document, prior: UNetPrior) -> None:
    rates = {group.name: group.lr for group in SvgImage(document, prior).param_groups()}
    assert rates == {g: {"points": 4.5, "widths": 1.5}.get(g, 0.03) for g in GROUPS}
    assert PRESETS[SvgImage.preset].lr is None  # an edit takes these


def test_no_method_waits_for_another(document: Document, prior: UNetPrior) -> None:
    """What is looked at between two steps, and how often, changes nothing of them."""
    results = []
    for looks in (0, 3):
        image = SvgImage(document, prior)
        for amount in (2.0, 5.0):
            for _ in range(looks):
                image.render(None)
                image.preview()
            move(image, amount)
        results.append(image.svg())
    assert results[0] == results[1] != PAGE


def test_a_rasterizer_that_is_there_is_used(document: Document, prior: UNetPrior) -> None:
    raster = make_rasterizer(document)
    assert SvgImage(document, prior, rasterizer=raster).rasterizer is raster
    assert torch.equal(SvgImage(document, prior, rasterizer=raster).preview(), SvgImage(document, prior).preview())
