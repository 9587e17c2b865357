"""The table of vertices at the beginning of a .ply file, binary or ascii, whatever its properties."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cpds.errors import InputError

TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "<i2"),
    **dict.fromkeys(("ushort", "uint16"), "<u2"),
    **dict.fromkeys(("int", "int32"), "<i4"),
    **dict.fromkeys(("uint", "uint32"), "<u4"),
    **dict.fromkeys(("float", "float32"), "<f4"),
    **dict.fromkeys(("double", "float64"), "<f8"),
}
BINARY = "binary_little_endian"


def parse_ply(path: str | Path, data: bytes) -> tuple[list[str], np.ndarray, bytes]:
    """The header's lines without the first and the last, the vertices, and what follows them.

    Raises InputError, which names `path`, for what is no .ply, is cut off, or has something else before its vertices.
    """
    head, body = _head(path, data)
    style, count, dtype, more = _layout(path, head)
    if style == "ascii" and more:
        raise InputError(f"{path} is an ascii .ply with more than vertices: save it as {BINARY}")
    if style == "ascii":
        rows, vertices = _ascii_vertices(path, body, count, dtype)
        rest = b""
    else:
        rows, rest = len(body) // dtype.itemsize, body[count * dtype.itemsize :]
        vertices = np.frombuffer(body, dtype, min(count, rows)).copy()
    if rows < count:
        raise InputError(f"{path} is cut off: it holds {rows} of {count} gaussians; copy or export it again")
    return head, vertices, rest


def _head(path: str | Path, data: bytes) -> tuple[list[str], bytes]:
    """The header's lines, without the first and the last, and what follows it."""
    if data[:4] not in (b"ply\n", b"ply\r"):
        raise InputError(f"{path} is not a .ply file: give a .ply of 3D Gaussian splatting")
    end = data.find(b"end_header")
    stop = data.find(b"\n", end)
    if end < 0 or stop < 0:
        raise InputError(f"{path} is cut off within its header: copy or export it again")
    return data[:end].decode("latin-1").splitlines()[1:], data[stop + 1 :]


def _layout(path: str | Path, lines: list[str]) -> tuple[str, int, np.dtype, bool]:
    """Format, number and type of the vertices, and whether other elements follow them. InputError if unreadable."""
    words = [line.split() for line in lines]
    style = next((w[1] for w in words if w[:1] == ["format"] and len(w) > 1), "none")
    if style not in (BINARY, "ascii"):
        raise InputError(f"{path} has the format {style}: save it as {BINARY}")
    elements = [i for i, w in enumerate(words) if w[:1] == ["element"]]
    first = words[elements[0]] if elements else []
    if len(first) != 3 or first[1] != "vertex" or not first[2].isdecimal():
        raise InputError(f"{path} does not begin with vertices: save it as a plain, uncompressed 3DGS .ply")
    end = elements[1] if len(elements) > 1 else len(words)
    fields = []
    for w in words[elements[0] + 1 : end]:
        if w[:1] == ["property"]:
            if len(w) != 3 or w[1] not in TYPES or w[2] in dict(fields):
                raise InputError(f"{path} has a vertex property that cannot be read ({' '.join(w)}): save it again")
            fields.append((w[2], TYPES[w[1]]))
    if not fields:
        raise InputError(f"{path} has vertices without properties: give a .ply of 3D Gaussian splatting")
    return style, int(first[2]), np.dtype(fields), len(elements) > 1


def _ascii_vertices(path: str | Path, body: bytes, count: int, dtype: np.dtype) -> tuple[int, np.ndarray]:
    """How many rows are complete, and these, at most `count`."""
    names = dtype.names or ()
    words = body.split()
    rows = len(words) // len(names)
    try:
        numbers = np.array(words[: min(rows, count) * len(names)], dtype="S").astype(np.float64)
    except ValueError as err:
        raise InputError(f"{path} holds something that is no number ({err}): export it again") from err
    table = numbers.reshape(-1, len(names))
    vertices = np.zeros(len(table), dtype)
    for i, name in enumerate(names):
        vertices[name] = table[:, i]
    return rows, vertices
