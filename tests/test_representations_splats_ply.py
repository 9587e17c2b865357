"""3DGS .ply files: what is read, what is written back, and what is refused."""

import struct
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import randn
from torch import Tensor

from cpds.errors import InputError
from representations.splats.ply import Gaussians, SplatFile


def gaussians(n: int = 5, degree: int = 3) -> Gaussians:
    k = (degree + 1) ** 2 - 1
    return Gaussians(
        randn(0, n, 3), randn(1, n, 4), randn(2, n, 3), randn(3, n, 1), randn(4, n, 3), randn(5, n, max(k, 1), 3)[:, :k]
    )


def same(a: Gaussians, b: Gaussians) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Gaussians))


def plain(n: int = 2, form: str = "binary_little_endian", rest: int = 0) -> tuple[str, list[str]]:
    """A header, and the properties' names, written by hand."""
    names = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", *(f"f_rest_{i}" for i in range(rest)), "opacity"]
    names += [*(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    lines = ["ply", f"format {form} 1.0", f"element vertex {n}", *(f"property float {name}" for name in names)]
    return "\n".join([*lines, "end_header", ""]), names


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_what_is_written_is_read(degree: int, tmp_path: Path) -> None:
    before = gaussians(degree=degree)
    SplatFile.of(before).write(tmp_path / "a.ply", before)
    after = SplatFile.read(tmp_path / "a.ply").gaussians
    assert same(before, after)
    assert after.degree == degree


def test_every_number_has_its_place(tmp_path: Path) -> None:
    """Against bytes packed by hand: the coefficients stand channel by channel."""
    head, names = plain(1, rest=9)
    value = {name: float(i + 1) for i, name in enumerate(names)}
    (tmp_path / "a.ply").write_bytes(head.encode() + struct.pack(f"<{len(names)}f", *value.values()))
    found = SplatFile.read(tmp_path / "a.ply").gaussians
    assert found.means.tolist() == [[value["x"], value["y"], value["z"]]]
    assert found.quats.tolist() == [[value[f"rot_{i}"] for i in range(4)]]
    assert found.scales.tolist() == [[value[f"scale_{i}"] for i in range(3)]]
    assert found.opacities.tolist() == [[value["opacity"]]]
    assert found.dc.tolist() == [[value[f"f_dc_{i}"] for i in range(3)]]
    for k in range(3):
        assert found.rest[0, k].tolist() == [value[f"f_rest_{channel * 3 + k}"] for channel in range(3)]


def rich() -> tuple[bytes, int]:
    """A file with much beside the gaussians, and where its table begins: comments, other types, another element."""
    _, names = plain()
    lines = ["ply", "format binary_little_endian 1.0", "comment made by häns", "element vertex 2"]
    lines += ["property double x", "property uchar label", *(f"property float {n}" for n in names[1:])]
    lines += ["property int extra", "element face 1", "property list uchar int vertex_indices", "end_header", ""]
    head = "\r\n".join(lines).encode("latin-1")
    rows = b"".join(
        struct.pack(f"<dB{len(names) - 1}fi", 0.1 + i, 7 + i, *np.linspace(-1, 1, len(names) - 1), -5 - i)
        for i in range(2)
    )
    return head + rows + struct.pack("<B3i", 3, 0, 1, 2), len(head)


def test_what_is_not_edited_is_kept(tmp_path: Path) -> None:
    data, begin = rich()
    (tmp_path / "a.ply").write_bytes(data)
    file = SplatFile.read(tmp_path / "a.ply")
    again = file.encode(file.gaussians)
    assert again.endswith(data[begin:])  # 0.1 as a double too, though tensors are float32
    assert again.replace(b"\n", b"\r\n")[:begin] == data[:begin]

    moved = file.gaussians.means.clone()
    moved[1, 0] = 3.5
    file.write(tmp_path / "b.ply", replace(file.gaussians, means=moved))
    after = SplatFile.read(tmp_path / "b.ply")
    assert after.vertices["x"].tolist() == [0.1, 3.5]
    assert after.vertices["label"].tolist() == [7, 8]
    assert after.vertices["extra"].tolist() == [-5, -6]
    assert after.tail == data[-13:]
    assert "comment made by häns" in after.head
    assert same(after.gaussians, replace(file.gaussians, means=moved))


def test_ascii_is_read_and_becomes_binary(tmp_path: Path) -> None:
    head, names = plain(2, "ascii")
    rows = randn(0, 2, len(names))
    text = "\n".join(" ".join(repr(float(x)) for x in row) for row in rows)
    (tmp_path / "a.ply").write_text(head + text + "\n")
    file = SplatFile.read(tmp_path / "a.ply")
    assert torch.equal(file.gaussians.means, rows[:, :3])
    file.write(tmp_path / "b.ply", file.gaussians)
    assert same(SplatFile.read(tmp_path / "b.ply").gaussians, file.gaussians)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = gaussians()
    file = SplatFile.of(before)
    file.write(tmp_path / "a.ply", before)

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(InputError, match=r"a\.ply cannot be written \(disk full\)"):
        file.write(tmp_path / "a.ply", replace(before, means=before.means + 1))
    assert same(SplatFile.read(tmp_path / "a.ply").gaussians, before)
    assert [f.name for f in tmp_path.iterdir()] == ["a.ply"]


def spoilt(**changes: Tensor) -> bytes:
    broken = replace(gaussians(), **changes)
    return SplatFile.of(broken).encode(broken)


def without(name: str) -> Callable[[], bytes]:
    def build() -> bytes:
        head, names = plain()
        return head.replace(f"property float {name}\n", "").encode() + bytes(8 * (len(names) - 1))

    return build


HEAD, NAMES = plain()
BODY = bytes(8 * len(NAMES))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not a .ply file"),
        (b"PK\x03\x04 a zip", "is not a .ply file"),
        (b"ply\nformat ascii 1.0\nelement", "cut off within its header"),
        (plain(form="binary_big_endian")[0].encode() + BODY, "has the format binary_big_endian: save it as binary_l"),
        (b"ply\nelement vertex 1\nend_header\n", "has the format none"),
        (b"ply\nformat ascii 1.0\nend_header\n", "does not begin with vertices"),
        (HEAD.replace("element vertex 2", "element chunk 2").encode() + BODY, "plain, uncompressed"),
        (HEAD.replace("element vertex 2", "element vertex two").encode() + BODY, "does not begin with vertices"),
        (HEAD.replace("float x", "list uchar int x").encode() + BODY, r"cannot be read \(property list uchar int x\)"),
        (HEAD.replace("float x", "half x").encode() + BODY, r"cannot be read \(property half x\)"),
        (HEAD.replace("float y", "float x").encode() + BODY, r"cannot be read \(property float x\)"),  # twice
        (b"ply\nformat ascii 1.0\nelement vertex 1\nend_header\n", "without properties"),
        (without("opacity")(), "lacks the vertex properties opacity: give"),
        (without("rot_3")(), "lacks the vertex properties rot_3"),
        (HEAD.replace("f_dc_", "red").encode() + BODY, "lacks the vertex properties f_dc_0, f_dc_1, f_dc_2"),
        (plain(0)[0].encode(), "holds no gaussians"),
        (plain(1, rest=3)[0].encode() + BODY, r"has 3 properties f_rest_\*"),
        (plain(1, rest=10)[0].encode() + 2 * BODY, r"has 10 properties f_rest_\*"),
        (plain(1, rest=9)[0].replace("f_rest_4\n", "f_rest_x\n").encode() + 2 * BODY, "lacks .* f_rest_4"),
        (HEAD.encode() + BODY[:-1], "is cut off: it holds 1 of 2 gaussians"),
        (HEAD.replace("vertex 2", f"vertex {10**12}").encode() + BODY, f"holds 2 of {10**12} gaussians"),
        (plain(form="ascii")[0].encode() + b"1 2 3", "holds 0 of 2 gaussians"),
        (plain(form="ascii")[0].encode() + b"one " * 2 * len(NAMES), "something that is no number"),
        (plain(form="ascii")[0].replace("end_", "element face 0\nend_").encode(), "ascii .ply with more than vertices"),
        (spoilt(opacities=torch.full((5, 1), torch.inf)), r"in opacity \(5 of 5 gaussians, the first is number 0\)"),
        (spoilt(means=torch.eye(5, 3).div(torch.eye(5, 3))), r"infinite values in x \(4 of 5 .* number 1\)"),
        (spoilt(rest=torch.full((5, 15, 3), torch.nan)), "infinite values in f_rest_0"),
        (spoilt(scales=torch.full((5, 3), 99.0)), "scale_0 up to 99: scales must be logarithms below 80"),
    ],
)
def test_bad_files_are_refused_in_a_sentence(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.ply").write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        SplatFile.read(tmp_path / "a.ply")
    assert "a.ply" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_path_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder: name the \.ply in it"):
        SplatFile.read(tmp_path)
    for path in (tmp_path / "none.ply", tmp_path / ("long" * 99)):
        with pytest.raises(InputError, match=r"cannot be read .*: check the path"):
            SplatFile.read(path)
