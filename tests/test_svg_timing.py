"""The estimate of how long an edit will take."""

from dataclasses import replace

import pytest

from cpds.presets import PRESETS
from cpds.priors.unet import UNetPrior
from svg import timing
from svg.config import SvgConfig
from svg.document import Document
from svg.image import SvgImage
from svg.timing import Measured, estimate, measured_steps

PAGE = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><path d="M1 1H8V8Z" fill="#f80"/></svg>'
PROMPTS = ("a cat", "a dog")


class Time:
    """A clock of which each rendered image takes a second, and nothing else anything."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, render = 0.0, SvgImage.render

        def slow(image: SvgImage, view: None) -> object:
            self.now += 1
            return render(image, view)

        monkeypatch.setattr(SvgImage, "render", slow)
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)


@pytest.mark.parametrize("slow", [0.5, 5.0])  # a step counts as slow, and is measured once, or not
@pytest.mark.parametrize(("colors_first", "once"), [(True, 30.0), (False, 0.0)])  # 20 rounds of 1.5 steps
def test_what_happens_once_is_not_multiplied(
    prior: UNetPrior, monkeypatch: pytest.MonkeyPatch, slow: float, colors_first: bool, once: float
) -> None:
    Time(monkeypatch)
    monkeypatch.setattr(timing, "SLOW", slow)
    edit = replace(PRESETS["cpds-svg"], num_inference_steps=7, redraw_steps=2)
    image = SvgImage(Document.parse(PAGE), prior, SvgConfig(colors_first=colors_first))
    assert measured_steps(image, prior, PROMPTS, edit) == Measured([(2, 0.0), (7, 1.0)], once)


@pytest.mark.parametrize("redraw_steps", [0, 2])
def test_of_a_drawing_that_takes_too_long_to_render_no_step_is_tried(
    prior: UNetPrior, monkeypatch: pytest.MonkeyPatch, redraw_steps: int
) -> None:
    clock = Time(monkeypatch)
    monkeypatch.setattr(timing, "LIMIT", 0.5)
    edit = replace(PRESETS["cpds-svg"], num_inference_steps=7, redraw_steps=redraw_steps)
    image = SvgImage(Document.parse(PAGE), prior, SvgConfig(colors_first=False))
    before = image.svg()
    lead = [(redraw_steps, 0.0)] if redraw_steps else []
    assert measured_steps(image, prior, PROMPTS, edit) == Measured([*lead, (7, 1.0)], 0.0, True)
    assert clock.now == 1.0  # one rendering
    assert image.svg() == before


def test_the_last_denoising_of_the_image_counts_as_its_steps(prior: UNetPrior, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_measured", lambda state: (3, 2.0 if state.lead is None else 5.0))
    image = SvgImage(Document.parse(PAGE), prior, SvgConfig(colors_first=False))
    # from the noise level 0.5 in steps of 0.05
    assert measured_steps(image, prior, PROMPTS, PRESETS["cpds-svg"]) == Measured([(3, 2.0), (3, 5.0)], 20.0)


def test_the_sentence_adds_up() -> None:
    assert estimate(Measured([(40, 0.5), (110, 0.25)], 12.0)).startswith(
        "about 60 s: 40 steps of 0.5 s and 110 steps of 0.25 s, 12 s between them"
    )
    assert estimate(Measured([(10, 60.0)], 0.0)).startswith("about 10 min: 10 steps of 60 s, as measured")
    assert estimate(Measured([(1, 60.0)], 0.0)).startswith("about 60 s: 1 step of 60 s, as measured")
    assert estimate(Measured([(10, 60.0)], 0.0, True)).startswith("at least 10 min: 10 steps of 60 s, as measured")
