"""The methods as ns-train shows them."""

from importlib.metadata import entry_points
from typing import Any

import pytest
from conftest import OTHER_OPTIONS
from documents import commands_of

from cpds.priors.options import PriorOptions

pytest.importorskip("nerfstudio", exc_type=(ImportError, OSError))
pytest.importorskip("open3d", exc_type=(ImportError, OSError))  # wants libraries of the system


def test_methods_are_registered() -> None:
    names = entry_points(group="nerfstudio.method_configs").names
    assert {"cpds", "cpds-refine", "cpds-splat", "cpds-splat-refine", "nerfacto-cpu", "splatfacto-cpu"} <= names


PROMPTS = ["--pipeline.prompt", "a cat", "--pipeline.target-prompt", "a dog"]


def parsed(*argv: str) -> Any:
    """What ns-train makes of its arguments."""
    import tyro
    from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion

    return tyro.cli(AnnotatedBaseConfigUnion, args=argv)


@pytest.mark.parametrize("flag", ["--pipeline.target-prompt", "--pipeline.trg-prompt", "--pipeline.trg_prompt"])
def test_the_target_prompt_has_the_papers_name_too(flag: str) -> None:
    assert parsed("cpds", "--pipeline.prompt", "a cat", flag, "a dog").pipeline.target_prompt == "a dog"


@pytest.mark.parametrize("method", ["cpds", "cpds-refine", "cpds-splat", "cpds-splat-refine"])
def test_priors_options_are_those_of_cpds(method: str) -> None:
    """By the same names with the same defaults; test_cpds_priors_options.py has the same of the commands of `cpds`."""
    flags = []
    for name, value in OTHER_OPTIONS.items():
        flags += [f"--pipeline.{name}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    plain, changed = (parsed(method, *more).pipeline for more in ([], flags))
    assert plain.prior_options == PriorOptions()
    assert changed.prior_options == PriorOptions(**OTHER_OPTIONS)


@pytest.mark.parametrize("after", [(), ("nerfstudio-data",), ("--pipeline.view-every", "3", "nerfstudio-data")])
@pytest.mark.parametrize("region", [(0.1, -0.2, 0.3, 0.5), (-1.0, -1.0, -1.0, 1.0, 1.0, 1.0)])
def test_a_region_is_given_as_to_cpds_splats(region: tuple[float, ...], after: tuple[str, ...]) -> None:
    config = parsed("cpds-splat", *PROMPTS, "--pipeline.region", *map(str, region), *after)
    assert config.pipeline.region == region
    assert config.pipeline.view_every == (3 if "3" in after else 1)


@pytest.mark.parametrize("words", commands_of("ns-train"))
def test_commands_of_the_documents_can_be_read(words: list[str]) -> None:
    assert parsed(*words).method_name == words[0]
