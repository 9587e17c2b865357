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
from cpds.runs import save_as
from representations.splats.harmonics import DEGREES, num_bases
from representations.splats.vertices import BINARY, parse_ply

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
        """Raises InputError for anything but a complete .ply of 3DGS with finite numbers."""
        try:
            data = Path(path).read_bytes()
        except IsADirectoryError as err:
            raise InputError(f"splats {path} is a folder: name the .ply in it") from err
        except OSError as err:
            raise InputError(f"splats {path} cannot be read ({err.strerror}): check the path") from err
        head, vertices, tail = parse_ply(path, data)
        file = cls(head, vertices, tail)
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
        tensors = {name: self._read(columns) for name, columns in self.columns.items()}
        rest = tensors.pop("rest").view(len(self.vertices), 3, self.k).mT.contiguous()
        return Gaussians(**tensors, rest=rest)

    def encode(self, gaussians: Gaussians) -> bytes:
        """The file's bytes with these numbers in the place of its own, binary little endian."""
        lines = [f"format {BINARY} 1.0" if line.startswith("format") else line for line in self.head]
        head = "\n".join(["ply", *lines, "end_header", ""]).encode("latin-1")
        return head + self._with(gaussians).tobytes() + self.tail

    def write(self, path: str | Path, gaussians: Gaussians) -> None:
        """Write what `encode` gives; a write that fails leaves the old file."""
        save_as(path, self.encode(gaussians))

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
        if missing := [n for columns in self.columns.values() for n in columns if n not in names]:
            raise InputError(
                f"{path} lacks the vertex properties {', '.join(missing)}: give a .ply of 3D Gaussian splatting"
            )
        if not len(self.vertices):
            raise InputError(f"{path} holds no gaussians: export the scene again")
        count = sum(name.startswith("f_rest_") for name in names)
        if count not in [3 * (num_bases(d) - 1) for d in DEGREES]:
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
