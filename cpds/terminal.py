"""What is printed on the terminal: nothing that came from a file, a name or a prompt can control it."""

import sys
import unicodedata
from collections.abc import Iterable
from typing import Any

DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # reorder what stands beside them


def printable(text: str) -> str:
    """`text` in one line: control characters, line breaks, overrides of the writing direction and halves of
    characters (of file names that are not UTF-8) stand as Python writes them, such as \\x1b."""
    return "".join(
        c.encode("unicode_escape").decode()
        if c in DIRECTIONS or unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")
        else c
        for c in text
    )


def _put(line: str, stream: Any, styled: bool = False) -> None:
    encoding, text = stream.encoding or "utf-8", line if styled else printable(line)
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def print_status(message: object) -> None:
    """One line on standard error."""
    _put(str(message), sys.stderr)


def print_styled(text: str, quoted: Iterable[str]) -> None:
    """Lines that may have colors, on standard error; without them if something `quoted` could control the terminal."""
    controls = any(printable(word) != word for word in quoted)
    for line in text.splitlines():
        _put(line, sys.stderr, styled=not controls)


def warn(message: object) -> None:
    """One line on standard error that begins with "cpds: warning:"."""
    print_status(f"cpds: warning: {message}")


def print_result(text: object) -> None:
    """Results, line by line, on standard output."""
    for line in str(text).split("\n"):
        _put(line, sys.stdout)


def print_loading() -> None:
    """To be called before the first import of torch: on a busy machine the imports take a minute."""
    if "torch" not in sys.modules:
        print_status("loading torch and the prior ...")
