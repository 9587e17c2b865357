"""What `use` draws."""

from svg_oracles import svg

from svg.document import Document
from svg.model import draws


def test_uses_in_a_ring_end() -> None:
    body = '<g id="a"><path d="M9 9h9v9z"/><use href="#b" x="9"/></g><g id="b"><circle r="3"/><use href="#a"/></g>'
    drawn = [node.geometry.kind for node in draws(Document.parse(svg(body)).root)]
    assert set(drawn) == {"path", "circle"}
    assert len(drawn) < 10
