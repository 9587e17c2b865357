"""The .ply files of 3D Gaussian splatting: read, and written back with all that an edit does not touch.

One vertex per gaussian: x y z, f_dc_0…2, f_rest_* (channel by channel), opacity (logit), scale_0…2 (logarithms),
rot_0…3 (w x y z). Normals and any other properties, comments and what follows the vertices are kept as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cpds.errors import InputError
from cpds.runs import write_atomic
from representations.splats.harmonics import DEGREES, num_bases

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
LARGEST_SCALE = 80.0  # a logarithm; e^80 is near the end of what float32 holds
COLUMNS = {
    "means": ("x", "y", "z"),
    "dc": ("f_dc_0", "f_dc_1", "f_dc_2"),
    "opacities": ("opacity",),
    "scales": ("scale_0", "scale_1", "scale_2"),
    "quats": ("rot_0", "rot_1", "rot_2", "rot_3"),
}


@dataclass(frozen=True)
class Gaussians:
    """The numbers as a file stores them, float32."""

    means: Float[Tensor, "n 3"]
    quats: Float[Tensor, "n 4"]  # w x y z
    scales: Float[Tensor, "n 3"]  # logarithms
    opacities: Float[Tensor, "n 1"]  # logits
    dc: Float[Tensor, "n 3"]  # the constant harmonic's coefficients, RGB
    rest: Float[Tensor, "n k 3"]  # the others'; k = 0, 3, 8 or 15

    @property
    def degree(self) -> int:
        """Of the spherical harmonics."""
        return next(d for d in DEGREES if num_bases(d) == self.rest.shape[1] + 1)


def rest_columns(k: int) -> list[str]:
    """Names of the higher coefficients in the order of (n, 3, k): channel by channel."""
    return [f"f_rest_{i}" for i in range(3 * k)]


class SplatFile:
    """A .ply in memory: `head` and `tail` are the lines and bytes around the table of vertices."""

    def __init__(self, head: list[str], vertices: np.ndarray, tail: bytes = b"") -> None:
        self.head, self.vertices, self.tail = head, vertices, tail
        names = vertices.dtype.names or ()
        self.k = sum(name.startswith("f_rest_") for name in names) // 3
        self.columns = {**COLUMNS, "rest": tuple(rest_columns(self.k))}

    @classmethod
    def read(cls, path: str | Path) -> SplatFile:
        """Raises InputError for anything that is no whole, finite 3DGS .ply."""
        try:
            data = Path(path).read_bytes()
        except IsADirectoryError as err:
            raise InputError(f"splats {path} is a folder: name the .ply in it") from err
        except OSError as err:
            raise InputError(f"splats {path} cannot be read ({err.strerror}): check the path") from err
        lines, body = _head(path, data)
        style, count, dtype, more = _layout(path, lines)
        if style == "ascii":
            found, vertices, tail = _ascii(path, body, count, dtype, more)
        else:
            found, tail = len(body) // dtype.itemsize, body[count * dtype.itemsize :]
            vertices = np.frombuffer(body, dtype, min(count, found)).copy()
        if found < count:
            raise InputError(f"{path} is cut off: it holds {found} of {count} gaussians; copy or export it again")
        file = cls(lines, vertices, tail)
        file._check(path)
        return file

    @classmethod
    def of(cls, gaussians: Gaussians) -> SplatFile:
        """A new file with the properties, and their order, of the reference implementation."""
        names = [*COLUMNS["means"], "nx", "ny", "nz", *COLUMNS["dc"], *rest_columns(gaussians.rest.shape[1])]
        names += [*COLUMNS["opacities"], *COLUMNS["scales"], *COLUMNS["quats"]]
        vertices = np.zeros(len(gaussians.means), dtype=[(name, "<f4") for name in names])
        head = [f"format {BINARY} 1.0", f"element vertex {len(vertices)}", *(f"property float {n}" for n in names)]
        file = cls(head, vertices)
        file.vertices = file._with(gaussians)
        return file

    @property
    def gaussians(self) -> Gaussians:
        """The table as tensors."""
        found = {name: self._read(columns) for name, columns in self.columns.items()}
        rest = found.pop("rest").view(len(self.vertices), 3, self.k).mT.contiguous()
        return Gaussians(**found, rest=rest)

    def encode(self, gaussians: Gaussians) -> bytes:
        """The file's bytes with these numbers in the place of its own, binary little endian."""
        lines = [f"format {BINARY} 1.0" if line.startswith("format") else line for line in self.head]
        head = "\n".join(["ply", *lines, "end_header", ""]).encode("latin-1")
        return head + self._with(gaussians).tobytes() + self.tail

    def write(self, path: str | Path, gaussians: Gaussians) -> None:
        """Write `encode` whole or not at all."""
        write_atomic(Path(path), self.encode(gaussians))

    def _read(self, columns: tuple[str, ...]) -> Float[Tensor, "n k"]:
        rows = np.empty((len(self.vertices), len(columns)), np.float32)
        for i, name in enumerate(columns):
            rows[:, i] = self.vertices[name]
        return torch.from_numpy(rows)

    def _with(self, gaussians: Gaussians) -> np.ndarray:
        """The table with those numbers replaced that differ: wider types keep their digits elsewhere."""
        table = self.vertices.copy()
        for group, columns in self.columns.items():
            values = getattr(gaussians, group).detach().cpu().float()
            new = (values.mT.flatten(1) if group == "rest" else values).numpy()
            for i, name in enumerate(columns):
                moved = new[:, i] != table[name].astype(np.float32)
                table[name][moved] = new[moved, i]
        return table

    def _check(self, path: str | Path) -> None:
        names = set(self.vertices.dtype.names or ())
        rest = rest_columns(self.k)
        if missing := [n for columns in self.columns.values() for n in columns if n not in names]:
            raise InputError(
                f"{path} lacks the vertex properties {', '.join(missing)}: give a .ply of 3D Gaussian splatting"
            )
        if not len(self.vertices):
            raise InputError(f"{path} holds no gaussians: export the scene again")
        if self.k not in [num_bases(d) - 1 for d in DEGREES] or len(rest) != sum(
            n.startswith("f_rest_") for n in names
        ):
            count = sum(n.startswith("f_rest_") for n in names)
            raise InputError(f"{path} has {count} properties f_rest_*: there must be 0, 9, 24 or 45 (degree 0 … 3)")
        for column in (n for columns in self.columns.values() for n in columns):
            bad = ~np.isfinite(self.vertices[column])
            if bad.any():
                raise InputError(
                    f"{path} has NaN or infinite values in {column} ({bad.sum()} of {len(bad)} gaussians, the first is "
                    f"number {bad.argmax()}): remove them or export the scene again"
                )
        for column in COLUMNS["scales"]:
            if (top := self.vertices[column].max()) > LARGEST_SCALE:
                raise InputError(
                    f"{path} has {column} up to {top:g}: scales must be logarithms below {LARGEST_SCALE:g}"
                )


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


def _ascii(path: str | Path, body: bytes, count: int, dtype: np.dtype, more: bool) -> tuple[int, np.ndarray, bytes]:
    """Whole rows there are, the vertices, and nothing after them."""
    if more:
        raise InputError(f"{path} is an ascii .ply with more than vertices: save it as {BINARY}")
    names = dtype.names or ()
    words = body.split()
    found = len(words) // len(names)
    try:
        numbers = np.array(words[: min(found, count) * len(names)], dtype="S").astype(np.float64)
    except ValueError as err:
        raise InputError(f"{path} holds something that is no number ({err}): export it again") from err
    rows = numbers.reshape(-1, len(names))
    vertices = np.zeros(len(rows), dtype)
    for i, name in enumerate(names):
        vertices[name] = rows[:, i]
    return found, vertices, b""
