"""The book: what its hook makes of links, and the site as mkdocs builds it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from documents import ROOT

from cpds import __all__ as NAMES
from scripts.book import LINK, PAGES, in_book

HOME = "https://example.org/cpds"


def moved(source: str, text: str, repository: str | None = None) -> str:
    """A page's text with the book's links."""
    return LINK.sub(lambda link: in_book(source, link, repository), text)


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        ("docs/guide.md", "[a](images.md#images)", "[a](images.md#images)"),
        ("docs/guide.md", "![a](demo.png)", "![a](demo.png)"),
        ("docs/guide.md", "[a](#priors) [b](https://arxiv.org/abs/1)", "[a](#priors) [b](https://arxiv.org/abs/1)"),
        ("docs/guide.md", "[a\nb](../benchmarks/README.md#svg)", "[a\nb](benchmarks.md#svg)"),
        ("benchmarks/README.md", "[a](../docs/method.md)", "[a](method.md)"),
        ("benchmarks/README.md", "![a](../docs/scene_views.png)", "![a](scene_views.png)"),
        ("benchmarks/README.md", "![a](pareto.png)", "![a](benchmarks/pareto.png)"),
        ("docs/method.md", "[`a`](../cpds/schedule.py)", f"[`a`]({HOME}/blob/main/cpds/schedule.py)"),
        ("docs/method.md", "x[i](t)", "x[i](t)"),  # no link: there is no such file
    ],
)
def test_links_are_those_of_the_book(source: str, text: str, expected: str) -> None:
    assert moved(source, text, HOME) == expected


def test_source_is_plain_text_where_the_repository_is_not_known() -> None:
    assert moved("docs/method.md", "see [`a`](../cpds/schedule.py).") == "see `a`."


def test_every_public_name_is_in_the_reference() -> None:
    asked = set(re.findall(r"^::: ([\w.]+)$", (ROOT / "docs/reference.md").read_text("utf-8"), re.M))
    assert set(NAMES) - {"__version__"} <= {name.rpartition(".")[2] for name in asked}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built book; a warning is an error."""
    for package in ("material", "mkdocstrings_handlers.python"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_all_pages_and_images_are_built(site: Path) -> None:
    pages = {Path(page).stem for page in (*PAGES.values(), *(ROOT / "docs").glob("*.md"))}
    assert {page.stem for page in site.glob("*.html")} == pages | {"404"}
    for page in site.glob("*.html"):
        shown = re.findall(r'<img [^>]*src="([^"]+)"', page.read_text("utf-8"))
        assert [name for name in shown if not (site / name).is_file()] == []


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.glob("*.html"):
        text = page.read_text("utf-8")
        loaded = re.findall(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="([^"]+)"', text)
        loaded += re.findall(r'<link\b[^>]*\bhref="([^"]+)"', text)
        assert loaded
        assert [name for name in loaded if re.match(r"(https?:)?//", name)] == [], page.name
        assert 'class="mermaid"' not in text  # the theme would load the program that draws it


def test_lists_and_tables_are_none_that_markdown_has_left_as_text(site: Path) -> None:
    for page in site.glob("*.html"):
        for paragraph in re.findall(r"<p>(.*?)</p>", page.read_text("utf-8"), re.S):
            assert not re.search(r"^(- |\* |\d+\. |\|)", paragraph, re.M), f"{page.name}: {paragraph[:80]}"


def test_the_reference_shows_signatures_and_docstrings(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (site / "reference.html").read_text("utf-8"))
    assert "Edit representation in place" in text
    assert "RuntimeError" not in text
    for name in NAMES:
        assert name == "__version__" or re.search(rf"\b{name}\b", text), name
