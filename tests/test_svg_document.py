"""Documents of one feature each against resvg: what the model draws, and what is drawn after numbers are rewritten."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from svg_oracles import COLORS, DRAWINGS, FRACTIONS, Redraw, box, drawn_by_resvg, elements, psnr, svg

from cpds.errors import InputError
from svg.document import Document

pytest.importorskip("resvg_py")
WRITTEN = {
    *("d points style x y width height rx ry cx cy r fx fy fr x1 y1 x2 y2 offset stroke-width".split()),  # noqa: SIM905
    *COLORS,
    *FRACTIONS,
}


def perturbed(document: Document, seed: int = 0) -> dict[str, np.ndarray]:
    """Other values for everything that can be edited, of the kind that a file can hold."""
    rng, values = np.random.default_rng(seed), {}
    for key, parameter in document.parameters.items():
        v, name = parameter.value, parameter.property
        if parameter.group is None:
            continue
        new = v + rng.uniform(-1, 1, v.shape) * (0.01 + 0.05 * np.abs(v).max())
        if name in COLORS:
            new = rng.integers(0, 256, 3) / 255
        elif name in FRACTIONS:
            new = np.array(rng.uniform(0.1, 0.9))
        elif name == "offset":
            new = v * 0.8 + 0.1
        elif name == "stroke-width":
            new = v * rng.uniform(0.8, 1.2)
        elif name == "rect":
            new[2:] = v[2:] * rng.uniform(1, 1.1, 4)
            new[4:] = np.minimum(new[4:], new[2:4] / 2)
        elif name in ("circle", "ellipse"):
            new[2:] = v[2:] * rng.uniform(0.9, 1.1, len(v) - 2)
        elif name == "gradient" and len(v) == 6:
            new[[2, 5]] = v[[2, 5]] * 1.1
        values[key] = np.asarray(new)
    return values


def untouched(data: bytes) -> list[tuple[str, dict[str, str]]]:
    """Tags, and the attributes that hold no numbers."""
    return [(e.tag, {k: v for k, v in e.attrib.items() if k not in WRITTEN}) for e in elements(data)]


@pytest.mark.parametrize("file", DRAWINGS, ids=lambda file: file.stem)
def test_the_model_draws_what_resvg_draws(file: Path) -> None:
    document = Document.open(file)
    assert psnr(drawn_by_resvg(file.read_bytes()), drawn_by_resvg(Redraw(document).page())) > 42


@pytest.mark.parametrize("file", DRAWINGS, ids=lambda file: file.stem)
def test_written_values_are_read_back_and_nothing_else_changes(file: Path) -> None:
    data = file.read_bytes()
    document = Document.parse(data)
    assert document.write() == data
    assert document.write({k: p.value for k, p in document.parameters.items()}) == data
    values = perturbed(document)
    written = document.write(values)
    again = Document.parse(written)
    assert list(again.parameters) == list(document.parameters)
    for key, parameter in again.parameters.items():
        wanted = values.get(key, document.parameters[key].value)
        tolerance = 1 / 500 if parameter.property in COLORS else 1e-3
        np.testing.assert_allclose(parameter.value, wanted, atol=tolerance, err_msg=key)
    assert untouched(written) == untouched(data)


@pytest.mark.parametrize("file", DRAWINGS, ids=lambda file: file.stem)
def test_numbers_that_are_written_and_put_back_keep_the_drawing(file: Path) -> None:
    """Every number is written anew, at its old value."""
    data = file.read_bytes()
    document = Document.parse(data)
    moved = Document.parse(document.write(perturbed(document)))
    rewritten = moved.write({k: p.value for k, p in document.parameters.items() if p.group})
    assert psnr(drawn_by_resvg(data), drawn_by_resvg(rewritten)) > 42


def test_files_are_opened_from_disk_plain_or_packed(tmp_path) -> None:
    data = svg(box(""))
    for name, content in (("a.svg", data), ("a.svgz", gzip.compress(data))):
        (tmp_path / name).write_bytes(content)
        assert Document.open(tmp_path / name).write() == data
    for bad, message in ((tmp_path / "b.svg", "no file"), (tmp_path, "folder")):
        with pytest.raises(InputError, match=message):
            Document.open(bad)


def test_owners_are_found_by_id_and_class() -> None:
    document = Document.parse(svg('<g id="hat" class="a b"><path d="M0 0h9v9z" id="p"/></g><circle r="4"/>'))
    found = {n: {k[0] for k, p in document.parameters.items() if document.matches(p, [n])} for n in MATCHES}
    assert found == MATCHES


MATCHES = {"hat": {"0"}, "#hat": {"0"}, ".a": {"0"}, "b": {"0"}, "p": {"0"}, ".hat": set(), "c": set()}


@pytest.mark.parametrize(
    ("attributes", "css", "want"),
    [
        ("", "", (1, 1, 1)),
        ('style="background-color:#00f"', "", (0, 0, 1)),
        ('style="background: rgb(255 0 0 / 50%)"', "", (1, 0.5, 0.5)),
        ("", "svg{background-color:lime}", (0, 1, 0)),
        ('style="background:url(x.png)"', "", (1, 1, 1)),
        ('style="background-color:none"', "", (1, 1, 1)),
    ],
)
def test_the_roots_background(attributes: str, css: str, want: tuple[float, float, float]) -> None:
    data = svg(f"<style>{css}</style>" + box(""), f'width="64" height="64" {attributes}')
    document = Document.parse(data)
    assert document.background == pytest.approx(want)
    if "background:" not in attributes:  # of the two, resvg knows background-color
        *color, alpha = drawn_by_resvg(data)[0, 0]
        np.testing.assert_allclose(np.array(color) + (1 - alpha), want, atol=0.01)


SHAPED = {
    "pattern": '<pattern id="p" width="9" height="9" patternUnits="userSpaceOnUse"><circle r="6"/></pattern>'
    '<path d="M5 5h30v30z" fill="url(#p)" stroke="red" stroke-width="3"/>',
    "marker": '<marker id="m" markerWidth="4" markerHeight="4"><circle r="2" fill="lime"/></marker>'
    '<path d="M5 5h30v30z" fill="blue" stroke="red" stroke-width="3" marker-mid="url(#m)" style="marker-end:url(#m)"/>',
}


@pytest.mark.parametrize("kind", SHAPED)
def test_shapes_with_a_pattern_or_markers_keep_their_points_and_stroke(kind: str) -> None:
    document = Document.parse(svg(SHAPED[kind]))
    groups = {p.property: p.group for p in document.parameters.values() if p.key.startswith("1:")}
    assert (groups["d"], groups["stroke"], groups["stroke-width"]) == ("points", "strokes", "widths")
    assert groups.get("fill") == ("fills" if kind == "marker" else None)
    assert f"1 {kind}" in (document.warning() or "")
    assert f"while editing, {kind}s stay where they were" in (document.warning() or "")
    # the written file draws pattern and markers at the new points
    moved = document.parameters["1:d"].value + np.array([9.0, 4.0])
    again = svg(SHAPED[kind].replace("M5 5h30v30z", "M14 9h30v30z"))
    assert psnr(drawn_by_resvg(document.write({"1:d": moved})), drawn_by_resvg(again)) > 50
