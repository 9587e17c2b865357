"""What pages ask for, done with a real prior: runs as the commands make them, each visitor's own, gone on with."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_cpds_apps_batch_manifest import SVG
from test_cpds_apps_cli_splats import write_cameras, write_scene

from cpds.apps.cli.main import main
from cpds.apps.web.desk import SAMPLES, Desk, Wish, take_sample
from cpds.apps.web.edits import BEFORE, SHEET, TURNING, edit_job, files_of, keep_sheet
from cpds.apps.web.limits import Limits
from cpds.apps.web.visitors import Visitor, Visitors
from cpds.apps.web.workers import Workers
from cpds.errors import InputError
from cpds.priors.unet import UNetPrior

SHORT = {"num_inference_steps": 3, "n_patches": 8}
LONG = 200  # steps: longer than any test waits
PATIENCE = 120  # s
Open = Callable[..., Desk]


@pytest.fixture
def opened(tmp_path: Path, prior: UNetPrior, tiny_folder: Path) -> Iterator[Open]:
    begun: list[Workers] = []

    def build(**limits: Any) -> Desk:
        bounds = Limits(**limits)
        workers = Workers(["cpu"], lambda device: prior, edit_job, bounds)
        begun.append(workers)
        workers.start()
        return Desk(workers, Visitors(tmp_path / "runs", bounds.keep_hours), bounds, str(tiny_folder))

    yield build
    for workers in begun:
        workers.close()


def upload(visitor: Visitor, path: Path) -> str:
    place = visitor.place(path.name)
    place.write_bytes(path.read_bytes())
    return str(place)


def wish(source: str | None, command: str = "image", **more: Any) -> Wish:
    settings = SHORT | more.pop("settings", {})
    return Wish(command, source, "a cat", "a dog", settings, more.pop("files", {}), **more)


def ended(desk: Desk, page: str, command: str = "image") -> Any:
    end = time.monotonic() + PATIENCE
    while not (status := desk.status(page, command)).ended:
        assert time.monotonic() < end
        time.sleep(0.02)
    return status


def test_an_image_is_edited_as_the_command_edits_it(
    opened: Open, image_file: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    desk = opened()
    visitor = desk.visitors.of("a" * 40)
    desk.begin(visitor, "p", wish(upload(visitor, image_file)))
    status = ended(desk, "p")
    assert (status.text, status.fraction) == ("done", 1.0)
    (run,) = status.runs
    assert run.finished
    assert {f.name for f in files_of(run)} == {"result.png", "trajectory.gif", "settings.json"}
    command = ["image", "--img_path", image_file, "--prompt", "a cat", "--trg_prompt", "a dog", "--prior", tiny_folder]
    command += ["--save_path", tmp_path / "out", "--num_inference_steps", 3, "--n_patches", 8, "--device", "cpu"]
    assert main([*map(str, command)]) == 0
    assert (run.folder / "result.png").read_bytes() == (tmp_path / "out/result.png").read_bytes()
    settings = json.loads((run.folder / "settings.json").read_text())
    assert settings["edit"]["num_inference_steps"] == 3
    assert str(tmp_path) not in json.dumps(settings)
    assert not visitor.inputs.exists() or not any(visitor.inputs.iterdir())  # what was uploaded is gone with the edit


def test_a_stopped_run_goes_on_to_the_same_pixels(opened: Open, image_file: Path) -> None:
    desk = opened()
    visitor = desk.visitors.of("a" * 40)
    desk.begin(visitor, "p", wish(upload(visitor, image_file), settings={"num_inference_steps": 12}))
    whole = ended(desk, "p").runs[0]
    desk.begin(visitor, "p", wish(upload(visitor, image_file), settings={"num_inference_steps": 12}))
    while desk.status("p", "image").fraction == 0:
        time.sleep(0.005)
    desk.stop("p", "image")
    status = ended(desk, "p")
    assert status.text == "stopped"
    (run,) = status.runs
    assert 0 < run.step < 12
    assert not run.finished
    assert run.title == f"a dog (seed 0, stopped at step {run.step} of 12)"
    visitor.forget_uploads()  # the page may have been closed since
    desk.resume(visitor, "q", run.folder.name)
    assert ended(desk, "q").text == "done"
    assert (run.folder / "result.png").read_bytes() == (whole.folder / "result.png").read_bytes()
    with pytest.raises(InputError, match="that run is finished"):
        desk.resume(visitor, "q", run.folder.name)


def test_a_run_that_settles_says_so(opened: Open, image_file: Path) -> None:
    desk = opened()
    visitor = desk.visitors.of("a" * 40)
    desk.begin(
        visitor, "p", wish(upload(visitor, image_file), settings={"num_inference_steps": 12, "stop_below": 0.99})
    )
    status = ended(desk, "p")
    assert (status.text, status.fraction) == ("done; settled after step 10 of 12", 1.0)
    (run,) = status.runs
    assert run.finished
    assert run.title == "a dog (seed 0, settled after step 10 of 12)"


def test_variants_are_seeds_that_follow_and_make_a_sheet(opened: Open, image_file: Path) -> None:
    desk = opened()
    visitor = desk.visitors.of("a" * 40)
    desk.begin(visitor, "p", wish(upload(visitor, image_file), variants=3, settings={"seed": 5}))
    status = ended(desk, "p")
    assert status.text == "3 done"
    assert [run.seed for run in status.runs] == [5, 6, 7]
    assert len({(run.folder / "result.png").read_bytes() for run in status.runs}) == 3
    keep_sheet(status.runs)
    with Image.open(status.runs[0].folder / SHEET) as sheet, Image.open(status.runs[0].folder / BEFORE) as before:
        assert sheet.size == (4 * before.width + 3 * 8, before.height)


def test_a_mask_holds_what_was_not_painted(opened: Open, image_file: Path) -> None:
    desk = opened()
    visitor = desk.visitors.of("a" * 40)
    with Image.open(image_file) as source:
        mask = Image.new("L", source.size)
    mask.paste(255, (0, 0, mask.width // 2, mask.height))
    place = visitor.place("mask.png")
    mask.save(place)
    made = wish(upload(visitor, image_file), files={"mask": str(place)}, settings={"lr": 20.0, "keep_unchanged": False})
    desk.begin(visitor, "p", made)
    (run,) = ended(desk, "p").runs
    with Image.open(run.folder / BEFORE) as before, Image.open(run.folder / "result.png") as after:
        right, left = (mask.width // 2, 0, *mask.size), (0, 0, mask.width // 2, mask.height)
        assert before.crop(right).tobytes() == after.crop(right).tobytes()
        assert before.crop(left).tobytes() != after.crop(left).tobytes()


def test_svgs_and_scenes_leave_their_own_files(opened: Open, tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    desk = opened()
    visitor = desk.visitors.of("a" * 40)
    (tmp_path / "d.svg").write_text(SVG)
    desk.begin(visitor, "p", wish(upload(visitor, tmp_path / "d.svg"), "svg"))
    (run,) = ended(desk, "p", "svg").runs
    assert {f.name for f in files_of(run)} == {"result.svg", "result.png", "trajectory.gif", "settings.json"}
    write_scene(tmp_path / "s.ply")
    write_cameras(tmp_path / "c.json")
    files = {"cameras": upload(visitor, tmp_path / "c.json"), "frame": None}
    desk.begin(visitor, "p", wish(upload(visitor, tmp_path / "s.ply"), "splats", files=files))
    status = ended(desk, "p", "splats")
    assert status.trouble == ""
    (scene,) = status.runs
    assert {"result.ply", TURNING} <= {f.name for f in files_of(scene)}
    with Image.open(scene.folder / TURNING) as turning:
        assert turning.n_frames > 10  # pyright: ignore[reportAttributeAccessIssue]
    assert [run.command for run in desk.history(visitor, "svg")] == ["svg"]
    assert [run.command for run in desk.history(visitor, "splats")] == ["splats"]


def test_steps_of_an_image_to_follow_are_told_and_can_be_stopped(opened: Open, tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    desk = opened()
    visitor = desk.visitors.of("a" * 40)
    (tmp_path / "d.svg").write_text(SVG)
    desk.begin(visitor, "p", wish(upload(visitor, tmp_path / "d.svg"), "svg", settings={"redraw_steps": LONG}))
    end = time.monotonic() + PATIENCE
    while not (told := desk.status("p", "svg")).text.startswith("step "):
        assert time.monotonic() < end
        time.sleep(0.02)
    desk.stop("p", "svg")
    ended(desk, "p", "svg")
    (job,) = desk.workers.jobs_of("p", "svg")
    (run,) = desk.history(visitor, "svg")
    assert told.text.endswith(f" of {LONG + SHORT['num_inference_steps']}")
    assert 0 < told.fraction < 1
    assert 0 < job.step < LONG
    assert run.step == 0


def test_visitors_neither_see_nor_use_what_is_anothers(opened: Open, image_file: Path) -> None:
    desk = opened()
    one, other = desk.visitors.of("a" * 40), desk.visitors.of("b" * 40)
    source = upload(one, image_file)
    desk.begin(one, "p", wish(source))
    (run,) = ended(desk, "p").runs
    assert desk.history(one, "image") == [run]
    assert desk.history(other, "image") == []
    for name in (run.folder.name, f"../../{one.folder.name}/runs/{run.folder.name}", ""):
        for refused in (desk.resume, lambda v, p, n: desk.remove(v, n)):
            with pytest.raises(InputError, match="not here any more"):
                refused(other, "q", name)
    with pytest.raises(InputError, match="upload it again"):
        desk.begin(other, "q", wish(source))
    with pytest.raises(InputError, match="upload it again"):
        desk.begin(other, "q", wish(upload(other, image_file), files={"mask": source}))
    assert not other.owns(one.folder / "runs")
    assert not other.owns(other.uploads / ".." / ".." / one.folder.name)


def test_a_closed_page_stops_its_edit_and_takes_the_uploads_along(opened: Open, image_file: Path) -> None:
    desk = opened()
    visitor, other = desk.visitors.of("a" * 40), desk.visitors.of("b" * 40)
    desk.arrive(visitor, "p")
    desk.arrive(visitor, "second")
    source = upload(visitor, image_file)
    desk.begin(visitor, "p", wish(source, settings={"num_inference_steps": LONG}))
    desk.begin(other, "theirs", wish(upload(other, image_file)))
    while desk.status("p", "image").fraction == 0:
        time.sleep(0.005)
    desk.leave(visitor, "p")
    assert ended(desk, "theirs").text == "done"
    assert Path(source).exists()  # of the page that is still open
    desk.leave(visitor, "second")
    assert not Path(source).exists()
    (run,) = desk.history(visitor, "image")
    assert 0 < run.step < LONG
    assert next(iter(visitor.inputs.iterdir())).name == run.folder.name  # to go on with
    desk.remove(visitor, run.folder.name)
    assert desk.history(visitor, "image") == []
    assert not any(visitor.inputs.iterdir())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": None}, "there is nothing to edit: upload an image"),
        ({"prompt": " "}, "the prompt is empty"),
        ({"target_prompt": "x" * 501}, "the target prompt has 501 characters, more than 500"),
        ({"settings": {"num_inference_steps": 1001}}, "1001 steps are more than 1000"),
        ({"settings": {"resolution": "4096"}}, "a resolution of 4096 px is more than 1024"),
        ({"settings": {"lr": "much"}}, "lr must be a number, got 'much'"),
        ({"settings": {"method": "os:system"}}, "method must be one of"),
        ({"settings": {"patch_selector": "os:system"}}, "patch_selector must be one of"),
        ({"settings": {"mask": "/etc/passwd"}}, "'mask' is no setting of an edit"),
        ({"settings": {"prior": "/etc"}}, "'prior' is no setting of an edit"),
        ({"variants": 9}, "variants must be in 1 ... 8, got 9"),
        ({"variants": 0}, "variants must be in 1 ... 8, got 0"),
        ({"strength": 0.0}, "strength must be above 0"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_leaves_nothing(
    opened: Open, image_file: Path, changes: dict[str, Any], words: str
) -> None:
    desk = opened()
    visitor = desk.visitors.of("a" * 40)
    made = wish(upload(visitor, image_file))
    with pytest.raises(InputError) as err:
        desk.begin(visitor, "p", made._replace(**changes))
    assert words in str(err.value)
    assert "\n" not in str(err.value)
    assert not visitor.inputs.exists() or not any(visitor.inputs.iterdir())
    assert desk.status("p", "image").ended


def test_an_edit_that_fails_says_why_and_leaves_no_run(opened: Open, image_file: Path) -> None:
    desk = opened()
    visitor = desk.visitors.of("a" * 40)
    broken = visitor.place("cat.png")
    broken.write_bytes(image_file.read_bytes()[:200])
    desk.begin(visitor, "p", wish(str(broken)))
    status = ended(desk, "p")
    assert status.text.startswith("failed; image ")
    assert "damaged" in status.trouble
    assert desk.history(visitor, "image") == []
    assert not any(visitor.inputs.iterdir())


def test_a_failure_tells_no_folder_of_this_machine(opened: Open, tmp_path: Path) -> None:
    desk = opened()
    visitor = desk.visitors.of("a" * 40)
    write_scene(tmp_path / "scene.ply")
    (tmp_path / "none.json").write_text('{"frames": []}')
    source = upload(visitor, tmp_path / "scene.ply")
    with pytest.raises(InputError, match="the scene has no cameras: upload their file"):
        desk.begin(visitor, "p", wish(source, "splats", files={"cameras": None}))
    desk.begin(visitor, "p", wish(source, "splats", files={"cameras": upload(visitor, tmp_path / "none.json")}))
    status = ended(desk, "p", "splats")
    assert status.trouble == "cameras.json lists no frames: give a transforms.json with at least one camera"
    place = visitor.place("a b.ply")
    assert visitor.without_places(f"{place} and {place.parent}/c lack x") == f"{place.name} and c lack x"
    assert visitor.without_places(f"resume the run in {visitor.runs / 'a-1'}") == "resume the run in a-1"


def test_settings_without_effect_are_told_when_it_ends(opened: Open, image_file: Path) -> None:
    desk = opened()
    visitor = desk.visitors.of("a" * 40)
    desk.begin(visitor, "p", wish(upload(visitor, image_file), settings={"preset": "dds", "n_patches": 9}))
    assert ended(desk, "p").text == "done; n_patches has no effect here: method dds has no contrastive loss"


def test_old_runs_and_uploads_are_removed(tmp_path: Path) -> None:
    visitors = Visitors(tmp_path, keep_hours=1e-9)
    visitor = visitors.of("a" * 40)
    (visitor.runs / "r").mkdir(parents=True)
    (visitor.inputs / "r").mkdir(parents=True)
    visitor.place("x.png").write_bytes(b"x")
    Visitors(tmp_path, keep_hours=1.0).remove_old()
    assert (visitor.runs / "r").exists()
    visitors.remove_old()
    assert not any(tmp_path.iterdir())


def test_samples_can_be_taken(tmp_path: Path) -> None:
    visitor = Visitors(tmp_path, 1.0).of("a" * 40)
    assert [p.suffix for command in ("image", "svg", "splats") for p in take_sample(visitor, command)] == [
        ".png",
        ".svg",
        ".ply",
        ".json",
    ]
    assert {p.name for p in SAMPLES.iterdir()} == {"cat.png", "cat.svg"}
