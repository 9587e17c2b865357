"""var() against the same documents with the values of the custom properties put in by hand."""

import re

import numpy as np
import pytest
from svg_oracles import Redraw, drawn_by_resvg, psnr, svg

from svg.document import Document
from svg.parse.variables import MAX_LENGTH, computed, substituted

BOX = '<path d="M8 8h40v30h-40z" '
BLUR = '<filter id="f"><feGaussianBlur stdDeviation="2"/></filter>'
DOCUMENTS = [  # body, and what each var() stands for
    (f'{BOX} style="fill:var(--c, teal)"/>', {"var(--c, teal)": "teal"}),  # the fallback, in a style attribute
    (f'{BOX} fill="var(--c,teal)"/>', {"var(--c,teal)": "teal"}),  # in a presentation attribute
    (f"<style>:root{{--c:teal}}.a{{fill:var(--c)}}</style>{BOX} class='a'/>", {"var(--c)": "teal"}),
    (f"<style>:root{{--c:teal}}.a{{fill:var(--c)!important}}</style>{BOX} class='a'/>", {"var(--c)": "teal"}),
    (f'<g style="--c:teal">{BOX} style="--C:red;fill:var(--c)"/></g>', {"var(--c)": "teal"}),  # names have cases
    (f'<g style="--a:var(--b);--b:teal">{BOX} fill="var(--a)"/></g>', {"var(--a)": "teal"}),
    # of what is inherited the value comes down, not the text
    (f'<g style="--a:var(--b);--b:teal"><g style="--b:red">{BOX} fill="var(--a)"/></g></g>', {"var(--a)": "teal"}),
    (f'{BOX} fill="var(--a, var(--b, rgb(0, 99, 99)))"/>', {"var(--a, var(--b, rgb(0, 99, 99)))": "rgb(0, 99, 99)"}),
    (f'<g style="--r:0,99">{BOX} fill="rgba(var(--r), var(--b,99), .5)"/></g>', {"var(--r), var(--b,99)": "0,99,99"}),
    # what stands for nothing, or for what cannot be, is inherited or initial
    (f'<g fill="teal">{BOX} fill="red" style="fill:var(--c)"/></g>', {"var(--c)": "inherit"}),
    (f'<g fill="teal" style="--c:9px">{BOX} fill="var(--c)"/></g>', {"var(--c)": "inherit"}),
    (f'<g opacity=".5">{BOX} fill="teal" opacity="var(--o)"/></g>', {"var(--o)": "1"}),
    # a cycle, of which no fallback leads out, and what refers to it
    (f'{BOX} style="--a:var(--b, red);--b:var(--a, red);fill:var(--a, teal)"/>', {"var(--a, teal)": "teal"}),
    (f'<g style="--a:red">{BOX} style="--a:var(--a);fill:var(--a, teal)"/></g>', {"var(--a, teal)": "teal"}),
    (f'<g style="--a:red">{BOX} style="--a:initial;fill:var(--a, teal)"/></g>', {"var(--a, teal)": "teal"}),
    (f'<g style="--a:teal">{BOX} style="--a:inherit;fill:var(--a, red)"/></g>', {"var(--a, red)": "teal"}),
    # what else is read
    (
        f'<g style="--w:6px;--d:7">{BOX} stroke="teal" stroke-width="var(--w)" stroke-dasharray="var(--d) 4"/></g>',
        {"var(--w)": "6px", "var(--d)": "7"},
    ),
    (
        f'<g style="--t:20;--o:.5">{BOX} style="transform:rotate(var(--t));opacity:var(--o)"/></g>',
        {"var(--t)": "20", "var(--o)": ".5"},
    ),
    (f'<g style="--c:teal;color:var(--c)">{BOX} fill="currentColor"/></g>', {"var(--c)": "teal"}),
    (
        f'<linearGradient id="g" style="--c:teal"><stop stop-color="var(--c)"/><stop offset="1" stop-color="red" '
        f'style="stop-opacity:var(--o, .5)"/></linearGradient><g style="--p:url(#g)">{BOX} fill="var(--p)"/></g>',
        {"var(--c)": "teal", "var(--o, .5)": ".5", "var(--p)": "url(#g)"},
    ),
    # through a use its properties come in
    (
        f'<symbol id="s">{BOX} fill="var(--c, red)"/></symbol><use href="#s" style="--c:teal"/>',
        {"var(--c, red)": "teal"},
    ),
    # what resvg draws for us
    (
        f'{BOX}/>{BLUR}<g style="--c:teal;--f:url(#f)"><g filter="var(--f)"><g style="--d:var(--c)">'
        f'{BOX} fill="var(--d)" style="stroke:var(--c)"/></g></g></g>',
        {"var(--f)": "url(#f)", "var(--d)": "teal", "var(--c)": "teal"},
    ),
    (
        f'{BOX}/>{BLUR}<symbol id="s"><g filter="var(--f)">{BOX} fill="teal"/></g></symbol>'
        '<use href="#s" style="--f:url(#f)"/>',
        {"var(--f)": "url(#f)"},
    ),
]


def by_hand(data: bytes, values: dict[str, str]) -> bytes:
    """The values in the places of var(), and no custom properties, at which resvg stops reading a style."""
    for text, value in values.items():
        data = data.replace(text.encode(), value.encode())
    return re.sub(rb"--[\w-]+:[^;\"}]*;?", b"", data)


@pytest.mark.parametrize(("body", "values"), DOCUMENTS)
def test_var_stands_for_its_value_before_and_after_an_edit(body: str, values: dict[str, str]) -> None:
    source, plain = svg(body), by_hand(svg(body), values)
    document, other = Document.parse(source), Document.parse(plain)
    assert psnr(drawn_by_resvg(Redraw(document).page()), drawn_by_resvg(plain)) > 42
    new = {k: 0.8 - 0.6 * p.value for k, p in document.parameters.items() if p.property in ("fill", "stroke", "color")}
    new |= {k: p.value * 0.7 for k, p in document.parameters.items() if p.property in ("d", "opacity", "stroke-width")}
    new = {k: v for k, v in new.items() if document.parameters[k].group}
    assert new
    assert document.parameters.keys() == other.parameters.keys()
    written = document.write(new)
    assert psnr(drawn_by_resvg(by_hand(written, values)), drawn_by_resvg(other.write(new))) == 100
    reread = Document.parse(written).parameters
    assert all(np.allclose(reread[k].value, v, atol=3e-3) for k, v in new.items())


def test_two_uses_with_two_values_leave_no_one_color_to_change() -> None:
    body = f'<symbol id="s">{BOX} fill="var(--c, red)"/></symbol><use href="#s" style="--c:teal"/><use href="#s"/>'
    assert Document.parse(svg(body)).parameters["0/0:fill"].group is None


def test_values_that_explode_or_nest_without_end_are_invalid_in_time() -> None:
    doubling = {"--a0": "x" * 10} | {f"--a{i}": f"var(--a{i - 1})var(--a{i - 1})" for i in range(1, 300)}
    found = computed(doubling, {})
    assert max(map(len, found.values())) <= 2 * MAX_LENGTH
    assert "--a299" not in found
    chain = {"--a0": "red"} | {f"--a{i}": f"var(--a{i - 1})" for i in range(1, 2000)}
    assert computed(chain, {})["--a1999"] == "red"
    assert substituted("(" * 100_000 + "var(--a)", {"--a": "1"}) is None


@pytest.mark.parametrize("text", ["var(--a b)", "var(--a f(1), red)", "var(--a {}, red)", "var(--b, var(1, red))"])
def test_what_is_no_reference_is_invalid(text: str) -> None:
    assert substituted(text, {"--a": "1"}) is None
