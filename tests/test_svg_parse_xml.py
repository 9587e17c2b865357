"""Reading XML safely: what is refused, in one sentence and in time, and what is read in spite of its oddities."""

import gzip
import time

import pytest
from svg_oracles import RED, Redraw, box, drawn_by_resvg, psnr, svg

from cpds.errors import InputError
from svg.document import Document


def deep(n: int) -> str:
    return "<g>" * n + '<rect width="9" height="9"/>' + "</g>" * n


OUTSIDE = b'<!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
TENFOLD = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))
LAUGHS = f'<!DOCTYPE svg [<!ENTITY a0 "ha">{TENFOLD}]>'.encode()
USES = '<path id="u0" d="M0 0h9v9z"/>' + "".join(
    f'<g id="u{i}">' + f'<use href="#u{i - 1}"/>' * 10 + "</g>" for i in range(1, 9)
)
BAD = {
    "empty": (b"  ", "is empty"),
    "not text": (svg("<desc>\xe9</desc>" + box("")).decode().encode("latin-1"), "not text in utf-8 from byte 112 on"),
    "not XML": (b"hello", "not well-formed XML"),
    "PNG": (b"\x89PNG\r\n\x1a\n....", "is a PNG image, not an SVG"),
    "PDF": (b"%PDF-1.4 ...", "is a PDF document, not an SVG"),
    "packed PNG": (gzip.compress(b"\x89PNG\r\n\x1a\n...."), "is a PNG image, not an SVG"),
    "packed twice": (gzip.compress(gzip.compress(svg(box("")))), "packed twice"),
    "HTML": (b"<!DOCTYPE html>\n<html><head><meta charset=utf-8></head>", "is an HTML page, not an SVG"),
    "undeclared entity": (svg("<desc>\n&nbsp;</desc>" + box("")), "uses the entity &nbsp; but .* \\(line 2\\)"),
    "undeclared entity, foreign DTD": (
        b'<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://x/svg11.dtd">' + svg('<g id="&eacute;"/>' + box("")),
        "uses the entity &eacute; but",
    ),
    "lone ampersand": (svg("<desc>cats & dogs</desc>" + box("")), "has an & that begins no entity"),
    "unclosed": (b"<svg xmlns='http://www.w3.org/2000/svg'>\n<g></svg>", "line 2"),
    "another root": (b"<div xmlns='urn:x'/>", "root element div, not svg"),
    "another namespace": (b"<svg xmlns='urn:x'><path d='M0 0h9v9z'/></svg>", "root element svg, not svg"),
    "external entity": (OUTSIDE + svg("<g>&a;</g>"), "uses the external entity &a;, which is not read"),
    "external entity, unused": (
        OUTSIDE + svg("<g/>"),
        "entity 'a'",
    ),
    "external parameter entity": (b'<!DOCTYPE svg [<!ENTITY % a SYSTEM "http://x/y"> %a;]>' + svg(""), "entity"),
    "laughs": (LAUGHS + svg("<text>&a11;</text>"), "expand"),
    "laughs in an attribute": (
        LAUGHS + svg('<g id="&a11;"/>'),
        "expand",
    ),
    "laughs, unused": (LAUGHS + svg("<g/>"), "expands to"),
    "entity with elements": (b'<!DOCTYPE svg [<!ENTITY a "<g/>">]>' + svg("&a;"), "elements in the entity 'a'"),
    "view box of no size": (svg("<rect/>", 'viewBox="0 0 0 10"'), "viewBox '0 0 0 10'"),
    "view box below zero": (svg("<rect/>", 'viewBox="0 0 10 -1"'), "viewBox"),
    "view box of words": (svg("<rect/>", 'viewBox="0 0 NaN 3"'), "viewBox"),
    "view box of infinity": (svg("<rect/>", 'viewBox="0 0 1e999 3"'), "viewBox of <svg>"),
    "page too large": (svg("<rect/>", 'viewBox="0 0 1e7 1e7"'), "large: change .* each side has 0.001 to 1000000 px"),
    "view box too large": (svg("<rect/>", 'viewBox="0 0 1e30 3"'), "viewBox"),
    "page of no size": (svg("<rect/>", 'width="0" height="4"'), "width '0'"),
    "infinite path": (svg('<path id="p" d="M0 0L1e400 3z"/>'), 'd of <path id="p"> on line 1'),
    "infinite width": (svg('<path style="stroke-width:1e99" d="M0 0L3 3z"/>'), "style of <path>"),
    "huge transform": (
        svg('<g transform="scale(9e8)"><g transform="scale(9e8)">' + box("") + "</g></g>"),
        "transform of",
    ),
    "nothing drawn": (svg("<title>t</title>"), "no shape that can be edited"),
    "only text": (svg("<text>t</text><text>u</text>"), "only 1 text element|only 2 text elements"),
    "deep": (svg(deep(400)), "deep"),
    "deeper": (svg(deep(5000)), "deep"),
    "deep by use": (
        svg(
            "".join(f'<symbol id="u{i}"><use href="#u{i - 1}"/></symbol>' for i in range(1, 600))
            + '<circle id="u0"/><use href="#u599"/>'
        ),
        "deep",
    ),
    "use of use of use": (svg(USES), "draws more than 100000"),
    "chain of clip paths": (
        svg(
            "".join(f'<clipPath id="c{i}" clip-path="url(#c{i + 1})"><circle r="9"/></clipPath>' for i in range(300))
            + box('clip-path="url(#c0)"')
        ),
        "chain of clip paths",
    ),
    "broken gzip": (gzip.compress(svg(box("")))[:-20], "gzip"),
    "changed gzip": (gzip.compress(svg(box("")))[:-8] + b"12345678", "damaged: its gzip data is cut short or changed"),
    "huge laughs": (LAUGHS + svg(f'<g id="{"x" * 10_000_000}"/><text>&a6;</text>' + box("")), "10 MB|expand"),
    "huge laughs, hidden": (
        b"<!DOCTYPE svg [<!ENTITY % a \"<!ENTITY b '"
        + b"b" * 99_000
        + b"'>\"> %a;]>"
        + svg(f'<g id="{"x" * 10_000_000}"/>' + "&b;" * 2000 + box("")),
        "10 MB|expand|DTD|entit|PEReference|well-formed",
    ),
    "gzip of too much": (gzip.compress(b" " * 60_000_000), "unpacks to more than 50 MB"),
    "unknown encoding": (b'<?xml version="1.0" encoding="klingon"?>' + svg(box("")), "klingon"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gives_one_sentence_in_time(name: str) -> None:
    data, message = BAD[name]
    start = time.perf_counter()
    with pytest.raises(InputError, match=message) as caught:
        Document.parse(data)
    assert time.perf_counter() - start < 5
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


PROLOGUE = """<?xml version="1.0" encoding="{}"?>
<!-- Generator: "x" [y] > -->
<?xml-stylesheet href="none.css"?>
<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd" [
  <!-- ]> "' -->
  <!ENTITY ns_svg "http://www.w3.org/2000/svg"> <!ENTITY blue "fill:blue;"> <!ENTITY who "&#233;t&#233; &amp; co">
]>
<svg xmlns="&ns_svg;" xmlns:i="urn:ink" i:version='1 > 0' width="64" height="64">
<metadata><i:a i:b="<"/> été </metadata>
  <title>&who; <![CDATA[<g>]]></title><path style="&blue;" d="M0 0h9v9z"/></svg>
<!-- end -->
""".replace('"<"', '"&lt;"')


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "iso-8859-1", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"]
)
def test_the_prologue_survives(encoding: str) -> None:
    text = PROLOGUE.format(encoding.removesuffix("-sig"))
    document = Document.parse(text.encode(encoding))
    written = document.write({"2:fill": RED}).decode(encoding)
    assert written == text.replace('style="&blue;"', 'style="fill:#ff0000;"')


@pytest.mark.parametrize("opening", ["<svg ", '<svg xmlns:s="http://www.w3.org/2000/svg" ', "<svg xlink:x='1' "])
def test_a_missing_namespace_is_added_in_memory_and_told(opening: str) -> None:
    text = f"<!-- <svg> -->{opening}width='64' height='64'><path d='M0 0h9v9z' fill='blue'/></svg>"
    document = Document.parse(text.encode())
    assert "its svg element lacks xmlns" in (document.warning() or "")
    assert 'xmlns="http://www.w3.org/2000/svg"' in (document.warning() or "")
    assert document.write() == text.encode()
    assert document.write({"0:fill": RED}).decode() == text.replace("blue", "#ff0000")  # nothing that is not the user's
    if "xlink" not in opening:  # resvg adds no prefix
        assert psnr(drawn_by_resvg(text.encode()), drawn_by_resvg(Redraw(document).page())) > 42
    assert Document.parse(svg(box(""))).warning() is None


def test_texts_beyond_the_parsers_own_limit_are_read() -> None:
    long = "M0 0" + "L9 9 " * 10 + " " * 11_000_000 + "L1 2"
    for entities in ("", '<!DOCTYPE svg [<!ENTITY ns "http://www.w3.org/2000/svg">]>'):
        data = entities.encode() + svg(f'<path d="{long}" fill="blue"/><desc>{"x" * 11_000_000}</desc>')
        document = Document.parse(data)
        assert document.parameters["0:d"].value.shape == (12, 2)
        assert document.write() == data
