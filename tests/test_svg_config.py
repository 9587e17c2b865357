"""Settings of an SVG edit: what they choose, and which are refused."""

import math
from typing import Any, get_args

import pytest

from cpds.errors import InputError
from svg.config import GROUPS, Choice, SvgConfig


def test_styles_choose_groups_and_end_prompts() -> None:
    assert SvgConfig(style="pixelart").groups == ("fills", "strokes", "gradients")
    assert SvgConfig(style="iconography").groups == ("points", "fills", "strokes", "gradients")
    assert SvgConfig(style="pixelart", optimize=("points",)).groups == ("points",)
    assert "pixel art" in SvgConfig(style="pixelart").suffix
    assert not SvgConfig().suffix


@pytest.mark.parametrize("choice", get_args(Choice))
def test_every_choice_names_groups(choice: Choice) -> None:
    several = {"colors": ("fills", "strokes", "gradients"), "all": GROUPS}
    several["colours"] = several["colors"]
    assert SvgConfig(optimize=(choice,)).groups == several.get(choice, (choice,))


def test_both_spellings_are_one_setting() -> None:
    assert SvgConfig(optimize=("points", "colours")) == SvgConfig(optimize=("points", "colors"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"smoothness": -1.5}, "smoothness must be >= 0 and finite, got -1.5"),
        ({"uncross": -1.0}, "uncross must be >= 0"),
        ({"uncross": math.nan}, "uncross must be >= 0"),
        ({"background": (0.0, 2.0, 0.0)}, "background must be three numbers in 0 ... 1"),
        ({"style": "cubism"}, "style must be one of none, iconography, pixelart, got 'cubism'"),
        ({"optimize": ("points", "hue")}, "optimize must be of points, .*, colors, all, got 'hue'"),
        ({"resolution": 8}, "resolution must be >= 16 px, got 8"),
    ],
)
def test_bad_settings(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        SvgConfig(**change)
