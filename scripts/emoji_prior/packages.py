"""The icon packages: six drawing styles, openly licensed, downloaded once with npm."""

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpds.errors import InputError


@dataclass(frozen=True)
class Package:
    """One npm package of icons, drawn in one style."""

    style: str
    version: str
    licence: str
    authors: str


PACKAGES = {
    "noto": Package("noto", "1.2.9", "Apache-2.0", "Google Inc. (Noto Emoji)"),
    "twemoji": Package("twemoji", "1.2.5", "CC-BY-4.0", "Twitter, Inc. and contributors (Twemoji)"),
    "fluent-emoji": Package("3d", "1.2.7", "MIT", "Microsoft Corporation (Fluent Emoji)"),
    "fluent-emoji-flat": Package("flat", "1.2.6", "MIT", "Microsoft Corporation (Fluent Emoji)"),
    "noto-v1": Package("blob", "1.2.5", "Apache-2.0", "Google Inc. (Noto Emoji v1)"),
    "emojione": Package("emojione", "1.2.3", "CC-BY-4.0", "Emoji One / EmojiTwo"),
}
STYLES = [package.style for package in PACKAGES.values()]


def cache_dir() -> Path:
    """Where downloads and renders are kept: $CPDS_CACHE, else ~/.cache/cpds."""
    return Path(os.environ.get("CPDS_CACHE", Path.home() / ".cache" / "cpds"))


def fetch_package(name: str, cache: Path) -> Path:
    """Folder of one unpacked npm package, downloaded with `npm pack` at the pinned version unless cached."""
    target = cache / "icons" / f"{name}-{PACKAGES[name].version}"
    if not target.exists():
        if shutil.which("npm") is None:
            raise InputError("icons are downloaded with npm, which is missing: install Node.js")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as tmp:
            spec = f"@iconify-json/{name}@{PACKAGES[name].version}"
            subprocess.run(["npm", "pack", "--silent", spec], cwd=tmp, check=True, stdout=subprocess.DEVNULL)
            with tarfile.open(next(Path(tmp).glob("*.tgz"))) as archive:
                safe: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.4
                archive.extractall(tmp, **safe)
            try:
                (Path(tmp) / "package").rename(target)
            except OSError:  # "Directory not empty": another program that fetched it at the same time was first
                if not target.is_dir():
                    raise
    return target


def svg_sources(folder: Path) -> dict[str, str]:
    """Icon name -> complete SVG text, aliases resolved."""
    data = json.loads((folder / "icons.json").read_text())
    icons, aliases = data["icons"], data.get("aliases", {})

    def body(name: str) -> dict | None:
        if name in icons:
            return icons[name]
        # an alias that turns or flips its parent is another image: leave it out
        plain = name in aliases and not {"hFlip", "vFlip", "rotate"} & aliases[name].keys()
        return body(aliases[name]["parent"]) if plain else None

    sources = {}
    for name in [*icons, *aliases]:
        if icon := body(name):
            w, h = (icon.get(side, data.get(side, 16)) for side in ("width", "height"))
            side = max(w, h)  # a square canvas, the icon in its middle
            left, top = icon.get("left", 0) - (side - w) / 2, icon.get("top", 0) - (side - h) / 2
            box = f"{left} {top} {side} {side}"
            sources[name] = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{icon["body"]}</svg>'
    return sources
