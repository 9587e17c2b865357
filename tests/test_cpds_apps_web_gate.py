"""What stands before the page, and what it checks: names, cookies, uploads, files, and settings that are typed."""

import asyncio
import gzip
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from splat_scenes import ball, ring

from cpds.apps.web.form import POLISH, lines_of, own_rates, row_of, strengthened
from cpds.apps.web.gate import FILE, POLICY, SANDBOX, UPLOAD, Gate, secret_in
from cpds.apps.web.limits import Limits
from cpds.apps.web.masks import canvas, painted_mask
from cpds.apps.web.turntable import focus, orbit
from cpds.apps.web.uploads import check_file
from cpds.apps.web.visitors import COOKIE, Visitors
from cpds.errors import InputError
from cpds.presets import PRESETS, PRESETS_FOR

SECRET = "s" * 43
Ask = Callable[..., tuple[int, dict[str, str], bytes]]


@pytest.fixture
def visitors(tmp_path: Path) -> Visitors:
    return Visitors(tmp_path / "runs", 1.0)


@pytest.fixture
def ask(visitors: Visitors) -> Ask:
    """A request through the gate of a page that answers everything with "inside": status, headers and body."""

    async def inside(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"inside"})

    def asked(path: str, method: str = "GET", body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
        given = {"host": "127.0.0.1:7860", **{k.replace("_", "-"): v for k, v in headers.items()}}
        scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": []}
        scope["headers"] = [(k.encode(), v.encode()) for k, v in given.items()]
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        gate = Gate(inside, visitors, Limits(max_upload=0.01), ("127.0.0.1", "localhost"))
        asyncio.run(gate(scope, receive, send))
        found = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
        return sent[0]["status"], found, b"".join(m.get("body", b"") for m in sent[1:])

    return asked


def test_the_first_visit_gets_a_secret_and_later_ones_keep_it(ask: Ask) -> None:
    status, headers, body = ask("/")
    assert (status, body) == (200, b"inside")
    assert headers["content-security-policy"] == POLICY
    cookie = headers["set-cookie"]
    assert len(secret_in(cookie)) >= 32
    assert all(word in cookie for word in ("HttpOnly", "SameSite=Strict"))
    assert secret_in(ask("/")[1]["set-cookie"]) != secret_in(cookie)
    assert "set-cookie" not in ask("/", cookie=f"{COOKIE}={SECRET}")[1]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/assets/index.js", 200),
        ("/gradio_api/queue/join", 200),
        ("/gradio_api/heartbeat/abc", 200),
        ("/gradio_api/proxy=https://example.org", 404),  # Gradio would fetch it
        ("/gradio_api/file=https://example.org/x", 404),
        ("/gradio_api/file=/etc/passwd", 404),
        ("/gradio_api/call/begin", 404),
        ("/gradio_api/vibe-edit", 404),
        ("/monitoring", 404),
        ("/docs", 404),
    ],
)
def test_only_what_the_page_needs_is_open(ask: Ask, path: str, status: int) -> None:
    assert ask(path, cookie=f"{COOKIE}={SECRET}")[0] == status


def test_another_sites_name_for_this_machine_is_refused(ask: Ask) -> None:
    assert ask("/", host="evil.example:7860")[0] == 403
    assert ask("/", host="localhost")[0] == 200


def test_files_are_shown_to_their_owner_alone_and_cannot_run_scripts(ask: Ask, visitors: Visitors) -> None:
    file = visitors.of(SECRET).place("x.svg")
    file.write_text("<svg/>")
    status, headers, _ = ask(f"{FILE}{file}", cookie=f"{COOKIE}={SECRET}")
    assert (status, headers["content-security-policy"]) == (200, SANDBOX)
    assert ask(f"{FILE}{file}", cookie=f"{COOKIE}={'t' * 43}")[0] == 404
    assert ask(f"{FILE}{file}")[0] == 404
    around = f"{visitors.of('t' * 43).folder}/../{file.relative_to(visitors.root)}"
    assert ask(f"{FILE}{around}", cookie=f"{COOKIE}={'t' * 43}")[0] == 404


def test_uploads_are_kept_or_refused(ask: Ask, visitors: Visitors, image_file: Path) -> None:
    pytest.importorskip("starlette")
    pytest.importorskip("python_multipart")

    def upload(name: str, content: bytes, cookie: str = f"{COOKIE}={SECRET}") -> tuple[int, str]:
        head = f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + content + b"\r\n--b--\r\n"
        status, _, answer = ask(UPLOAD, "POST", body, content_type="multipart/form-data; boundary=b", cookie=cookie)
        return status, answer.decode()

    status, answer = upload("../../my cat.png", image_file.read_bytes())
    assert status == 200
    (place,) = map(Path, json.loads(answer))
    assert visitors.of(SECRET).owns(place)
    assert place.name == "my_cat.png"
    assert place.read_bytes() == image_file.read_bytes()
    assert upload("x.png", b"MZ" + bytes(900)) == (
        400,
        "x.png cannot be read: upload an image, an SVG, a scene (.ply) or its cameras (.json)",
    )
    assert upload("x.png", bytes(200_000)) == (400, "the file is larger than 0.01 MB: give a smaller one")
    assert upload("x.png", image_file.read_bytes(), cookie="")[0] == 403
    assert [f.name for f in visitors.root.rglob("*") if f.is_file()] == ["my_cat.png"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.svg", b"MZ\x90", "a.svg is not an SVG, whatever its name says"),
        ("a.svgz", gzip.compress(b"<svg>" + bytes(2_000_000)), "larger than 1 MB"),  # packed it is small
        ("a.svgz", b"\x1f\x8bbroken", "a.svgz is not an SVG"),
        ("a.ply", b"\x7fELF", "a.ply is not a scene"),
        ("a.json", b"{", "a.json is not a file of cameras"),
        ("a.json", b"[" * 100_000, "a.json is not a file of cameras"),
        ("a.exe", b"MZ", "a.exe cannot be read"),
    ],
)
def test_files_are_what_their_names_say(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as err:
        check_file(tmp_path / name, Limits(max_upload=1.0))
    assert words in str(err.value)


def test_good_files_pass(tmp_path: Path, image_file: Path) -> None:
    (tmp_path / "a.svgz").write_bytes(gzip.compress(b'<svg xmlns="http://www.w3.org/2000/svg"/>'))
    (tmp_path / "a.json").write_text("[]")
    (tmp_path / "a.ply").write_bytes(b"ply\nformat ascii 1.0\n")
    for file in (tmp_path / "a.svgz", tmp_path / "a.json", tmp_path / "a.ply", image_file):
        check_file(file, Limits())


def test_limits_are_positive_numbers() -> None:
    for name in Limits.__dataclass_fields__:
        with pytest.raises(InputError, match=f"{name} must be > 0"):
            Limits(**{name: type(getattr(Limits(), name))(0)})


def test_strength_multiplies_the_learning_rate_and_the_polish() -> None:
    preset = PRESETS["cpds"]
    assert preset.lr is not None
    stronger = strengthened(preset, 4 / 3, own_rates("image"))
    assert (stronger.lr, stronger.polish) == (pytest.approx(4 / 3 * preset.lr), pytest.approx(4 / 3 * preset.polish))
    assert stronger.guidance == preset.guidance
    assert strengthened(preset, 1.0, own_rates("image")) == preset


def test_strength_alone_does_not_polish_from_where_shapes_are_others() -> None:
    for factor, expected in [(0.5, 0.4), (1.0, 0.8), (2.0, 0.8)]:  # what somebody has set stays possible
        edit = replace(PRESETS["cpds"], polish=0.8)
        assert strengthened(edit, factor, own_rates("image")).polish == pytest.approx(expected)
    assert strengthened(PRESETS["cpds"], 2.0, own_rates("image")).polish == POLISH


@pytest.mark.parametrize("command", ["image", "svg", "splats"])
def test_strength_changes_every_preset_and_nothing_at_one(command: str) -> None:
    for name in PRESETS_FOR[command]:
        preset = PRESETS[name]
        assert strengthened(preset, 1.0, own_rates(command)) == preset
        twice = strengthened(preset, 2.0, own_rates(command))
        if preset.guidance.timesteps == "descending" and name != "chordedit":  # which takes no guidance
            (was, source), (now, same) = preset.guidance.default_guidance, twice.guidance.default_guidance
            assert (now, same) == (2 * was, source)
        elif preset.redraw_steps:
            assert twice == replace(preset, redraw_lr=2 * preset.redraw_lr)
        elif preset.lr is None:
            assert twice.group_lrs == {k: 2 * preset.group_lrs.get(k, v) for k, v in own_rates(command).items()}
        else:
            assert twice.lr == 2 * preset.lr


def test_settings_are_typed_as_flags_are() -> None:
    typed = lines_of("t_max 0.9\n\n--guidance-schedule=rising\n patch_size 1 2 4 ")
    assert typed == {"t_max": "0.9", "guidance_schedule": "rising", "patch_size": "1 2 4"}
    row = row_of("image", Path("x.png"), ("a", "b"), typed, {}, Limits())
    guidance = row.args.edit.guidance
    assert (guidance.t_max, guidance.guidance_schedule, guidance.patch_size) == (0.9, "rising", (1, 2, 4))
    steps = {"num_inference_steps": "500", "redraw_steps": "501"}
    with pytest.raises(InputError, match="1001 steps are more than 1000"):
        row_of("svg", Path("x.svg"), ("a", "b"), steps, {}, Limits())
    for text, words in (("t_max", "'t_max' has no value"), ("seed 1\nseed 2", "seed is there twice")):
        with pytest.raises(InputError, match=words):
            lines_of(text)


def test_what_is_painted_becomes_a_mask_of_the_sources_size(visitors: Visitors, tmp_path: Path) -> None:
    visitor = visitors.of(SECRET)
    Image.new("RGB", (2048, 1024), "white").save(tmp_path / "wide.png")
    with Image.open(canvas(tmp_path / "wide.png", visitor)) as shown:
        assert shown.size == (1024, 512)
    layer = Image.new("RGBA", (1024, 512))
    assert painted_mask({"layers": [layer]}, tmp_path / "wide.png", visitor) is None
    assert painted_mask(None, tmp_path / "wide.png", visitor) is None
    layer.paste((225, 29, 72, 255), (0, 0, 512, 512))
    made = painted_mask({"layers": [layer]}, tmp_path / "wide.png", visitor)
    assert made is not None
    with Image.open(made) as mask:
        alpha = mask.getchannel("A")
        assert mask.size == (2048, 1024)
        assert alpha.getpixel((500, 500)) == 255
        assert alpha.getpixel((1500, 500)) == 0


def test_an_orbit_keeps_its_distance_and_looks_at_what_all_cameras_look_at() -> None:
    cameras = ring(count=8)
    means = ball().means
    poses = torch.stack([torch.linalg.inv(c.viewmat.double()) for c in cameras])
    assert torch.allclose(focus(poses, means.double()), torch.zeros(3).double(), atol=1e-5)
    turned = [torch.linalg.inv(c.viewmat) for c in orbit(cameras, means, 12)]
    centres = torch.stack([pose[:3, 3] for pose in turned])
    assert torch.allclose(centres.norm(dim=1), torch.tensor(3.0), atol=1e-4)
    assert torch.allclose(torch.stack([pose[:3, 2] for pose in turned]), -centres / 3, atol=1e-4)  # to the origin
    steps = torch.linalg.vecdot(centres / 3, centres.roll(1, 0) / 3).clamp(-1, 1).arccos()
    assert torch.allclose(steps, torch.tensor(2 * math.pi / 12), atol=1e-3)  # once around


def test_an_orbit_stays_where_there_are_cameras() -> None:
    cameras = ring(count=8)[:3]  # a quarter of the ring
    centres = torch.stack([torch.linalg.inv(c.viewmat)[:3, 3] for c in orbit(cameras, ball().means, 12)])
    own = torch.stack([torch.linalg.inv(c.viewmat)[:3, 3] for c in cameras])
    assert torch.allclose(torch.stack([centres[0], centres[6]]), own[[0, 2]], atol=1e-3) or torch.allclose(
        torch.stack([centres[0], centres[6]]), own[[2, 0]], atol=1e-3
    )
    only = orbit(cameras[:1], ball().means, 12)
    assert len({tuple(c.viewmat.flatten().tolist()) for c in only}) > 5  # it swings
