"""The project's documents, read as Markdown."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "benchmarks/README.md", "cpds/assets/prior/README.md", "integrations/**/*.md")
    for path in ROOT.glob(pattern)
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def read(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def fenced(page: str, *languages: str) -> list[str]:
    """The page's blocks of code of these languages; "" is for those that name none."""
    return [block for language, block in FENCE.findall(read(page)) if language in languages]


def shell(page: str) -> Iterator[str]:
    """Lines of the page's shell blocks, fenced or indented, those that end with a backslash joined with the next."""
    indented = re.findall(r"(?:^|\n\n)((?:    .*\n)+)", FENCE.sub("", read(page)))
    for block in (*fenced(page, "", "sh", "bash", "console"), *indented):
        yield from re.sub(r"\\\n\s*", " ", block).splitlines()


def commands(page: str) -> Iterator[list[str]]:
    """Commands of the shell blocks as words: optional parts are given, variables of the page have their values."""
    variables: dict[str, str] = {}
    for line in shell(page):
        line = re.sub(r"\$(\w+)", lambda name: variables.get(name[1], name[0]), line.strip())
        if assigned := re.fullmatch(r'(\w+)="(.*)"', line):
            variables[assigned[1]] = assigned[2]
        words = [] if "; do" in line or "; done" in line else words_of(line)
        while words and re.fullmatch(r"[A-Z_]+=\S*|/usr/bin/time|-v|nice|-n|\d+", words[0]):
            words = words[1:]
        if words:
            yield words


@cache
def all_commands() -> list[tuple[str, list[str]]]:
    """The commands of all pages, each with its page."""
    return [(page, words) for page in PAGES for words in commands(page)]


def commands_of(*program: str) -> list[Any]:
    """The rest of each command that begins with these words, as a parameter of a test; each once."""
    n, found = len(program), {" ".join(words): (page, words) for page, words in all_commands()}
    chosen = {line: place for line, place in found.items() if place[1][:n] == [*program]}
    return [pytest.param(words[n:], id=f"{page}: {line[:60]}") for line, (page, words) in chosen.items()]


def words_of(line: str) -> list[str]:
    """Brackets around optional words and dots for more of them are left out."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # formulas have odd quotes; a command that has them will not be read
        words = line.split()
    return [bare for word in words if (bare := word.strip("[]…") if word[:1] == "[" or word[-1:] in "]…" else word)]


def headings(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs.yml make them."""
    found: set[str] = set()
    for title in re.findall(r"^#+ (.+)$", FENCE.sub("", read(page)), re.M):
        slug = re.sub(r"[^\w -]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", title).lower()).replace(" ", "-")
        found.add(next(s for n in range(9) if (s := slug if n == 0 else f"{slug}-{n}") not in found))
    return found
