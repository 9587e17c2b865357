"""Numbers back into the text: only the values that change are touched, and what cannot be written is a constant."""

import numpy as np
import pytest
from svg_oracles import RED, box, svg

from svg.document import Document

STOPS = '<stop offset="10%" stop-color="red"/><stop offset=".9" stop-color="blue" stop-opacity=".5"/>'
# body; key, value; what the body becomes: only the value's own text changes
CHANGES = [
    # an attribute, in its own quotes, with everything around it
    ("<!-- a --><path  fill = 'blue'\n id='p' d='M0 0h9v9z' x:y='1'/>", "0:fill", RED, {"'blue'": "'#ff0000'"}),
    # a declaration of the style attribute, the others verbatim
    (
        '<path d="M0 0h9v9z" style=" fill : blue ;stroke:url(&quot;#a;b&quot;);opacity:1"/>',
        "0:fill",
        RED,
        {"fill : blue ": "fill : #ff0000 "},
    ),
    # importance stays
    ('<path d="M0 0h9v9z" style="fill:blue!important"/>', "0:fill", RED, {"blue!": "#ff0000 !"}),
    # a rule overrides attributes: the style attribute is needed
    (
        '<style>path{fill:blue}</style><path fill="lime" d="M0 0h9v9z"/>',
        "1:fill",
        RED,
        {'9z"': '9z" style="fill:#ff0000"'},
    ),
    (
        '<style>path{fill:blue!important}</style><path d="M0 0h9v9z" style="opacity:.5"/>',
        "1:fill",
        RED,
        {"opacity:.5": "opacity:.5;fill:#ff0000 !important"},
    ),
    # a default, and an inherited value: the attribute is added to the shape
    ('<path d="M0 0h9v9z" />', "0:fill-opacity", np.array(0.25), {'9z"': '9z" fill-opacity="0.25"'}),
    ('<g fill="blue"><path d="M0 0h9v9z"/></g>', "0/0:fill", RED, {'9z"': '9z" fill="#ff0000"'}),
    # one number of several
    ('<circle cx="1in" r="10%"/>', "0:circle", np.array([9.5, 0, 6.4]), {'"1in"': '"9.5"', '%"': '%"'}),
    ('<path d="m0 0h9v9z"/>', "0:d", np.array([(0, 0), (9, 0), (9, 8.25)]), {"m0 0h9v9z": "M0 0L9 0L9 8.25Z"}),
    ('<polygon points="0 0 9 0 9 9"/>', "0:points", np.array([(0, 0), (9, 0), (9, 8)]), {"0 0 9 0 9 9": "0,0 9,0 9,8"}),
    # alpha leaves the color for the opacity
    (
        '<path d="M0 0h9v9z" fill="rgba(0,0,255,.5)"/>',
        "0:fill",
        RED,
        {"rgba(0,0,255,.5)": "#ff0000", '"/': '" fill-opacity="0.5"/'},
    ),
    (
        '<path d="M0 0h9v9z" fill="rgba(0,0,255,.5)"/>',
        "0:fill-opacity",
        np.array(0.75),
        {"rgba(0,0,255,.5)": "#0000ff", '"/': '" fill-opacity="0.75"/'},
    ),
    # what comes through a use is written on the use
    (
        '<defs><path id="p" d="M0 0h9v9z"/></defs><use href="#p" fill="blue"/><use href="#p"/>',
        "1:fill",
        RED,
        {'"blue"': '"#ff0000"'},
    ),
    (
        '<defs><path id="p" d="M0 0h9v9z" fill="currentColor"/></defs><g color="blue"><use href="#p"/></g>',
        "1/0:color",
        RED,
        {'"#p"/': '"#p" color="#ff0000"/'},
    ),
    # but what the used subtree declares itself is written there, once
    (
        '<defs><g id="p" fill="blue"><path d="M0 0h9v9z"/></g></defs><use href="#p"/><use href="#p"/>',
        "0/0/0:fill",
        RED,
        {'9z"': '9z" fill="#ff0000"'},
    ),
]


@pytest.mark.parametrize(("body", "key", "value", "changes"), CHANGES)
def test_only_the_changed_value_is_written(body: str, key: str, value: np.ndarray, changes: dict[str, str]) -> None:
    attributes = 'width="64" height="64" xmlns:x="urn:x" color="#000000"'
    document = Document.parse(svg(body, attributes))
    for old, new in changes.items():
        body = body.replace(old, new)
    assert document.write({key: value}).decode() == svg(body, attributes).decode()


def test_what_inkscape_would_draw_a_path_anew_from_leaves_a_path_that_changes() -> None:
    """Whatever its prefixes are; a path of which only a color changes stays a star."""
    sodipodi, inkscape = (
        "http://sodipodi.sourceforge.net/DTD/sodipodi-0.dtd",
        "http://www.inkscape.org/namespaces/inkscape",
    )
    spaces = f'width="64" height="64" xmlns:s="{sodipodi}" xmlns:inkscape="{inkscape}" xmlns:x="urn:x"'
    live = ('\n s:type="star"', " inkscape:path-effect='#e'", ' inkscape:original-d="M0 0h9"')
    body = f'<path x:type="a" type="b"{live[0]} s:sides="3"{live[1]} d="M0 0h9v9z"{live[2]} inkscape:label="l"/>'
    document = Document.parse(svg(body, spaces))
    colored, moved = ({"0:fill": RED}, {"0:d": np.array([(0, 0), (9, 0), (9, 8)])})
    assert document.write(colored).decode() == svg(body.replace('"l"', '"l" fill="#ff0000"'), spaces).decode()
    for text in live:
        body = body.replace(text, "")
    assert document.write(moved).decode() == svg(body.replace("M0 0h9v9z", "M0 0L9 0L9 8Z"), spaces).decode()


def test_gradients_that_inherit_a_coordinate_keep_it() -> None:
    body = f'<linearGradient id="a" x1=".2">{STOPS}</linearGradient><linearGradient id="b" href="#a"/>'
    document = Document.parse(svg(body + box('fill="url(#a)"') + box('fill="url(#b)"')))
    moved = document.parameters["0:gradient"].value + 0.1
    again = Document.parse(document.write({"0:gradient": moved}))
    np.testing.assert_allclose(again.parameters["0:gradient"].value, moved)
    np.testing.assert_allclose(again.parameters["1:gradient"].value, [0.2, 0, 1, 0])


@pytest.mark.parametrize(
    ("body", "key"),
    [
        # drawn in place and by use: its color comes from two places
        ('<g fill="red"><circle id="c" r="8"/></g><use href="#c"/>', "0/0:fill"),
        # half of two different viewports
        (
            '<symbol id="s"><rect width="50%" height="9"/></symbol><use href="#s" width="9"/><use href="#s"/>',
            "0/0:rect",
        ),
        # a clip path
        ('<clipPath id="c"><circle r="9"/></clipPath>' + box('clip-path="url(#c)"'), "0/0:circle"),
    ],
)
def test_what_cannot_be_written_is_a_constant(body: str, key: str) -> None:
    document = Document.parse(svg(body))
    parameter = document.parameters[key]
    assert parameter.group is None
    with pytest.raises(ValueError, match=key):
        document.write({key: parameter.value + 1})


@pytest.mark.parametrize(
    "bad", [{"0:fill": np.array([np.nan, 0, 0])}, {"0:fill": np.zeros(4)}, {"9:fill": np.zeros(3)}]
)
def test_bad_values_are_named(bad: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Document.parse(svg(box(""))).write(bad)
