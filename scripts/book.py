"""mkdocs' hook for the book: pages that lie outside of docs/, and links as they are on GitHub.

All documents link to each other by relative paths in the repository, so that they can be read there. In the book some
of the repository's pages stand beside those of docs/ (`PAGES`), with the images that they show; links to the source
lead to the repository where mkdocs.yml knows its address, and are plain text otherwise.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = {  # in the repository -> in the book
    "benchmarks/README.md": "benchmarks.md",
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "cpds/assets/prior/README.md": "embedded-prior.md",
}
LINK = re.compile(r"\[([^\]\n]*(?:\n[^\]\n]*)?)\]\(([^()\s]+)\)")
IMAGES = {".png", ".jpg", ".gif", ".svg", ".webp"}


def on_files(files: Any, config: Any) -> Any:
    """The pages and images from outside of docs/."""
    from mkdocs.structure.files import File  # pyright: ignore[reportMissingImports]

    for source, page in PAGES.items():
        text = (ROOT / source).read_text("utf-8")
        files.append(File.generated(config, page, content=text))
        for _, target in LINK.findall(text):
            place = in_repository(source, target)
            if is_image(place) and not place.startswith("docs/"):
                files.append(File.generated(config, place, abs_src_path=str(ROOT / place)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """The page's text with the book's links."""
    source = {v: k for k, v in PAGES.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return LINK.sub(lambda link: in_book(source, link, config.repo_url), markdown)


def in_repository(source: str, target: str) -> str:
    """What a link of the page `source` leads to, as a path in the repository; "" if that is not a file or folder."""
    path = target.partition("#")[0]
    place = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    return place if path and "://" not in path and (ROOT / place).exists() else ""


def is_image(place: str) -> bool:
    return Path(place).suffix in IMAGES


def in_book(source: str, link: re.Match[str], repository: str | None) -> str:
    """A link of the page `source` as it is in the book, whose pages all lie in one folder."""
    text, target = link.groups()
    _, mark, anchor = target.partition("#")
    place = in_repository(source, target)
    if not place:
        return link[0]
    if place in PAGES:
        return f"[{text}]({PAGES[place]}{mark}{anchor})"
    if place.startswith("docs/") or is_image(place):
        return f"[{text}]({place.removeprefix('docs/')}{mark}{anchor})"
    return f"[{text}]({repository.rstrip('/')}/blob/main/{place}{mark}{anchor})" if repository else text
