"""Shapes that fade out and paths that are added: in the document, on the page, and in a run that is resumed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]
from svg_oracles import DATA
from torch import Tensor

from cpds.config import EditConfig, GuidanceConfig
from cpds.editor import edit
from cpds.priors.unet import UNetPrior
from cpds.session import edit_in_folder
from svg.config import SvgConfig
from svg.document import Document
from svg.fading import closed_curve, prepared
from svg.image import SvgImage

BOTH = SvgConfig(may_remove=True, may_add=2)
PAGE = b"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="-10 0 40 20" width="80" height="40">
  <rect x="-10" width="40" height="20" fill="#fff"/>
  <g transform="scale(2)"><circle id="eye" cx="3" cy="3" r="1" fill="#000"><title>eye</title></circle></g>
  <path id="nose" d="M10 10h4v4h-4z" fill="#f00" stroke="#00f" opacity="0.5"/>
  <path id="tail" d="M20 10h4v4h-4z"/><use href="#tail" x="1" y="2"/>
</svg>"""
QUICK = EditConfig(GuidanceConfig("pds", t_min=0.1), 10, "adam", 0.05, group_lrs={"points": 4.0})


def faded(image: SvgImage, **shares: float) -> dict[str, np.ndarray]:
    """Values for fades, by the ids of their elements."""
    keys = {p.owner.get("id"): k for k, p in image.document.parameters.items() if p.group == "fades"}
    return {keys[name]: np.array(share) for name, share in shares.items()}


def test_a_document_that_may_change_so_is_written_as_it_was(prior: UNetPrior) -> None:
    for data in (PAGE, (DATA / "face.svg").read_bytes()):
        plain, image = SvgImage(Document.parse(data), prior), SvgImage(Document.parse(data), prior, BOTH)
        assert image.svg() == data
        assert image.document.packed == plain.document.packed
        assert prepared(image.document, BOTH) is image.document
        torch.testing.assert_close(image.render(None), plain.render(None), rtol=0, atol=1e-6)


def test_what_is_invisible_is_removed_and_a_comment_stands_for_it(prior: UNetPrior) -> None:
    image = SvgImage(Document.parse(PAGE), prior, SvgConfig(may_remove=True))
    assert {p.owner.get("id") for p in image.document.parameters.values() if p.group == "fades"} == {
        "eye",
        "nose",
        "tail",
    }
    found = image.document.write(faded(image, eye=0.01, nose=0.6, tail=0.0))
    assert b'<g transform="scale(2)"><!-- cpds: removed circle id="eye" --></g>' in found
    assert b'opacity="0.3"' in found  # half of 0.6
    assert b'id="tail" d="M20 10h4v4h-4z" opacity="0"' in found  # something refers to it
    rest = {e.get("id") for e in etree.fromstring(found).iter() if isinstance(e.tag, str)}
    assert rest == {None, "nose", "tail"}


@pytest.mark.parametrize("shares", [{"nose": 0.6}, {"eye": 0.0, "tail": 0.3}])
def test_the_written_file_shows_what_the_edit_shows(prior: UNetPrior, shares: dict[str, float]) -> None:
    image = SvgImage(Document.parse(PAGE), prior, SvgConfig(may_remove=True))
    for key, share in faded(image, **shares).items():
        image._numbers.set(key, share)
    again = SvgImage(Document.parse(image.svg()), prior)
    torch.testing.assert_close(image.render(None), again.render(None), rtol=0, atol=1e-3)


def test_a_fade_ends_at_nothing_or_at_all(prior: UNetPrior) -> None:
    image = SvgImage(Document.parse(PAGE), prior, SvgConfig(may_remove=True))
    (fades,) = (g for g in image.param_groups() if g.name == "fades")
    x = torch.tensor([0.9, 0.4, 0.0])
    assert fades.filter_update is not None
    for _ in range(100):
        x = fades.filter_update(x, x.clone()).clamp(0, 1)
    assert x.tolist() == [1.0, 0.0, 0.0]
    assert fades.filter_update(x, torch.ones(3)).tolist()[2] == 0.0  # what is gone stays away


def blob(image: SvgImage) -> Tensor:
    """The page with a green ellipse that it has not."""
    height, width = image.size
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    within = ((x - 0.3) / 0.15).square() + ((y - 0.6) / 0.3).square() < 1
    return torch.where(within, torch.tensor([0.0, 0.8, 0.2])[:, None, None], image.render(None)[0].detach())[None]


def test_a_path_is_added_where_it_is_wanted(prior: UNetPrior) -> None:
    image = SvgImage(Document.parse(PAGE), prior, BOTH)
    wanted = blob(image)
    before = (image.render(None) - wanted).square().mean()
    for step in range(1, 11):
        image.revise(step, 10, lambda view: wanted)
    assert image.changes() in [f"0 of 3 small shapes removed, {n} of 2 paths added" for n in (1, 2)]
    assert float((image.render(None) - wanted).square().mean()) < 0.2 * float(before)  # at a few px a side
    written = image.svg()
    assert written.count(b'data-cpds="added"') == int(image.changes().split(", ")[1][0])
    assert written.index(b"added") > written.index(b"tail")
    again = SvgImage(Document.parse(written), prior)
    torch.testing.assert_close(image.render(None), again.render(None), rtol=0, atol=2e-3)
    image.revise(2, 10, lambda view: image.render(None))
    assert image.svg() == written


def test_added_paths_are_looked_up_as_seldom_in_a_large_document(
    prior: UNetPrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, addable = [0], Document.addable.fget
    assert addable is not None

    def counted(document: Document) -> set[object]:
        counts[-1] += 1
        return addable(document)

    monkeypatch.setattr(Document, "addable", property(counted))
    for shapes in (1, 30):
        page = PAGE.replace(b"<use", b'<circle r="1"/>' * shapes + b"<use")
        SvgImage(Document.parse(page), prior, BOTH).changes()
        counts.append(0)
    assert counts[0] == counts[1] > 0


def test_what_was_added_once_belongs_to_the_document(prior: UNetPrior) -> None:
    """It is edited as the rest is, and further paths may be added; nothing is added outside of a mask."""
    image = SvgImage(Document.parse(PAGE), prior, BOTH)
    wanted = blob(image)
    image.revise(2, 10, lambda view: wanted)
    again = SvgImage(Document.parse(image.svg() + b"<!-- </svg> -->"), prior, replace(BOTH, may_add=1))
    assert again.changes() == "0 of 4 small shapes removed, 0 of 1 paths added"
    assert again.svg() == image.svg() + b"<!-- </svg> -->"
    right = torch.zeros(1, 1, 2, 4)
    right[..., 2:] = 1
    for mask, count in ((right, 0), (1 - right, 1)):
        held = SvgImage(Document.parse(PAGE), prior, BOTH, mask)
        held.revise(2, 10, lambda view: wanted)
        assert held.svg().count(b'data-cpds="added"') == count


def test_added_paths_may_move_whatever_was_asked_for(prior: UNetPrior) -> None:
    config = SvgConfig(optimize=("strokes",), only=("nose",), may_add=1)
    image = SvgImage(Document.parse(PAGE), prior, config)
    groups = {g.name: g.tensors[0] for g in image.param_groups()}
    assert {name: len(x) for name, x in groups.items() if len(x)} == {
        "points": 74,
        "fills": 3,
        "strokes": 3,
        "fades": 1,
    }


def test_a_closed_curve_through_points_of_a_circle_is_nearly_one() -> None:
    angles = 2 * np.pi * np.arange(8) / 8
    points = closed_curve(np.stack([np.cos(angles), np.sin(angles)], 1))
    assert points.shape == (25, 2)
    np.testing.assert_allclose(points[0], points[-1])
    middle = (points[:-1:3] + 3 * points[1::3] + 3 * points[2::3] + points[3::3]) / 8
    np.testing.assert_allclose(np.linalg.norm(middle, axis=1), 1, atol=0.01)


def test_a_resumed_run_adds_and_removes_the_same(prior: UNetPrior, tmp_path: Path) -> None:
    def run(folder: str, steps: int, resume: bool = False) -> bytes:
        image = SvgImage(Document.parse(PAGE), prior, BOTH)
        config = replace(QUICK, num_inference_steps=steps)
        edit_in_folder(image, prior, "a cat", "a dog", tmp_path / folder, config, resume=resume)
        return image.svg()

    def stopped(folder: str) -> None:
        class Stop:
            def started(self, state: object) -> None: ...
            def finished(self, state: object) -> None: ...
            def stepped(self, state: object, result: object) -> None:
                if state.step == 5:  # pyright: ignore[reportAttributeAccessIssue]
                    raise KeyboardInterrupt

        image = SvgImage(Document.parse(PAGE), prior, BOTH)
        with pytest.raises(KeyboardInterrupt):
            edit_in_folder(image, prior, "a cat", "a dog", tmp_path / folder, QUICK, callbacks=[Stop()])

    whole = run("whole", 10)
    stopped("parts")
    assert run("parts", 10, resume=True) == whole
    assert whole != PAGE


def test_every_proposal_has_its_own_noise(prior: UNetPrior, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is proposed depends on seed and step alone."""
    seen: list[Tensor] = []

    def revise(self: SvgImage, step: int, steps: int, propose: Callable[[None], Tensor]) -> None:
        if step in (1, 2):
            seen.append(propose(None))
            assert torch.equal(propose(None), seen[-1])

    monkeypatch.setattr(SvgImage, "revise", revise)
    image = SvgImage(Document.parse(PAGE), prior, replace(BOTH, optimize=("widths",)))
    edit(image, prior, "a cat", "a dog", replace(QUICK, num_inference_steps=2, lr=1e-9, group_lrs={}))
    assert seen[0].shape == image.render(None).shape
    assert not torch.equal(*seen)


def test_what_a_proposal_has_not_is_removed(prior: UNetPrior) -> None:
    image = SvgImage(Document.parse(PAGE), prior, SvgConfig(may_remove=True))
    gone = SvgImage(Document.parse(PAGE.replace(b'<path id="nose"', b'<path id="nose" display="none"')), prior)
    image.revise(1, 10, lambda view: gone.render(None))
    assert image.changes().startswith("1 of 3 small shapes removed")
    torch.testing.assert_close(image.render(None), gone.render(None), rtol=0, atol=1e-6)
    assert b'removed path id="nose"' in image.svg()
