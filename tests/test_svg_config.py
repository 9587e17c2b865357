"""Settings of an SVG edit: what they choose, and which are refused."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from cpds.errors import InputError
from svg.config import GROUPS, Choice, SvgConfig

ROOT = Path(__file__).parents[1]


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
        ({"detail_size": -1.0}, "detail_size must be >= 0"),
        ({"detail_size": math.nan}, "detail_size must be >= 0"),
        ({"coarse_steps": -1}, "coarse_steps must be >= 0, got -1"),
        ({"may_add": -1}, "may_add must be in 0 ... 100, got -1"),
        ({"background": (0.0, 2.0, 0.0)}, "background must be three numbers in 0 ... 1"),
        ({"resolution": 8}, "resolution must be >= 16 px, got 8"),
    ],
)
def test_bad_settings(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        SvgConfig(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("style='cubism'", "style must be one of none, iconography, pixelart, got 'cubism'"),
        (
            "optimize=('points', 'hue')",
            "optimize must be of points, fills, strokes, widths, opacities, gradients, colors, all, got 'hue'",
        ),
    ],
)
def test_unknown_words_are_named_to_those_who_check_no_types(change: str, message: str) -> None:
    """In a process of its own: the suite's type checker would be first."""
    code = f"from svg.config import SvgConfig; SvgConfig({change})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert ended.stderr.splitlines()[-1] == f"cpds.errors.InputError: {message}"
