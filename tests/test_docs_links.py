"""Links between documents lead to files and headings that are there."""

import re
from pathlib import Path

import pytest
from documents import FENCE, PAGES, ROOT, headings, read

INLINE = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"\]\(([^()\s]+)\)")


def links(page: str) -> list[str]:
    """What a page links to, images included; a link around code is one, code that looks like a link is none."""
    text = re.sub(r"^    .*$", "", FENCE.sub("", read(page)), flags=re.M)
    return LINK.findall(INLINE.sub("code", text))


def fault(page: str, target: str) -> str | None:
    """What is wrong with a link of the page, or None."""
    path, _, anchor = target.partition("#")
    if re.match(r"https?://|mailto:", target):
        return None if re.fullmatch(r"https?://[\w.-]+\.\w+(/\S*)?|mailto:\S+", target) else "is no address"
    found = ((ROOT / page).parent / path).resolve() if path else ROOT / page
    if not found.exists():
        return "is not there"
    if not found.is_relative_to(ROOT):
        return "leads out of the repository"
    if anchor and (found.suffix != ".md" or anchor not in headings(found.relative_to(ROOT).as_posix())):
        return "has no such heading"
    return None


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    wrong = [f"{target} {why}" for target in links(page) if (why := fault(page, target))]
    assert not wrong


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("nowhere.md", "is not there"),
        ("guide.md#nowhere", "has no such heading"),
        ("#nowhere", "has no such heading"),
        ("demo.png#part", "has no such heading"),
        ("../..", "leads out of the repository"),
        ("https://nowhere", "is no address"),
        ("method.md#objectives-cpdsobjectives", None),
        ("../README.md", None),
        ("https://arxiv.org/abs/2311.13831", None),
    ],
)
def test_a_wrong_link_is_found(target: str, why: str | None) -> None:
    assert fault("docs/method.md", target) == why


def test_every_image_is_shown() -> None:
    shown = {((ROOT / page).parent / target).resolve() for page in PAGES for target in links(page)}
    kept = [file for suffix in ("png", "gif", "svg", "webp") for file in (ROOT / "docs").rglob(f"*.{suffix}")]
    assert kept
    assert [file.name for file in kept if file not in shown] == []


def test_every_page_is_in_the_book() -> None:
    nav = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:")[2]
    listed = re.findall(r": ([\w-]+\.md)$", nav, re.M)
    assert len(set(listed)) == len(listed)
    from scripts.book import PAGES as OUTSIDE

    assert set(listed) == {Path(page).name for page in PAGES if page.startswith("docs/")} | set(OUTSIDE.values())
    assert OUTSIDE.keys() <= set(PAGES)
