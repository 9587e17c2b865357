"""The page in a real browser (Chromium, headless), with the embedded prior: what visitors do, and what goes wrong."""

import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from test_cpds_apps_cli_splats import write_cameras, write_scene

from cpds.apps.cli.args import ChosenPrior
from cpds.apps.cli.demo import desk_of
from cpds.apps.web.limits import Limits
from cpds.apps.web.server import listening, server_of, url_of
from cpds.apps.web.visitors import COOKIE

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
PATIENCE = 60_000  # ms
CAT = Path(__file__).parents[1] / "cpds/assets/demo/cat.png"
PROMPTS = ("a cat face on a blue background", "a dog face on a blue background")
ENDED = re.compile(r"^(done|stopped|failed)")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The page of `cpds demo` with small limits: its `url` and `desk`."""
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=str(tmp_path_factory.mktemp("cache")))
    folder = tmp_path_factory.mktemp("runs")
    limits = Limits(max_upload=1.0, max_pixels=1_000_000, max_steps=400)
    desk = desk_of(ChosenPrior(), limits, folder, ["cpu"])
    with listening("127.0.0.1", 0) as waiting:
        server = server_of(desk, "127.0.0.1")
        thread = threading.Thread(target=server.run, args=([waiting],))
        thread.start()
        yield SimpleNamespace(url=url_of(waiting, "127.0.0.1"), desk=desk, folder=folder)
        server.should_exit = True
        thread.join()
    desk.workers.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as engine:
        running = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


class Person:
    """A visitor with a browser of its own, that notes which addresses it asks."""

    def __init__(self, browser: Any, url: str) -> None:
        self.context = browser.new_context(viewport={"width": 1280, "height": 1100})
        self.url, self.asked = url, set()
        self.visit()

    def visit(self) -> None:
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.page.on("request", lambda request: self.asked.add(request.url))
        self.page.goto(self.url)
        self.button("Start").wait_for()

    @property
    def panel(self) -> Any:
        return self.page.get_by_role("tabpanel").filter(visible=True)

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()
        self.button("Start").wait_for()

    def button(self, name: str) -> Any:
        return self.panel.get_by_role("button", name=name, exact=True)

    def upload(self, file: Path, number: int = 0) -> None:
        self.panel.locator("input[type=file]").nth(number).set_input_files(file)

    def start(self, steps: int) -> None:
        for label, text in zip(("What it shows", "What it should become"), PROMPTS, strict=True):
            self.panel.get_by_label(label).fill(text)
        self.panel.get_by_label("Steps").fill(str(steps))
        self.button("Start").click()

    @property
    def status(self) -> Any:
        return self.panel.get_by_role("status")

    def until(self, text: str | re.Pattern[str]) -> None:
        playwright.expect(self.status).to_have_text(text, timeout=PATIENCE)

    def told(self, words: str) -> None:
        """A message on the page says so; it is closed after that."""
        self.page.locator(".toast-body", has_text=words).wait_for()
        self.page.locator(".toast-close").first.click()

    def shown(self, part: str) -> str:
        return self.panel.locator(f"[id$={part}] img").first.get_attribute("src")

    def history(self) -> Any:
        return self.panel.locator("[id$=history] img")

    def files(self) -> list[str]:
        """Names of what can be downloaded."""
        told = self.panel.locator("[id$=files]").inner_text().replace("\n", "")
        return re.findall(r"(?:result|trajectory|turning|settings)\.\w{3,4}?(?=[\d.]+\s[KM]B)", told)

    def cookie(self) -> str:
        return next(c["value"] for c in self.context.cookies() if c["name"] == COOKIE)


@pytest.fixture
def person(served: Any, browser: Any) -> Iterator[Person]:
    made = Person(browser, served.url)
    yield made
    made.context.close()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    with Image.open(CAT) as cat:
        cat.convert("RGB").resize((64, 64)).save(tmp_path / "my cat.png")
    return tmp_path / "my cat.png"


def test_upload_edit_watch_and_download(person: Person, picture: Path, tmp_path: Path, served: Any) -> None:
    person.upload(picture)
    person.panel.locator("img").first.wait_for()
    person.start(steps=10)
    person.until(re.compile(r"step [1-9]"))
    early = person.shown("preview")
    person.page.wait_for_function(
        "src => { const i = document.querySelector('[id$=preview] img'); return i && i.src && !i.src.endsWith(src) }",
        arg=early.rpartition("/")[2],
    )  # the preview moves
    person.until("done")
    person.panel.locator("[id$=slider] img").first.wait_for()
    with person.page.expect_download() as download:
        person.panel.locator("[id$=files] a", has_text="KB").first.click()
    download.value.save_as(tmp_path / "result.png")
    with Image.open(tmp_path / "result.png") as result, Image.open(picture) as before:
        assert result.size == before.size
        assert result.convert("RGB").tobytes() != before.tobytes()
    assert person.files() == ["result.png", "trajectory.gif", "settings.json"]
    assert person.history().count() == 1
    own = {url for url in person.asked if url.startswith((served.url, "blob:", "data:"))}
    assert person.asked == own  # no font, script or count of visits from elsewhere
    policy = person.context.request.get(served.url).headers["content-security-policy"]
    assert policy.startswith("default-src 'self'")


def test_stop_and_go_on_after_the_page_was_closed(person: Person, picture: Path, served: Any) -> None:
    person.upload(picture)
    person.panel.locator("img").first.wait_for()
    person.start(steps=400)
    person.until(re.compile(r"step [1-9]"))
    person.button("Stop").click()
    person.until("stopped")
    person.page.close()
    person.visit()  # the same browser
    person.history().first.click()
    person.until(re.compile(r"a dog face on a blue background \(seed 0, stopped at step \d+ of 400\)"))
    before = int(re.findall(r"step (\d+)", person.status.inner_text())[0])
    person.button("Go on with this run").click()
    person.until(re.compile(rf"step (?!{before} )\d+ of 400"))
    assert int(re.findall(r"step (\d+)", person.status.inner_text())[0]) > before
    person.button("Stop").click()
    person.until("stopped")


def test_bad_files_are_one_sentence(person: Person, tmp_path: Path, served: Any) -> None:
    (tmp_path / "setup.png").write_bytes(b"MZ\x90\x00" + bytes(3000))  # a renamed executable
    (tmp_path / "huge.png").write_bytes(bytes(1_200_000))
    Image.new("RGB", (1200, 900)).save(tmp_path / "wide.png")
    person.upload(tmp_path / "setup.png")
    person.told("setup.png cannot be read: upload an image, an SVG, a scene (.ply) or its cameras (.json)")
    person.upload(tmp_path / "huge.png")
    person.told("exceed the maximum allowed size")
    person.upload(tmp_path / "wide.png")
    person.told("the image has 1.08 million pixels (1200x900), more than 1 million: scale it down")
    person.button("Start").click()
    person.told("there is nothing to edit: upload an image or take a sample")
    big = {"files": {"name": "huge.png", "mimeType": "image/png", "buffer": bytes(1_200_000)}}
    answer = person.context.request.post(f"{served.url}/gradio_api/upload", multipart=big)  # past the page's own check
    assert (answer.status, answer.text()) == (400, "the file is larger than 1 MB: give a smaller one")
    assert not [f for f in served.desk.visitors.of(person.cookie()).folder.rglob("*") if f.is_file()]


def test_two_visitors_at_once_do_not_see_each_other(person: Person, picture: Path, served: Any, browser: Any) -> None:
    other = Person(browser, served.url)
    for one in (person, other):
        one.upload(picture)
        one.panel.locator("img").first.wait_for()
        one.start(steps=3)
    for one in (person, other):
        one.until("done")
        playwright.expect(one.history()).to_have_count(1)
    theirs = other.history().first.get_attribute("src")
    assert other.context.request.get(theirs).status == 200
    assert person.context.request.get(theirs).status == 404
    assert person.cookie() != other.cookie()
    other.context.close()


def test_a_browser_that_leaves_midway_harms_nobody(person: Person, picture: Path, served: Any, browser: Any) -> None:
    other = Person(browser, served.url)
    visitor = served.desk.visitors.of(other.cookie())
    for one, steps in ((other, 400), (person, 3)):
        one.upload(picture)
        one.panel.locator("img").first.wait_for()
        one.start(steps)
    other.until(re.compile(r"step [1-9]"))
    other.context.close()
    person.until("done")  # it waited for the other's device
    end = time.monotonic() + PATIENCE / 1000
    while visitor.uploads.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not visitor.uploads.exists()
    (run,) = served.desk.history(visitor, "image")
    assert 0 < run.step < 400


def test_an_svg_tells_what_will_change_and_comes_back_as_one(person: Person, tmp_path: Path) -> None:
    person.tab("SVG")
    person.button("Take the sample: a cat face").click()
    person.panel.get_by_text("stays, as it was not asked for: 13 opacities").wait_for()
    person.start(steps=3)
    person.until("done")
    with person.page.expect_download() as download:
        person.panel.locator("[id$=files] a", has_text="KB").first.click()
    download.value.save_as(tmp_path / "result.svg")
    made = (tmp_path / "result.svg").read_text()
    assert made.startswith("<svg")
    assert 'id="muzzle"' in made
    assert made != (CAT.parent / "cat.svg").read_text()


def test_a_scene_turns_before_and_after_its_edit(person: Person, tmp_path: Path) -> None:
    write_scene(tmp_path / "scene.ply")
    write_cameras(tmp_path / "cameras.json")
    person.tab("Gaussian splats")
    person.upload(tmp_path / "scene.ply")
    person.upload(tmp_path / "cameras.json", 0)  # the first field has taken its file
    person.panel.get_by_text("30 gaussians, 3 cameras").wait_for()
    person.start(steps=1)
    person.until("done")
    person.panel.locator("img[src$='turning.gif']").last.wait_for()
    assert person.files() == ["result.ply", "result.png", "trajectory.gif", "turning.gif", "settings.json"]
