"""ICC profiles written byte by byte (ICC.1:2001-04), so that tests need no files."""

import itertools
import struct
from collections.abc import Sequence

D50 = (0.9642, 1.0, 0.8249)
WIDE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))  # Adobe RGB's primaries
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))


def fixed(values: Sequence[float]) -> bytes:
    return b"".join(struct.pack(">i", round(v * 65536)) for v in values)


def xyz(values: Sequence[float]) -> bytes:
    return b"XYZ \0\0\0\0" + fixed(values)


def gamma(exponent: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(exponent * 256))


def profile(kind: bytes, space: bytes, pcs: bytes, tags: dict[str, bytes]) -> bytes:
    """Header, tag table and tags."""
    name = b"made for a test\0"
    description = b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + b"\0" * 78
    tags = {"desc": description, "wtpt": xyz(D50), "cprt": b"text\0\0\0\0none\0", **tags}
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        table += tag.encode() + struct.pack(">II", start + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    header = struct.pack(">I4sI4s4s4s", start + len(body), b"", 0x02400000, kind, space, pcs)
    header += b"\0" * 12 + b"acsp" + b"\0" * 28 + fixed(D50)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def rgb_profile(primaries: Sequence[Sequence[float]] = WIDE, exponent: float = 2.2) -> bytes:
    """Columns of the matrix from linear RGB to XYZ (D50), and a power law."""
    tags = {}
    for channel, column in zip("rgb", primaries, strict=True):
        tags |= {f"{channel}XYZ": xyz(column), f"{channel}TRC": gamma(exponent)}
    return profile(b"mntr", b"RGB ", b"XYZ ", tags)


def gray_profile(exponent: float) -> bytes:
    return profile(b"mntr", b"GRAY", b"XYZ ", {"kTRC": gamma(exponent)})


def table_profile(kind: bytes, space: bytes, channels: int, lightness: Sequence[int]) -> bytes:
    """A device that can only be read: 8-bit L* at each corner of the cube of its channels, all of them neutral."""
    identity = fixed((1, 0, 0, 0, 1, 0, 0, 0, 1))
    ramp = bytes(range(256))
    corners = bytes(itertools.chain.from_iterable((light, 128, 128) for light in lightness))
    table = b"mft1\0\0\0\0" + bytes([channels, 3, 2, 0]) + identity + ramp * channels + corners + ramp * 3
    return profile(kind, space, b"Lab ", {"A2B0": table})


def cmyk_profile() -> bytes:
    """Inks that are all gray: white paper without ink, black where any is full."""
    return table_profile(b"prtr", b"CMYK", 4, [255] + [0] * 15)


def scanner_profile() -> bytes:
    """RGB in one direction alone: L* is what the channels have in common."""
    return table_profile(b"scnr", b"RGB ", 3, [0] * 7 + [255])
