"""What is not edited: named in notes, drawn by resvg, and never fetched."""

import pytest
from svg_oracles import box, svg

from svg.document import Document
from svg.model import StaticPart


@pytest.mark.parametrize(
    ("body", "note"),
    [
        ("<text>a</text><text>b</text>", "2 text elements"),
        ('<use href="http://x/y.svg#a"/>', "1 reference to another document"),
        ('<image href="file:///etc/passwd" width="9" height="9"/>', "1 reference to another document"),
        ('<rect width="9" height="9" style="mix-blend-mode:multiply"/>', "1 blend mode"),
        ("<script>x</script>", "scripts"),
        ('<g onclick="x"/>', "scripts"),
        ("<animate/>", "animations"),
    ],
)
def test_what_is_not_edited_is_named(body: str, note: str) -> None:
    document = Document.parse(svg(body + box("")))
    assert note in document.notes
    assert note in (document.warning() or "")
    assert Document.parse(svg(box(""))).warning() is None


def test_nothing_remote_reaches_resvg() -> None:
    body = (
        '<filter id="f"><feImage href="file:///etc/passwd"/></filter><g filter="url(#f)"><image href="//x/y.png"/></g>'
    )
    fixed = Document.parse(svg(body + box(""))).root.children[0]
    assert isinstance(fixed, StaticPart)
    assert b"passwd" not in fixed.svg
    assert b"y.png" not in fixed.svg
