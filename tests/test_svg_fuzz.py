"""Damaged documents: each is read, drawn, changed and written, or refused in one sentence, and none takes long.

CPDS_FUZZ=1000 pytest tests/test_svg_fuzz.py
"""

import os
import random
import re
import time

import numpy as np
import pytest
import torch
from svg_oracles import DATA

from cpds.errors import InputError
from svg.document import Document
from svg.raster.page import Raster

COUNT = int(os.environ.get("CPDS_FUZZ", "150"))
LONGEST = 10.0  # s; a loaded machine is slow
NUMBERS = (b"0", b"-1", b"3e8", b"1e400", b"nan", b"inf", b"1e-300", b"99999999999", b"", b".", b"-0", b"1e38", b"50%")
DOCUMENT = (DATA / "fuzz.svg").read_bytes()


def damaged(source: bytes, rng: random.Random) -> bytes:
    """A copy with one to five faults: bytes changed, cut, doubled or dropped, numbers and values swapped."""
    data = bytearray(source)
    for _ in range(rng.choice((1, 1, 2, 5))):
        i, kind = rng.randrange(len(data)), rng.randrange(7)
        if kind == 0:
            data[i] = rng.randrange(256)
        elif kind == 1:
            data[i] = rng.choice(b'0123456789-.eE,%#"<>/&; zMA()')
        elif kind == 2 and rng.random() < 0.2:
            del data[max(i, 4) :]
        elif kind == 3:
            part = data[i : i + rng.randrange(60)]
            data[i:i] = part * rng.choice((1, 3, 20))
        elif kind == 4:
            del data[i : i + rng.randrange(30)]
        else:
            found = list(re.finditer(rb"[-+]?[\d.]+" if kind == 5 else rb'"[^"]*"', bytes(data)))
            if len(found) > 1:
                place, other = rng.sample(found, 2)
                data[place.start() : place.end()] = rng.choice(NUMBERS) if kind == 5 else other[0]
        data = data or bytearray(b"<")
    return bytes(data)


@pytest.mark.parametrize("seed", range(0, COUNT, 50))
def test_damaged_documents_are_drawn_or_refused(seed: int) -> None:
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    read = 0
    for _ in range(50):
        data = damaged(DOCUMENT, rng)
        began = time.monotonic()
        document, message = None, ""
        try:
            document = Document.parse(data)
        except InputError as err:
            message = str(err)
        assert time.monotonic() - began < LONGEST, data
        assert "\n" not in message
        assert len(message) < 500
        if document is None:
            continue
        read += 1
        values = {k: torch.from_numpy(p.value).requires_grad_() for k, p in document.parameters.items()}
        image = Raster(document.root, document.width, document.height).render(values, 24, 24)
        assert torch.isfinite(image).all(), data
        image.sum().backward()
        for key, x in values.items():
            assert x.grad is None or torch.isfinite(x.grad).all(), (key, data)
        free = {k: p.value for k, p in document.parameters.items() if p.group}
        moved = {k: np.asarray(v + 0.01 * numbers.random(v.shape)) for k, v in free.items()}
        assert document.write() == data
        assert Document.parse(document.write(moved)).parameters
        assert time.monotonic() - began < LONGEST, data
    assert read > 5  # the faults are not all fatal
