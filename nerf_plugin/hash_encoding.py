"""nerfstudio's hash encoding in C, for scenes on a CPU, where it takes most of a step.

In torch it is written for clarity: each of eight corners of each point and level is a tensor of its own, and so are
their products. The C code is compiled when a scene is loaded, in less than a second; without a compiler torch's goes
on. What it encodes is the same to the last bit; gradients of the table differ by the order of their sums. None reaches
the points: an edit moves neither cameras nor rays.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.field_components.encodings import HashEncoding
from torch import Tensor
from torch.autograd.function import once_differentiable

from cpds.terminal import print_status

SOURCE = Path(__file__).with_suffix(".c")
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-shared", "-fPIC")  # no fused multiply-add: torch has none


def encode_in_c(model: Any) -> None:
    """Have the hash encodings of a nerfacto on the CPU computed in C, where there is a compiler.

    They are left as they are where points want a gradient: with predicted normals.
    """
    found: list[Any] = [x for x in model.modules() if isinstance(x, HashEncoding) and x.tcnn_encoding is None]
    if model.device.type != "cpu" or not found or model.config.predict_normals:
        return
    compiled = library()
    if compiled is None:
        print_status("note: no C compiler (cc) was found, and a step takes about three times as long: install gcc")
        return
    for encoding in found:
        encoding.pytorch_fwd = partial(encoded, encoding, compiled)


@cache
def library() -> ctypes.CDLL | None:
    """The compiled functions; None where that is not possible."""
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None:
        return None
    with TemporaryDirectory() as folder:
        file = Path(folder) / "hash_encoding.so"
        try:
            subprocess.run([compiler, *FLAGS, "-o", str(file), str(SOURCE)], check=True, capture_output=True)
            return ctypes.CDLL(str(file))
        except (OSError, subprocess.CalledProcessError):
            return None


def encoded(encoding: HashEncoding, compiled: ctypes.CDLL, points: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n d"]:
    """What `encoding` makes of points in [0, 1]."""
    flat = points.detach().reshape(-1, 3).contiguous()
    codes: Any = Encode.apply(encoding.hash_table, flat, encoding.scalings, compiled)
    return codes.view(*points.shape[:-1], -1)


class Encode(torch.autograd.Function):
    """Codes (n, levels * features) of points (n, 3) by a table (levels * size, features)."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, points: Tensor, scalings: Tensor, compiled: ctypes.CDLL) -> Tensor:
        ctx.save_for_backward(points, scalings)
        ctx.compiled, ctx.shape = compiled, table.shape
        codes = points.new_empty(len(points), len(scalings) * table.shape[1])
        by_levels(compiled.encode, points, scalings, table.detach().contiguous(), codes)
        return codes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        points, scalings = ctx.saved_tensors
        table = points.new_zeros(ctx.shape)
        by_levels(ctx.compiled.add_gradient, points, scalings, table, gradients[0].contiguous())
        return table, None, None, None


def by_levels(function: Any, points: Tensor, scalings: Tensor, table: Tensor, codes: Tensor) -> None:
    """Call a function of the library, whose levels torch's number of threads share."""
    levels, features = len(scalings), table.shape[1]
    scalings = scalings.float()
    pointer, threads = ctypes.c_void_p, min(torch.get_num_threads(), levels)
    arrays = [pointer(x.data_ptr()) for x in (scalings, table, codes)]
    given = (pointer(points.data_ptr()), ctypes.c_int64(len(points)), *arrays, len(table) // levels, features, levels)
    bounds = [levels * i // threads for i in range(threads + 1)]
    if threads == 1:
        function(*given, *bounds)
        return
    with ThreadPoolExecutor(threads) as pool:  # ctypes lets the others run meanwhile
        list(pool.map(lambda first, last: function(*given, first, last), bounds[:-1], bounds[1:]))
