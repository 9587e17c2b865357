"""A page that shows every row of a batch: one HTML file, without scripts, that any browser opens."""

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

HIDDEN = (".ply", ".svgz")  # what browsers do not show
STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em; color: #222; background: #fff }
figure { display: inline-block; vertical-align: top; width: 272px; margin: 0 16px 24px 0 }
img { width: 132px; height: 132px; object-fit: contain; background: #f4f4f4 }
figcaption { overflow-wrap: anywhere }
.failed { color: #b00020 }
small { color: #666 }
"""
HEAD = (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n<style>{style}</style>'
)


def sheet(out: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """The page that lies in `out`, of rows as `results.summary` tells them. All text in it is escaped."""
    counts = {state: sum(row["state"] == state for row in rows) for state in ("done", "failed", "not done")}
    title = ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no rows"
    head = HEAD.format(title=f"cpds batch: {title}", style=STYLE)
    figures = "\n".join(figure(out, row) for row in rows)
    return f"{head}\n<body>\n<h1>{title}</h1>\n{figures}\n</body>\n</html>\n"


def figure(out: Path, row: Mapping[str, Any]) -> str:
    """A row: source and result side by side, prompts, and what was wrong with it."""
    images = [picture(source_url(out, row["source"]), "source")]
    if row["result"]:
        images.append(picture(quote(shown(row["result"])), "result"))
    lines = [f"{escape(row['prompt'])} → {escape(row['target_prompt'])}"]
    if row["error"] is not None:
        lines.append(f'<span class="failed">{escape(row["error"])}</span>')
    lines += [f"<small>{escape(row['notes'])}</small>"] if row["notes"] else []
    linked = f'<a href="{quote(row["result"])}">{escape(row["id"])}</a>' if row["result"] else escape(row["id"])
    return f"<figure>{''.join(images)}<figcaption>{linked}: {'<br>'.join(lines)}</figcaption></figure>"


def picture(url: str, what: str) -> str:
    """An image of the page; none for what browsers cannot show."""
    return f'<img loading="lazy" alt="{what}" src="{escape(url)}">' if url else ""


def shown(result: str) -> str:
    """The file that shows a result: what browsers cannot show has an image beside it."""
    return f"{result.rpartition('.')[0]}.png" if result.endswith(HIDDEN) else result


def source_url(out: Path, source: str) -> str:
    """A source as seen from the page; empty for scenes, and for files that cannot be reached from there."""
    if source.lower().endswith(HIDDEN):
        return ""
    try:
        return quote(Path(os.path.relpath(source, out)).as_posix())
    except ValueError:  # on another drive
        return ""
