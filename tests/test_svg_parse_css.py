"""The cascade: which declaration wins, and style attributes that are changed where they must be and nowhere else."""

import pytest
from svg_oracles import svg

from svg.parse.css import Cascade, change_style, read_style
from svg.parse.xml import read_tree


@pytest.mark.parametrize(
    ("sheet", "attributes", "fill"),
    [
        ("", 'fill="red"', "red"),
        ("path{fill:lime}", 'fill="red"', "lime"),  # rules before presentation attributes
        ("path{fill:lime}", 'style="fill:red"', "red"),  # the style attribute before rules
        ("path{fill:lime!important}", 'style="fill:red"', "lime"),
        ("path{fill:lime!important}", 'style="fill:red!important"', "red"),
        ("#p{fill:lime} .k{fill:red}", "", "lime"),  # specificity before order
        (".k{fill:lime} .k{fill:red}", "", "red"),
        (".k{fill:lime} .k{fill:nonsense}", "", "lime"),  # what is invalid is ignored
        ("g>path{fill:lime} path::before{fill:red}", "", "lime"),
        ("@media print{path{fill:lime}}", "", None),
    ],
)
def test_the_winning_declaration(sheet: str, attributes: str, fill: str | None) -> None:
    data = svg(f'<style>{sheet}</style><g><path id="p" class="k" {attributes}/></g>')
    tree = read_tree(data, "it")
    declaration = Cascade(tree)(tree.ids["p"]).get("fill")
    assert (declaration.value if declaration else None) == fill


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("fill:red", [("fill", "red", False)]),
        (" FILL : red !important;; stroke:url('a;b')", [("fill", "red", True), ("stroke", "url('a;b')", False)]),
        ("/* fill:red; */stroke:blue", [("stroke", "blue", False)]),
        ("--own:1;fill", [("--own", "1", False)]),
    ],
)
def test_style_attributes_are_read(text: str, want: list[tuple[str, str, bool]]) -> None:
    assert read_style(text) == want


@pytest.mark.parametrize(
    "text", ["", "opacity:.5", "opacity:.5;", " stroke : url('a;fill:b') ; opacity:1 !important", "x:(;);/* ; */y:1"]
)
@pytest.mark.parametrize("important", [False, True])
def test_a_changed_declaration_leaves_the_others_as_they_are(text: str, important: bool) -> None:
    changed = change_style(text, {"fill": ("red", important)})
    assert [d for d in read_style(changed) if d[0] != "fill"] == read_style(text)
    assert [d for d in read_style(changed) if d[0] == "fill"] == [("fill", "red", important)]
    again = change_style(changed, {"fill": ("blue", False)})
    assert again == changed.replace("red", "blue")  # its importance stays
