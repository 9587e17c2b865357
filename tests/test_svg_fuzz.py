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

from cpds.errors import InputError
from svg.document import Document
from svg.raster.page import Raster

COUNT = int(os.environ.get("CPDS_FUZZ", "150"))
LONGEST = 10.0  # s; a loaded machine is slow
NUMBERS = (b"0", b"-1", b"3e8", b"1e400", b"nan", b"inf", b"1e-300", b"99999999999", b"", b".", b"-0", b"1e38", b"50%")
DOCUMENT = b"""<?xml version="1.0"?>
<!DOCTYPE svg [<!ENTITY red "#d22">]>
<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 36 36" width="72">
  <style>.a { fill: #ffcc4d; stroke-width: 2px } #b:first-child > path { opacity: .7 !important }</style>
  <defs>
    <linearGradient id="g" x1="0" y1="0" x2="1" y2=".5" gradientTransform="rotate(20)" spreadMethod="reflect">
      <stop offset="5%" stop-color="&red;"/><stop offset=".9" style="stop-color: hsl(200 50% 40%); stop-opacity: .5"/>
    </linearGradient>
    <radialGradient id="h" xlink:href="#g" gradientUnits="userSpaceOnUse" cx="18" cy="18" r="12" fx="14" fy="15"/>
    <clipPath id="c" clipPathUnits="objectBoundingBox"><circle cx=".5" cy=".5" r=".45"/></clipPath>
    <symbol id="s" viewBox="0 0 10 10"><path d="M1 1h8v8q-4 3-8 0zM3 3a2 2 0 1 0 4 .5z" fill-rule="evenodd"/></symbol>
  </defs>
  <g id="b" transform="translate(1 2) scale(.9) skewX(5)" clip-path="url(#c)" opacity=".9">
    <path class="a" d="M4 4C30 0 44 20 40 40S10 44 4 4Zm3 3l5 5-2 4t3 3" fill="url(#g)" stroke="url(#h)"/>
    <rect x="3" y="4" width="20" height="11" rx="3" style="fill: rgba(10, 200, 30, .5)" stroke="#000"
      stroke-dasharray="3 1 2" stroke-linecap="round" stroke-linejoin="bevel"/>
  </g>
  <use href="#s" x="5" y="6" width="14" height="20" fill="currentColor" color="teal"/>
  <ellipse cx="20" cy="20" rx="9" ry="4" fill="none" stroke="#345" stroke-width=".6" stroke-miterlimit="2"/>
  <polygon points="1,2 3,4 5,1 9,9" fill="url(#none) blue"/><line x1="0" y1="35" x2="36" y2="30" stroke="#0f0"/>
</svg>
"""


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
        document, said = None, ""
        try:
            document = Document.parse(data)
        except InputError as err:
            said = str(err)
        assert time.monotonic() - began < LONGEST, data
        assert "\n" not in said
        assert len(said) < 500
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
